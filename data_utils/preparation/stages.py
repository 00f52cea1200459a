"""The first and last stage of a preparation as blocks for datatrove: sources to clean documents, those to a corpus."""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datatrove.data import Document

from data_utils.preparation.duplicates import EXACT, KEPT, NEAR, SignatureFolder, Signatures, write_array
from data_utils.preparation.filters import batches
from data_utils.preparation.leaks import ENTRY, make_entries, read_leaks
from data_utils.preparation.tally import Tally, add_up, mask_example, shorten, utf8_bytes
from data_utils.readers.arguments import ReadArguments
from data_utils.readers.opening import Part
from data_utils.sources.source import open_source
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
            how = {"use_dictionary": [name for name in NAMED if name in self.schema.names], "write_page_checksum": True}
            self.writer = pq.ParquetWriter(self.aside, self.schema, compression=self.compression, **how)
        table = pa.concat_tables([self.schema.empty_table(), *self.tables])
        self.writer.write_table(table, row_group_size=max(len(table), 1))
        self.tables, self.held = [], 0
        return self.writer

    def close(self) -> None:
        """Write what is left, and let the file appear."""
        self._flush().close()
        move_whole(self.aside, self.path)


CLEAN_COLUMNS = COLUMNS | {"held_out": pa.bool_(), "given": pa.string()}  # the source as it was given
NAMED = ("language", "source", "given")
FATES = {EXACT: "exact duplicate", NEAR: "near duplicate"}


def read_sources(task: list[dict], reading: ReadArguments, tally: Tally) -> Iterator[Document]:
    """Yield the documents of a task's files and parts, one after the other; a broken file costs itself alone."""
    seconds = 0.0
    for piece in task:
        documents, faults = 0, []
        part = Part(*piece["part"]) if "part" in piece else None
        begun = time.perf_counter()
        source = open_source(piece["path"], reading=reading)
        for row in source.documents(piece["path"], on_fault=faults.append, cut=part):
            seconds += time.perf_counter() - begun
            documents += 1
            metadata = {name: row[name] for name in ("language", "source", SHARE)}
            metadata |= {"given": piece["given"], "bytes": utf8_bytes(row["text"])}
            tally.count("read", piece["given"], documents=1, size=metadata["bytes"])
            yield Document(row["text"], row["id"], metadata=metadata)
            begun = time.perf_counter()
        seconds += time.perf_counter() - begun
        tally.faults += [[fault.file, fault.place, mask_example(fault.reason)] for fault in faults]
        tally.unread_bytes += piece["bytes"] if faults and not documents else 0
    tally.seconds["sources"] = seconds


def write_clean(
    documents: Iterable[Document], rank: int, work: Path, *, near: bool, eval_fraction: float, tally: Tally
) -> None:
    """End the first stage: clean documents, their signatures, and the shingles of those that are held out."""
    signatures = Signatures(near)
    held_out = [np.zeros(0, ENTRY)]
    writer = ShardWriter(work / "clean" / f"{rank:05d}.parquet", CLEAN_COLUMNS, "lz4")
    for batch in batches(documents):
        texts = [document.text for document in batch]
        shares = [document.metadata[SHARE] for document in batch]
        held = [share < eval_fraction for share in shares]
        shingles = signatures.add(texts)
        if shingles is not None and any(held):
            held_out.append(make_entries(shingles, np.flatnonzero(held), writer.documents))
        languages, sources, given = ([document.metadata[name] for document in batch] for name in NAMED)
        columns = [texts, languages, sources, [document.id for document in batch], shares, held, given]
        writer.add(pa.table(columns, schema=writer.schema))
    writer.close()
    signatures.write(work / "signatures", rank)
    write_array(work / "held_out" / f"{rank:05d}.npy", np.concatenate(held_out))
    tally.write(work / "tallies" / f"read-{rank:05d}.json")


def write_corpus(rank: int, work: Path, watches_leaks: bool) -> None:
    """End a task's documents: what is no duplicate and no leak, as a shard of the corpus, counted for the report."""
    tally = Tally()
    tally.steps |= {"duplicates": {}, **({"leaks": {}} if watches_leaks else {})}
    offset, end = SignatureFolder(work / "signatures").offsets[rank : rank + 2].tolist()
    leaks = read_leaks(work, offset, end) if watches_leaks else {}
    places = json.loads((work / "index" / "places.json").read_text()) if watches_leaks else []
    fates = np.load(work / "clusters" / "fates.npy", mmap_mode="r")
    writer = ShardWriter(work / "data" / f"{rank:05d}.parquet", COLUMNS)
    languages: dict[str, dict[str, int]] = {}
    kept_examples: dict[str, list] = {}
    file = pq.ParquetFile(work / "clean" / f"{rank:05d}.parquet", page_checksum_verification=True)
    for table in file.iter_batches(500, use_threads=False):
        fate = np.asarray(fates[offset : offset + len(table)])
        numbers = (np.flatnonzero(fate == KEPT) + offset).tolist()
        offset += len(table)
        rows = pa.Table.from_batches([table])
        for kind, name in FATES.items():
            for row in rows.filter(pa.array(fate == kind)).to_pylist():
                tally.drop("duplicates", name, text=row["text"], source=row["source"], id=row["id"])
        rows = rows.filter(pa.array(fate == KEPT))
        tally.count_table("duplicates", rows)
        if watches_leaks:
            rows = drop_leaks(rows, numbers, leaks, places, tally)
            tally.count_table("leaks", rows)
        languages = add_up(languages, count_languages(rows))
        for row in rows.slice(0, 2).to_pylist():
            example = {"text": shorten(mask_example(row["text"])), "source": row["source"]}
            kept_examples = add_up(kept_examples, {row["language"]: [example]})
        writer.add(rows.select(list(COLUMNS)))
    shard = None
    if writer.documents:
        writer.close()
        with writer.path.open("rb") as written:
            digest = hashlib.file_digest(written, "sha256").hexdigest()
        shard = {"file": f"data/{writer.path.name}", "documents": writer.documents, "bytes": writer.bytes}
        shard["sha256"] = digest
    tally.write(work / "tallies" / f"write-{rank:05d}.json", shard=shard, kept=kept_examples, languages=languages)


def drop_leaks(rows: pa.Table, numbers: list[int], leaks: dict[int, int], places: list[str], tally: Tally) -> pa.Table:
    """Return the rows that are no leaks; `numbers` are those of the documents in the corpus."""
    is_leak = [number in leaks for number in numbers]
    dropped = rows.filter(pa.array(is_leak, pa.bool_())).to_pylist()
    for text, row in zip([leaks[number] for number in numbers if number in leaks], dropped, strict=True):
        more = {} if text < 0 else {"place": places[text]}
        reason = "held out and held by training" if text < 0 else "holds evaluation text"
        tally.drop("leaks", reason, text=row["text"], source=row["source"], id=row["id"], **more)
    return rows.filter(pa.array([not leak for leak in is_leak], pa.bool_()))


def count_languages(rows: pa.Table) -> dict[str, dict[str, int]]:
    """Return documents, bytes and held-out documents of each language."""
    table = rows.select(["language", "held_out"]).append_column("bytes", pc.binary_length(rows["text"]))
    sums = [("bytes", "count"), ("bytes", "sum"), ("held_out", "sum")]
    return {
        row["language"]: {"documents": row["bytes_count"], "bytes": row["bytes_sum"], "held_out": row["held_out_sum"]}
        for row in table.group_by("language").aggregate(sums).sort_by("language").to_pylist()
    }
