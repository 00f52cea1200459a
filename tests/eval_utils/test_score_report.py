"""The table's marks, the brief lines and the sentence that compares two checkpoints."""

import pytest

from eval_utils.figures import Figure
from eval_utils.score_report import (
    BETTER,
    MEANINGS,
    WORSE,
    compare_sentence,
    format_brief,
    format_text,
    make_table,
    write_scores,
)


def bits(value: float) -> Figure:
    return Figure("held-out text, en", [value, value + 0.1] * 50, part="text", unit="bits/byte", lower_is_better=True)


def pairs(right: int) -> Figure:
    return Figure("minimal pairs, en", [1.0] * right + [0.0] * (100 - right), part="pairs")


def speed(value: float) -> Figure:
    return Figure("tokens a second", [value] * 5, part="speed", unit="tokens/s")


def test_marks_are_by_more_than_chance():
    rows = make_table({"a": [bits(2.0), pairs(60)], "b": [bits(1.9), pairs(60)], "c": [bits(2.1), pairs(90)]})
    assert rows[0] == ["", "unit", "a", "b", "c"]
    assert [cell[-1] for cell in rows[1][2:]] == ["]", BETTER, WORSE]
    assert [cell[-1] for cell in rows[2][2:]] == ["]", "]", BETTER]


def test_a_figure_that_one_has_not_is_empty():
    rows = make_table({"a": [bits(2.0)], "b": [bits(2.0), pairs(50)]})
    assert rows[2][2] == ""
    assert rows[2][3].startswith("50.0% [")
    assert "minimal pairs, en" in format_text(rows)


@pytest.mark.parametrize(
    ("first", "second", "sentence"),
    [
        (
            [bits(2.0), pairs(60), speed(10)],
            [bits(1.5), pairs(60), speed(5)],
            "b is better than a by more than chance in 1 of 2 figures (held-out text, en 1.550 against 2.050 "
            "bits/byte), and worse in none.",
        ),
        (
            [bits(1.5), pairs(90)],
            [bits(2.0), pairs(60)],
            "a is better than b by more than chance in 2 of 2 figures (held-out text, en 1.550 against 2.050 "
            "bits/byte; minimal pairs, en 90.0% against 60.0%), and worse in none.",
        ),
        (
            [bits(1.5), pairs(60)],
            [bits(2.0), pairs(90)],
            "Neither is better: b is ahead in minimal pairs, en 90.0% against 60.0%, and behind in held-out text, en "
            "2.050 against 1.550 bits/byte.",
        ),
        ([bits(2.0)], [bits(2.0)], "a and b differ in no figure by more than chance."),
    ],
)
def test_the_sentence(first, second, sentence):
    assert compare_sentence({"a": first, "b": second}) == sentence


@pytest.mark.filterwarnings("error")
def test_names_of_all_kinds_stand_in_table_and_picture(tmp_path):
    names = ["模型", "a$^$", "a|b"]
    write_scores(tmp_path, {name: [pairs(60), bits(2.0)] for name in names}, {name: {} for name in names})
    assert (tmp_path / "score.png").read_bytes()[:4] == b"\x89PNG"
    head, line = (tmp_path / "score.md").read_text(encoding="utf-8").splitlines()[2:4]
    assert head == r"|  | unit | 模型 | a$^$ | a\|b |"
    assert line == "| --- " * 5 + "|"


def test_every_figure_is_explained():
    lines = format_brief([bits(2.0), pairs(60), speed(1234)]).splitlines()
    assert [line.split("  ")[-1].strip() for line in lines] == [
        MEANINGS["held-out text"], MEANINGS["minimal pairs"], MEANINGS["tokens a second"]
    ]  # fmt: skip
    assert "1,234 tokens/s" in lines[2]
