"""The documents of any local input one after the other, from any place on, in memory that does not grow.

A corpus folder is clean; files and built-in sources are cleaned here. `read_corpus` is for what fits this machine well;
this is for what does not.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

import pyarrow.parquet as pq
import yaml

from data_utils.readers.files import find_files
from data_utils.sources.corpus import CORPUS_SOURCES, data_version, parse_source, read_documents, read_texts
from data_utils.sources.folder import is_corpus_folder, list_shards, read_manifest
from data_utils.sources.inputs import is_hub_name
from data_utils.text.cleaning import clean_text
from data_utils.text.splitting import SHARE, share_of
from errors import InputError

LARGE_BYTES = 128_000_000  # files of more are tokenized to shards instead of being held by `datasets`: 1.3 GB at most


@dataclass(frozen=True)
class Source:
    """Where documents come from.

    `weight` is the source's share of what is trained on, against the others'; None: its own size, `times` repeated.
    """

    path: str
    weight: float | None = None
    times: float = 1.0
    sample_by: str = "paragraph"
    text_column: str = "text"
    remove_stop_words: bool = False

    @cached_property
    def is_folder(self) -> bool:
        """Whether this is a corpus folder."""
        return self.path not in CORPUS_SOURCES and is_corpus_folder(self.path)

    def version(self) -> str:
        """Return what changes when the documents change."""
        reading = "" if self.is_folder else f"{self.sample_by} {self.text_column}"
        return f"{data_version([self.path], CORPUS_SOURCES)} {reading} {self.remove_stop_words}"

    def parts(self) -> list[str]:
        """Return the files in order; a built-in source is one part."""
        if self.path in CORPUS_SOURCES:
            return [self.path]
        if is_hub_name(self.path):
            raise InputError(
                f"{self.path}: a hub dataset cannot be tokenized to shards; prepare it with prepare_corpus first, "
                "or use --streaming true"
            )
        return list_shards(self.path) if self.is_folder else [str(file) for file in find_files(self.path)]

    def text_bytes(self) -> int:
        """Return about how many bytes of text it holds: as its manifest says, or the size of its files."""
        if self.is_folder:
            return sum(shard["bytes"] for shard in read_manifest(self.path)["shards"])
        if self.path in CORPUS_SOURCES:
            return sum(len(row["text"].encode()) for row in read_documents(self.path))
        return sum(Path(part).stat().st_size for part in self.parts())

    def clean(self, text: str) -> str:
        """Return the text as it is trained on: that of a corpus folder as it is."""
        return text if self.is_folder and not self.remove_stop_words else clean_text(text, self.remove_stop_words)

    def read(self, part: str, start: int = 0) -> Iterator[tuple[str, str, float]]:
        """Yield (text, language, hash share) of a part from document `start` on, not cleaned."""
        if self.is_folder:
            yield from read_parquet(part, start)
            return
        rows = read_documents(part) if part in CORPUS_SOURCES else read_texts(part, self.text_column, self.sample_by)
        for row in islice(rows, start, None):
            yield row["text"], row["language"], row[SHARE]


def read_parquet(path: str, start: int) -> Iterator[tuple[str, str, float]]:
    """Yield (text, language, hash share) of a Parquet file of a corpus from row `start` on, no row groups before it."""
    with pq.ParquetFile(path) as file:
        columns = [name for name in ("text", "language", SHARE) if name in file.schema_arrow.names]
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if start >= rows:
                start -= rows
                continue
            for batch in file.iter_batches(256, row_groups=[group], columns=columns):
                for row in batch.slice(start).to_pylist():
                    yield row["text"], row["language"], share_of(row)
                start = max(0, start - batch.num_rows)


def find_sources(corpus: list[str], sources: list[str] | None, *reading: str | bool) -> list[Source]:
    """Return the sources that `--corpus` (PATH or PATH@TIMES) or, where it is given, `--sources` names.

    Args:
        corpus: paths, each with how often it is repeated. sources: `{path: ..., weight: ...}` in YAML, as strings.
        reading: `sample_by`, `text_column` and `remove_stop_words`.

    >>> [(source.path, source.weight) for source in find_sources([], ["{path: wiki_zh, weight: 2}", "{path: my.txt}"])]
    [('wiki_zh', 2.0), ('my.txt', 1.0)]
    """
    if not sources:
        return [Source(path, None, times, *reading) for path, times in map(parse_source, corpus)]
    found = []
    for text in sources:
        try:
            value = yaml.safe_load(text)
            weight = float(value.get("weight", 1))
            path = str(value["path"])
        except (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"--sources {text}: '{{path: ..., weight: ...}}' is expected for each source") from error
        if set(value) - {"path", "weight"} or not 0 < weight < float("inf"):
            raise InputError(f"--sources {text}: only path and a weight above 0 are expected")
        found.append(Source(path, weight, 1.0, *reading))
    return found


def check_held_out(sources: list[Source], eval_fraction: float) -> None:
    """Raise InputError where more is held out of a corpus folder than its preparation kept from being leaked."""
    for source in sources:
        settings = read_manifest(source.path).get("settings", {}) if source.is_folder else {}
        checked = settings.get("eval_fraction", 1)
        if settings.get("duplicates") == "near" and eval_fraction > checked:
            raise InputError(
                f"{source.path}: prepared with --eval_fraction {checked:g}; of {eval_fraction:g} the rest was never "
                f"checked for leaks: use {checked:g} at most, or prepare it again"
            )


def needs_shards(sources: list[Source]) -> bool:
    """Tell whether sources are tokenized to shards: weighted ones, corpus folders and large files are."""
    size = 0
    for source in sources:
        if source.weight is not None or source.is_folder:
            return True
        if source.path not in CORPUS_SOURCES and not is_hub_name(source.path):
            size += sum(Path(part).stat().st_size for part in source.parts() if Path(part).is_file())
    return size > LARGE_BYTES
