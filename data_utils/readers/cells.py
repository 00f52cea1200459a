"""Takes the text of a cell as it stands in the file: what is no text is an error, never its Python form."""

from collections.abc import Iterable

import pyarrow as pa

from errors import first_line

WORDS = {bool: "true or false", int: "a number", float: "a number", dict: "an object", list: "a list of other things"}


def take_text(value: object) -> str:
    """Return the text of a cell, '' for none; raise ValueError where it holds something else.

    A list of texts holds lines or paragraphs. Bytes are text where they are UTF-8, as older Spark and Hive write it.

    >>> take_text(["one", "two"]), take_text("\\u8336".encode()), take_text(None)
    ('one\\ntwo', '茶', '')
    """
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        value = "\n".join(value)
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError as error:
            raise ValueError("it holds bytes that are no UTF-8 text") from error
    if isinstance(value, Exception):
        raise ValueError(f"it is not readable: {first_line(value)}") from value
    if value is None or isinstance(value, str):
        # Half a character of a broken JSON escape is dropped.
        return "" if value is None else value if value.isascii() else value.encode(errors="ignore").decode()
    raise ValueError(f"it holds {WORDS.get(type(value), f'a {type(value).__name__}')}, not a text")


def name_cells(cells: Iterable[tuple[str, object]]) -> dict[str, object]:
    """Return a row of (name, value); one whose name stands twice with other values is the exception that says so.

    >>> name_cells([("a", 1), ("b", 2), ("b", 2), ("c", 3), ("c", 4)])
    {'a': 1, 'b': 2, 'c': ValueError('its name stands there twice')}
    """
    cells = list(cells)
    row = dict(cells)
    if len(row) < len(cells):
        row |= {name: ValueError("its name stands there twice") for name, value in cells if value != row[name]}
    return row


def read_cells(column: pa.Array) -> list[object]:
    """Return the values of a column; for one that Python can't hold (an impossible date) the exception that says so."""
    try:
        return column.to_pylist()
    except (ValueError, OverflowError, pa.ArrowException):
        return [read_cell(value) for value in column]


def read_cell(value: pa.Scalar) -> object:
    """Return the value of a cell, or the exception that says why Python can't hold it."""
    try:
        return value.as_py()
    except (ValueError, OverflowError, pa.ArrowException) as error:
        return error
