"""Adds tokens to a base's tokenizer for a language that it lacks, and rows for them to its embedding and head.

Old ids and merges stay as they are, and new merges come after all old ones, so that a text is tokenized as before and
then joined further: one without a new token keeps its ids. Words in ASCII are left as they are, since a base that lacks
a language has enough for them. Source: Cui et al. 2023 (Chinese-LLaMA), section 3.1.
"""

import json
from collections import Counter
from collections.abc import Iterable
from itertools import groupby, islice
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from errors import InputError
from files import write_whole
from model_utils.shapes import find_embedding, find_head, resize_vocabulary
from model_utils.tokenizer import cut_long_runs, is_byte_level, save_tokenizer

FIRST_MARK = 0xF0000  # a private letter of Unicode for each old token, by its id
MAX_MARKS = 0x10FFFF - FIRST_MARK
BATCH = 1000


def extend_tokenizer(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], count: int, folder: Path) -> None:
    """Write a tokenizer with up to `count` new tokens to a folder, those that join the most of texts.

    Raises InputError for a tokenizer that is no byte-level BPE.
    """
    content = json.loads(tokenizer.backend_tokenizer.to_str()) if is_byte_level(tokenizer) else {"model": {}}
    model = content["model"]
    if model.get("type") != "BPE" or len(tokenizer) > MAX_MARKS:
        raise InputError("--extend_vocabulary: the base's tokenizer is no byte-level BPE, so it cannot be extended")
    vocab, merges = model["vocab"], [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    names = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    known, added = set(names), 0
    for left, right in learn_merges(count_marked_words(tokenizer, texts), count):
        parts = ["".join(names[ord(mark) - FIRST_MARK] for mark in part) for part in (left, right)]
        token = "".join(parts)
        if token not in known and added < count:
            known.add(token)
            vocab[token] = len(names) + added
            merges.append(" ".join(parts))
            added += 1
    model["merges"] = merges
    save_tokenizer(tokenizer, folder)
    write_whole(folder / "tokenizer.json", json.dumps(content, ensure_ascii=False))


def count_marked_words(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> Counter[str]:
    """Count the words of texts that aren't in ASCII, each as the marks of its old tokens."""
    words: Counter[str] = Counter()
    texts = map(cut_long_runs, texts)
    while batch := list(islice(texts, BATCH)):
        encodings = tokenizer.backend_tokenizer.encode_batch(batch, add_special_tokens=False)
        for text, encoding in zip(batch, encodings, strict=True):
            pieces = zip(encoding.word_ids, encoding.ids, encoding.offsets, strict=True)
            for _, group in groupby(pieces, key=lambda piece: piece[0]):
                found = list(group)
                if len(found) > 1 and not text[found[0][2][0] : found[-1][2][1]].isascii():
                    words["".join(chr(FIRST_MARK + token) for _, token, _ in found)] += 1
    return words


def learn_merges(words: Counter[str], count: int) -> list[tuple[str, str]]:
    """Return the merges of marks that BPE learns from counted words, the most frequent pair first."""
    trainer = trainers.BpeTrainer(
        vocab_size=count + count // 20 + len({mark for word in words for mark in word}), min_frequency=2,
        show_progress=False,
    )  # fmt: skip
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Split("\n", "removed")
    learner.train_from_iterator(("\n".join([word] * number) for word, number in words.items()), trainer)
    return [tuple(merge) for merge in json.loads(learner.to_str())["model"]["merges"]]


@torch.no_grad()
def grow_model(model: PreTrainedModel, old: PreTrainedTokenizerBase, new: PreTrainedTokenizerBase) -> None:
    """Give a model rows for the tokens that a tokenizer has beyond the old one: the mean of those they replace."""
    ids = range(len(old), len(new))
    pieces = old.backend_tokenizer.model
    rows = max(find_embedding(model).num_embeddings, len(new))
    resize_vocabulary(model, rows, mean_resizing=False)
    names = new.convert_ids_to_tokens(list(ids))
    replaced = [[piece.id for piece in pieces.tokenize(name)] for name in names]
    for weight in {find_embedding(model).weight, find_head(model).weight}:
        for number, parts in zip(ids, replaced, strict=True):
            weight[number] = weight[parts].mean(0)
