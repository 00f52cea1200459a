"""Opens a source of one of four kinds: built-in, hub, corpus folder, files; each reads, measures and versions itself.

A corpus folder is what `prepare_corpus` leaves:
FOLDER/corpus.json          the manifest, written last: its shards with documents, bytes and hash
FOLDER/data/00000.parquet   text, language, source, id, hash_share (by which the split goes; not in old ones)
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
import yaml

from data_utils.readers.arguments import ReadArguments
from data_utils.readers.files import (
    EMPTY_FILE,
    Fault,
    FaultLimit,
    file_bytes,
    file_suffix,
    file_version,
    find_files,
    judge_faults,
    pass_empty,
    raise_fault,
)
from data_utils.readers.limits import OutOfTime, limit_document
from data_utils.readers.opening import Part, open_bytes
from data_utils.readers.remote import has_file, is_address
from data_utils.sources import builtin
from data_utils.sources.inputs import NOTHING, is_hub_name, load_hub, make_documents, read_documents_of, read_rows
from data_utils.text.cleaning import clean_text
from data_utils.text.splitting import SHARE, share_of
from errors import InputError, first_line, is_machine_fault
from options import YAML_FAULTS

MANIFEST = "corpus.json"
MAX_TIMES = 10_000


def is_corpus_folder(path: str) -> bool:
    """Tell whether a path or an address is a corpus folder; raise InputError where one was never finished."""
    if is_address(path):
        return not file_suffix(path) and "*" not in path and has_file(name_file(path, MANIFEST))
    folder = Path(path)
    if (folder / MANIFEST).is_file() and (folder / "data").is_dir():  # else it is a text of that name
        return True
    if (folder / ".work").is_dir() or any(re.fullmatch(r"\d{5}", file.stem) for file in folder.glob("data/*.parquet")):
        raise InputError(f"{path}: an unfinished corpus, without {MANIFEST}; run prepare_corpus again to finish it")
    return False


def name_file(path: str, name: str) -> str:
    """Return the path or address of a file in a corpus folder.

    >>> name_file("s3://bucket/corpus/", "data/00000.parquet")
    's3://bucket/corpus/data/00000.parquet'
    """
    return f"{path.rstrip('/')}/{name}" if is_address(path) else str(Path(path) / name)


def read_manifest(path: str) -> dict:
    """Return the manifest of a corpus folder; raise InputError where it does not fit its files."""
    try:
        with open_bytes(name_file(path, MANIFEST)) as file:
            manifest = json.load(file)
        kinds = {"file": str, "documents": int, "bytes": int}
        if not all(isinstance(shard[key], kind) for shard in manifest["shards"] for key, kind in kinds.items()):
            raise TypeError("another kind stands in a shard")
        names = [shard["file"] for shard in manifest["shards"]]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}/{MANIFEST}: not a manifest; prepare the corpus again") from error
    for name in names:
        if not has_file(name_file(path, name)):
            raise InputError(f"{path}: {Path(name).name} of its {MANIFEST} is missing; prepare the corpus again")
    return manifest


@dataclass(frozen=True)
class Source:
    """Files or other parts, in order, that are read as documents or as rows; one of the four kinds below.

    Args:
        path: as the user named it.
        times: how often it is repeated where it is mixed by size; below 1 a sample.
        weight: its share of what is trained on, against the others'; None: by its size.
        reading: how a file becomes documents.
    """

    path: str
    times: float = 1.0
    weight: float | None = None
    reading: ReadArguments = field(default_factory=lambda: ReadArguments("paragraph"))

    is_builtin: ClassVar[bool] = False  # its rows are dialogues with their language; nothing in it is a user's
    can_be_sharded: ClassVar[bool] = True

    @cached_property
    def files(self) -> list[str]:
        """The files in order; none where the source is something else."""
        return []

    def parts(self) -> list[str]:
        """Return what `documents` and `rows` read one by one: the files, or the source itself."""
        return self.files or [self.path]

    def part_version(self, part: str) -> str:
        """Return what changes when a part does."""
        raise NotImplementedError

    def versions(self) -> list[str]:
        """Return what changes when any part does, each with its name."""
        return [f"{part}:{self.part_version(part)}" for part in self.parts()]

    def held_bytes(self) -> float:
        """Return the bytes of the files, or infinity for what is never held in memory; 0 for what is small."""
        return 0

    def text_bytes(self) -> int:
        """Return about how many bytes of text it holds."""
        raise NotImplementedError

    def check_held_out(self, eval_fraction: float) -> None:
        """Raise InputError where more is to be held out than was kept from leaking."""

    def documents(
        self, part: str, start: int = 0, on_fault: Callable[[Fault], object] = raise_fault, cut: Part | None = None
    ) -> Iterator[dict]:
        """Yield {text, language, source, id, hash_share} of a part from document `start` on, as it was written.

        Args:
            on_fault: called with each Fault; as it is, the first one is raised as InputError.
            cut: one of several that `cut_file` made of a file; None: all of it.
        """
        raise NotImplementedError

    def rows(self, part: str, on_fault: Callable[[Fault], object] = raise_fault) -> Iterator[tuple[object, Any]]:
        """Yield (place, row) of a part as it is written, for dialogues; a row is an object or a list."""
        raise NotImplementedError

    def clean(self, text: str) -> str:
        """Return a document's text as it is trained on; '' where nothing is left."""
        return clean_text(text)

    def read(self, part: str, start: int = 0) -> Iterator[dict]:
        """Yield {text, language, source, hash_share} of a part from document `start` on, clean; some may be empty.

        At the end raises InputError where there were rows that can't be used.
        """
        faults, count = [], 0
        for count, row in enumerate(self.documents(part, start, faults.append), 1):  # noqa: B007, counted to the end
            try:
                with limit_document():
                    text = self.clean(row["text"])
            except OutOfTime as error:
                faults.append(Fault(part, row["id"].rpartition(":")[2], str(error)))
                text = ""
            yield {"text": text, **{name: row[name] for name in ("language", "source", SHARE)}}
        judge_faults(faults, count + len(faults), False, "have them left out by prepare_corpus.py")
        if not count and not start and self.files:
            pass_empty(part, self.path)


class BuiltinSource(Source):
    """The default data, in a package or in this repository."""

    is_builtin = True

    def part_version(self, part: str) -> str:
        """Return the version of its package, or a hash of our files."""
        return builtin.source_version(part)

    def text_bytes(self) -> int:
        """Return the bytes of its documents."""
        return sum(len(row["text"].encode()) for row in self.documents(self.path))

    def documents(self, part, start=0, on_fault=raise_fault, cut=None) -> Iterator[dict]:
        """Yield its documents; a dialogue is one, a line for each turn."""
        for number, row in islice(enumerate(builtin.read_documents(part), 1), start, None):
            yield row | {"id": f"{part}:{number}", SHARE: share_of(row)}

    def rows(self, part, on_fault=raise_fault) -> Iterator[tuple[object, Any]]:
        """Yield its dialogues, of a source that has some."""
        yield from enumerate(builtin.DIALOGUE_SOURCES[part](), 1)


class HubSource(Source):
    """The training split of a dataset of the hub."""

    can_be_sharded = False  # its size and version are not known

    def part_version(self, part: str) -> str:
        """Return a constant: what was fetched once stays."""
        return "hub"

    def versions(self) -> list[str]:
        """Return its name."""
        return [self.path]

    def documents(self, part, start=0, on_fault=raise_fault, cut=None) -> Iterator[dict]:
        """Yield its documents as they are fetched."""
        rows = enumerate(load_hub(part, True), 1)
        column, tell = self.reading.text_column, FaultLimit(on_fault)
        yield from islice(make_documents(rows, part, name=part, column=column, tell=tell), start, None)

    def rows(self, part, on_fault=raise_fault) -> Iterator[tuple[object, Any]]:
        """Yield its rows."""
        yield from enumerate(load_hub(part), 1)


class FileSource(Source):
    """A file, a folder of files, a glob or an address."""

    @cached_property
    def files(self) -> list[str]:
        """The files in order."""
        return find_files(self.path)

    def part_version(self, part: str) -> str:
        """Return a file's size and time."""
        return file_version(part)

    def held_bytes(self) -> float:
        """Return the bytes of the files."""
        return self.text_bytes()

    def text_bytes(self) -> int:
        """Return the bytes of the files."""
        return sum(map(file_bytes, self.files))

    def documents(self, part, start=0, on_fault=raise_fault, cut=None) -> Iterator[dict]:
        """Yield the documents of a file."""
        yield from islice(read_documents_of(part, self.reading, self.spare_empty(part, on_fault), cut), start, None)

    def rows(self, part, on_fault=raise_fault) -> Iterator[tuple[object, Any]]:
        """Yield the rows of a file; of a text file its paragraphs, lines or all of it."""
        tell = self.spare_empty(part, on_fault)
        yield from read_rows(part, replace(self.reading, text_column=""), tell, row_types=(dict, list))

    def spare_empty(self, part: str, on_fault: Callable[[Fault], object]) -> Callable[[Fault], object]:
        """Return what is told of faults: not that a file is empty, where others are read with it."""
        empty = (EMPTY_FILE, *NOTHING.values())
        return on_fault if part == self.path else lambda fault: fault.reason in empty or on_fault(fault)


class FolderSource(FileSource):
    """A corpus as prepare_corpus leaves it: clean, counted, its split kept."""

    @cached_property
    def manifest(self) -> dict:
        """What it holds; read once, since at an address each shard is asked for."""
        return read_manifest(self.path)

    @cached_property
    def files(self) -> list[str]:
        """The Parquet files in order."""
        return [name_file(self.path, shard["file"]) for shard in self.manifest["shards"]]

    def versions(self) -> list[str]:
        """Return a hash that changes when its documents do."""
        shards = [(shard["file"], shard["documents"], shard.get("sha256")) for shard in self.manifest["shards"]]
        return [xxhash.xxh64(json.dumps(shards).encode()).hexdigest()]

    def held_bytes(self) -> float:
        """Return infinity: it is tokenized to shards at any size."""
        return float("inf")

    def text_bytes(self) -> int:
        """Return the bytes that the manifest counts."""
        return sum(shard["bytes"] for shard in self.manifest["shards"])

    def check_held_out(self, eval_fraction: float) -> None:
        """Raise InputError where more is held out than the preparation kept from leaking."""
        settings = self.manifest.get("settings", {})
        checked = settings.get("eval_fraction", 1)
        if settings.get("duplicates") == "near" and eval_fraction > checked:
            raise InputError(
                f"{self.path}: prepared with --eval_fraction {checked:g}; of {eval_fraction:g} the rest was never "
                f"checked for leaks: use {checked:g} at most, or prepare it again"
            )

    def clean(self, text: str) -> str:
        """Return the text as it is: it was cleaned once."""
        return text

    def documents(self, part, start=0, on_fault=raise_fault, cut=None) -> Iterator[dict]:
        """Yield the documents of a Parquet file, without reading the row groups before `start`.

        Raises InputError where a page of it isn't as it was written, by the page's own checksum.
        """
        try:
            yield from self.read_groups(part, start)
        except (pa.ArrowException, OSError) as error:
            if is_machine_fault(error) or isinstance(error, FileNotFoundError):
                raise
            raise InputError(f"{part}: is damaged: {first_line(error)}; copy or prepare the corpus again") from error

    def read_groups(self, part: str, start: int) -> Iterator[dict]:
        """Yield the documents of a Parquet file from document `start` on."""
        with open_bytes(part) as stream, pq.ParquetFile(stream, page_checksum_verification=True) as file:
            columns = [name for name in ("text", "language", "source", "id", SHARE) if name in file.schema_arrow.names]
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if start >= rows:
                    start -= rows
                    continue
                for batch in file.iter_batches(256, row_groups=[group], columns=columns):
                    for row in batch.slice(start).to_pylist():
                        yield row | {SHARE: share_of(row)}
                    start = max(0, start - batch.num_rows)


def open_source(
    path: str, times: float = 1.0, weight: float | None = None, reading: ReadArguments | None = None
) -> Source:
    """Return the source that a path names, of its kind."""
    if builtin.is_builtin_name(path):
        kind = BuiltinSource
    elif is_hub_name(path):
        kind = HubSource
    else:
        kind = FolderSource if is_corpus_folder(path) else FileSource
    return kind(path, times, weight, reading or ReadArguments("paragraph"))


def open_sources(
    corpus: list[str], mixture: list[str] | None = None, sample_by: str = "paragraph", text_column: str = "text"
) -> list[Source]:
    """Return the sources that `--corpus` (PATH or PATH@TIMES) or, where it is given, `--mixture` names.

    Args:
        corpus: paths, each with how often it is repeated.
        mixture: `{path: ..., weight: ...}` in YAML, as strings.
        sample_by: what one document of a .txt file is: `line`, `paragraph` (blank-line separated) or `document` (file).
        text_column: the column of .jsonl, .csv and .parquet files that holds the text.

    >>> [(source.path, source.weight) for source in open_sources([], ["{path: own, weight: 2}", "{path: my.txt}"])]
    [('own', 2.0), ('my.txt', 1.0)]
    """
    try:
        reading = ReadArguments(sample_by, text_column)
    except ValueError as error:
        raise InputError(str(error)) from error
    if mixture:
        return [open_source(path, 1.0, weight, reading) for path, weight in map(parse_weight, mixture)]
    return [open_source(path, times, None, reading) for path, times in map(parse_times, corpus)]


def parse_times(name: str) -> tuple[str, float]:
    """Split `PATH@TIMES` into the path and how often it is repeated (below 1: sampled).

    >>> parse_times("own@8"), parse_times("big.txt@0.00005"), parse_times("my.txt")
    (('own', 8.0), ('big.txt', 5e-05), ('my.txt', 1.0))
    """
    match = re.fullmatch(r"(.+)@(\d+(?:\.\d+)?)", name)
    if match and not 0 < float(match[2]) <= MAX_TIMES:
        raise InputError(f"{name}: is repeated {MAX_TIMES:,} times at most, and more than 0")
    return (match[1], float(match[2])) if match else (name, 1.0)


def parse_weight(text: str) -> tuple[str, float]:
    """Return (path, weight) of one of `--mixture`."""
    try:
        value = yaml.safe_load(text)
        weight = float(value.get("weight", 1))
        path = str(value["path"])
    except YAML_FAULTS as error:
        raise InputError(f"--mixture {text}: '{{path: ..., weight: ...}}' is expected for each source") from error
    if set(value) - {"path", "weight"} or not 0 < weight < float("inf"):
        raise InputError(f"--mixture {text}: only path and a weight above 0 are expected")
    return path, weight


def data_version(sources: list[Source]) -> str:
    """Return a short hash of what sources hold now: packages by version, files by size and time.

    Raises InputError for a source that is not there, before anything else is done.
    """
    parts = [version for source in sources for version in source.versions()]
    return xxhash.xxh64("\0".join(parts).encode(errors="surrogateescape")).hexdigest()
