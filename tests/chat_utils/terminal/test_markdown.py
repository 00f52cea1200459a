"""Markdown for the terminal: nothing is lost, no line too wide, nothing that commands the terminal."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from chat_utils.terminal.markdown import find_breaks, render_lines, split_last_block
from errors import make_printable

PLAIN = Console(color_system=None, force_terminal=True)
MIXED = st.text(st.sampled_from("ab 你好，。（）「」\n*_`#->1.|<&;🌍\u202e\x1b\x9b"), max_size=120)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\x1b[31mb\n", "a[31mb\n"),
        ("\x1b]0;title\x07x", "]0;titlex"),
        ("back\x08\x7fspace\r", "backspace"),
        ("\x9b31mred", "31mred"),  # the one-byte form of ESC [
        ("tab\tnewline\n", "tab\tnewline\n"),
        ("你好，🌍👩\u200d👧\u3000é", "你好，🌍👩\u200d👧\u3000é"),
        ("\u202eevil\u2066\u200f", "evil"),  # marks that turn the line's direction
        ("\x00\x01\ud800\u2028", ""),
    ],
)
def test_control_characters_never_reach_the_terminal(text, expected):
    assert make_printable(text) == expected


@given(st.text(st.sampled_from("abcdef 你好世界，。（「」🌍é"), max_size=80), st.integers(2, 20))
def test_lines_fit_and_hold_the_whole_text(text, width):
    places = [0, *find_breaks(text, width), len(text)]
    assert places == sorted(places)
    parts = [text[start:end] for start, end in itertools.pairwise(places)]
    assert "".join(parts) == text
    assert all(cell_len(part.rstrip()) <= width for part in parts)


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("one two three", 8, ["one two", "three"]),
        ("你好世界", 4, ["你好", "世界"]),
        ("你好世，界", 6, ["你好", "世，界"]),  # a mark never begins a line
        ("说说（你好）", 6, ["说说", "（你", "好）"]),
        ("abcdefgh", 3, ["abc", "def", "gh"]),
        ("用Python写", 8, ["用Python", "写"]),
    ],
)
def test_lines_break_where_a_reader_expects_it(text, width, lines):
    places = [0, *find_breaks(text, width), len(text)]
    assert [text[start:end].rstrip() for start, end in itertools.pairwise(places)] == lines


@given(MIXED)
def test_any_text_is_painted_without_commands(text):
    for console in (PLAIN, Console(color_system="truecolor", force_terminal=True)):
        lines = render_lines(console, text, 30)
        painted = "\n".join(lines)
        rest = "".join(part.partition("m")[2] for part in ("m" + painted).split("\x1b["))
        assert make_printable(rest) == rest


@given(MIXED)
def test_blocks_that_are_parted_are_the_text(text):
    head, tail = split_last_block(text)
    assert head + tail == text


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("one\ntwo", ["one", "two"]),  # a line's end is one
        ("List<int> & <b>", ["List<int> & <b>"]),  # no HTML that vanishes
        ("a\n---", ["a", "-" * 30]),
        ("[text](http://x)", ["text (http://x)"]),
        ("<|im_end|>", ["<|im_end|>"]),
        ("", []),
        ("\n\n", []),
    ],
)
def test_text_of_a_chat_is_shown_as_it_is(text, lines):
    assert [line for line in render_lines(PLAIN, text, 30) if line] == lines
