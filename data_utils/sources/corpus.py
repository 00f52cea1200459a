"""Reads the clean documents of sources as one Dataset, and splits off the held-out ones."""

from collections.abc import Iterator

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, Features, Value, concatenate_datasets

from data_utils.caching import cache_key, generate_rows
from data_utils.readers.files import pass_empty
from data_utils.sources.source import Source
from data_utils.text.splitting import SHARE, hash_share
from errors import InputError

DOCUMENT_FEATURES = Features(
    {"text": Value("string"), "language": Value("string"), "source": Value("string"), SHARE: Value("float64")}
)


def read_corpus(sources: list[Source]) -> tuple[Dataset, dict[str, int]]:
    """Read the documents of sources, clean them and drop the empty ones.

    Returns a Dataset with `text`, `language`, `source` and `hash_share`, and the counts `documents`, `empty`, `kept`
    and `repeated`: those of files whose text another one has too.
    Raises InputError for what cannot be read, and where nothing is left.
    """
    parts, shares = [], []
    for source in sources:
        found = []
        for part in source.parts():
            key = cache_key("read", type(source), part, source.part_version(part), source.reading)
            found.append(generate_rows(source.read, DOCUMENT_FEATURES, key, f"reading {part}", part=part))
            if source.files and not len(found[-1]):  # of a cache that another source filled, too
                pass_empty(part, source.path)
        rows = concatenate_datasets(found)
        if not source.is_builtin:
            shares.append(rows.data.column(SHARE).to_numpy()[count_characters(rows) > 0])
        parts.append(repeat_rows(rows, source.times))
    documents = concatenate_datasets(parts)
    filled = np.flatnonzero(count_characters(documents))
    if not len(filled):
        raise InputError("the corpus is empty: no document holds any text after cleaning")
    hashed = np.concatenate([np.empty(0), *shares])  # the share is a hash of the text
    counts = {"documents": len(documents), "empty": len(documents) - len(filled), "kept": len(filled)}
    counts["repeated"] = len(hashed) - len(np.unique(hashed))
    return documents.select(filled) if counts["empty"] else documents, counts


def repeat_rows(rows: Dataset, times: float) -> Dataset:
    """Repeat a Dataset whole times and add the first share of its rows, shuffled by a fixed seed, for the rest.

    >>> len(repeat_rows(Dataset.from_dict({"n": list(range(10))}), 2.5))
    25
    """
    whole, rest = int(times), times - int(times)
    parts = [rows] * whole
    if rest:
        parts.append(rows.select(np.random.default_rng(0).permutation(len(rows))[: round(len(rows) * rest)]))
    return concatenate_datasets(parts) if parts else rows.select([])


def count_characters(documents: Dataset) -> np.ndarray:
    """Return the length of each document's text, without making Python texts of them."""
    lengths = pc.utf8_length(documents.data.column("text")).to_numpy()
    return lengths if documents._indices is None else lengths[documents._indices.column(0).to_numpy()]


def count_text_bytes(documents: Dataset) -> int:
    """Return about how many bytes of UTF-8 a Dataset of documents holds, without reading the texts one by one."""
    table = documents.data
    return int(pc.sum(pc.binary_length(table.column("text"))).as_py() * len(documents) / max(table.num_rows, 1))


def split_languages(documents: Dataset) -> Iterator[tuple[str, Dataset]]:
    """Yield each language of documents or dialogues, in order, with those that are in it."""
    languages = np.asarray(documents["language"])
    for language in sorted(set(languages.tolist())):
        yield language, documents.select(np.flatnonzero(languages == language))


def split_train_eval(corpus: Dataset, eval_fraction: float) -> tuple[Dataset, Dataset]:
    """Split a corpus by document, before anything is trained on it, into (training, held-out).

    Where the hash leaves one side empty (a corpus of few documents), the tail of the longest document is held out.
    Raises InputError where that is a single character.
    """
    shares = corpus[SHARE] if SHARE in corpus.column_names else map(hash_share, corpus["text"])
    held_out = [share < eval_fraction for share in shares]
    train = corpus.select([i for i, held in enumerate(held_out) if not held])
    evaluation = corpus.select([i for i, held in enumerate(held_out) if held])
    if len(train) and len(evaluation):
        return train, evaluation
    texts = list(corpus["text"])
    longest = max(range(len(texts)), key=lambda i: len(texts[i]))
    size = len(texts[longest])
    if size < 2:
        raise InputError("the corpus is too small: of one character nothing can be held out; give more text")
    cut = min(size - 1, max(1, round(size * (1 - max(eval_fraction, 0.01)))))
    rows = corpus.to_list()
    head = [{**row, "text": row["text"][:cut]} if row["text"] == texts[longest] else row for row in rows]
    tail = [{**rows[longest], "text": texts[longest][cut:]}]
    return Dataset.from_list(head, features=corpus.features), Dataset.from_list(tail, features=corpus.features)
