"""Rows of every kind of file: what comes out is text that stood there, and a row that isn't used is named."""

import contextlib
import csv
import datetime
import io
import json
import math
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_utils.readers import json_rows, rows
from data_utils.readers.arguments import ReadArguments, use_limits
from data_utils.sources.inputs import read_documents_of
from data_utils.sources.source import open_source
from data_utils.text.splitting import hash_share
from errors import InputError


def read(path, **options):
    faults = []
    return [d["text"] for d in read_documents_of(str(path), ReadArguments(**options), faults.append)], faults


# JSON


ROWS = [{"text": f"tea {number}", "id": number, "more": [{"a": number}]} for number in range(40)]
TEXTS = [row["text"] for row in ROWS]
FORMS = {
    "lines": "\n".join(map(json.dumps, ROWS)),
    "lines and commas": ",\n".join(map(json.dumps, ROWS)),
    "list": json.dumps(ROWS),
    "pretty list": json.dumps(ROWS, indent=2),
    "list of lines": "[\n" + ",\n".join(map(json.dumps, ROWS)) + "\n]\n",
    "list of lines, trailing comma": "[" + ",\n".join(map(json.dumps, ROWS)) + ",\n]",
    "pretty objects": "\n".join(json.dumps(row, indent=4) for row in ROWS),
    "mark": "\ufeff" + "\n".join(map(json.dumps, ROWS)),
    "mark and list": "\ufeff" + json.dumps(ROWS, indent=1),
    "lists of rows": "\n".join(json.dumps(ROWS[i : i + 10]) for i in range(0, 40, 10)),
    "windows": "\r\n".join(map(json.dumps, ROWS)) + "\r\n",
}


@pytest.mark.parametrize("buffer", [10, 1000, 1 << 20])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize("form", FORMS)
def test_json_is_read_in_the_form_that_it_has(tmp_path, monkeypatch, form, name, buffer):
    monkeypatch.setattr(json_rows, "BUFFER_CHARACTERS", buffer)
    path = tmp_path / name
    path.write_text(FORMS[form], encoding="utf-8", newline="")
    assert read(path) == (TEXTS, [])


def test_commas_behind_a_value_take_no_copies_of_it(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "tea"},,, ,\n' + "x" + "," * 200_000 + '\n{"text": "rain"} ,\n')
    tracemalloc.start()
    texts, [fault] = read(path)
    assert (texts, fault.place) == (["tea", "rain"], "2")
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize("bad", ['{"text": ', '{"text": "x",}', "x", '{"text": "a" "b"}', "{]", '{"text": "\\q"}'])
def test_a_broken_line_of_json_costs_itself(tmp_path, name, bad):
    path = tmp_path / name
    path.write_text("\n".join([*map(json.dumps, ROWS[:20]), bad, *map(json.dumps, ROWS[20:])]))
    texts, [fault] = read(path)
    assert (texts, fault.place) == (TEXTS, "21")


@pytest.mark.parametrize("buffer", [50, 1 << 20])
@pytest.mark.parametrize("bad", ['{"a" 2}', '{"text": ', '{"text": "x",}', "x", "{]", '{"text": "\\q"}'])
def test_a_broken_row_of_a_list_costs_itself(tmp_path, monkeypatch, buffer, bad):
    monkeypatch.setattr(json_rows, "BUFFER_CHARACTERS", buffer)
    path = tmp_path / "a.json"
    path.write_text("[\n" + ",\n\n".join([*map(json.dumps, ROWS[:20]), bad, *map(json.dumps, ROWS[20:])]) + "]\n")
    texts, [fault] = read(path)
    assert texts in (TEXTS, [*TEXTS[:20], *TEXTS[21:]])  # a value without an end takes the next row with it
    assert int(fault.place) in (42, 43, 44)
    path.write_text(json.dumps([*ROWS[:5], bad, *ROWS[5:]]).replace(json.dumps(bad), bad))  # on one line
    texts, [fault] = read(path)
    assert texts == TEXTS[:5]
    assert fault.reason.endswith("; what stands behind it is left out")


def test_each_broken_value_is_named_by_its_line(tmp_path, monkeypatch):
    monkeypatch.setattr(json_rows, "BUFFER_CHARACTERS", 50)
    path = tmp_path / "a.json"
    broken = "".join(f'{{"a": {n},\n"b" 2\n}},\n' for n in range(30))
    path.write_text("[\n" + broken + '{"text": "tea"},\n' + broken + '{"text": "rain"}\n]\n')
    texts, faults = read(path)
    assert texts == ["tea", "rain"]
    assert [int(fault.place) for fault in faults] == [*range(3, 93, 3), *range(94, 184, 3)]


def test_numbers_longer_than_python_reads_cost_nothing(tmp_path):
    lines = list(map(json.dumps, ROWS))
    lines[4] = '{"text": "tea 4", "id": ' + "7" * 5000 + "}"
    for name in ("a.jsonl", "a.json"):
        (tmp_path / name).write_text("\n".join(lines))
        assert read(tmp_path / name) == (TEXTS, [])
    (tmp_path / "b.jsonl").write_text('{"text": ' + "7" * 5000 + '}\n{"text": "tea"}\n')
    texts, faults = read(tmp_path / "b.jsonl")
    assert texts == ["tea"]
    assert [fault.reason for fault in faults] == ["column 'text': it holds a number, not a text"]


def test_a_row_without_the_column_costs_itself(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, [{"made": "today"}, *ROWS[:3], {"id": 1}, *ROWS[3:]])))
    texts, faults = read(path)
    assert texts == TEXTS
    assert [(fault.place, fault.reason[:17]) for fault in faults] == [
        ("1", "no column 'text';"),
        ("5", "no column 'text';"),
    ]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet"])
def test_a_name_that_stands_twice_costs_its_column(tmp_path, name):
    """Python's reader keeps the last of them, and says nothing."""
    path = tmp_path / name
    if name == "a.csv":
        path.write_text("text,id,id\ntea,1,2\nrain,1,1\n")
    elif name == "a.parquet":
        table = pa.Table.from_arrays(
            [pa.array(["tea", "rain"]), pa.array([1, 1]), pa.array([2, 1])], ["text", "id", "id"]
        )
        pq.write_table(table, path)
    else:
        path.write_text('{"text": "tea", "id": 1, "id": 2}\n{"text": "rain", "id": 1, "id": 1}\n')
    assert read(path) == (["tea", "rain"], [])
    texts, faults = read(path, text_column="id")
    assert texts == (["1"] if name == "a.csv" else [])
    assert faults[0].reason == "column 'id': it is not readable: its name stands there twice"


@pytest.mark.parametrize("bad", ["x", '{"text": 1}', '{"other": ""}'])
def test_a_file_of_broken_rows_is_given_up(tmp_path, bad):
    """Each fault takes memory, and a line of two bytes may be one."""
    use_limits(["broken_rows=10"])
    path = tmp_path / "a.jsonl"
    good = '{"text": "tea"}'
    path.write_text("\n".join([good, *[bad] * 50, good]))
    texts, faults = read(path)
    assert texts == ["tea"]
    assert len(faults) == 11
    assert faults[-1].reason.endswith("left out: more than 10 rows (--reader_limits broken_rows=20 allows more)")
    path.write_text("\n".join([*[good] * 45, bad] * 30))
    assert list(map(len, read(path))) == [45 * 30, 30]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_files_that_were_joined_are_read_and_comments_are_called_so(tmp_path, name):
    path = tmp_path / name
    path.write_text('\ufeff{"text": "one"}\n\ufeff{"text": "two"}\n', encoding="utf-8")
    assert read(path) == (["one", "two"], [])
    path.write_text('\ufeff[{"text": "one"},\n{"text": "two"}]\n\ufeff[{"text": "three"}]\n', encoding="utf-8")
    assert read(path) == (["one", "two", "three"], [])
    for comment in ("// mine", "# mine", "/* mine */"):
        path.write_text(f'{comment}\n{{"text": "one"}}\n', encoding="utf-8")
        texts, [fault] = read(path)
        assert (texts, fault.place) == (["one"], "1")
        assert fault.reason == "not valid JSON, which has no comments: one stands at column 1; leave it out"


def test_deep_json_is_a_fault(tmp_path):
    for name in ("a.jsonl", "a.json"):
        path = tmp_path / name
        path.write_text('{"text": "one"}\n{"text": ' + "[" * 200_000 + '\n{"text": "two"}\n')
        texts, faults = read(path)
        assert texts in (["one", "two"], ["one"])
        assert "nested too deeply" in faults[0].reason


# CSV


def test_a_quote_that_is_never_closed_costs_its_row(tmp_path):
    path = tmp_path / "a.csv"
    lines = [f'tea {number},"a, b {number}"' if number % 7 == 0 else f"tea {number},x" for number in range(20_000)]
    lines[5000] = '"tea 5000,x'
    path.write_text("text,more\n" + "\n".join(lines) + "\n")
    texts, [fault] = read(path)
    assert texts == [f"tea {number}" for number in range(20_000) if number != 5000]
    assert (fault.place, fault.reason[:13]) == ("5002", "not valid CSV")
    lines[5000:] = ['"tea 5000,x', *(f"tea {number},x" for number in range(5001, 20_000))]
    path.write_text("text,more\n" + "\n".join(lines) + "\n")
    texts, [fault] = read(path)
    assert len(texts) == 19_999


def test_a_sheet_whose_every_line_opens_a_quote_is_read_in_proportion(tmp_path, monkeypatch):
    use_limits(["document=40000"])
    monkeypatch.setattr(rows, "LEAST_ROW_CHARACTERS", 500)
    taken, reader = [0], csv.reader

    def count(feed):
        for line in feed:
            taken[0] += 1
            yield line

    monkeypatch.setattr(rows.csv, "reader", lambda feed, **how: reader(count(feed), **how))
    path = tmp_path / "a.csv"
    path.write_text("text,more\n" + 'a","b\n' * 3000 + "tea,x\n" * 100 + f"{'rain ' * 4000},x\n")
    texts, faults = read(path)
    assert texts == ["tea"] * 100 + ["rain " * 4000]
    assert [fault.place for fault in faults] == [str(number) for number in range(2, 3002)]
    assert taken[0] < 20 * 3000


def test_cells_over_lines_and_rows_of_other_lengths(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('id,text\n1,"one\ntwo ""2"""\n\n2,three\n3\n4,four,x,y\n5,six\n')
    texts, [fault] = read(path)
    assert texts == ['one\ntwo "2"', "three", "", "six"]
    assert (fault.place, fault.reason) == ("7", "the row has 4 cells, more than the header, 2")


@pytest.mark.parametrize(("name", "mark"), [("a.tsv", "\t"), ("a.csv", ";"), ("a.csv", "\t"), ("a.csv", "|")])
def test_cells_are_parted_as_the_first_line_has_it(tmp_path, name, mark):
    path = tmp_path / name
    path.write_text(f'id{mark}text\n1{mark}tea, rain\n2{mark}"a{mark}b"\n', encoding="utf-8-sig")
    assert read(path) == (["tea, rain", f"a{mark}b"], [])


def test_lines_that_end_as_on_an_old_mac_are_lines(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("\r".join(["id, text", *(f'1,"{text}"' for text in TEXTS)]), encoding="utf-8", newline="")
    assert read(path) == (TEXTS, [])


# Parquet


def write(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


def test_bytes_of_utf8_are_text(tmp_path):
    texts = ["The captain counted the boats.", "邮递员在雨里等了很久。", ""]
    for kind in (pa.binary(), pa.large_binary(), pa.string(), pa.large_string(), pa.string_view()):
        column = pa.array([text.encode() for text in texts] if "binary" in str(kind) else texts, kind)
        assert read(write(tmp_path / "a.parquet", text=column)) == (texts, []), kind
    assert read(write(tmp_path / "a.parquet", text=pa.array(texts).dictionary_encode())) == (texts, [])


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (b"\xe9t\xe9", "bytes that are no UTF-8 text"),
        (math.nan, "a number"),
        (3, "a number"),
        (True, "true or false"),
        ({"a": "b"}, "an object"),
        ([[1]], "a list of other things"),
        (datetime.date(2024, 1, 1), "a date"),
    ],
)
def test_what_is_no_text_is_named_and_never_trained_on(tmp_path, value, words):
    path = write(tmp_path / "a.parquet", text=pa.array([value]))
    texts, [fault] = read(path)
    assert texts == []
    assert (fault.place, fault.reason.partition(": ")[0]) == ("1", "column 'text'")
    assert words in fault.reason


def test_damage_in_another_column_costs_nothing(tmp_path):
    path = tmp_path / "a.parquet"
    names = pa.array([f"name {i} " * 5 for i in range(3000)])
    table = pa.table({"text": [f"tea {i}" for i in range(3000)], "name": names, "when": pa.array(range(3000))})
    pq.write_table(table, path, compression="gzip", use_dictionary=False)
    place = pq.ParquetFile(path).metadata.row_group(0).column(1).data_page_offset
    data = bytearray(path.read_bytes())
    data[place + 40 : place + 400] = b"\xff" * 360
    path.write_bytes(data)
    assert read(path) == ([f"tea {i}" for i in range(3000)], [])


def test_a_broken_row_group_costs_its_rows(tmp_path):
    path = tmp_path / "a.parquet"
    texts = [f"tea {i} {hash_share(str(i))}" for i in range(2000)]
    pq.write_table(pa.table({"text": texts}), path, row_group_size=1000, use_dictionary=False, compression="gzip")
    group = pq.ParquetFile(path).metadata.row_group(1).column(0)
    data = bytearray(path.read_bytes())
    data[group.data_page_offset + 40 : group.data_page_offset + 400] = b"\xff" * 360
    path.write_bytes(data)
    found, [fault] = read(path)
    assert found == texts[:1000]
    assert fault.place == "1001" and "to row 2000" in fault.reason


def test_a_cell_that_python_cannot_hold_costs_itself(tmp_path):
    path = tmp_path / "a.parquet"
    texts = pa.array([b"one", b"tw\xffo", b"three"], pa.binary()).view(pa.string())
    dates = pa.array([0, 2**62, 0]).cast(pa.timestamp("us"))
    pq.write_table(pa.table({"text": texts, "when": dates}), path)
    found, [fault] = read(path)
    assert found == ["one", "three"]
    assert fault.place == "2" and "not readable" in fault.reason


# Any rows


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(allow_nan=True),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.text("abc 茶\n,\"'", max_size=20),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3),
    max_leaves=5,
)
ANY_ROWS = st.lists(st.dictionaries(st.sampled_from(["text", "id", "b"]), VALUES, max_size=3), min_size=1, max_size=12)


def check(path, values):
    """Check that each row gave its text or a fault; `values` are those of the column, Ellipsis where it's absent."""
    texts, faults = read(path)
    expected = []
    for value in values:
        if value is None or isinstance(value, str):
            expected.append(value or "")
        elif isinstance(value, list) and all(isinstance(part, str) for part in value):
            expected.append("\n".join(value))
        elif isinstance(value, bytes):
            with contextlib.suppress(UnicodeDecodeError):
                expected.append(value.decode())
    assert texts == expected
    assert len(texts) + len(faults) == len(values)
    assert len({fault.place for fault in faults}) == len(faults)


SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@SETTINGS
@given(ANY_ROWS, st.sampled_from(["lines.jsonl", "lines.json", "list.json", "pretty.json", "pretty.jsonl"]))
def test_any_rows_of_json_are_used_or_named(tmp_path, rows, form):
    path = tmp_path / form
    text = "\n".join(map(json.dumps, rows)) if form.startswith("lines") else json.dumps(rows)
    path.write_text(json.dumps(rows, indent=1) if form.startswith("pretty") else text, encoding="utf-8")
    check(path, [row.get("text", ...) for row in rows])


@SETTINGS
@given(
    st.lists(st.binary(max_size=12) | st.none(), min_size=1) | st.lists(st.text(max_size=12) | st.none(), min_size=1)
)
def test_any_column_of_parquet_is_used_or_named(tmp_path, values):
    values = [value.encode(errors="ignore").decode() if isinstance(value, str) else value for value in values]
    check(write(tmp_path / "a.parquet", text=pa.array(values)), values)


@SETTINGS
@given(ANY_ROWS)
def test_any_nested_column_of_parquet_is_used_or_named(tmp_path, rows):
    for row in rows:
        try:
            column = pa.array([row.get("text"), None])
        except (pa.ArrowException, OverflowError):
            continue  # no Parquet holds it
        if column.type in (pa.null(), pa.struct([])) or "struct<>" in str(column.type):
            continue
        texts, faults = read(write(tmp_path / "a.parquet", text=column))
        assert len(texts) + len(faults) == 2
        assert not texts[:-1] or isinstance(column[0].as_py(), str | list)


@SETTINGS
@given(st.lists(st.lists(st.text("ab 茶,\"'\n", max_size=8), min_size=1, max_size=4), min_size=1, max_size=8))
def test_any_rows_of_csv_are_used_or_named(tmp_path, rows):
    path = tmp_path / "a.csv"
    sheet = io.StringIO()
    csv.writer(sheet, lineterminator="\n").writerows([["id", "text"], *rows])
    path.write_text(sheet.getvalue(), encoding="utf-8", newline="")
    texts, faults = read(path)
    assert texts == [row[1] if len(row) > 1 else "" for row in rows if len(row) < 3]
    assert len(texts) + len(faults) == len(rows)
    assert all("more than the header" in fault.reason for fault in faults)


def test_training_names_the_first_five_bad_rows_with_the_total(tmp_path):
    rows = [{"text": f"tea {number}"} if number % 10 else {"text": number} for number in range(100)]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    source = open_source(str(path))
    with pytest.raises(InputError) as error:
        list(source.read(str(path)))
    assert f"{path}:1: column 'text': it holds a number, not a text; {path}:11: the same; " in str(error.value)
    assert [f"{path}:{n}: " in str(error.value) for n in (1, 11, 21, 31, 41, 51)] == [True] * 5 + [False]
    assert "; and 5 more; 10 of 100 rows can't be used: repair them, or have them left out by prepare" in str(
        error.value
    )
    path.write_text("\n".join(map(json.dumps, [*rows, *({"text": 1} for _ in range(20))])))
    with pytest.raises(InputError, match="30 of 120 rows can't be used, more than the 20% that may be left out"):
        list(source.read(str(path)))
