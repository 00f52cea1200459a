"""Some text of the pretraining among the dialogues of a fine-tuning, against forgetting it."""

import numpy as np
from datasets import Dataset, Features, concatenate_datasets
from transformers import PreTrainedTokenizerBase

from data_utils.rows.packing import IDS, pack_documents, thin_rows, tokenize_documents
from data_utils.sources.corpus import clean_corpus, read_corpus, split_languages, split_train_eval
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
    train_text, eval_text = split_train_eval(concatenate_datasets(list(map(read_source, sources))), eval_fraction)
    blocks = pack_documents(tokenize_documents(train_text, tokenizer, key), row_tokens)
    chosen = np.random.default_rng(0).permutation(max(rows, len(blocks)))[:rows] % max(len(blocks), 1)
    held_out = {}
    for language, documents in split_languages(eval_text):
        found = pack_documents(tokenize_documents(documents, tokenizer, key), row_tokens)
        if len(found):
            held_out[f"text_{language}"] = label_all(thin_rows(found, EVAL_ROWS))
    return label_all(blocks.select(chosen)), held_out


def read_source(source: Source) -> Dataset:
    """Return the documents of a source as train.py splits them: those of a corpus folder as they are."""
    column = "text" if source.is_folder else source.text_column
    documents = read_corpus([f"{source.path}@{source.times}"], source.sample_by, column)
    is_clean = source.is_folder and not source.remove_stop_words
    return documents if is_clean else clean_corpus(documents, source.remove_stop_words)[0]


def label_all(blocks: Dataset) -> Dataset:
    """Give rows of text what dialogue rows have: every token a label, positions from 0 (B, T)."""

    def complete(batch: dict) -> dict:
        ids = batch["input_ids"]
        return {"labels": ids, "position_ids": [list(range(len(row))) for row in ids]}

    features = Features(dict.fromkeys(("input_ids", "labels", "position_ids"), IDS))
    return blocks.map(complete, batched=True, features=features, desc="labelling text")


def mix_rows(dialogues: Dataset, text: Dataset) -> Dataset:
    """Join rows of dialogues and of text; the training shuffles them."""
    return concatenate_datasets([dialogues, text])
