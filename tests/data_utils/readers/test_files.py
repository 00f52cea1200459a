"""Folders as people have them: what is passed over is said, and what a file is not is named."""

import json
import os
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

import prepare_corpus
from data_utils.readers import files as files_of
from data_utils.readers.files import KINDS, find_files
from data_utils.sources.inputs import read_documents_of
from errors import InputError, escape_unprintable


@pytest.fixture(autouse=True)
def _nothing_was_said_yet():
    files_of.say_once.cache_clear()


def names_of(folder):
    return [path[len(str(folder)) + 1 :] for path in find_files(str(folder))]


def test_what_a_folder_holds_beside_data_is_left_out_and_said(tmp_path, capsys):
    (tmp_path / "sub" / ".ipynb_checkpoints").mkdir(parents=True)
    (tmp_path / ".git").mkdir()
    (tmp_path / "__MACOSX").mkdir()
    for name in ("a.txt", "sub/b.md", "sub/.ipynb_checkpoints/a.txt", "._a.txt", ".git/x.txt", "__MACOSX/a.txt"):
        (tmp_path / name).write_text("tea")
    (tmp_path / ".DS_Store").write_bytes(b"\0\1")
    assert names_of(tmp_path) == ["a.txt", "sub/b.md"]
    assert names_of(tmp_path) == ["a.txt", "sub/b.md"]
    said = capsys.readouterr().err
    assert said.count("note: ") == 1 and f"note: {tmp_path}: " in said
    assert "and 2 more: hidden, left out" in said
    assert find_files(str(tmp_path / "sub" / ".ipynb_checkpoints")) != []  # named itself, it is read


def test_files_of_other_kinds_and_closed_folders_are_said(tmp_path, capsys, monkeypatch):
    for name in ("a.txt", "b.docx", "c.DOCX", "d.tar.gz", "LICENSE"):
        (tmp_path / name).write_text("tea")
    (tmp_path / "closed").mkdir()
    list_folder = os.scandir

    def refuse(folder):
        if "closed" in str(folder):
            raise PermissionError(13, "Permission denied", str(folder))
        return list_folder(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    assert names_of(tmp_path) == ["a.txt"]
    said = capsys.readouterr().err
    assert f"{tmp_path}: .docx (2), .tar (1), LICENSE (1): of no kind that is read, left out" in said
    assert f"{tmp_path}: closed: can't be opened, left out" in said


@pytest.mark.skipif(sys.platform == "win32", reason="links need a right there")
def test_links(tmp_path, capsys):
    folder, elsewhere = tmp_path / "texts", tmp_path / "elsewhere"
    folder.mkdir(), elsewhere.mkdir()
    (elsewhere / "b.txt").write_text("rain")
    (folder / "a.txt").write_text("tea")
    (folder / "linked").symlink_to(elsewhere)
    (folder / "b.txt").symlink_to(elsewhere / "b.txt")
    (folder / "c.txt").symlink_to(folder / "a.txt")
    (folder / "gone.txt").symlink_to(tmp_path / "nowhere.txt")
    (folder / "loop").symlink_to(folder)
    assert names_of(folder) == ["a.txt", "b.txt", "c.txt"]
    said = capsys.readouterr().err
    assert "gone.txt: can't be opened, left out" in said
    assert "linked, loop: a linked folder, left out: name it to have it read" in said
    assert "b.txt: leads out of the folder, read" in said and "c.txt" not in said
    assert [path.rpartition("/")[2] for path in find_files(str(folder / "linked"))] == ["b.txt"]


def test_the_readme_of_a_cloned_dataset_is_no_text_and_one_among_notes_is(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    for name in ("README.md", "README.zh-CN.md", "notes.md", "data/train.jsonl", "dataset_infos.json"):
        (tmp_path / name).write_text('{"text": "tea"}')
    assert names_of(tmp_path) == ["data/train.jsonl", "notes.md"]
    said = capsys.readouterr().err
    assert "README.md, README.zh-CN.md: describes the data, left out" in said
    assert "dataset_infos.json (1): of no kind that is read, left out" in said
    (tmp_path / "data" / "train.jsonl").unlink()
    assert names_of(tmp_path) == ["README.md", "README.zh-CN.md", "notes.md"]


def test_a_saved_dataset_is_named(tmp_path):
    Dataset.from_dict({"text": ["tea"]}).save_to_disk(str(tmp_path / "saved" / "train"))
    for path in (tmp_path / "saved" / "train", tmp_path / "saved"):
        with pytest.raises(InputError, match=r"train: an Arrow folder of Dataset.save_to_disk; write it as Parquet"):
            find_files(str(path))


OTHERS = [
    ("a.txt", '{"text": "tea"}\n{"text": "rain"}\n', "this is JSON lines; name it .jsonl"),
    ("a.txt", '{"text": "tea"}', "this is JSON lines; name it .jsonl"),
    ("a.txt", "WARC/1.0\r\nWARC-Type: warcinfo\r\n", "this is a web archive (WARC); name it .warc or .wet"),
    ("a.xml", "<rss><item>tea</item></rss>", "no article of a Wikipedia dump is in it; convert other XML to text"),
    ("a.jsonl.gz", '{"text": "tea"}\n', "no .gz file, whatever its name says; rename it"),
    ("a.json", '{"text": {"0": "tea", "1": "rain"}}', "a whole table by columns; write its rows: to_json(file, "
     "orient='records')"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "reason"), OTHERS, ids=[reason[:30] for *_, reason in OTHERS])
def test_a_file_of_another_kind_says_which_and_what_to_do(tmp_path, name, content, reason):
    path = tmp_path / name
    path.write_text(content)
    faults = []
    assert list(read_documents_of(str(path), None, faults.append)) == []
    assert [fault.reason for fault in faults] == [reason]


def test_text_that_begins_with_a_brace_is_text(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text('{"tea": a word}\nand more text\n')
    assert [document["text"] for document in read_documents_of(str(path))] == ['{"tea": a word}\nand more text\n']


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614\nsize 12345\n"


@pytest.mark.parametrize(
    "name", ["a.txt", "a.md", "a.jsonl", "a.json", "a.csv", "a.parquet", "a.epub", "a.xml", "a.html", "a.srt"]
)
def test_a_pointer_of_git_lfs_is_named_whatever_the_files_name(tmp_path, monkeypatch, name):
    monkeypatch.setitem(KINDS, ".srt", KINDS[".txt"])  # a new kind of text, told to the table alone
    path = tmp_path / name
    path.write_text(POINTER)
    faults = []
    assert list(read_documents_of(str(path), None, faults.append)) == []
    assert [fault.reason for fault in faults] == ["this is a Git LFS pointer and not the file itself; run git lfs pull"]


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.jsonl", "a.json", "a.csv", "a.parquet"])
@pytest.mark.parametrize("start", ["<!DOCTYPE html>\n<html>", "\ufeff  <HTML lang='en'>", "\n<!doctype HTML public>"])
def test_a_web_page_is_named_whatever_the_files_name(tmp_path, name, start):
    path = tmp_path / name
    path.write_text(f"{start}<body>404 not found</body></html>", encoding="utf-8")
    faults = []
    assert list(read_documents_of(str(path), None, faults.append)) == []
    assert [fault.reason for fault in faults] == ["this is a web page (HTML); name it .html"]


def test_rich_text_is_named(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(r"{\rtf1\ansi tea}")
    with pytest.raises(InputError, match="this is rich text"):
        list(read_documents_of(str(path)))


def test_text_that_looks_like_something_else_is_text(tmp_path):
    for text in ("ID3 is a tag of music files.", "BM is a beginning.", "MZ" + "x" * 99, "<html-like words> are text"):
        path = tmp_path / "a.txt"
        path.write_text(text)
        assert [d["text"] for d in read_documents_of(str(path))] == [text]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep names in Unicode")
def test_names_that_are_no_utf8(tmp_path, capsys):
    folder = tmp_path / "texts"
    folder.mkdir()
    for name, text in (("笔记.txt", "tea in the rain, and more of it"), ("坏.jsonl", '{"body": 1}')):
        (folder / os.fsdecode(name.encode("gb18030"))).write_text(text)
    faults = []
    documents = [d for path in find_files(str(folder)) for d in read_documents_of(path, None, faults.append)]
    assert [(d["text"], d["source"], d["id"]) for d in documents] == [
        ("tea in the rain, and more of it", "\\xb1ʼ\\xc7.txt", "\\xb1ʼ\\xc7.txt:1")
    ]
    options = ["--sources", str(folder), "--workers", "1", "--max_broken_fraction", "1", "--clean", "unicode"]
    assert prepare_corpus.main([*options, "--output_dir", str(tmp_path / "corpus")]) == 0
    table = pq.read_table(next((tmp_path / "corpus" / "data").iterdir()))
    assert table["source"].to_pylist() == ["\\xb1ʼ\\xc7.txt"]
    assert "\\xbb\\xb5.jsonl" in (tmp_path / "corpus" / "report.md").read_text(encoding="utf-8")
    report = json.loads((tmp_path / "corpus" / "report.json").read_text(encoding="utf-8"))
    assert report["faults"][0][0] == find_files(str(folder))[1]


def test_a_name_or_header_cannot_write_to_the_terminal(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('\x1b]0;evil\x07,b\u202e,"c\nd"\n1,2,3\n', encoding="utf-8")
    with pytest.raises(InputError) as error:
        list(read_documents_of(str(path)))
    assert escape_unprintable(str(error.value)).count("\\x1b]0;evil\\x07, b\\u202e, c d;") == 1


def test_large_strings_and_lists_of_strings(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [["one", "two"], [], None]}), path)
    assert [d["text"] for d in read_documents_of(str(path))] == ["one\ntwo", "", ""]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes among its files")
def test_what_is_no_file_is_told_as_what_it_is(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "gone.txt").symlink_to("nowhere.txt")
    os.mkfifo(tmp_path / "pipe.txt")
    for number in range(30):
        (tmp_path / f"a.kind{number:02}").write_text("a")
    assert find_files(str(tmp_path)) == [str(tmp_path / "a.txt")]
    said = capsys.readouterr().err
    assert "pipe.txt: can't be opened, left out" in said
    assert said.count(".kind") == 20
    assert " and 10 more: of no kind that is read" in said
    for name, words in {
        "gone.txt": "is a link to nowhere.txt, which is not there",
        "pipe.txt": "is a pipe or a device; write what it gives to a file",
        "none.txt": "no such file or folder",
    }.items():
        with pytest.raises(InputError, match=f"{name}: {words}"):
            find_files(str(tmp_path / name))
    with pytest.raises(InputError, match="an empty path"):
        find_files("")
    (tmp_path / "a.xlsx").write_bytes(b"PK\x03\x04....xl/workbook.xml")
    with pytest.raises(InputError, match=r"a\.xlsx: this is an Excel sheet; save it as CSV; use one of"):
        find_files(str(tmp_path / "a.xlsx"))
