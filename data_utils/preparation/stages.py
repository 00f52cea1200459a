"""The first and last stage of a preparation as blocks for datatrove: sources to clean documents, those to a corpus."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from data_utils.preparation.duplicates import EXACT, KEPT, NEAR, SignatureFolder, Signatures, write_array
from data_utils.preparation.filters import batches
from data_utils.preparation.leaks import ENTRY, make_entries, read_leaks
from data_utils.preparation.tally import EXAMPLES, Tally, mask_example, shorten, utf8_bytes
from data_utils.readers.opening import Part
from data_utils.text.splitting import SHARE
from files import move_whole

COLUMNS = dict.fromkeys(("text", "language", "source", "id"), pa.string()) | {SHARE: pa.float64()}
ROW_GROUP_BYTES = 8_000_000


class ShardWriter:
    """A Parquet file that is there only when it is whole: row groups of about 8 MB, compressed."""

    def __init__(self, path: Path, columns: dict[str, pa.DataType], compression: str = "zstd") -> None:
        """Take the columns; lz4 writes two times as fast as zstd and takes half more room."""
        self.path, self.schema, self.compression = path, pa.schema(columns), compression
        self.aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self.writer: pq.ParquetWriter | None = None  # from the first row group on
        self.tables: list[pa.Table] = []
        self.held = self.documents = self.bytes = 0

    def add(self, table: pa.Table) -> None:
        """Take rows; write a row group when there are enough."""
        size = pc.sum(pc.binary_length(table["text"])).as_py() or 0
        self.tables.append(table)
        self.held += size
        self.bytes += size
        self.documents += len(table)
        if self.held >= ROW_GROUP_BYTES:
            self._flush()

    def _flush(self) -> pq.ParquetWriter:
        if self.writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # A dictionary helps where values repeat; for texts it would cost time alone.
            dictionary = [name for name in ("language", "source", "given") if name in self.schema.names]
            self.writer = pq.ParquetWriter(
                self.aside, self.schema, compression=self.compression, use_dictionary=dictionary
            )
        table = pa.concat_tables([self.schema.empty_table(), *self.tables])
        self.writer.write_table(table, row_group_size=max(len(table), 1))
        self.tables, self.held = [], 0
        return self.writer

    def close(self) -> None:
        """Write what is left, and let the file appear."""
        self._flush().close()
        move_whole(self.aside, self.path)


CLEAN_COLUMNS = COLUMNS | {"held_out": pa.bool_(), "given": pa.string()}  # the source as it was given
FATES = {EXACT: "exact duplicate", NEAR: "near duplicate"}


class ReadSources(PipelineStep):
    """The documents of this task's files, one after the other; a broken file costs itself alone."""

    type, name = "READER", "sources"

    def __init__(self, tasks: list[list[dict]], read: Callable[..., Iterator[dict]], tally: Tally) -> None:
        """Take the files and parts of each task, `read(path, on_fault=..., part=...)` of one, and the tally."""
        super().__init__()
        self.tasks, self.read, self.tally = tasks, read, tally
        tally.steps["read"] = {}

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Any:
        """Yield the documents."""
        seconds = 0.0
        for piece in self.tasks[rank]:
            documents, faults = 0, []
            part = Part(*piece["part"]) if "part" in piece else None
            begun = time.perf_counter()
            for row in self.read(piece["path"], on_fault=faults.append, part=part):
                seconds += time.perf_counter() - begun
                documents += 1
                metadata = {name: row[name] for name in ("language", "source", SHARE)}
                metadata |= {"given": piece["given"], "bytes": utf8_bytes(row["text"])}
                self.tally.count("read", piece["given"], 1, metadata["bytes"])
                yield Document(row["text"], row["id"], metadata=metadata)
                begun = time.perf_counter()
            seconds += time.perf_counter() - begun
            self.tally.add_faults(piece, documents, faults)
        self.tally.seconds["sources"] = seconds


class WriteClean(PipelineStep):
    """Ends the first stage: clean documents, their signatures, and the shingles of those that are held out."""

    type, name = "WRITER", "clean documents"

    def __init__(self, work: str, near: bool, eval_fraction: float, tally: Tally) -> None:
        super().__init__()
        self.work, self.near, self.eval_fraction, self.tally = work, near, eval_fraction, tally

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Any:
        """Write the documents of a task."""
        work = Path(self.work)
        signatures = Signatures(self.near)
        held_out = [np.zeros(0, ENTRY)]
        writer = ShardWriter(work / "clean" / f"{rank:05d}.parquet", CLEAN_COLUMNS, "lz4")
        for batch in batches(data):
            texts = [document.text for document in batch]
            with self.track_time("batch"):
                shares = [document.metadata[SHARE] for document in batch]
                held = [share < self.eval_fraction for share in shares]
                shingles = signatures.add(texts)
                if shingles is not None and any(held):
                    held_out.append(make_entries(shingles, np.flatnonzero(held), writer.documents))
                named = ([document.metadata[name] for document in batch] for name in ("language", "source", "given"))
                languages, sources, given = named
                columns = [texts, languages, sources, [document.id for document in batch], shares, held, given]
                writer.add(pa.table(columns, schema=writer.schema))
        writer.close()
        signatures.write(work / "signatures", rank)
        write_array(work / "held_out" / f"{rank:05d}.npy", np.concatenate(held_out))
        self.tally.write(work / "tallies" / f"read-{rank:05d}.json")


class WriteCorpus(PipelineStep):
    """The last stage: what is no duplicate and no leak, as a shard of the corpus, and its counts for the report."""

    type, name = "WRITER", "corpus"

    def __init__(self, work: str, watches_leaks: bool) -> None:
        super().__init__()
        self.work, self.watches_leaks = work, watches_leaks

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Any:
        """Write the shard of a task."""
        work, tally = Path(self.work), Tally()
        tally.steps |= {"duplicates": {}, **({"leaks": {}} if self.watches_leaks else {})}
        offset, end = SignatureFolder(work / "signatures").offsets[rank : rank + 2].tolist()
        leaks = read_leaks(work, offset, end) if self.watches_leaks else {}
        places = json.loads((work / "index" / "places.json").read_text()) if self.watches_leaks else []
        fates = np.load(work / "clusters" / "fates.npy", mmap_mode="r")
        writer = ShardWriter(work / "data" / f"{rank:05d}.parquet", COLUMNS)
        counts: dict[str, dict] = {"languages": {}, "lengths": {}}
        kept_examples: dict[str, list] = {}
        file = pq.ParquetFile(work / "clean" / f"{rank:05d}.parquet")
        with self.track_time():
            for table in file.iter_batches(500, use_threads=False):
                fate = np.asarray(fates[offset : offset + len(table)])
                numbers = (np.flatnonzero(fate == KEPT) + offset).tolist()
                offset += len(table)
                rows = pa.Table.from_batches([table])
                for kind, name in FATES.items():
                    for row in rows.filter(pa.array(fate == kind)).to_pylist():
                        tally.drop("duplicates", name, row["text"], row["source"], id=row["id"])
                rows = rows.filter(pa.array(fate == KEPT))
                tally.count_table("duplicates", rows)
                if self.watches_leaks:
                    rows = drop_leaks(rows, numbers, leaks, places, tally)
                    tally.count_table("leaks", rows)
                count_languages(rows, counts)
                for row in rows.slice(0, 2).to_pylist():
                    examples = kept_examples.setdefault(row["language"], [])
                    if len(examples) < EXAMPLES:
                        examples.append({"text": shorten(mask_example(row["text"])), "source": row["source"]})
                writer.add(rows.select(list(COLUMNS)))
        shard = None
        if writer.documents:
            writer.close()
            digest = hashlib.file_digest(writer.path.open("rb"), "sha256").hexdigest()
            shard = {"file": f"data/{writer.path.name}", "documents": writer.documents, "bytes": writer.bytes}
            shard["sha256"] = digest
        tally.write(work / "tallies" / f"write-{rank:05d}.json", shard=shard, kept=kept_examples, **counts)


def drop_leaks(rows: pa.Table, numbers: list[int], leaks: dict[int, int], places: list[str], tally: Tally) -> pa.Table:
    """Return the rows that are no leaks; `numbers` are those of the documents in the corpus."""
    clean = [number not in leaks for number in numbers]
    for number, row in zip(
        (number for number in numbers if number in leaks),
        rows.filter(pa.array([not c for c in clean], pa.bool_())).to_pylist(),
        strict=True,
    ):
        text = leaks[number]
        reason, more = (
            ("held out and held by training", {}) if text < 0 else ("holds evaluation text", {"place": places[text]})
        )
        tally.drop("leaks", reason, row["text"], row["source"], id=row["id"], **more)
    return rows.filter(pa.array(clean, pa.bool_()))


def count_languages(rows: pa.Table, counts: dict[str, dict]) -> None:
    """Add documents, bytes and held-out documents of each language, and its documents by length: powers of two."""
    powers = pc.floor(pc.log2(pc.max_element_wise(pc.utf8_length(rows["text"]), 1)))
    columns = {"language": rows["language"], "power": pc.cast(powers, pa.int32()), "held_out": rows["held_out"]}
    table = pa.table(columns | {"bytes": pc.binary_length(rows["text"])})
    sums = [("bytes", "count"), ("bytes", "sum"), ("held_out", "sum")]
    for row in table.group_by(["language", "power"]).aggregate(sums).sort_by("language").to_pylist():
        of_language = counts["languages"].setdefault(row["language"], {"documents": 0, "bytes": 0, "held_out": 0})
        of_language["documents"] += row["bytes_count"]
        of_language["bytes"] += row["bytes_sum"]
        of_language["held_out"] += row["held_out_sum"]
        lengths = counts["lengths"].setdefault(row["language"], {})
        lengths[row["power"]] = lengths.get(row["power"], 0) + row["bytes_count"]
