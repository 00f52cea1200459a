"""Files of every kind in, documents out; what is broken costs itself alone and is named with place and reason."""

import bz2
import gzip
import io
import json
import lzma
import zipfile
from xml.sax.saxutils import escape

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_utils.readers.arguments import ReadArguments, use_limits
from data_utils.readers.files import KINDS, file_suffix, find_files
from data_utils.sources.corpus import read_corpus
from data_utils.sources.inputs import read_documents_of
from data_utils.sources.source import open_source
from errors import InputError

ZH = "茶是一种很古老的饮料。今天的人们还在喝它，我们在这里说说它的历史和文化，以及它在世界各地的发展。"
EN = "Tea is a very old drink. People still have it today, and we tell its history and how it came to the world."


def read(path, **options):
    """Return (documents, faults) of a file."""
    faults = []
    return list(read_documents_of(str(path), ReadArguments(**options), faults.append)), faults


def texts_of(path, **options):
    documents, faults = read(path, **options)
    assert faults == []
    return [document["text"] for document in documents]


def test_a_corpus_folder_is_its_shards(make_corpus, tmp_path):
    folder = make_corpus(tmp_path / "corpus", [ZH, EN])
    files = open_source(str(folder)).files
    assert files == [str(folder / "data" / f"{number:05d}.parquet") for number in range(2)]
    assert [text for file in files for text in texts_of(file)] == [ZH, EN]
    assert read_corpus([open_source(str(folder))])[0]["text"][:] == [ZH, EN]


# Rows


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip), (".bz2", bz2), (".xz", lzma), ("", None)])
def test_compressed_or_not(tmp_path, suffix, pack):
    data = f"{ZH}\n{EN}\n".encode("gb18030")
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(pack.compress(data) if pack else data)
    documents, _ = read(path, sample_by="line")
    assert [(d["text"], d["language"], d["source"], d["id"]) for d in documents] == [
        (ZH, "zh", path.name, f"{path.name}:1"),
        (EN, "en", path.name, f"{path.name}:2"),
    ]


@pytest.mark.parametrize("sample_by", ["document", "paragraph", "line"])
def test_a_line_with_the_end_mark_parts_documents_and_is_no_text(tmp_path, sample_by):
    path = tmp_path / "a.txt"
    path.write_text(f"{EN}\n<|endoftext|>\n{ZH}\n<|endoftext|>\nit is <|endoftext|> here\n")
    documents, _ = read(path, sample_by=sample_by)
    assert [document["text"].strip() for document in documents] == [EN, ZH, "it is <|endoftext|> here"]


def test_addresses_of_fsspec():
    system = fsspec.filesystem("memory")
    system.pipe("/corpus/b.jsonl", json.dumps({"text": ZH}).encode())
    system.pipe("/corpus/deep/a.txt.gz", gzip.compress(EN.encode()))
    system.pipe("/corpus/c.png", b"x")
    files = open_source("memory://corpus").files
    assert files == ["memory:///corpus/b.jsonl", "memory:///corpus/deep/a.txt.gz"]
    assert [texts_of(file) for file in files] == [[ZH], [EN]]
    assert find_files("memory://corpus/*.jsonl") == files[:1]
    assert read_corpus([open_source("memory://corpus")])[0]["text"] == [ZH, EN]
    for missing in ("memory://corpus/none.txt", "memory://nowhere"):
        with pytest.raises(InputError, match="no such file"):
            find_files(missing)


def test_invalid_lines_of_json_cost_themselves_alone(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b'{"text": "one"}\n{"text": \n["two"]\n{"text": "\xff"}\n{"text": "three"}\n' + b'{"text": "x"}\n' * 200
    )
    documents, faults = read(path)
    assert [document["text"] for document in documents[:2]] == ["one", "three"]
    assert [fault.place for fault in faults] == ["4", "2", "3"] or [fault.place for fault in faults] == ["2", "3", "4"]
    assert {fault.file for fault in faults} == {str(path)}
    with pytest.raises(InputError, match=r"a\.jsonl:\d: "):
        list(read_documents_of(str(path)))


def test_a_row_without_the_column_costs_itself_alone(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [{"text": f"tea {number}"} if number % 400 != 50 else {"title": "x"} for number in range(1000)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    documents, faults = read(path)
    assert [document["text"] for document in documents] == [row["text"] for row in rows if "text" in row]
    assert [fault.place for fault in faults] == ["51", "451", "851"]
    assert "no column 'text'; it has: title" in faults[0].reason
    documents, faults = read(path, text_column="body")  # which no row has
    assert (documents, len(faults)) == ([], 1000)


def test_a_list_in_a_column_is_lines(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"title": "静夜思", "paragraphs": ["床前明月光，", "疑是地上霜。"]}]))
    assert texts_of(path, text_column="paragraphs") == ["床前明月光，\n疑是地上霜。"]


def test_a_ragged_row_and_a_broken_row_group_cost_themselves_alone(tmp_path):
    sheet = tmp_path / "a.csv"
    sheet.write_text("text,n\none,1\ntwo,2,3,4\nthree,3\n")
    documents, faults = read(sheet)
    assert [document["text"] for document in documents] == ["one", "three"]
    assert [fault.place for fault in faults] == ["3"]
    path = tmp_path / "a.parquet"
    table = pa.table({"text": [f"{EN} {i}" for i in range(3000)]})
    pq.write_table(table, path, row_group_size=1000, compression="gzip", use_dictionary=False)
    place = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    data = bytearray(path.read_bytes())
    data[place + 40 : place + 400] = b"\xff" * 360
    path.write_bytes(data)
    documents, faults = read(path)
    assert [document["text"] for document in documents] == [f"{EN} {i}" for i in (*range(1000), *range(2000, 3000))]
    assert [fault.place for fault in faults] == ["1001"]


def test_markdown_loses_front_matter_and_comments_only(tmp_path):
    path = tmp_path / "a.md"
    path.write_text("---\ntitle: x\n---\n# Tea\n\n*warm* & `hot`\n<!-- one line -->\n---\nend\n")
    assert texts_of(path) == ["# Tea\n\n*warm* & `hot`\n---\nend\n"]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("---\n# Chapter\n茶\n", None),  # a rule
        ("---\n# Chapter\n<!-- x -->\nTea\n", "---\n# Chapter\nTea\n"),
        ("---\n" + "tea\n" * 200 + "---\n", None),
        ("Tea\n<!-- never closed\nmore\n<!-- nor this\nend\n", None),
        ("<!-- toc --> The introduction\nTea\n", None),
        ("<!-- a\nb --> Tea\n <!-- d -->\n", "<!-- a\nb --> Tea\n"),
    ],
)
def test_markdown_keeps_what_is_no_line_of_comment(tmp_path, text, kept):
    path = tmp_path / "a.md"
    path.write_text(text, encoding="utf-8")
    assert texts_of(path) == [kept or text]


def test_a_text_that_is_too_long_is_cut_at_a_line_end(tmp_path):
    use_limits(["document=100"])
    path = tmp_path / "a.txt"
    path.write_text("".join(f"line {i}\n" for i in range(40)))
    parts = texts_of(path)
    assert len(parts) > 2
    assert "\n".join(part.rstrip("\n") for part in parts) == "\n".join(f"line {i}" for i in range(40))


def test_kinds_and_parts_of_dumps():
    assert file_suffix("zhwiki-20260101-pages-articles1.xml-p1p187712.bz2") == ".xml"
    assert file_suffix("CC-MAIN-2026.warc.wet.gz") == ".wet"
    assert {".xml", ".warc", ".wet", ".epub", ".pdf", ".html"} <= set(KINDS)


# Web pages


def page(text, head=""):
    body = "".join(f"<p>{text}</p>" for _ in range(4))
    return (
        f"<!DOCTYPE html><html><head>{head}<title>t</title><script>var x = 'code';</script></head><body>"
        f"<nav><ul><li><a href='/'>Homepage</a></li><li><a href='/n'>Login</a></li></ul></nav>"
        f"<main><article><h1>Title</h1>{body}</article></main><footer>(c) 2020 Impressum</footer></body></html>"
    )


@pytest.mark.parametrize(
    ("text", "encoding", "meta"),
    [
        (ZH, "utf-8", ""),
        (ZH, "gb18030", ""),
        (ZH, "gb18030", "gb2312"),
        (ZH, "gb18030", "utf-8"),
        (ZH, "utf-8", "gb2312"),
        (ZH, "utf-16", ""),
        (EN + " “naïve café” — l’été", "cp1252", "iso-8859-1"),
    ],
)
def test_html_in_any_encoding_whatever_it_declares(tmp_path, text, encoding, meta):
    pytest.importorskip("resiliparse")
    path = tmp_path / "a.html"
    path.write_bytes(page(text, f"<meta charset='{meta}'>" if meta else "").encode(encoding))
    (found,) = texts_of(path)
    assert found.count(text) == 4
    assert found.startswith("Title")
    for junk in ("Homepage", "Login", "code", "Impressum"):
        assert junk not in found


def warc_record(address, content, kind="text/html; charset=utf-8", record="response", status="200 OK"):
    """Return one gzip member as warcio writes it."""
    warcio = pytest.importorskip("warcio.warcwriter")
    from warcio.statusandheaders import StatusAndHeaders

    buffer = io.BytesIO()
    writer = warcio.WARCWriter(buffer, gzip=True)
    if record == "response":
        headers = StatusAndHeaders(status, [("Content-Type", kind)], protocol="HTTP/1.1")
        row = writer.create_warc_record(address, record, payload=io.BytesIO(content), http_headers=headers)
    else:
        row = writer.create_warc_record(address, record, payload=io.BytesIO(content), warc_content_type="text/plain")
    writer.write_record(row)
    return buffer.getvalue()


def damage(member):
    place = len(member) // 2
    return member[:place] + bytes(byte ^ 0xFF for byte in member[place : place + 30]) + member[place + 30 :]


@pytest.fixture
def members():
    pytest.importorskip("resiliparse")
    traditional = "茶是一種很古老的飲料。今天的人們還在喝它，我們在這裡說說它的歷史和文化。"
    return {
        "good": warc_record("http://a/good", page(ZH).encode()),
        "wrong header": warc_record("http://a/header", page(ZH).encode("gb18030"), "text/html; charset=iso-8859-1"),
        "big5": warc_record("http://a/big5", page(traditional).encode("big5"), "text/html; charset=utf-8"),
        "broken": damage(warc_record("http://a/broken", page(ZH * 9).encode())),
        "empty": warc_record("http://a/empty", b""),
        "large": warc_record("http://a/large", page(EN * 23_000).encode()),
        "three languages": warc_record("http://a/three", page(f"{ZH}</p><p>{EN}</p><p>Der Tee ist sehr alt.").encode()),
        "picture": warc_record("http://a/picture", b"\x89PNG\r\n", "image/png"),
        "moved": warc_record("http://a/moved", page(EN).encode(), status="301 Moved"),
        "last": warc_record("http://a/last", page(EN).encode()),
    }


def test_warc_goes_on_after_a_record_without_text_and_a_broken_one_costs_its_file(tmp_path, members):
    path = tmp_path / "a.warc.gz"
    broken = members.pop("broken")
    path.write_bytes(b"".join([*members.values(), broken, members["last"]]))
    documents, [fault] = read(path)
    assert documents == [] and fault.reason.startswith("its compressed data are broken")
    path.write_bytes(b"".join(members.values()))
    documents, [fault] = read(path)
    found = {document["id"].partition(":")[2]: document["text"] for document in documents}
    assert list(found) == [f"http://a/{name}" for name in ("good", "header", "big5", "large", "three", "last")]
    assert found["http://a/good"] == found["http://a/header"]
    assert "這裡說說它的歷史" in found["http://a/big5"]
    assert len(found["http://a/large"]) > 9_000_000
    assert (fault.place, fault.reason) == ("http://a/empty", "no text in it")


@pytest.mark.parametrize("form", ["plain", "one member", "cut"])
def test_warc_in_other_forms(tmp_path, members, form):
    good = [members["good"], members["wrong header"], members["last"]]
    plain = b"".join(map(gzip.decompress, good))
    path = tmp_path / ("a.warc" if form == "plain" else "a.warc.gz")
    path.write_bytes({"plain": plain, "one member": gzip.compress(plain), "cut": b"".join(good)[:-40]}[form])
    documents, faults = read(path)
    assert len(documents) == (2 if form == "cut" else 3)
    assert ["the file is cut" in fault.reason for fault in faults] == ([True] if form == "cut" else [])


def test_wet_holds_text(tmp_path):
    pytest.importorskip("fastwarc")
    path = tmp_path / "a.warc.wet.gz"
    texts = [ZH, EN, ""]
    path.write_bytes(
        b"".join(warc_record(f"http://a/{i}", t.encode(), record="conversion") for i, t in enumerate(texts))
    )
    documents, faults = read(path)
    assert [(document["text"], document["language"]) for document in documents] == [(ZH, "zh"), (EN, "en")]
    assert [fault.place for fault in faults] == ["http://a/2"]


# Wikipedia

ARTICLE = """{{Infobox|name=茶|x={{a|{{b|c}}}}}}
[[File:Tea.jpg|thumb|一杯[[茶]]]]
'''茶'''（{{lang-en|Tea}}；{{IPA}}）是-{zh-hans:计算机;zh-hant:電腦}-的[[饮料|飲品]]。<ref>{{c|d}}</ref><!-- x -->
== 历史 ==
* [[中国]]的[http://a.b 茶叶]
{| class="wikitable"
! 表
|-
| {{b}} || 格
|}
公式<math>x_{1}</math>，代码<nowiki>{{x}}</nowiki>。
=== 空 ===
[[Category:饮料]]
== 参考文献 ==
{{reflist}}
"""
CLEAN_ARTICLE = "茶（Tea）是计算机的飲品。\n\n历史\n\n- 中国的茶叶\n\n公式$x_{1}$，代码{{x}}。"
HEAD = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="zh"><siteinfo>
<sitename>维基百科</sitename><dbname>zhwiki</dbname><base>x</base><generator>MediaWiki</generator><case>first-letter</case>
<namespaces><namespace key="0" case="first-letter" /><namespace key="6" case="first-letter">File</namespace>
<namespace key="14" case="first-letter">Category</namespace></namespaces></siteinfo>"""


def wiki_page(title, text, namespace=0, redirect="", model="wikitext"):
    return (
        f"<page><title>{escape(title)}</title><ns>{namespace}</ns><id>{abs(hash(title)) % 9999 + 1}</id>{redirect}"
        f"<revision><id>2</id><timestamp>2026-01-01T00:00:00Z</timestamp><model>{model}</model>"
        f'<format>text/x-wiki</format><text bytes="9" xml:space="preserve">{escape(text)}</text></revision></page>\n'
    )


PAGES = [
    wiki_page("茶", ARTICLE),
    wiki_page("Talk:茶", "words", 1),
    wiki_page("Template:a", "words", 10),
    wiki_page("茶叶", "#REDIRECT [[茶]]", redirect='<redirect title="茶" />'),
    wiki_page("Tea", "'''Tea''' is a [[drink]].\n\n== See also ==\n* [[Cup]]"),
    wiki_page("data", "{}", model="json"),
    wiki_page("空", "{{x}}"),
]
EXPECTED = [f"茶\n\n{CLEAN_ARTICLE}", "Tea\n\nTea is a drink."]


@pytest.mark.parametrize("form", ["plain", "single", "multistream", "gz"])
def test_wikipedia_gives_articles_as_text(tmp_path, form):
    parts = [HEAD, "".join(PAGES[:3]), "".join(PAGES[3:]), "</mediawiki>"]
    pack = {"plain": lambda data: data, "gz": gzip.compress}.get(form, bz2.compress)
    streams = parts if form == "multistream" else ["".join(parts)]
    suffix = {"plain": "", "gz": ".gz"}.get(form, ".bz2")
    path = tmp_path / f"zhwiki-pages-articles.xml{suffix}"
    path.write_bytes(b"".join(pack(part.encode()) for part in streams))
    assert texts_of(path) == EXPECTED
    (first, _) = read(path)[0]
    assert first["id"] == f"{path.name}:茶"


def test_the_variant_is_a_choice(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text(HEAD + PAGES[0] + "</mediawiki>", encoding="utf-8")
    assert "是電腦的飲品" in texts_of(path, chinese_variant="zh-hant")[0]


def test_a_broken_page_costs_itself_and_a_broken_stream_what_follows(tmp_path):
    import random

    filler = "".join(random.Random(0).choices("abcdefgh ", k=20_000))
    streams = [HEAD, PAGES[0], "<page><title>bad</title><ns>0</ns><x></page>", PAGES[4], wiki_page("lost", filler)]
    packed = [bz2.compress(stream.encode()) for stream in streams]
    path = tmp_path / "a.xml.bz2"
    path.write_bytes(b"".join(packed[:4]) + damage(packed[4]) + packed[3])
    documents, faults = read(path)
    assert [document["text"] for document in documents] == EXPECTED
    assert [fault.reason.partition(":")[0] for fault in faults] == ["not valid XML", "its compressed data are broken"]
    assert faults[0].place == "bad"


def test_our_dumps_are_dumps(tmp_path):
    mwxml = pytest.importorskip("mwxml")
    dump = mwxml.Dump.from_file(io.StringIO(HEAD + "".join(PAGES) + "</mediawiki>"))
    assert [page.title for page in dump.pages][:3] == ["茶", "Talk:茶", "Template:a"]


# Books


def write_epub(path, chapters, order=None):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as book:
        book.writestr(
            "META-INF/container.xml",
            '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
            '<rootfile full-path="OEBPS/a.opf"/></rootfiles></container>',
        )
        items = "".join(f'<item id="{n}" href="{n}.xhtml" media-type="application/xhtml+xml"/>' for n in chapters)
        refs = "".join(f'<itemref idref="{n}"/>' for n in order or chapters)
        book.writestr(
            "OEBPS/a.opf",
            f'<package xmlns="http://www.idpf.org/2007/opf"><manifest>{items}</manifest><spine>{refs}</spine></package>',
        )
        for name, text in chapters.items():
            if text is not None:
                book.writestr(f"OEBPS/{name}.xhtml", f"<html><body><h1>{name}</h1><p>{text}</p></body></html>".encode())


def test_epub_in_the_order_of_its_spine(tmp_path):
    pytest.importorskip("resiliparse")
    path = tmp_path / "a.epub"
    write_epub(path, {"b": EN, "a": ZH, "lost": None}, ["a", "lost", "b"])
    documents, faults = read(path)
    assert [document["text"] for document in documents] == [f"a\n\n{ZH}\n\nb\n\n{EN}"]
    assert [fault.place for fault in faults] == ["OEBPS/lost.xhtml"]


FONT = (("Type", "Subtype", "BaseFont"), ("Font", "Type1", "Helvetica"))


def write_pdf(path, pages):
    """Write lines of text with pypdf, each page with its number below."""
    pypdf = pytest.importorskip("pypdf")
    from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

    writer = pypdf.PdfWriter()
    font = DictionaryObject(
        {
            NameObject(k): NameObject(v)
            for k, v in (("/Type", "/Font"), ("/Subtype", "/Type1"), ("/BaseFont", "/Helvetica"))
        }
    )
    for number, lines in enumerate(pages, 1):
        sheet = writer.add_blank_page(400, 400)
        content = DecodedStreamObject()
        shown = "".join(f"({line}) Tj 0 -20 Td " for line in [*lines, str(number)])
        content.set_data(f"BT /F1 12 Tf 20 350 Td {shown} ET".encode())
        resources = DictionaryObject({NameObject("/Font"): DictionaryObject({NameObject("/F1"): font})})
        sheet[NameObject("/Resources")] = resources
        sheet[NameObject("/Contents")] = writer._add_object(content)
    writer.write(path)


def test_pdf_lines_become_paragraphs(tmp_path):
    path = tmp_path / "a.pdf"
    write_pdf(path, [["Tea is a very old drink that is won-", "derful and warm."], ["People still have it", "today."]])
    pytest.importorskip("resiliparse")
    assert texts_of(path) == ["Tea is a very old drink that is wonderful and warm.\n\nPeople still have it today."]


@pytest.mark.parametrize("name", ["a.epub", "a.pdf", "a.warc.gz", "a.xml.bz2", "a.parquet", "a.html", "a.jsonl.gz"])
@pytest.mark.parametrize(
    "content", [b"", b"no such thing at all", b"PK\x03\x04" + b"\x00" * 50, b"\x1f\x8b\x08" + b"\x07" * 40]
)
def test_a_file_that_is_none_is_one_fault_or_more_and_no_traceback(tmp_path, name, content):
    for package in ("resiliparse", "pypdf", "fastwarc"):
        pytest.importorskip(package)
    path = tmp_path / name
    path.write_bytes(content)
    documents, faults = read(path)
    if documents:
        assert name == "a.html"
    else:
        assert faults
        assert all(fault.reason and "\n" not in fault.reason for fault in faults)
        assert not any(word in fault.reason for fault in faults for word in ("variable", "object", "attribute"))
    if faults:
        with pytest.raises(InputError, match=name.replace(".", r"\.")):
            list(read_documents_of(str(path)))


def test_a_missing_package_names_the_file_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "data_utils.readers.books", None)
    path = tmp_path / "a.pdf"
    path.write_bytes(b"x")
    with pytest.raises(InputError, match=r"pip install -r requirements/corpus\.txt"):
        list(read_documents_of(str(path)))
