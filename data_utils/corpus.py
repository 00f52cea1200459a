"""Files, folders or hub names in; cleaned documents out, split into training and held-out text."""

import re
import unicodedata
from collections.abc import Container, Iterator

import ftfy
import numpy as np
import pyarrow.compute as pc
import xxhash
from datasets import Dataset, Features, IterableDataset, Value, concatenate_datasets
from ftfy.badness import is_bad

from data_utils import sources
from data_utils.caching import cache_key, generate_rows
from data_utils.cleaning.characters import SUSPECT, SUSPICIOUS, UNNORMAL, UNPRINTABLE, find_kinds
from data_utils.folder import folder_version, is_corpus_folder
from data_utils.readers.files import ReadArguments, file_version, find_files
from data_utils.readers.inputs import find_inputs, is_hub_name, read_documents_of
from data_utils.splitting import SHARE, hash_share
from errors import InputError

FEATURES = Features(
    {"text": Value("string"), "language": Value("string"), "source": Value("string"), SHARE: Value("float64")}
)
CORPUS_SOURCES = (*sources.DOCUMENT_SOURCES, *sources.DIALOGUE_SOURCES)
CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f\ufeff\ufffe\uffff\ud800-\udfff]")
C1 = re.compile(r"[\x80-\x9f]")
# Of the spaces that are printed; the pattern begins with what is quickly found.
SPACED_END = re.compile(r"\n(?<=[ \t\u3000\xa0]\n)")


# Reading


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
        paths: where the text is; built-in names are those of `data_utils.sources`.
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


# Cleaning


def clean_text(text: str, remove_stop_words: bool = False, kinds: int | None = None) -> str:
    """Repair and normalise text without changing what a reader sees.

    Mojibake is repaired (ftfy), Unicode composed (NFC), control characters dropped, line ends made `\\n`, spaces at
    line ends and more than one blank line removed. Removing stop words (an option for study) hurts generation: a
    model that never saw "the" or "的" cannot write a sentence. `kinds`: what `find_kinds` says, where that was asked.

    >>> clean_text("cafe\\u0301\\r\\n\\x00schÃ¶n  \\n\\n\\n\\nend")
    'café\\nschön\\n\\nend'
    """
    if "\r" in text:
        text, kinds = text.replace("\r\n", "\n").replace("\r", "\n"), None
    kinds = find_kinds([text])[0] if kinds is None else kinds
    before = None
    while text != before:  # what is repaired, or loses a space beside it, may be mojibake again; most text is not
        before = text
        if not is_sound(text, kinds):  # most text is: 20 times faster than to look for what could be repaired
            text = repair_characters(text)
            kinds = find_kinds([text])[0]
        text = tidy_lines(text, kinds)
        if not kinds & SUSPICIOUS:
            break
    return drop_stop_words(text) if remove_stop_words else text


def repair_characters(text: str) -> str:
    """Return text without mojibake and control characters, its Unicode composed."""
    text = CONTROL.sub("", text)
    if text.isascii():
        return text
    text = ftfy.fix_text(
        text,
        normalization=None,
        uncurl_quotes=False,
        fix_latin_ligatures=False,
        fix_character_width=False,
        unescape_html=False,
    )
    # C1 is dropped after ftfy, since it may be part of mojibake; NFC is last, since what parted a letter is gone.
    return unicodedata.normalize("NFC", C1.sub("", CONTROL.sub("", text)))


def is_sound(text: str, kinds: int) -> bool:
    """Tell quickly whether there is nothing in a text that `clean_text` repairs or drops, line ends aside.

    All that it drops is not printable; ftfy changes, of printable text, what its `is_bad` names and U+FFFC.
    """
    if kinds & UNPRINTABLE or "\ufffc" in text:
        return False
    if kinds & SUSPICIOUS:
        # What ftfy looks for is at most seven characters wide: its slow pattern sees the neighbours of suspects only.
        windows = [text[max(0, match.start() - 7) : match.start() + 8] for match in SUSPECT.finditer(text)]
        if is_bad("\n".join(windows)) or "\nÃ " in text or "\nÂ " in text:
            return False
    return not kinds & UNNORMAL or unicodedata.is_normalized("NFC", text)


def tidy_lines(text: str, kinds: int) -> str:
    """Return text without spaces at line ends and more than one blank line; `kinds` of characters are in it."""
    if kinds & UNPRINTABLE or SPACED_END.search(text):
        text = "\n".join([line.rstrip() for line in text.split("\n")])
    text = re.sub(r"\n{3,}", "\n\n", text) if "\n\n\n" in text else text
    return text.strip()


def drop_stop_words(text: str) -> str:
    """Return text without English and Chinese stop words; Chinese is cut into words by jieba."""
    try:
        import jieba
        import stopwordsiso
    except ImportError as error:
        raise InputError(
            f"--remove_stop_words needs {error.name}; run: pip install -r requirements/corpus.txt"
        ) from error

    jieba.setLogLevel("WARNING")
    stop_words = stopwordsiso.stopwords(["en", "zh"])
    words = [word for word in jieba.cut(text) if word.lower() not in stop_words]
    return re.sub(r"[ \t]+", " ", "".join(words)).strip()


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


# Splitting


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
