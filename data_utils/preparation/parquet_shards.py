"""Parquet files of documents that are there only when they are whole."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

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
