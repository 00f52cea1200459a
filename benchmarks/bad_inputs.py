"""Makes files as nobody should have them, of every kind that is read: each is known by its kind and number alone.

Half of them begin as a sound file of their kind, or another one; what the others hold is drawn by hypothesis.
"""

import bz2
import gzip
import io
import json
import lzma
import random
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

TEXTS = ("Tea is ready, come in. ", "今天下雨，我们在家喝茶。", "Ünïcödé – it’s fine ", "お茶をどうぞ。", "x")
# What is put in many times: it nests, opens what nothing closes, or is no text.
UNITS = tuple(
    unit.encode(errors="surrogateescape")
    for unit in (
        '"', "[", "{", '{"a":', "<div>", "<!--", "[[", "{{", "\0", "\udcff", "\n", " ", "\r", ",", "'", "\\u", "7",
        "\u0301\u0316", "-", "=", "\x1b[31m", "tea ", "茶", "&amp;", "%PDF-", "PAR1",
    )
)  # fmt: skip
PACKS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": lambda data: gzip.compress(data, 1),
    ".bz2": lambda data: bz2.compress(data, 1),
    ".xz": lambda data: lzma.compress(data, preset=0),
    ".zst": lambda data: pa.Codec("zstd").compress(data, asbytes=True),
}
KEYS = ("text", "messages", "conversations", "prompt", "response", "chosen", "rejected", "instruction", "output", "id")
NAMES = ("a", "my 笔记", "-x", "a'b\"c", "a\nb", "a\x1b]0;b\x07", "C:a", "a@2", "#", "%41", "\udcb1\udcca")


TEXT = st.text(max_size=60)
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.sampled_from(("user", "assistant", *TEXTS)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS) | TEXT, inner, max_size=4),
)
ROW = st.dictionaries(st.sampled_from((*KEYS, "role", "content", "from", "value")), ANY, min_size=1, max_size=4)
ROWS = st.lists(ROW | ANY, max_size=20).map(lambda rows: "\n".join(map(json.dumps, rows)).encode())
CONTENT = st.one_of(
    st.binary(max_size=2000), st.text(max_size=1000).map(lambda text: text.encode(errors="replace")), ROWS, ROWS
)


def draw(strategy: st.SearchStrategy[bytes], number: int) -> bytes:
    """Return what hypothesis draws for a seed: the last of ten, since its first are simple ones."""
    found = []

    @seed(number)
    @settings(max_examples=10, database=None, deadline=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(strategy)
    def keep(value: bytes) -> None:
        found.append(value)

    keep()
    return found[-1]


def make_value(rng: random.Random, depth: int = 3) -> object:
    """Return a value of any type of JSON."""
    kind = rng.randrange(9 if depth else 6)
    if kind < 2:
        return rng.choice(TEXTS) * rng.randrange(1, 6)
    if kind < 6:
        return rng.choice([None, True, 7, -1e400, float("nan"), 10**30, "", "\ud800", "\u2028", "null", "[1]"])
    if kind < 7:
        return [make_value(rng, depth - 1) for _ in range(rng.randrange(4))]
    return {key: make_value(rng, depth - 1) for key in rng.sample([*KEYS, "role", "content", "from", "value"], 3)}


def make_messages(rng: random.Random) -> list:
    """Return the messages of a dialogue, most of them sound."""
    names = rng.choice([("user", "assistant"), ("human", "gpt"), ("system", "tool"), ("user", None)])
    keys = rng.choice([("role", "content"), ("role", "content"), ("from", "value")])
    count = rng.choice([0, 1, 2, 2, 4, 5])
    messages = [dict(zip(keys, (names[i % 2], rng.choice(TEXTS)), strict=True)) for i in range(count)]
    return [make_value(rng) if rng.random() < 0.1 else message for message in messages]


def make_row(rng: random.Random) -> object:
    """Return a row of JSON: of text, of dialogues, of preferences, or none."""
    kind = rng.randrange(8)
    if kind < 2:
        return {"text": rng.choice(TEXTS) * rng.randrange(1, 9)}
    if kind < 4:
        return {rng.choice(["messages", "conversations"]): make_messages(rng)}
    if kind < 6:
        keys = rng.choice([("prompt", "response"), ("prompt", "chosen", "rejected"), ("instruction", "output")])
        return {key: make_value(rng) if rng.random() < 0.3 else rng.choice(TEXTS) for key in keys}
    return make_value(rng)


def make_sheet(rng: random.Random) -> bytes:
    """Return a CSV, of which rows may be ragged and quotes open."""
    cells = ['"', "tea", '"a\nb"', "", "茶", '"x""y"', "1;2", "\t"]
    lines = [",".join(rng.choice(cells) for _ in range(rng.randrange(1, 5))) for _ in range(rng.randrange(30))]
    return "\n".join([rng.choice(["text,id", "id,text,text", "prompt,response", "text"]), *lines]).encode()


def make_parquet(rng: random.Random) -> bytes:
    """Return a Parquet file whose column may be of any type."""
    columns, count = {}, rng.choice([0, 1, 40])
    for key in rng.sample(KEYS, 2):
        values = rng.choice([list(TEXTS), [b"tea", b"\xff", None], [1, 2], [float("nan")], [["a"], None], [{"a": "b"}]])
        columns[key] = pa.array(rng.choices(values, k=count))
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file, compression=rng.choice(["none", "gzip", "zstd"]), row_group_size=16)
    return file.getvalue()


def make_book(rng: random.Random) -> bytes:
    """Return an EPUB of a few chapters."""
    file, chapters = io.BytesIO(), [f"{n}.xhtml" for n in range(rng.randrange(4))]
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as book:
        book.writestr("META-INF/container.xml", '<c xmlns="urn:x"><rootfile full-path="a.opf"/></c>')
        items = "".join(f'<item id="{name}" href="{name}"/>' for name in chapters)
        order = "".join(f'<itemref idref="{name}"/>' for name in chapters * 2)
        book.writestr("a.opf", f'<p xmlns="urn:x"><manifest>{items}</manifest><spine>{order}</spine></p>')
        for name in chapters[1:]:
            book.writestr(name, f"<p>{rng.choice(TEXTS) * 9}</p>")
    return file.getvalue()


def make_pdf(rng: random.Random) -> bytes:
    """Return a PDF of a few pages, without the table at its end."""
    content = zlib.compress(b"BT /F1 9 Tf (tea) Tj ET " * rng.randrange(1, 300))
    page = b"<</Type/Page/Parent 2 0 R/Resources<</Font<</F1 3 0 R>>>>/Contents 4 0 R>>"
    kids = b" ".join(b"%d 0 R" % n for n in range(5, 5 + rng.randrange(1, 9)))
    objects = [b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Kids[%s]/Count 3>>" % kids]
    objects += [b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>"]
    objects += [b"<</Length %d/Filter/FlateDecode>>stream\n%s\nendstream" % (len(content), content), page, page]
    body = b"".join(b"%d 0 obj\n%s\nendobj\n" % (n, text) for n, text in enumerate(objects, 1))
    return b"%PDF-1.4\n" + body + b"trailer<</Size 7/Root 1 0 R>>\nstartxref\n9\n%%EOF"


def make_page(rng: random.Random) -> bytes:
    """Return a web page."""
    words = "".join(f"<{tag}>{rng.choice(TEXTS) * 5}" for tag in rng.choices(("p", "div", "td", "a href=x", "b"), k=9))
    return f'<html><meta charset="{rng.choice(["utf-8", "gbk", "x"])}"><body>{words}'.encode()


def make_archive(rng: random.Random) -> bytes:
    """Return a WARC of a few records."""
    records = []
    for number in range(rng.randrange(1, 5)):
        body = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + make_page(rng)
        size = len(body) + rng.choice([0, 0, 0, 9, -9, 10**12])
        kind = rng.choice(["response", "conversion"])
        head = f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: http://a/{number}\r\nContent-Length: {size}\r\n\r\n"
        records.append(head.encode() + body + b"\r\n\r\n")
    return b"".join(records)


def make_dump(rng: random.Random) -> bytes:
    """Return a dump of Wikipedia of a few pages."""
    words = ("'''Tea''' is [[a|hot]]", "{{a|b", "== Head ==\n", "<ref>x", "{|\n|a\n|}", "-{zh:茶;zh-tw:茗}-")
    page = "<page><title>T</title><ns>0</ns><revision><text>{}</text></revision></page>"
    pages = [page.format("".join(rng.choices(words, k=9))) for _ in range(rng.randrange(1, 5))]
    return f'<mediawiki xml:lang="zh">{"".join(pages)}</mediawiki>'.replace("<ref>", "&lt;ref&gt;").encode()


def make_lines(rng: random.Random) -> bytes:
    """Return JSON lines, some of them with a comma, or all in one list."""
    first = make_row(rng)
    rows = [first if rng.random() < 0.9 else make_row(rng) for _ in range(rng.randrange(1, 30))]
    rows = [json.dumps(row, ensure_ascii=rng.random() < 0.9) for row in rows]
    text = rng.choice(["\n", ",\n", " "]).join(rows)
    return (f"[{text}]" if rng.random() < 0.3 else text).encode(errors="surrogatepass")


MAKERS: dict[str, Callable[[random.Random], bytes]] = {
    ".txt": lambda rng: "".join(rng.choices((*TEXTS, "\n", "\n\n"), k=99)).encode(),
    ".md": lambda rng: "".join(rng.choices((*TEXTS, "---\n", "<!-- x", "# a\n", "\n"), k=99)).encode(),
    ".jsonl": make_lines, ".json": make_lines, ".csv": make_sheet, ".tsv": make_sheet, ".parquet": make_parquet,
    ".html": make_page, ".warc": make_archive, ".wet": make_archive, ".xml": make_dump, ".epub": make_book,
    ".pdf": make_pdf,
}  # fmt: skip
ROW_KINDS = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt")


def spoil(data: bytes, rng: random.Random) -> bytes:
    """Return data with one of the faults that files come to have."""
    place, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    kind = rng.randrange(8)
    if kind == 0:
        return data[:place]
    if kind == 1:
        return data[:place] + rng.randbytes(min(end - place, 50)) + data[end:]
    if kind == 2:
        return (
            data[:place] + data[place:end] * min(rng.choice([2, 50, 1000]), 300_000 // (end - place + 1)) + data[end:]
        )
    if kind == 3:
        return data[:place] + rng.choice(UNITS) * rng.choice([1, 100, 20_000]) + data[place:]
    if kind == 4:
        encoding = rng.choice(["utf-16", "utf-16-be", "utf-32", "gb18030", "cp1252", "utf-8-sig", "big5"])
        return data.decode(errors="ignore").encode(encoding, errors="replace")
    if kind == 5:
        return data[:place] + data[end:]
    if kind == 6:
        return data[:place] + rng.choice(list(MAKERS.values()))(rng) + data[place:]
    return data.replace(b"\n", rng.choice([b"", b"\r", b"\r\n", b"\n\n"]))


def make_file(folder: Path, rng: random.Random, kinds: tuple[str, ...] = tuple(MAKERS)) -> Path:
    """Write a file of one of the kinds, most likely a broken one, under a name that may be odd."""
    suffix = rng.choice(kinds)
    make = MAKERS[suffix if rng.random() < 0.9 else rng.choice(list(MAKERS))]
    data = make(rng) if rng.random() < 0.5 else draw(CONTENT, rng.getrandbits(32))
    for _ in range(rng.choice([0, 1, 1, 2, 3])):
        data = spoil(data, rng)
    if rng.random() < 0.25:
        packing = rng.choice(list(PACKS))
        bomb = rng.choice(UNITS) * 60_000_000 if rng.random() < 0.05 else b""
        data, suffix = PACKS[packing](data + bomb), suffix + packing
        data = spoil(data, rng) if rng.random() < 0.5 else data
    path = folder / f"{rng.choice(NAMES)}{suffix if rng.random() < 0.9 else suffix.upper()}"
    path.write_bytes(data)
    return path


def spoil_folder(folder: Path, rng: random.Random) -> Path:
    """Spoil a file of a checkpoint, or put words of another kind in its place; return the file."""
    path = rng.choice(sorted(file for file in folder.rglob("*") if file.is_file()))
    data = path.read_bytes()
    if path.suffix == ".json" and rng.random() < 0.7:
        values = json.loads(data)
        key = rng.choice(sorted(values))
        values[key] = make_value(rng) if rng.random() < 0.7 else rng.choice([0, -1, 10**9, 1e-9, "cpu", [], {}])
        data = json.dumps(values).encode()
    else:
        data = rng.choice([spoil(data, rng), b"", make_lines(rng), b"version https://git-lfs.github.com/spec/v1\n"])
    path.write_bytes(data)
    return path
