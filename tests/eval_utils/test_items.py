"""Items of files: the forms of BLiMP, ZhoBLiMP, CORE and LAMBADA, and what is wrong in them by file and line."""

import json

import pytest

from errors import InputError
from eval_utils.items import READERS, Choice, join_texts
from eval_utils.minimal_pairs import Pair


@pytest.fixture
def write(tmp_path):
    def write(*rows, name: str = "set.jsonl") -> list[str]:
        path = tmp_path / name
        path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
        return [str(path)]

    return write


def test_pairs_of_blimp_and_zhoblimp(write):
    blimp = {"sentence_good": "A cat sleeps.", "sentence_bad": "A cat sleep.", "UID": "a", "linguistics_term": "t"}
    zho = {
        "UID": "BA",
        "phenomenon": "BA",
        "sentence_good": "他把书看了。",
        "sentence_bad": "他书把看了。",
        "pairID": 1,
    }
    assert list(READERS["pairs"](write(blimp, zho))) == [
        Pair("A cat sleeps.", "A cat sleep.", "a", "en"),
        Pair("他把书看了。", "他书把看了。", "BA", "zh"),
    ]


def test_choices_of_core(write):
    row = {"query": "The sky is", "choices": ["blue", "loud"], "gold": 0}
    assert list(READERS["choices"](write(row))) == [Choice("The sky is", ("blue", "loud"), 0, "set")]


def test_continuations_of_lambada(write):
    row = {"context": "She opened the", "continuation": "door"}
    assert [item.continuation for item in READERS["continuations"](write(row))] == [" door"]
    (item,) = READERS["continuations"](write({"context": "天是", "continuation": "蓝的"}))
    assert item.continuation == "蓝的"


@pytest.mark.parametrize(
    ("read", "row", "message"),
    [
        (READERS["pairs"], {"sentence_good": "a"}, r"set.jsonl:1: 'sentence_bad' is missing or not a text"),
        (
            READERS["pairs"],
            {"sentence_good": "a", "sentence_bad": "a"},
            r"set.jsonl:1: the two sentences are the same: 'a'",
        ),
        (
            READERS["choices"],
            {"query": "q", "choices": ["a", "b"]},
            r"set.jsonl:1: 'gold' is missing or not a whole number",
        ),
        (
            READERS["choices"],
            {"query": "q", "choices": ["a", "b"], "gold": True},
            "'gold' is missing or not a whole number",
        ),
        (READERS["choices"], {"query": "q", "choices": ["a", "b"], "gold": 2}, "'gold' is 2, but there are 2 choices"),
        (READERS["pairs"], {"sentence_good": "a", "sentence_bad": " "}, "must have words"),
        (
            READERS["pairs"],
            {"sentence_good": "a", "sentence_bad": "\ud800"},
            "'sentence_bad' holds half of a character",
        ),
        (READERS["choices"], {"query": "q", "choices": ["a", "\udc00"], "gold": 0}, "'choices' holds half"),
        (READERS["choices"], {"query": "q", "choices": ["a"], "gold": 0}, "'choices' must be two texts or more"),
        (READERS["choices"], {"query": "q", "choices": ["a", 1], "gold": 0}, "'choices' must be two texts or more"),
        (READERS["continuations"], {"context": " ", "continuation": "a"}, "must have words"),
    ],
)
def test_faults_are_told_by_line(write, read, row, message):
    with pytest.raises(InputError, match=message):
        list(read(write(row)))


def test_all_rows_are_checked_and_the_first_bad_ones_named_with_the_total(write, capsys):
    good, same = {"sentence_good": "a", "sentence_bad": "b"}, {"sentence_good": "a", "sentence_bad": "a"}
    path = write(*[good] * 90, *[same] * 7, *[good] * 3)
    assert len(list(READERS["pairs"](path))) == 93
    told = capsys.readouterr().err
    assert [f":{line}: " in told for line in range(90, 97)] == [False, True, True, True, True, True, False]
    assert "left out: 7 of 100 rows" in told
    path = write(*[good] * 3, same)
    with pytest.raises(InputError, match=r":4: .* 1 of 4 rows can't be used, more than the 20% that may be left out"):
        list(READERS["pairs"](path))


def test_an_empty_file_of_items_costs_itself_alone(write, tmp_path):
    write({"sentence_good": "a", "sentence_bad": "b"})
    (tmp_path / "empty.jsonl").write_text("")
    assert len(list(READERS["pairs"]([str(tmp_path)]))) == 1
    with pytest.raises(InputError, match=r"empty\.jsonl: the file is empty"):
        list(READERS["pairs"]([str(tmp_path / "empty.jsonl")]))


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        list(READERS["pairs"]([str(tmp_path / "none.jsonl")]))


@pytest.mark.parametrize(
    ("before", "after", "joined"),
    [("A:", "b", " b"), ("A: ", "b", "b"), ("A:", " b", " b"), ("", "b", "b"), ("你好", "吗", "吗")],
)
def test_texts_are_joined_as_they_are_written(before, after, joined):
    assert join_texts(before, after) == joined
