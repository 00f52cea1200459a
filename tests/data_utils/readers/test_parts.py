"""A large file in parts gives what the whole file gives; what breaks off costs what stands behind the break, once."""

import bz2
import gzip
import io
import json
import lzma
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_utils.readers.arguments import ReadArguments
from data_utils.readers.files import find_files
from data_utils.readers.opening import FEED_BYTES
from data_utils.sources.inputs import cut_file, read_documents_of
from errors import InputError

ZH = "茶是一种很古老的饮料。今天的人们还在喝它，我们在这里说说它的历史和文化，以及它在世界各地的发展。"
EN = "Tea is a very old drink. People still have it today, and we tell its history and how it came to the world."


def noise(number, size=400):
    """Return text that does not compress to nothing."""
    return f"{EN if number % 2 else ZH} {number} " + "".join(random.Random(number).choices("abcdefgh ", k=size))


def read(path, part=None, **options):
    faults = []
    documents = list(read_documents_of(str(path), ReadArguments(**options), faults.append, part))
    return documents, faults


def read_parts(path, part_bytes, **options):
    """Return (documents, faults, number of parts) of a file that is read part by part."""
    parts = cut_file(str(path), path.stat().st_size, part_bytes, ReadArguments(**options))
    assert [part.start for part in parts[1:]] == [part.end for part in parts[:-1]]
    found = [read(path, part, **options) for part in parts]
    return [d for documents, _ in found for d in documents], [f for _, faults in found for f in faults], len(parts)


def wiki_page(number, text=None):
    return (
        f"  <page><title>Page {number}</title><ns>0</ns><id>{number}</id><revision><model>wikitext</model>"
        f"<text>{text or noise(number)} [[Datei:x.jpg|thumb]] end</text></revision></page>\n"
    )


HEAD = '<mediawiki><siteinfo><namespaces><namespace key="6">Datei</namespace></namespaces></siteinfo>\n'


def write_dump(path, streams=30, damaged=()):
    packed = [bz2.compress(HEAD.encode())]
    for number in range(streams):
        stream = bz2.compress("".join(wiki_page(10 * number + i) for i in range(10)).encode())
        if number in damaged:
            place = len(stream) // 2
            stream = stream[:place] + bytes(byte ^ 0xFF for byte in stream[place : place + 20]) + stream[place + 20 :]
        packed.append(stream)
    path.write_bytes(b"".join([*packed, bz2.compress(b"</mediawiki>")]))
    return path


def test_a_dump_in_parts_is_the_dump(tmp_path):
    path = write_dump(tmp_path / "a-multistream.xml.bz2")
    whole, faults = read(path)
    parts, parts_faults, count = read_parts(path, 5000)
    assert count > 8
    assert len(whole) == 300
    assert parts == whole and parts_faults == faults == []
    write_dump(path, damaged=(7, 8, 20))  # costs what stands behind it in its part
    damaged, faults, _ = read_parts(path, 5000)
    assert len(damaged) >= 300 - 3 * 50
    assert set(map(str, damaged)) < set(map(str, whole))
    assert {fault.reason.partition(":")[0] for fault in faults} == {"its compressed data are broken"}
    assert 1 < len(faults) <= 3
    assert not any("Datei" in document["text"] for document in parts)  # by the names in the dump's head
    plain = tmp_path / "a.xml"
    plain.write_bytes((HEAD + "".join(wiki_page(i) for i in range(300)) + "</mediawiki>").encode())
    assert read_parts(plain, 20_000) == (*read(plain), 10)


def test_what_has_no_place_to_be_cut_is_one_part(tmp_path):
    pages = "".join(wiki_page(i) for i in range(300)).encode()
    (tmp_path / "single.xml.bz2").write_bytes(bz2.compress(HEAD.encode() + pages))
    lines = "".join(json.dumps({"text": noise(i)}, ensure_ascii=False) + "\n" for i in range(300))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "a.jsonl").write_bytes(lines.encode("gb18030"))
    (tmp_path / "a.txt").write_text(lines, encoding="utf-8")
    rows = "".join(f'"{noise(i)}\n"\n' for i in range(300))
    (tmp_path / "a.csv").write_text(f"text\n{rows}", encoding="utf-8")
    for path in sorted(tmp_path.iterdir()):
        size = path.stat().st_size
        assert cut_file(str(path), size, 2000, ReadArguments()) in ([(0, size, size, 1)],), path.name


def test_streams_that_cut_pages_are_no_places_to_cut(tmp_path):
    pages = "".join(wiki_page(i) for i in range(200)).encode()
    packed = [bz2.compress(pages[i : i + 1777]) for i in range(0, len(pages), 1777)]  # as pbzip2 does it
    path = tmp_path / "pbzip2.xml.bz2"
    path.write_bytes(bz2.compress(HEAD.encode()) + b"".join(packed))
    assert read_parts(path, 3000)[:2] == read(path)
    assert len(read(path)[0]) == 200


def warc_record(number, text=None, kind="conversion"):
    body = (text or noise(number)).encode()
    head = f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: http://a/{number}\r\nContent-Type: text/plain\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body + b"\r\n\r\n"


def test_an_archive_in_parts_is_the_archive(tmp_path):
    pytest.importorskip("fastwarc")
    members = [gzip.compress(warc_record(i), mtime=0) for i in range(60)]
    path = tmp_path / "a.warc.wet.gz"
    path.write_bytes(b"".join(members))
    whole, faults = read(path)
    parts, parts_faults, count = read_parts(path, 2000)
    assert count > 5
    assert len(whole) == 60
    assert (parts, parts_faults) == (whole, faults) == (whole, [])
    member = bytearray(members[41])
    member[60:90] = bytes(30)
    path.write_bytes(b"".join([*members[:41], bytes(member), *members[42:]]))
    documents, [fault] = read(path)
    assert (documents, fault.place) == ([], "") and "broken" in fault.reason
    parts, [fault], _ = read_parts(path, 2000)
    assert whole[:30] == parts[:30] and parts[-10:] == whole[-10:]  # other parts lose nothing
    assert "broken" in fault.reason
    path.write_bytes(gzip.compress(b"".join(map(warc_record, range(60)))))
    assert read_parts(path, 2000) == (*read(path), 1)


@pytest.mark.parametrize("name", ["a.jsonl", "line.txt", "paragraph.txt", "ascii.jsonl", "mark.jsonl"])
def test_lines_in_parts_keep_their_numbers(tmp_path, monkeypatch, name):
    monkeypatch.setattr("data_utils.readers.encodings.BLOCK_BYTES", 1000)
    texts = [noise(i, i % 300) for i in range(200)]
    if name.endswith(".jsonl"):
        lines = [json.dumps({"text": text}, ensure_ascii=name == "ascii.jsonl") for text in texts]
        lines[50], lines[90] = "{broken", "\r"
    else:
        lines = [text.replace(" ", "\n", 3) + "\n" * (i % 3) for i, text in enumerate(texts)]
    path = tmp_path / name
    path.write_bytes((b"\xef\xbb\xbf" if name == "mark.jsonl" else b"") + "\n".join(lines).encode())
    options = {"sample_by": name.partition(".")[0]} if name.endswith(".txt") else {}
    whole, faults = read(path, **options)
    parts, parts_faults, count = read_parts(path, 5000, **options)
    assert count > 4
    assert parts == whole and parts_faults == faults
    assert len({document["id"] for document in parts}) == len(parts)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from(["", "  ", "tea", "茶叶", "a longer line of text", "\x85"]), min_size=1),
    st.sampled_from(["line", "paragraph"]),
    st.integers(1, 60),
)
def test_any_lines_in_parts_are_the_whole(tmp_path, monkeypatch, lines, sample_by, part_bytes):
    monkeypatch.setattr("data_utils.readers.encodings.BLOCK_BYTES", 7)
    path = tmp_path / "a.txt"
    path.write_text("\n".join(lines), encoding="utf-8", newline="")
    documents, faults, count = read_parts(path, part_bytes, sample_by=sample_by)
    whole, whole_faults = read(path, sample_by=sample_by)
    assert documents == whole
    if count == 1:
        assert [fault.reason for fault in faults] in ([], [fault.reason for fault in whole_faults])


def test_parquet_in_parts_keeps_the_numbers_of_its_rows(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [noise(i) for i in range(300)]}), path, row_group_size=20, use_dictionary=False)
    assert read_parts(path, 20_000)[:2] == read(path)
    assert read_parts(path, 20_000)[2] > 4


def test_the_index_beside_a_dump_is_no_text(tmp_path):
    dump = write_dump(tmp_path / "zhwiki-1-pages-articles-multistream.xml.bz2", 2)
    (tmp_path / "zhwiki-1-pages-articles-multistream-index.txt.bz2").write_bytes(bz2.compress(b"600:1:Page 1\n"))
    assert find_files(str(tmp_path)) == [str(dump)]


@pytest.mark.parametrize("padding", [1, FEED_BYTES, 3 * FEED_BYTES])
@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".xz", lzma.compress)])
def test_padding_between_and_after_members_is_no_damage(tmp_path, suffix, pack, padding):
    path = tmp_path / f"a.txt{suffix}"
    members = [pack("".join(noise(i) + "\n" for i in range(count)).encode()) for count in (40, 200)]
    path.write_bytes(b"".join(member + bytes(padding) for member in members) + b"\n")
    documents, faults = read(path, sample_by="line")
    assert len(documents) == 240 and not faults


@pytest.mark.parametrize("more", [b"g", b"\0\0garbage" * 5000])
@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".xz", lzma.compress), (".bz2", bz2.compress)])
def test_what_stands_behind_compressed_data_is_told_and_costs_nothing(tmp_path, suffix, pack, more):
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(pack("".join(noise(i) + "\n" for i in range(100)).encode()) + more)
    documents, [fault] = read(path, sample_by="line")
    assert len(documents) == 100
    assert "ignored trailing bytes after the compressed data" in fault.reason


# What breaks off


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["a.jsonl.gz", "a.txt.gz", "a.txt.xz", "a.jsonl.zst", "a.csv.bz2", "a.xml.gz", "a.xml.bz2", "a.warc.gz"]
)
def test_what_stands_before_a_break_is_read_and_the_break_is_one_fault(tmp_path, name):
    pytest.importorskip("fastwarc")
    packs = {".bz2": bz2.compress, ".gz": gzip.compress, ".xz": lzma.compress}
    pack = packs.get(name[name.rindex(".") :]) or (lambda data: pa.Codec("zstd").compress(data, asbytes=True))
    count = 2500 if name.endswith(".bz2") else 800
    content = {
        "a.jsonl.gz": "".join(json.dumps({"text": noise(i)}) + "\n" for i in range(count)).encode(),
        "a.txt.xz": "".join(noise(i) + "\n" for i in range(count)).encode(),
        "a.jsonl.zst": "".join(json.dumps({"text": noise(i)}) + "\n" for i in range(count)).encode(),
        "a.txt.gz": "".join(noise(i) + "\n" for i in range(count)).encode(),
        "a.csv.bz2": ("text\n" + "".join(noise(i).replace(",", "") + "\n" for i in range(count))).encode(),
        "a.warc.gz": b"".join(map(warc_record, range(count))),
    }.get(name, (HEAD + "".join(wiki_page(i) for i in range(count)) + "</mediawiki>").encode())
    packed = pack(content)
    path = tmp_path / name
    options = {"sample_by": "line"} if ".txt" in name else {}
    path.write_bytes(packed)
    whole, faults = read(path, **options)
    assert len(whole) == count and not faults
    path.write_bytes(packed[: len(packed) * 3 // 4])
    documents, [fault] = read(path, **options)
    assert documents == whole[: len(documents)]
    assert len(documents) > (0.3 if name.endswith((".bz2", ".zst")) else 0.7) * count  # those come in large blocks
    assert fault.reason.startswith("the file is cut")
    damaged = bytearray(packed)
    damaged[len(packed) * 3 // 4 : len(packed) * 3 // 4 + 50] = bytes(50)
    path.write_bytes(damaged)
    documents, [fault] = read(path, **options)
    assert "broken" in fault.reason
    if not name.endswith(".bz2"):  # where the damage lies can't be told: nothing of it is trusted
        assert not documents
    else:
        assert documents == whole[: len(documents)] and len(documents) > 0.3 * count


def test_half_a_page_or_sheet_is_none(tmp_path):
    page = f"<html><body><p>{ZH * 50}</p></body></html>".encode()
    (tmp_path / "a.html.gz").write_bytes(gzip.compress(page)[:-12])
    sheet = io.BytesIO()
    pq.write_table(pa.table({"text": [noise(i) for i in range(500)]}), sheet)
    (tmp_path / "a.parquet").write_bytes(sheet.getvalue()[:-300])
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(json.dumps([{"text": EN}] * 500).encode())[:-12])
    for path in sorted(tmp_path.iterdir()):
        documents, [fault] = read(path)
        assert documents == []
        assert "the file is cut" in fault.reason


@pytest.mark.parametrize("length", ["99999999999", "300000", "3", "x"])
def test_a_wrong_length_in_an_archive_costs_what_follows_and_is_told(tmp_path, length):
    pytest.importorskip("fastwarc")
    records = [warc_record(number) for number in range(30)]
    records[10] = records[10].replace(records[10].split(b"Content-Length: ")[1].split(b"\r\n")[0], length.encode(), 1)
    path = tmp_path / "a.warc"
    path.write_bytes(b"".join(records))
    documents, faults = read(path)
    assert [d["id"].rpartition("/")[2] for d in documents] == [str(n) for n in range(10)]
    assert {fault.place for fault in faults} == {"http://a/10"}
    path.write_bytes(b"".join(records[20:])[:-300])
    documents, [fault] = read(path)
    assert len(documents) == 9 and "shorter than its Content-Length" in fault.reason


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "this is a picture; leave it out"),
        (b"PK\x03\x04" + bytes(26) + b"word/document.xml" + bytes(200), "a Word document; save it as"),
        (b"PK\x03\x04" + bytes(26) + b"photos/1.jpg" + bytes(200), "a zip archive; unpack it"),
        (b"%PDF-1.7\n\xff\xfe\x00\x01", "a PDF; name it .pdf"),
        (gzip.compress(ZH.encode() * 9), "compressed by gzip; let its name end in .gz"),
        (b"\x7fELF" + bytes(200), "a program; leave it out"),
        (b"ID3\x03\0\0\0" + bytes(200), "a sound or film; leave it out"),
    ],
)
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.html", "a.csv"])
def test_a_binary_file_is_named_for_what_it_is(tmp_path, content, words, name):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"^{path}: this is {words.removeprefix('this is ')}"):
        list(read_documents_of(str(path)))
