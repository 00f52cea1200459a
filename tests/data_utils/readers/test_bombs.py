"""Small files that would take all memory, disk or time are faults of themselves, and the file beside them is read."""

import bz2
import gzip
import io
import json
import lzma
import os
import signal
import tracemalloc
import zipfile
import zlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_utils.readers import encodings, json_rows, opening
from data_utils.readers.arguments import ReadArguments, use_limits
from data_utils.sources import inputs
from data_utils.sources.inputs import read_documents_of


def read(path, **options):
    """Return (number of documents, their characters, faults, peak of Python's memory in bytes)."""
    faults, count, size = [], 0, 0
    tracemalloc.start()
    for document in read_documents_of(str(path), ReadArguments(**options), faults.append):
        count += 1
        size += len(document["text"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return count, size, faults, peak


PACKS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
PACKS[".zst"] = lambda data: pa.Codec("zstd").compress(data, asbytes=True)


@pytest.mark.parametrize("suffix", PACKS)
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.xml", "a.json"])
def test_what_unpacks_to_far_more_than_a_text_is_a_fault(tmp_path, suffix, name):
    limits = ["packed=300kB", "expansion=100"]
    path = tmp_path / f"{name}{suffix}"
    line = {"a.jsonl": b'{"text": "tea"}\n', "a.json": b"[1,\n"}.get(name, b"tea\n")
    path.write_bytes(PACKS[suffix](line * (1_500_000 // len(line))))
    _, size, faults, peak = read(path, sample_by="line", reader_limits=limits)
    assert any("unpacks to more than" in fault.reason for fault in faults)
    assert size < 700_000
    assert peak < 30_000_000  # most of it is the dictionary of xz


@pytest.mark.slow
def test_one_call_of_an_unpacker_gives_a_little_at_a_time(tmp_path):
    path = tmp_path / "a.txt.bz2"
    path.write_bytes(bz2.compress(b"tea\n" * 2_000_000))  # 8 MB in some hundred bytes
    with opening.open_file(str(path)) as stream:
        tracemalloc.start()
        assert stream.read(10) == b"tea\ntea\nte"
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
        tracemalloc.stop()


def test_a_line_too_long_costs_itself(tmp_path, monkeypatch):
    use_limits(["line=100kB"])
    monkeypatch.setattr(encodings, "BLOCK_BYTES", 10_000)
    path = tmp_path / "a.jsonl"
    rows = [json.dumps({"text": text}) for text in ("one", "x" * 500_000, "two", "y" * 90_000, "z" * 120_000, "three")]
    path.write_text("\n".join(rows) + "\n")
    faults = []
    documents = [d["text"] for d in read_documents_of(str(path), None, faults.append)]
    assert [text[:5] for text in documents] == ["one", "two", "yyyyy", "three"]
    assert [(fault.place, fault.reason[:18]) for fault in faults] == [
        ("2", "the line holds mor"),
        ("5", "the line holds mor"),
    ]


def test_a_json_value_too_long_is_a_fault(tmp_path, monkeypatch):
    use_limits(["value=50000"])
    monkeypatch.setattr(json_rows, "BUFFER_CHARACTERS", 1000)
    path = tmp_path / "a.json"
    path.write_text('[{"text": "one"},\n{"text": "two"},\n[' + ",\n".join(["1"] * 100_000))
    count, _, faults, _ = read(path)
    assert count == 2
    assert "a value holds more than 50000 characters" in faults[0].reason


@pytest.mark.slow
def test_parquet_whose_one_text_is_all_its_rows(tmp_path):
    path = tmp_path / "a.parquet"
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int32()), pa.array(["x" * 1_000_000]))
    pq.write_table(pa.table({"text": text}), path, compression="zstd")
    assert path.stat().st_size < 3000
    count, size, faults, peak = read(path)
    assert 0 < count < 200 and size < 110_000_000
    assert peak < 100_000_000
    assert "unpacks to more than 1000 times its size (--reader_limits expansion=2000 allows more)" in faults[0].reason


def test_parquet_of_rows_of_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "ROW_BYTES", 10_000)
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": pa.nulls(30_000, pa.string())}), path)
    assert path.stat().st_size < 10_000
    faults = []
    assert len(list(read_documents_of(str(path), None, faults.append))) == 10_000
    assert len(faults) == 1


def test_a_page_of_wikipedia_with_millions_of_tags_costs_itself(tmp_path):
    use_limits(["wiki_tags=1000"])
    page = "<page><title>{}</title><ns>0</ns>{}<revision><text>{}</text></revision></page>"
    path = tmp_path / "a.xml"
    path.write_text(page.format("One", "", "tea") + page.format("Two", "<a/>" * 2000, "x") + page.format("3", "", "x"))
    faults = []
    assert [document["text"] for document in read_documents_of(str(path), None, faults.append)] == [
        "One\n\ntea",
        "3\n\nx",
    ]
    assert [(fault.place, fault.reason) for fault in faults] == [
        ("Two", "not valid XML: the page has more than 1000 tags (--reader_limits wiki_tags=2000 allows more)")
    ]


def write_epub(path, spine, container=b"", chapter=b"<p>tea</p>"):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as book:
        rootfile = b'<c xmlns="urn:x"><rootfile full-path="a.opf"/></c>'
        book.writestr("META-INF/container.xml", container or rootfile)
        items = '<item id="a" href="a.xhtml"/><item id="b" href="b.xhtml"/>'
        refs = "".join(f'<itemref idref="{name}"/>' for name in spine)
        book.writestr("a.opf", f'<p xmlns="urn:x"><manifest>{items}</manifest><spine>{refs}</spine></p>')
        for name in "ab":
            book.writestr(f"{name}.xhtml", chapter)


def test_a_book_that_names_a_chapter_sixty_times_reads_it_once(tmp_path):
    pytest.importorskip("resiliparse")
    path = tmp_path / "a.epub"
    write_epub(path, "ab" * 60)
    [document] = read_documents_of(str(path))
    assert document["text"] == "tea\n\ntea"


def test_a_book_of_more_than_a_book_holds(tmp_path):
    pytest.importorskip("resiliparse")
    use_limits(["book_text=1MB"])
    path = tmp_path / "a.epub"
    write_epub(path, "ab", chapter=b"<p>" + b"tea " * 150_000)
    count, _, faults, _ = read(path)
    assert count == 1
    assert [fault.place for fault in faults] == ["b.xhtml"]
    write_epub(path, "ab", container=b" " * 20_000_000)
    count, _, faults, peak = read(path)
    assert (count, len(faults)) == (0, 1)
    assert peak < 10_000_000


def test_a_book_of_more_files_than_a_book_holds(tmp_path):
    use_limits(["book_files=3"])
    path = tmp_path / "a.epub"
    write_epub(path, "ab")
    assert read(path)[2][0].reason == "the book has more than 3 files (--reader_limits book_files=6 allows more)"


def write_pdf(path, pages, operators):
    content = zlib.compress(b"BT /F1 9 Tf (tea) Tj ET " * operators)
    objects = [b"<</Type/Catalog/Pages 2 0 R>>"]
    kids = b" ".join(b"%d 0 R" % (5 + number) for number in range(pages))
    objects.append(b"<</Type/Pages/Kids[%s]/Count %d>>" % (kids, pages))
    objects.append(b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>")
    objects.append(b"<</Length %d/Filter/FlateDecode>>stream\n%s\nendstream" % (len(content), content))
    page = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]/Resources<</Font<</F1 3 0 R>>>>/Contents 4 0 R>>"
    objects += [page] * pages
    data, places = io.BytesIO(b""), []
    data.write(b"%PDF-1.4\n")
    for number, text in enumerate(objects, 1):
        places.append(data.tell())
        data.write(b"%d 0 obj\n%s\nendobj\n" % (number, text))
    start = data.tell()
    data.write(b"xref\n0 %d\n0000000000 65535 f \n" % (len(places) + 1))
    data.write(b"".join(b"%010d 00000 n \n" % place for place in places))
    data.write(b"trailer<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF" % (len(places) + 1, start))
    path.write_bytes(data.getvalue())


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="Windows has no such limits")
def test_a_pdf_that_draws_for_ever_ends_at_its_limit(tmp_path):
    pytest.importorskip("pypdf")
    path = tmp_path / "a.pdf"
    write_pdf(path, 3, 2)
    assert [d["text"].count("tea") for d in read_documents_of(str(path))] == [6]
    write_pdf(path, 1000, 20_000)
    faults = []
    list(read_documents_of(str(path), ReadArguments(reader_limits=["seconds=1"]), faults.append))
    assert "it took more than 1" in faults[0].reason
    assert faults[0].place.startswith("page ")


def test_no_memory_for_a_file_is_a_fault_of_that_file(tmp_path, monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(json_rows, "scan_values", fail)
    path = tmp_path / "a.json"
    path.write_text('[{"text": "tea"}]')
    faults = []
    assert list(read_documents_of(str(path), None, faults.append)) == []
    assert "MemoryError" in faults[0].reason


@pytest.mark.parametrize("suffix", PACKS)
def test_members_of_nothing_end_the_file(tmp_path, suffix):
    path = tmp_path / f"a.txt{suffix}"
    nothing, tea = PACKS[suffix](b""), PACKS[suffix](b"tea\n")
    path.write_bytes(nothing * 900 + tea + nothing * 900)  # as bgzip and pzstd may leave some
    assert read(path)[0] == 1
    path.write_bytes(nothing * 3000 + tea)
    assert ["1,000 members of nothing" in fault.reason for fault in read(path)[2]] == [True]


def test_zeros_are_no_xz(tmp_path):
    path = tmp_path / "a.txt.xz"  # as LZMA alone they are a hundred thousand members of 13 bytes
    path.write_bytes(bytes(100_000))
    assert read(path)[2][0].reason == "no .xz file, whatever its name says; rename it"


@pytest.mark.skipif(not hasattr(os, "SEEK_DATA"), reason="the system knows no holes")
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.epub", "a.parquet", "a.txt.gz", "a.xml"])
def test_a_file_that_is_a_hole_is_told_at_once(tmp_path, name):
    path = tmp_path / name
    with path.open("wb") as file:
        file.write(b"tea\n" * 1000)
        file.truncate(10**12)
    if path.stat().st_blocks * 512 > 10**9:
        pytest.skip("the file system has no holes")
    count, _, faults, _ = read(path)
    assert (count, len(faults)) == (0, 1)
    assert "is a hole" in faults[0].reason
    assert inputs.cut_file(str(path), 10**12, 10**6, ReadArguments()) == [(0, 10**12, 10**12, 1)]


@pytest.mark.parametrize("name", ["a.epub", "a.pdf"])
def test_a_book_too_large_is_told_once(tmp_path, name):
    path = tmp_path / name
    path.write_bytes({"a.epub": b"PK\3\4", "a.pdf": b"%PDF-1.4"}[name] + bytes(2_000_000))
    _, _, [fault], _ = read(path, reader_limits=["book=1MB"])
    assert fault.reason == "the file holds more than 1MB (--reader_limits book=2MB allows more)"
