"""What is read from files, how text is cleaned, and how documents are split."""

import csv
import io
import json
import re
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from hypothesis import example, given
from hypothesis import strategies as st

from data_utils.readers.files import find_files
from data_utils.rows.pretraining import open_corpus
from data_utils.sources.corpus import DOCUMENT_FEATURES, read_corpus, split_train_eval
from data_utils.sources.source import data_version, open_source, open_sources, parse_times
from data_utils.text.cleaning import clean_text, drop_stop_words
from data_utils.text.languages import detect_language
from data_utils.text.splitting import hash_share
from errors import InputError

# Commas, quotes and a line end inside a text are what a careless CSV reader breaks; none holds a blank line.
TEXTS = ["Tea is warm.", "今天下雨，我们在家。\n他说：“好！”", 'He said "yes,\nplease", naïve 😀']
KINDS = [".txt", ".md", ".jsonl", ".json", ".csv", ".parquet"]


def as_bytes(kind: str, texts: list[str], column: str = "text") -> bytes:
    """Write texts in a form of file, with a second column where the form has columns."""
    rows = [{column: text, "number": number} for number, text in enumerate(texts)]
    if kind in (".txt", ".md"):
        return "\n\n".join(texts).encode()
    if kind == ".jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    if kind == ".json":
        return json.dumps(rows, ensure_ascii=False, indent=1).encode()
    if kind == ".csv":
        sheet = io.StringIO()
        writer = csv.DictWriter(sheet, [column, "number"])
        writer.writeheader()
        writer.writerows(rows)
        return sheet.getvalue().encode()
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def write(path: Path, content: bytes | str) -> str:
    """Write a file, compressed as its name says; return its path."""
    content = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".gz", ".zst"):
        with fsspec.open(str(path), "wb", compression="infer") as file:
            file.write(content)
    else:
        path.write_bytes(content)
    return str(path)


def make_corpus(texts: list[str]) -> Dataset:
    rows = [
        {"text": text, "language": detect_language(text), "source": "test", "hash_share": hash_share(text)}
        for text in texts
    ]
    return Dataset.from_list(rows, features=DOCUMENT_FEATURES)


def read(names: list[str], *reading: str) -> Dataset:
    return read_corpus(open_sources(names, None, *reading))[0]


# Reading


@pytest.mark.parametrize("compression", ["", ".gz", ".zst"])
@pytest.mark.parametrize("kind", KINDS)
def test_reads_every_kind_of_file(tmp_path, kind, compression):
    path = write(tmp_path / f"corpus{kind}{compression}", as_bytes(kind, TEXTS))
    corpus = read([path])
    assert corpus.features == DOCUMENT_FEATURES
    assert corpus["text"] == TEXTS
    assert corpus["language"] == ["en", "zh", "en"]
    assert set(corpus["source"]) == {f"corpus{kind}{compression}"}


@pytest.mark.parametrize(
    ("sample_by", "expected"),
    [
        ("line", ["one", "two", "three"]),
        ("paragraph", ["one\ntwo", "three"]),
        ("document", ["one\ntwo\n\n\n\nthree\n"]),
    ],
)
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_document_of_a_text_file(tmp_path, sample_by, expected, line_end):
    path = write(tmp_path / "a.txt", "one\ntwo\n\n\n\nthree\n".replace("\n", line_end))
    [source] = open_sources([path], None, sample_by)
    texts = [row["text"] for row in source.documents(path) if row["text"]]
    assert [text if sample_by == "document" else text.strip("\n") for text in texts] == expected


@pytest.fixture
def folder(tmp_path):
    """Three files of one document each, one of them in a folder below, and one that is no data."""
    write(tmp_path / "data" / "b.txt", "second")
    write(tmp_path / "data" / "a.txt", "first")
    write(tmp_path / "data" / "deep" / "c.txt.gz", "third")
    write(tmp_path / "data" / "picture.png", b"\x89PNG")
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.txt"], ["first"]),
        (["b.txt", "a.txt"], ["second", "first"]),
        (["*.txt"], ["first", "second"]),
        (["**/*.txt*"], ["first", "second", "third"]),
        (["."], ["first", "second", "third"]),
        (["a.txt@3", "b.txt"], ["first", "first", "first", "second"]),
        (["*.txt@2"], ["first", "second", "first", "second"]),
    ],
)
def test_a_file_several_a_glob_a_folder_and_repeats(folder, names, expected):
    assert read([f"{folder}/{name}" for name in names])["text"] == expected


def test_folder_of_several_kinds(tmp_path):
    for kind in KINDS:
        write(tmp_path / "mixed" / f"corpus{kind}", as_bytes(kind, [f"a {kind} text", "又一篇"]))
    texts = read([str(tmp_path / "mixed")])["text"]
    assert Counter(texts) == {**{f"a {kind} text": 1 for kind in KINDS}, "又一篇": len(KINDS)}


@pytest.mark.parametrize("name", ["notes [2024].txt", "a*b.txt", "50% tea.txt", "茶 tea.txt"])
def test_file_names_are_taken_literally(tmp_path, name):
    assert read([write(tmp_path / name, "tea")])["text"] == ["tea"]


@pytest.mark.parametrize(("times", "each"), [("0.5", {0, 1}), ("1", {1}), ("2.5", {2, 3}), ("0.05", {0, 1})])
def test_repeats_are_even_and_the_share_is_exact(tmp_path, times, each):
    path = write(tmp_path / "a.txt", "\n".join(f"text {i}" for i in range(20)))
    first, second = (read([f"{path}@{times}"], "line")["text"] for _ in range(2))
    counts = Counter(first)
    assert len(first) == 20 * float(times)
    assert {counts[f"text {i}"] for i in range(20)} == each
    assert list(first) == list(second)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.txt", ("a.txt", 1.0)),
        ("a@b.txt", ("a@b.txt", 1.0)),
        ("a@b.txt@2", ("a@b.txt", 2.0)),
        ("own@0.3", ("own", 0.3)),
        ("big.txt@0.00005", ("big.txt", 0.00005)),
    ],
)
def test_parse_times(name, expected):
    assert parse_times(name) == expected


def test_a_tiny_share_of_a_file_is_no_other_file(tmp_path):
    """0.00005 was once written back as 5e-05, which no file is called."""
    path = write(tmp_path / "big.txt", "\n".join(f"line {number}" for number in range(40_000)))
    assert len(read([f"{path}@0.00005"], "line")) == 2
    with pytest.raises(InputError, match="corpus is empty"):
        read([f"{path}@0.000001"], "line")


def test_text_column(tmp_path):
    path = write(tmp_path / "a.jsonl", as_bytes(".jsonl", TEXTS, column="body"))
    assert read([path], "paragraph", "body")["text"] == TEXTS


@pytest.mark.parametrize("kind", [".jsonl", ".json", ".csv", ".parquet"])
@pytest.mark.parametrize("texts", [["NA", "null", "None", "tea"], ["007", "1.50"], ["2024-01-01", "2024-01-02"]])
def test_a_text_is_never_taken_for_a_number_a_date_or_nothing(tmp_path, kind, texts):
    assert read([write(tmp_path / f"a{kind}", as_bytes(kind, texts))])["text"] == texts


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_byte_order_mark_of_windows_is_no_text(tmp_path, kind):
    path = write(tmp_path / f"a{kind}", "\ufeff".encode() + as_bytes(kind, ["tea", "茶"]))
    assert read([path])["text"] == ["tea", "茶"]


def test_an_edited_file_is_read_anew(tmp_path):
    path = tmp_path / "a.txt"
    assert read([write(path, "before")])["text"] == ["before"]
    assert read([write(path, "later!")])["text"] == ["later!"]


BAD_UTF8 = b"fine\nfine\nb\xe9d\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.txt", None, ": no such file"),
        ("nowhere/missing.txt", None, ": no such file"),
        ("missing*.txt", None, ": no such file"),
        ("empty.txt", b"", ": the file is empty"),
        ("blank.txt", b" \n\n\t\n", ": the file is empty"),
        ("empty.jsonl", b"\n", ": the file is empty"),
        ("empty.csv", b"", ": the file is empty"),
        ("empty.txt.gz", b"", ": the file is empty"),
        ("empty.parquet", b"", ": .*(parquet|empty)"),
        ("header.csv", b"text\n", ": .*(empty|no data|no rows)"),
        ("nothing.json", b"[]", ": .*(empty|no data|no rows)"),
        ("bad.txt", BAD_UTF8, r":3: not valid UTF-8 \(byte 0xe9\); convert the file to UTF-8"),
        ("bad.md", BAD_UTF8, ":3: not valid UTF-8"),
        ("bad.txt.gz", BAD_UTF8, ":3: not valid UTF-8"),
        ("bad.txt.zst", BAD_UTF8, ":3: not valid UTF-8"),
        ("bad.csv", b"text\n\xff\n", ":2: not valid UTF-8"),
        ("bad.jsonl", b'{"text": "a"}\n{"text": "\xff"}\n', ":2: not valid UTF-8"),
        ("bad.json", b'[{"text": "\xff"}]', ":1: not valid UTF-8"),
        ("broken.jsonl", b'{"text": "a"}\n\n{"text": \n', ":3: not valid JSON: "),
        ("broken.jsonl.gz", b'{"text": "a"}\n{"text"}\n', ":2: not valid JSON: "),
        ("list.jsonl", b'{"text": "a"}\n["b"]\n', ":2: a JSON object is expected"),
        ("broken.json", b'[{"text": "a"}, {"text": ]', r"(:1)?: not (readable as json|valid JSON)"),
        ("ragged.csv", b"text,number\na,1\nb,2,3,4\n", "(:3: .*header|: not readable as csv: .*line 3)"),
        ("broken.parquet", b"no parquet", ": .*(parquet|empty)"),
        ("picture.png", b"x", r": unknown file type; use one of \.txt \.md \.jsonl \.json \.csv \.tsv \.parquet"),
        ("README", b"x", ": unknown file type"),
        ("other.jsonl", b'{"body": "a", "n": 1}\n', r"(:\d+)?: no column 'text'; it has: body, n; .*--text_column"),
        ("other.csv", b"body\na\n", r"(:\d+)?: no column 'text'; it has: body;"),
    ],
)
def test_bad_file_is_one_line_that_says_where_and_what(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        write(path, content)
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}{message}") as error:
        read([str(path)])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["a.txt.gz", "a.txt.zst", "a.jsonl.gz"])
@pytest.mark.parametrize("damage", ["cut", "other"])
def test_damaged_compression_names_the_file(tmp_path, name, damage):
    path = Path(write(tmp_path / name, as_bytes(".jsonl", TEXTS) * 100))
    path.write_bytes(path.read_bytes()[:60] if damage == "cut" else b"not compressed at all\n")
    words = {
        "cut": ".*compressed data (are|have) ",
        "other": rf"no \{path.suffix} file, whatever its name says; rename",
    }
    with pytest.raises(InputError, match=rf"^{re.escape(str(path))}(:byte \d+)?: {words[damage]}"):
        read([str(path)])


@pytest.mark.parametrize("content", [b'[{"text": ]', b'{"body": "b"}'])
def test_of_several_files_the_faulty_one_is_named(tmp_path, content):
    write(tmp_path / "a.json", as_bytes(".json", TEXTS))
    write(tmp_path / "b.json", content)
    with pytest.raises(InputError, match=rf"^{re.escape(str(tmp_path / 'b.json'))}(:1)?: "):
        read([str(tmp_path)])


def test_empty_folder(tmp_path):
    with pytest.raises(InputError, match=rf"^{re.escape(str(tmp_path))}: .*nothing in it that can be read"):
        read([str(tmp_path)])


def test_hub_name_offline_says_how_to_go_online():
    with pytest.raises(InputError, match=r"^somebody/some-dataset: not found here; .* set HF_HUB_OFFLINE=0$"):
        read(["somebody/some-dataset"])


def test_unknown_way_to_sample_is_not_blamed_on_the_file(tmp_path):
    with pytest.raises(InputError, match=r"sample_by.*sentence"):
        read([write(tmp_path / "a.txt", "one")], "sentence")


def test_a_built_in_source_is_read_as_documents():
    documents = read(["chatterbot", "hsk@0.01"])
    assert documents.features == DOCUMENT_FEATURES
    assert Counter(documents["source"])["hsk"] == 44
    assert all(
        text.count("\n") == 1
        for text, source in zip(documents["text"], documents["source"], strict=True)
        if source == "hsk"
    )


def test_data_version_changes_with_what_the_sources_hold(tmp_path):
    a, b = write(tmp_path / "a.txt", "one"), write(tmp_path / "b.txt", "two")
    versions = [data_version(open_sources(names)) for names in ([a], [b], [a, b], ["hsk"], ["hsk", a])]
    assert data_version([open_source(str(tmp_path))]) == versions[2]
    assert data_version(open_sources([f"{a}@3"])) == versions[0]
    write(tmp_path / "a.txt", "other words")
    assert len({*versions, data_version([open_source(a)])}) == 6


@pytest.mark.parametrize("name", ["missing.txt", "nothing*.jsonl", "snownlpp"])
def test_data_version_of_what_is_missing(name):
    with pytest.raises(InputError, match=f"^{re.escape(name)}: no such file"):
        data_version(open_sources(["hsk", name]))


def test_find_files_keeps_to_data_files(folder):
    assert [Path(path).name for path in find_files(str(folder))] == ["a.txt", "b.txt", "c.txt.gz"]


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("你好", "zh"),
        ("hello", "en"),
        ("", "en"),
        ("123 😀 ...", "en"),
        ("我用 Python 写代码", "zh"),
        ("The word 茶 means tea in English, I believe.", "en"),
        ("𠮷", "zh"),
        ("3 + 5 等于几？", "zh"),
    ],
)
def test_detect_language(text, language):
    assert detect_language(text) == language


# Cleaning


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cafe\u0301", "café"),
        ("schÃ¶n", "schön"),
        ("itâ€™s", "it’s"),
        ("ä½\xa0å¥½", "你好"),
        ("a\r\nb\rc\n", "a\nb\nc"),
        ("a\x00b\x07c\x1bd\ufeff", "abcd"),
        ("a\tb", "a\tb"),
        ("a  \nb\u3000\n", "a\nb"),
        ("a\n\n\n\n\nb", "a\n\nb"),
        ("\n  a\n", "a"),
        (" \t\r\n\x00", ""),
        ("ﬁ “quotes” ½ ① Ａ", "ﬁ “quotes” ½ ① Ａ"),
        ("👩‍👩‍👧 🇨🇳 ❤️", "👩‍👩‍👧 🇨🇳 ❤️"),
        ("if a < b && c > d: x = 'ÿ'", "if a < b && c > d: x = 'ÿ'"),
    ],
)
def test_clean_text(text, expected):
    assert clean_text(text) == expected


@pytest.mark.parametrize(
    "text",
    ["你好，世界！", "“真的吗？”他说：‘是的；’", "《书》、【注】（一）——……·～", "１２３ＡＢＣ　ａ", "㊙ ㍿ ＄５"],
)
def test_chinese_punctuation_and_width_stay(text):
    assert clean_text(text) == text


@pytest.mark.parametrize("fragment", ["&amp;", "&lt;b&gt;", "\x1b[31mred\x1b[0m", "a\x0cb", "'q'", "x\x7fy"])
def test_cleaning_is_the_same_in_both_languages(fragment):
    assert clean_text(f"茶 {fragment}")[1:] == clean_text(f"t {fragment}")[1:]


# Fragments that meet badly: mojibake cut by control characters, entities, parts of one letter.
FRAGMENTS = ["Ã", "¶", "©", "â€", "™", "\x81", "\x85", "\x0c", "\x00", "\ufeff", "\x1b[31m", "\u2028", "e", "\u0301"]
FRAGMENTS += ["&amp;", "lt;", "<", "é", "，", "你", "\n", "\r", " ", "\xa0", "Â‘"]
MESSY = st.text(max_size=40) | st.lists(st.sampled_from(FRAGMENTS), max_size=8).map("".join)


@given(MESSY)
@example("e\x0c\u0301")
@example("é Ã\x0c©")
@example("\x81Â\x91")
@example("\xa0Â\x91")
@example("a\xa0\nÂ‘ \n\xa0Â‘")
def test_cleaning_twice_changes_nothing_more(text):
    once = clean_text(text)
    assert clean_text(once) == once


@given(MESSY)
def test_clean_text_holds_no_junk(text):
    cleaned = clean_text(text)
    assert unicodedata.is_normalized("NFC", cleaned)
    assert not [c for c in cleaned if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t"]
    assert "\n\n\n" not in cleaned
    assert not re.search(r"[ \t]\n", cleaned)
    assert cleaned == cleaned.strip()


@given(
    st.text(
        st.characters(min_codepoint=0x4E00, max_codepoint=0x9FA5) | st.sampled_from("，。！？；：、“”（）《》０Ａ"),
        max_size=40,
    )
)
def test_ordinary_chinese_is_never_changed(text):
    assert clean_text(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [("The cat and the mat", "cat mat"), ("我和小狗去公园", "小狗公园"), ("", "")],
)
def test_stop_words_are_dropped_on_request_only(text, expected):
    assert clean_text(text) == text
    assert drop_stop_words(text) == expected


def test_a_run_of_letters_longer_than_a_word_keeps_its_words():
    text = "我和小狗去公园" * 400
    assert drop_stop_words(text).count("小狗") >= 397  # where a run is cut a word may be
    assert drop_stop_words("的" * 5000) == ""


@pytest.mark.parametrize("package", ["jieba", "stopwordsiso"])
def test_missing_stop_word_package_is_named(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=f"--clean stop_words needs {package}; .*requirements/corpus.txt"):
        drop_stop_words("the cat")


@pytest.mark.parametrize("times", ["", "@2", "@0.5", "@1.5"])
def test_what_is_empty_is_dropped_and_counted(tmp_path, times):
    texts = ["tea \r\n", " \n", "", "茶", "\x00", "cafe\u0301"]
    path = write(tmp_path / "a.jsonl", as_bytes(".jsonl", texts))
    kept, counts = read_corpus(open_sources([f"{path}{times}"]))
    factor = float(times[1:] or 1)
    assert set(kept["text"]) <= {"tea", "茶", "café"}
    assert counts["documents"] == 6 * factor == counts["kept"] + counts["empty"]
    assert len(kept) == counts["kept"]
    if factor >= 1:
        assert kept["text"][:3] == ["tea", "茶", "café"]
        assert kept["language"][:3] == ["en", "zh", "en"]


def test_corpus_without_text_is_refused(tmp_path):
    with pytest.raises(InputError, match="corpus is empty"):
        read([write(tmp_path / "a.jsonl", as_bytes(".jsonl", [" ", "\x00"]))])


# Splitting


def test_the_hash_is_the_same_on_every_machine_and_day():
    held_out = [i for i in range(40) if hash_share(f"document {i}") < 0.25]
    assert held_out == [11, 15, 26, 27, 28, 36, 37]


@given(st.text(max_size=30))
def test_spaces_move_no_document_across_the_split(text):
    assert 0 <= hash_share(text) == hash_share(f"  {text}\n") < 1


def test_split_is_disjoint_complete_and_stable():
    texts = [f"text {i % 900}" + " " * (i // 900) for i in range(1000)]  # 100 are there twice, but for white space
    train, held_out = split_train_eval(make_corpus(texts), 0.1)
    assert sorted([*train["text"], *held_out["text"]]) == sorted(texts)
    assert not {text.strip() for text in train["text"]} & {text.strip() for text in held_out["text"]}
    assert 60 <= len(held_out) <= 140
    shuffled_train, shuffled_held_out = split_train_eval(make_corpus(texts[::-1]), 0.1)
    assert sorted(shuffled_held_out["text"]) == sorted(held_out["text"])
    assert sorted(shuffled_train["text"]) == sorted(train["text"])


@pytest.mark.parametrize(("fraction", "held"), [(0.01, 10), (0.1, 100)])
def test_one_document_still_gets_a_held_out_tail(fraction, held):
    text = "".join(chr(0x4E00 + i) for i in range(1000))
    train, held_out = split_train_eval(make_corpus([text]), fraction)
    assert (train["text"], held_out["text"]) == ([text[:-held]], [text[-held:]])
    assert held_out.features == DOCUMENT_FEATURES
    assert held_out["language"] == ["zh"]


def test_tail_is_cut_from_the_longest_document_only():
    texts = [f"short {i}" for i in range(5)]
    assert not any(hash_share(text) < 0.01 for text in texts)
    long = "long " * 100
    train, held_out = split_train_eval(make_corpus([*texts[:2], long, *texts[2:]]), 0.01)
    assert [*train["text"][:2], *train["text"][3:]] == texts
    assert train["text"][2] + held_out["text"][0] == long
    assert len(held_out["text"][0]) == 5


@pytest.mark.parametrize("text", ["ab", "茶水", "a cup of tea and a very short text"])
def test_a_tiny_text_still_has_a_held_out_part(text):
    train, held_out = split_train_eval(make_corpus([text]), 0.02)
    assert (train["text"][0] + held_out["text"][0], len(held_out["text"][0])) == (text, 1)


def test_one_letter_cannot_be_split():
    with pytest.raises(InputError, match=r"corpus is too small: .*give more text"):
        split_train_eval(make_corpus(["x"]), 0.02)


def test_an_empty_file_costs_itself_in_a_folder_alone_and_copies_are_counted(tmp_path, capsys):
    for name in ("a.txt", "b.txt"):
        write(tmp_path / name, "One.\n\nTwo.\n")
    for name, text in {"c.txt": "", "d.txt": "\n \n", "e.csv": "text\n", "f.jsonl": ""}.items():
        write(tmp_path / name, text)
    corpus = open_corpus(open_sources([str(tmp_path)]), 0.1)
    assert corpus.describe().startswith("4 documents read, 0 empty dropped, 4 kept, 2 of them copies of others")
    said = capsys.readouterr().err
    for name in ("c.txt", "d.txt", "e.csv", "f.jsonl"):
        assert f"note: {tmp_path / name}: the file is empty, left out\n" in said
    with pytest.raises(InputError, match=r"c\.txt: the file is empty"):
        read_corpus(open_sources([str(tmp_path / "c.txt")]))
    for name in ("a.txt", "b.txt"):
        write(tmp_path / name, "")
    with pytest.raises(InputError, match="the corpus is empty"):
        read_corpus(open_sources([str(tmp_path)]))


def test_xml_that_is_no_dump_is_passed_over_in_a_folder(tmp_path):
    write(tmp_path / "a.txt", b"Tea is ready.\n")
    write(tmp_path / "b.xml", b"<config><name>x</name></config>\n")
    assert [row["text"] for row in read([str(tmp_path)])] == ["Tea is ready."]
