"""Reads documents from every source as one Dataset, cleans them, and splits off the held-out ones."""

import re
from collections.abc import Container, Iterator

import numpy as np
import pyarrow.compute as pc
import xxhash
from datasets import Dataset, Features, IterableDataset, Value, concatenate_datasets

from data_utils.caching import cache_key, generate_rows
from data_utils.readers.files import ReadArguments, file_version, find_files
from data_utils.sources import builtin as sources
from data_utils.sources.folder import folder_version, is_corpus_folder
from data_utils.sources.inputs import find_inputs, is_hub_name, read_documents_of
from data_utils.text.cleaning import clean_text
from data_utils.text.splitting import SHARE, hash_share
from errors import InputError

FEATURES = Features(
    {"text": Value("string"), "language": Value("string"), "source": Value("string"), SHARE: Value("float64")}
)
CORPUS_SOURCES = (*sources.DOCUMENT_SOURCES, *sources.DIALOGUE_SOURCES)


def parse_source(name: str) -> tuple[str, float]:
    """Split `PATH@TIMES` into the path and how often it is repeated (below 1: sampled).

    >>> parse_source("own@8"), parse_source("chitchat@0.3"), parse_source("my.txt")
    (('own', 8.0), ('chitchat', 0.3), ('my.txt', 1.0))
    """
    match = re.fullmatch(r"(.+)@(\d+(?:\.\d+)?)", name)
    return (match[1], float(match[2])) if match else (name, 1.0)


def stream_corpus(paths: list[str], sample_by: str, text_column: str, remove_stop_words: bool) -> IterableDataset:
    """Read documents as `read_corpus` and `clean_corpus` do, but one after the other as they are needed.

    For what is too large for this machine's disk; built-in sources and `@TIMES` are not for streams.
    """
    files = [file for path in paths for file in find_inputs(path)]

    def documents(files: list[str]) -> Iterator[dict]:
        for file in files:
            for row in read_texts(file, text_column, sample_by):
                text = clean_text(row["text"], remove_stop_words)
                if text:
                    yield {**row, "text": text}

    return IterableDataset.from_generator(documents, FEATURES, gen_kwargs={"files": files})  # a file is a shard


def data_version(paths: list[str], builtin: Container[str]) -> str:
    """Return a short hash of what the sources hold now: packages by version, files by size and time.

    Raises InputError for a source that is not there, before anything else is done.
    """
    parts = []
    for name in paths:
        path, _ = parse_source(name)
        if path in builtin:
            parts.append(f"{path}:{sources.source_version(path)}")
        elif is_hub_name(path):
            parts.append(path)
        elif is_corpus_folder(path):
            parts.append(folder_version(path))
        else:
            parts += [f"{file}:{file_version(file)}" for file in find_files(path)]
    return xxhash.xxh64("\0".join(parts).encode()).hexdigest()


def read_documents(source: str) -> Iterator[dict]:
    """Yield the documents of a built-in source; a dialogue becomes one document, a line for each turn."""
    if source in sources.DOCUMENT_SOURCES:
        for row in sources.DOCUMENT_SOURCES[source]():
            yield row | {SHARE: hash_share(row["text"])}
        return
    for dialogue in sources.DIALOGUE_SOURCES[source]():
        text = dialogue_text(dialogue["messages"])
        if sources.NAME_PLACEHOLDER not in text:  # the name is known in fine-tuning only
            row = {"text": text, "language": dialogue["language"], "source": dialogue["source"]}
            yield row | {SHARE: hash_share(text)}


def read_texts(path: str, text_column: str, sample_by: str) -> Iterator[dict]:
    """Yield the documents of one file, or of a hub dataset; the first fault is raised as InputError."""
    try:
        options = ReadArguments(sample_by, text_column)
    except ValueError as error:
        raise InputError(str(error)) from error
    for row in read_documents_of(path, options):
        yield {name: row[name] for name in FEATURES}


def dialogue_text(messages: list[dict]) -> str:
    """Return a dialogue as plain text, a line for each turn: its form as a document, and the key of its split."""
    return "\n".join(message["content"] for message in messages)


def read_corpus(paths: list[str], sample_by: str = "paragraph", text_column: str = "text") -> Dataset:
    """Read documents from files, folders, globs, hub names and built-in sources, each as `PATH[@TIMES]`.

    Args:
        paths: where the text is; built-in names are those of `data_utils.sources.builtin`.
        sample_by: what one document of a .txt file is: `line`, `paragraph` (blank-line separated) or `document` (file).
        text_column: the column of .jsonl, .csv and .parquet files that holds the text.

    Returns a Dataset with `text`, `language`, `source` and `hash_share`. Raises InputError for what cannot be read.
    """
    parts = []
    for name in paths:
        path, times = parse_source(name)
        if path in CORPUS_SOURCES:
            key = cache_key("read_documents", path, sources.source_version(path))
            part = generate_rows(read_documents, FEATURES, key, source=path)
        else:
            files = {file: "hub" if is_hub_name(file) else file_version(file) for file in find_inputs(path)}
            part = concatenate_datasets(
                [
                    generate_rows(
                        read_texts,
                        FEATURES,
                        cache_key("read_texts", file, version, text_column, sample_by),
                        path=file,
                        text_column=text_column,
                        sample_by=sample_by,
                    )
                    for file, version in files.items()
                ]
            )
        parts.append(repeat_rows(part, times))
    return concatenate_datasets(parts)


def repeat_rows(rows: Dataset, times: float) -> Dataset:
    """Repeat a Dataset whole times and add the first share of its rows, shuffled by a fixed seed, for the rest.

    >>> len(repeat_rows(Dataset.from_dict({"n": list(range(10))}), 2.5))
    25
    """
    whole, rest = int(times), times - int(times)
    parts = [rows] * whole
    if rest:
        parts.append(rows.shuffle(seed=0).select(range(round(len(rows) * rest))))
    return concatenate_datasets(parts) if parts else rows.select([])


def clean_corpus(corpus: Dataset, remove_stop_words: bool = False) -> tuple[Dataset, dict[str, int]]:
    """Clean every document and drop the empty ones.

    Returns the cleaned corpus and the counts `documents`, `empty`, `kept`. Raises InputError where nothing is left.
    """
    cleaned = corpus.map(
        lambda batch: {"text": [clean_text(text, remove_stop_words) for text in batch["text"]]},
        batched=True,
        new_fingerprint=cache_key("clean_text", corpus._fingerprint, remove_stop_words),
        desc="cleaning",
    )
    kept = cleaned.filter(
        lambda batch: [bool(text) for text in batch["text"]],
        batched=True,
        new_fingerprint=cache_key("kept", cleaned._fingerprint),
        desc="dropping empty documents",
    )
    if not len(kept):
        raise InputError("the corpus is empty: no document holds any text after cleaning")
    return kept, {"documents": len(corpus), "empty": len(corpus) - len(kept), "kept": len(kept)}


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
    """
    shares = corpus[SHARE] if SHARE in corpus.column_names else map(hash_share, corpus["text"])
    held_out = [share < eval_fraction for share in shares]
    train = corpus.select([i for i, held in enumerate(held_out) if not held])
    evaluation = corpus.select([i for i, held in enumerate(held_out) if held])
    if len(train) and len(evaluation):
        return train, evaluation
    texts = list(corpus["text"])
    longest = max(range(len(texts)), key=lambda i: len(texts[i]))
    cut = max(1, round(len(texts[longest]) * (1 - max(eval_fraction, 0.01))))
    rows = corpus.to_list()
    head = [{**row, "text": row["text"][:cut]} if row["text"] == texts[longest] else row for row in rows]
    tail = [{**rows[longest], "text": texts[longest][cut:]}]
    return Dataset.from_list(head, features=corpus.features), Dataset.from_list(tail, features=corpus.features)
