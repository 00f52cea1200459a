"""Some text of the pretraining among the dialogues of a fine-tuning, against forgetting it."""

from collections.abc import Iterator

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from data_utils.caching import cache_key, generate_rows
from data_utils.rows.packing import PACKED_FEATURES, pack_documents, thin_rows, tokenize_documents
from data_utils.sources.corpus import read_corpus, split_languages, split_train_eval
from data_utils.sources.source import Source

EVAL_ROWS = 32  # of each language


def read_replay(
    sources: list[Source],
    tokenizer: PreTrainedTokenizerBase,
    key: str,
    row_tokens: int,
    rows: int,
    eval_fraction: float,
) -> tuple[Dataset, dict[str, Dataset]]:
    """Return `rows` rows of T tokens of text in the form of dialogue rows, and held-out rows of each language.

    The split is that of train.py, by the documents' hash, so that what is held out was in no training, where the
    sources and `eval_fraction` are those of the base. All tokens are labels. Repeated where the text is shorter than
    asked. Weights of sources are not kept: each is there by its size.
    """
    train_text, eval_text = split_train_eval(read_corpus(sources)[0], eval_fraction)
    blocks = pack_documents(tokenize_documents(train_text, tokenizer, key), row_tokens)
    chosen = np.random.default_rng(0).permutation(max(rows, len(blocks)))[:rows] % max(len(blocks), 1)
    held_out = {}
    for language, documents in split_languages(eval_text):
        found = pack_documents(tokenize_documents(documents, tokenizer, key), row_tokens)
        if len(found):
            held_out[f"text_{language}"] = label_all(thin_rows(found, EVAL_ROWS))
    return label_all(blocks.select(chosen)), held_out


def label_all(blocks: Dataset) -> Dataset:
    """Give rows of text what dialogue rows have: every token a label, positions from 0 (B, T)."""

    def complete() -> Iterator[dict]:
        for ids in (row["input_ids"] for row in blocks.with_format("numpy")):
            yield {"input_ids": ids, "labels": ids, "position_ids": np.arange(len(ids))}

    key = cache_key("label_all", blocks._fingerprint)
    return generate_rows(complete, PACKED_FEATURES, key, "labelling text")
