"""Files, folders or hub names in; cleaned documents out, split into training and held-out text."""

import hashlib
import json
import re
import unicodedata
from collections.abc import Container, Iterator
from glob import glob, has_magic
from pathlib import Path

import fsspec
import ftfy
import xxhash
from datasets import (
    Dataset,
    Features,
    IterableDataset,
    Value,
    concatenate_datasets,
    interleave_datasets,
    load_dataset,
)
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError
from huggingface_hub.errors import OfflineModeIsEnabled

from data_utils import sources
from data_utils.caching import cache_key
from errors import InputError

FEATURES = Features({"text": Value("string"), "language": Value("string"), "source": Value("string")})
LOADERS = {".txt": "text", ".md": "text", ".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
COMPRESSED = (".gz", ".zst")
CORPUS_SOURCES = (*sources.DOCUMENT_SOURCES, *sources.DIALOGUE_SOURCES)
HAN = re.compile(r"[\u3400-\u9fff\U00020000-\U0003ffff]")
LETTER = re.compile(r"[^\W\d_]")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff\ufffe\uffff]|[\ud800-\udfff]")


# Reading


def parse_source(name: str) -> tuple[str, float]:
    """Split `PATH@TIMES` into the path and how often it is repeated (below 1: sampled).

    >>> parse_source("own@8"), parse_source("chitchat@0.3"), parse_source("my.txt")
    (('own', 8.0), ('chitchat', 0.3), ('my.txt', 1.0))
    """
    match = re.fullmatch(r"(.+)@(\d+(?:\.\d+)?)", name)
    return (match[1], float(match[2])) if match else (name, 1.0)


def find_files(path: str) -> list[Path]:
    """Return the data files that a path, a glob or a folder stands for, sorted; raise InputError if there are none."""
    if has_magic(path) and not Path(path).exists():
        files = [Path(name) for name in sorted(glob(path, recursive=True))]  # noqa: PTH207  (patterns may be absolute)
    elif Path(path).is_dir():
        files = sorted(file for file in Path(path).rglob("*") if file.is_file() and file_suffix(file) in LOADERS)
    else:
        files = [Path(path)]
    files = [file for file in files if file.is_file()]
    if not files:
        kinds = " ".join(LOADERS)
        raise InputError(f"{path}: no such file, or nothing in it that can be read ({kinds}, each also .gz or .zst)")
    for file in files:
        if file_suffix(file) not in LOADERS:
            kinds = " ".join(LOADERS)
            raise InputError(f"{file}: unknown file type; use one of {kinds}, each also .gz or .zst")
    return files


def file_suffix(path: Path) -> str:
    """Return the file type without the compression: '.jsonl' for 'a.jsonl.zst'."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def is_hub_name(path: str) -> bool:
    """Tell whether a path that does not exist here reads as a hub dataset: owner/name, without a file type."""
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", path)) and not Path(path).exists() and file_suffix(Path(path)) == ""


def load_rows(path: str, sample_by: str = "paragraph", streaming: bool = False) -> Dataset | IterableDataset:
    """Load what `path` names as a Dataset with its own columns; `datasets` reads and caches it, or streams it.

    Raises InputError that names the file, and the line where the format has lines.
    """
    if is_hub_name(path):
        try:
            return load_dataset(path, split="train", streaming=streaming)
        except (OfflineModeIsEnabled, DatasetNotFoundError, ConnectionError) as error:
            raise InputError(
                f"{path}: not found here; to download a dataset of that name from the hub, set HF_HUB_OFFLINE=0"
            ) from error
    parts = []
    for loader in dict.fromkeys(LOADERS.values()):
        files = [str(file) for file in find_files(path) if LOADERS[file_suffix(file)] == loader]
        if not files:
            continue
        for file in [] if streaming else files:
            check_file(Path(file), loader)
        options = {"sample_by": sample_by} if loader == "text" else {}
        try:
            parts.append(load_dataset(loader, data_files=files, split="train", streaming=streaming, **options))
        except (DatasetGenerationError, UnicodeDecodeError, ValueError) as error:
            cause = error.__cause__ or error
            raise InputError(f"{files[0]}: not readable as {loader}: {str(cause).splitlines()[0]}") from error
    return concatenate_datasets(parts) if len(parts) > 1 else parts[0]


def check_file(path: Path, loader: str) -> None:
    """Raise InputError with file and line where a text or JSON-lines file is empty, not UTF-8 or not JSON."""
    if loader not in ("text", "json", "csv"):
        return
    is_lines = loader == "json" and file_suffix(path) == ".jsonl"
    number, is_empty = 0, True
    try:
        with fsspec.open(str(path), "rb", compression="infer") as lines:
            for number, line in enumerate(lines, 1):
                text = line.decode("utf-8")
                is_empty = is_empty and not text.strip()
                if is_lines and text.strip() and not isinstance(json.loads(text), dict):
                    raise InputError(f"{path}:{number}: a JSON object is expected on every line")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}:{number}: not valid UTF-8 (byte {error.object[error.start]:#04x}); convert the file to UTF-8"
        ) from error
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{number}: not valid JSON: {error.msg} at column {error.colno}") from error
    except (OSError, EOFError, ValueError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise InputError(f"{path}: cannot be read after line {number}: {error}") from error
    if is_empty:
        raise InputError(f"{path}: the file is empty")


def stream_corpus(paths: list[str], sample_by: str, text_column: str, remove_stop_words: bool) -> IterableDataset:
    """Read documents as `read_corpus` and `clean_corpus` do, but one after the other as they are needed.

    For what is too large for this machine's disk; built-in sources and `@TIMES` are not for streams.
    """
    parts = []
    for path in paths:
        rows = load_rows(path, sample_by, streaming=True).select_columns([text_column])
        arguments = {"text_column": text_column, "source": Path(path).name}
        parts.append(rows.map(describe_documents, batched=True, remove_columns=[text_column], fn_kwargs=arguments))
    documents = interleave_datasets(parts) if len(parts) > 1 else parts[0]
    documents = documents.map(lambda row: {**row, "text": clean_text(row["text"], remove_stop_words)})
    return documents.filter(lambda row: bool(row["text"]))


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
        else:
            parts += [f"{file}:{file_version(file)}" for file in find_files(path)]
    return xxhash.xxh64("\0".join(parts).encode()).hexdigest()


def file_version(path: Path) -> str:
    """Return what changes when a file changes: its size and time."""
    stat = path.stat()
    return f"{stat.st_size}:{stat.st_mtime_ns}"


def read_documents(source: str) -> Iterator[dict]:
    """Yield the documents of a built-in source; a dialogue becomes one document, a line for each turn."""
    if source in sources.DOCUMENT_SOURCES:
        yield from sources.DOCUMENT_SOURCES[source]()
        return
    for dialogue in sources.DIALOGUE_SOURCES[source]():
        text = dialogue_text(dialogue["messages"])
        yield {"text": text, "language": dialogue["language"], "source": dialogue["source"]}


def dialogue_text(messages: list[dict]) -> str:
    """Return a dialogue as plain text, a line for each turn: its form as a document, and the key of its split."""
    return "\n".join(message["content"] for message in messages)


def read_corpus(paths: list[str], sample_by: str = "paragraph", text_column: str = "text") -> Dataset:
    """Read documents from files, folders, globs, hub names and built-in sources, each as `PATH[@TIMES]`.

    Args:
        paths: where the text is; built-in names are those of `data_utils.sources`.
        sample_by: what one document of a .txt file is: `line`, `paragraph` (blank-line separated) or `document` (file).
        text_column: the column of .jsonl, .csv and .parquet files that holds the text.

    Returns a Dataset with `text`, `language` and `source`. Raises InputError for what cannot be read.
    """
    parts = []
    for name in paths:
        path, times = parse_source(name)
        if path in CORPUS_SOURCES:
            key = cache_key("read_documents", path, sources.source_version(path))
            part = Dataset.from_generator(read_documents, FEATURES, gen_kwargs={"source": path}, fingerprint=key)
        else:
            rows = load_rows(path, sample_by)
            if text_column not in rows.column_names:
                columns = ", ".join(rows.column_names)
                raise InputError(f"{path}: no column '{text_column}'; it has: {columns}; name one with --text_column")
            rows = rows.select_columns([text_column])
            part = rows.map(
                describe_documents,
                batched=True,
                remove_columns=[text_column],
                features=FEATURES,
                fn_kwargs={"text_column": text_column, "source": Path(path).name},
                new_fingerprint=cache_key("describe_documents", rows._fingerprint, text_column, Path(path).name),
                desc=f"reading {path}",
            )
        parts.append(repeat_rows(part, times))
    return concatenate_datasets(parts)


def describe_documents(batch: dict, text_column: str, source: str) -> dict:
    """Map rows of a file to documents with `text`, `language` and `source`."""
    texts = ["" if text is None else str(text) for text in batch[text_column]]
    return {"text": texts, "language": [detect_language(text) for text in texts], "source": [source] * len(texts)}


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


def detect_language(text: str) -> str:
    """Return 'zh' where at least a fifth of the letters are Han characters, else 'en'.

    >>> detect_language("我喜欢 Python"), detect_language("I like tea")
    ('zh', 'en')
    """
    sample = text[:2000]
    han = len(HAN.findall(sample))
    return "zh" if han and han >= 0.2 * len(LETTER.findall(sample)) else "en"


# Cleaning


def clean_text(text: str, remove_stop_words: bool = False) -> str:
    """Repair and normalise text without changing what a reader sees.

    Mojibake is repaired (ftfy), Unicode composed (NFC), control characters dropped, line ends made `\\n`, spaces at
    line ends and more than one blank line removed. Removing stop words (an option for study) hurts generation: a
    model that never saw "the" or "的" cannot write a sentence.

    >>> clean_text("cafe\\u0301\\r\\n\\x00schÃ¶n  \\n\\n\\n\\nend")
    'café\\nschön\\n\\nend'
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.isascii():
        text = ftfy.fix_text(
            text, normalization=None, uncurl_quotes=False, fix_latin_ligatures=False, fix_character_width=False
        )
        text = unicodedata.normalize("NFC", text)
    text = CONTROL.sub("", text)
    text = "\n".join(line.rstrip() for line in text.split("\n"))
    text = re.sub(r"\n{3,}", "\n\n", text).strip()
    return drop_stop_words(text) if remove_stop_words else text


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


def is_held_out(text: str, eval_fraction: float) -> bool:
    """Decide by hash whether a document or dialogue belongs to the held-out part: the same text always falls alike."""
    return hash_share(text) < eval_fraction


def hash_share(text: str) -> float:
    """Return a number from 0 to 1 that depends on the text alone, spaces aside."""
    digest = hashlib.blake2b(" ".join(text.split()).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def split_train_eval(corpus: Dataset, eval_fraction: float) -> tuple[Dataset, Dataset]:
    """Split a corpus by document, before anything is trained on it, into (training, held-out).

    Where the hash leaves one side empty (a corpus of few documents), the tail of the longest document is held out.
    """
    held_out = [is_held_out(text, eval_fraction) for text in corpus["text"]]
    train = corpus.select([i for i, held in enumerate(held_out) if not held])
    evaluation = corpus.select([i for i, held in enumerate(held_out) if held])
    if len(train) and len(evaluation):
        return train, evaluation
    texts = list(corpus["text"])
    longest = max(range(len(texts)), key=lambda i: len(texts[i]))
    cut = max(1, round(len(texts[longest]) * (1 - max(eval_fraction, 0.01))))
    rows = corpus.to_list()
    head = [{**row, "text": row["text"][:cut]} if i == longest else row for i, row in enumerate(rows)]
    tail = [{**rows[longest], "text": texts[longest][cut:]}]
    return Dataset.from_list(head, features=corpus.features), Dataset.from_list(tail, features=corpus.features)


def sample_texts(corpus: Dataset, max_bytes: int = 6_000_000) -> Iterator[str]:
    """Yield shuffled texts of at most `max_bytes` for each language: equal shares, in bounded memory."""
    spent: dict[str, int] = {}
    for row in corpus.shuffle(seed=0):
        size = len(row["text"].encode())
        if spent.get(row["language"], 0) + size <= max_bytes:
            spent[row["language"]] = spent.get(row["language"], 0) + size
            yield row["text"]
