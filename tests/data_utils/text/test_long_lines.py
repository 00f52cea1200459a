"""Cleaning of lines so long that they are read in pieces."""

import re
import unicodedata

import pytest

from data_utils.text import cleaning
from data_utils.text.cleaning import MAX_MARKS, clean_text, cut_pieces, fold_compatible


@pytest.mark.parametrize("unit", ["été ", "é", "你好，", "schön\n", "a"])
@pytest.mark.parametrize("size", [1, 7, 50])
def test_pieces_are_the_text_and_no_longer_than_said(unit, size):
    text = unit * 200
    pieces = cut_pieces(text, size)
    assert "".join(pieces) == text
    assert max(map(len, pieces)) <= 2 * size
    if unit[-1].isspace() and size >= len(unit):
        assert all(piece[-1].isspace() for piece in pieces)


def test_mojibake_is_repaired_in_every_piece(monkeypatch):
    words = [f"schön été {number}" for number in range(400)]
    broken = " ".join(words).encode().decode("cp1252")
    whole = clean_text(broken)
    assert whole == " ".join(words)
    monkeypatch.setattr(cleaning.cut_pieces, "__defaults__", (100,))
    monkeypatch.setattr(cleaning, "PIECE_SUSPECTS", 3)
    assert clean_text(broken) == whole
    assert clean_text(f"{'été ' * 5000}Ã©") == f"{'été ' * 5000}é"  # the last suspect of many is the one


def test_no_pattern_sees_more_than_a_piece(monkeypatch):
    seen = []
    fix, is_bad = cleaning.ftfy.fix_text, cleaning.is_bad
    monkeypatch.setattr(cleaning.ftfy, "fix_text", lambda text, *how: seen.append(len(text)) or fix(text, *how))
    monkeypatch.setattr(cleaning, "is_bad", lambda text: seen.append(len(text)) or is_bad(text))
    clean_text("é à " * 40_000 + "Ã©")
    assert len(seen) > 10
    assert max(seen) <= 2 * cleaning.PIECE_CHARACTERS


@pytest.mark.parametrize("word", ["e\u0301\u0323", "\u1112\u1161\u11ab", "a\u0308", "が"])
def test_what_composes_is_not_cut_apart(monkeypatch, word):
    monkeypatch.setattr(cleaning.cut_pieces, "__defaults__", (7,))
    text = unicodedata.normalize("NFD", word) * 100
    assert len(cut_pieces(text)) > 10
    assert clean_text(text) == unicodedata.normalize("NFC", word) * 100


@pytest.mark.parametrize(("clean", "form"), [(clean_text, "NFD"), (fold_compatible, "NFKD")])
def test_no_text_decomposes_to_a_long_run_of_marks(clean, form):
    """To sort one takes quadratic time, and the interpreter's lock; some are marks when they are decomposed alone."""
    marks = [c for c in map(chr, range(0x1F000)) if unicodedata.combining(unicodedata.normalize(form, c)[0])]
    assert "\u0f73" in marks and ("\uff9e" in marks) == (form == "NFKD")
    for unit in [
        "".join(marks),
        "\u0301\u0316" * 100,
        "\u0301\u0f73" * 100,
        "\u0301\uff9e" * 100 if form == "NFKD" else "",
    ]:
        found = unicodedata.normalize(form, clean(f"a{unit * 3}b"))
        runs = "".join("m" if unicodedata.combining(c) else " " for c in found)
        assert max(map(len, re.findall("m+", runs)), default=0) <= 3 * MAX_MARKS
