"""Opens the sources that a user names; the one place where it is asked what kind of source a path is."""

import re

import xxhash
import yaml

from data_utils.readers.arguments import ReadArguments
from data_utils.sources import builtin
from data_utils.sources.folder import is_corpus_folder
from data_utils.sources.inputs import is_hub_name
from data_utils.sources.kinds import BuiltinSource, FileSource, FolderSource, HubSource, Source
from errors import InputError


def open_source(
    path: str, times: float = 1.0, weight: float | None = None, reading: ReadArguments | None = None
) -> Source:
    """Return the source that a path names, of its kind."""
    if path in builtin.DOCUMENT_SOURCES or path in builtin.DIALOGUE_SOURCES:
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
    return (match[1], float(match[2])) if match else (name, 1.0)


def parse_weight(text: str) -> tuple[str, float]:
    """Return (path, weight) of one of `--mixture`."""
    try:
        value = yaml.safe_load(text)
        weight = float(value.get("weight", 1))
        path = str(value["path"])
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
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
