"""The text of a reply: stop texts held back, and loops told from what only looks like one."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from chat_utils.streaming import TextStream, is_looping
from tests.conftest import own_texts

ROOT = Path(__file__).parents[2]


def push(stream: TextStream, token: int) -> str:
    """Add a token, and return the text that this made certain."""
    stream.push(token)
    return stream.read()


def stream_pieces(tokenizer, text: str, stop: list[str]) -> tuple[list[str], bool]:
    """Return the pieces that a text comes out in, and whether a stop text ended it."""
    stream, pieces = TextStream(tokenizer, stop), []
    for token in tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]:
        pieces.append(push(stream, token))
        if stream.stopped:
            return pieces, True
    pieces.append(stream.finish())
    return pieces, stream.stopped


# Stop texts


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("one two three", ["two"], "one "),
        ("one two three", ["three"], "one two "),
        ("one two three", ["four"], "one two three"),
        ("one two three", ["three", "two"], "one "),  # the first to come, whatever their order
        ("one two three", ["one"], ""),
        ("one two thr", ["three"], "one two thr"),  # held back, then let go
        ("aab aaab aac", ["aac"], "aab aaab "),
        ("今天天气很好。明天下雨。", ["。明天"], "今天天气很好"),
        ("今天天气很好。", ["好。", "气"], "今天天"),
        ("a🌍b👍🏽c", ["👍🏽"], "a🌍b"),
        ("a🌍b", ["🌏"], "a🌍b"),  # the same first bytes
        ("line one\n\nline two", ["\n\n"], "line one"),
        ("User: hi", ["\nUser:", ""], "User: hi"),
    ],
)
def test_text_ends_before_its_first_stop_text(tokenizer, text, stop, expected):
    pieces, stopped = stream_pieces(tokenizer, text, stop)
    assert "".join(pieces) == expected
    assert stopped == (expected != text)
    assert not any("\ufffd" in piece for piece in pieces)


@given(
    text=st.text(alphabet="ab 好🌍\n", max_size=30),
    stop=st.lists(st.text(alphabet="ab 好🌍\n", min_size=1, max_size=4), max_size=3),
)
def test_any_text_is_cut_at_the_earliest_stop_text(tokenizer, text, stop):
    pieces, stopped = stream_pieces(tokenizer, text, stop)
    shown = "".join(pieces)
    assert stopped == any(word in text for word in stop)
    assert text.startswith(shown)
    assert not any(word in shown for word in stop)
    # Where one stop text stands within another, the first to be whole ends the reply.
    assert any(text.startswith(word, len(shown)) for word in stop) if stopped else shown == text


def test_only_what_may_begin_a_stop_text_is_held_back(tokenizer):
    stream = TextStream(tokenizer, ["###"])
    pieces = [push(stream, token) for token in tokenizer("a#b##", add_special_tokens=False)["input_ids"]]
    assert "".join(pieces) == "a#b"
    assert stream.finish() == "##"


# Bytes that are no text

BYTES = [b"\xe4", b"\xb8", b"\xad", b"A", b" ", b"\xff", b"\xf0\x9f", b"\x8c\x8d", b"\xad\xe4", "好\ufffd".encode()]


def make_byte_level(parts: list[bytes]) -> PreTrainedTokenizerFast:
    """Return a tokenizer with a token for each part, as GPT-2's and ours have them."""
    table = bytes_to_unicode()
    backend = Tokenizer(models.BPE({"".join(table[byte] for byte in part): i for i, part in enumerate(parts)}, []))
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


@given(st.lists(st.one_of(st.binary(min_size=1, max_size=5), st.sampled_from(BYTES)), min_size=1, max_size=12))
def test_bytes_cut_anywhere_into_tokens_come_out_as_their_text(parts):
    vocabulary = list(dict.fromkeys(parts))
    stream = TextStream(make_byte_level(vocabulary), [])
    pieces = [push(stream, vocabulary.index(part)) for part in parts]
    text = b"".join(parts).decode(errors="replace")
    assert text.startswith("".join(pieces))  # nothing that is out changes
    assert not any(piece.endswith("\ufffd") for piece in pieces)
    assert "".join(pieces) + stream.finish() == text.rstrip("\ufffd")


@given(st.lists(st.tuples(st.sampled_from([*BYTES, b"ab", "好".encode()]), st.booleans()), min_size=1, max_size=40))
def test_text_is_the_same_however_often_it_is_read(parts):
    """So that a loop is seen at the same token on a slow machine and on a fast one."""
    vocabulary = list(dict.fromkeys(part for part, _ in parts))
    tokenizer = make_byte_level(vocabulary)
    often, seldom = TextStream(tokenizer, []), TextStream(tokenizer, [])
    shown = ["", ""]
    for part, reads in parts:
        for stream in (often, seldom):
            stream.push(vocabulary.index(part))
        shown[0] += often.read()
        if reads:
            shown[1] += seldom.read()
            assert shown[1] == shown[0]
    assert shown[1] + seldom.finish() == shown[0] + often.finish()


PIECES = ["▁a", "b", "好", "▁", "▁the"]


@given(st.lists(st.one_of(st.integers(0x80, 0xFF), st.sampled_from(PIECES)), min_size=1, max_size=12))
def test_wrong_bytes_lose_nothing_where_each_byte_is_a_token(tokens):
    """Llama 2's vocabularies: tokenizers decodes a run of bytes to text, or each of them to nothing known."""
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)} | {piece: 256 + i for i, piece in enumerate(PIECES)}
    backend = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(parts)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    stream = TextStream(tokenizer, [])
    ids = [token if isinstance(token, int) else vocabulary[token] for token in tokens]
    pieces = [push(stream, token) for token in ids]
    text = "".join(pieces) + stream.finish()
    words = "".join(token.replace("▁", " ") for token in tokens if isinstance(token, str))
    if tokens[0] != "▁" and isinstance(tokens[0], str):
        words = words.removeprefix(" ")
    shown = [char for char in text if char in " abthe好"]
    assert "".join(shown).lstrip() == words.lstrip()
    assert not any(piece.endswith("\ufffd") for piece in pieces)


def test_a_wrong_byte_after_a_character_of_bytes_neither_fails_nor_repeats_it():
    """The case that raised an error (tokenizers' own stream), or cut the last character off (its length was taken)."""
    tokens = ["<0xE5>", "<0xA5>", "<0xBD>", "<0xFF>", "▁ok"]
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, [], byte_fallback=True))
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    stream = TextStream(PreTrainedTokenizerFast(tokenizer_object=backend), [])
    assert stream.by_token
    assert not TextStream(make_byte_level([b"ok"]), []).by_token
    assert [push(stream, token) for token in range(5)] == ["", "", "好", "", "\ufffd ok"]
    assert stream.finish() == ""


# Loops

LOOPS = [
    "I like to play with my friends. ",
    "tea ",
    "and then he said that ",
    "我喜欢和你一起去公园。",
    "好的，",
    "哈",
    "The answer is 42.\n",
    "a much longer paragraph that goes on for a while, with commas, and comes again word for word each time; ",
    "从前有一座山，山里有一座庙，庙里有一个老和尚在给小和尚讲故事，讲的是什么故事呢？",
    "🌍 yes ",
]


@pytest.mark.parametrize("phrase", LOOPS)
@pytest.mark.parametrize("before", ["", "Well, let me think about that for a moment. 让我想一想。"])
def test_loop_is_noticed_within_a_few_copies(phrase, before):
    text, copies = before, 0
    while not is_looping(text):
        text, copies = text + phrase, copies + 1
        assert copies < 80
    size = copies * len(phrase.encode())
    assert copies >= 4
    assert size <= max(160 + len(phrase.encode()), 5 * len(phrase.encode()))


def test_loop_is_noticed_wherever_it_is_cut():
    text = "Well. " + "I like to play with my friends. " * 12
    first = next(end for end in range(len(text)) if is_looping(text[:end]))
    assert all(is_looping(text[:end]) for end in range(first, len(text)))


NO_LOOPS = {
    "rule": "-" * 120,
    "dots": "." * 100,
    "table": "| " + " | ".join("-" * 3 for _ in range(30)) + " |\n",
    "list": "".join(f"{n}. item number {n}\n" for n in range(40)),
    "multiplication": "".join(f"3 x {n} = {3 * n}\n" for n in range(1, 40)),
    "zeros": "[0, 0, 0, 0, 0, 0, 0, 0],\n" * 8,
    "refrain": "Row, row, row your boat, gently down the stream.\n" * 3
    + "Let it be, let it be, let it be, let it be.\n",
    "birthday": "Happy birthday to you!\n" * 3,
    "poem": "\n".join(
        f"{line}\n祝你生日快乐，祝你生日快乐！" for line in ("春天来了", "夏天来了", "秋天来了", "冬天来了")
    ),
    "laughter": "哈哈哈哈哈哈哈哈！",
    "indent": "def f():\n" + " " * 200 + "return 1",
    "counting": ", ".join(str(n) for n in range(200)),
    "days": "周一上班，周二上班，周三上班，周四上班，周五上班，周六休息，周日休息。",
    "html": "<tr><td>1</td><td>2</td></tr>\n<tr><td>3</td><td>4</td></tr>\n<tr><td>5</td><td>6</td></tr>\n",
    "code": (ROOT / "data_utils" / "dialogue" / "window.py").read_text(encoding="utf-8"),
    "licence": (ROOT / "LICENSE").read_text(encoding="utf-8"),
}


@pytest.mark.parametrize("kind", NO_LOOPS)
def test_what_only_looks_like_a_loop_is_none(kind):
    text = NO_LOOPS[kind]
    assert [end for end in range(1, len(text) + 1) if is_looping(text[:end])] == []


def test_no_dialogue_of_ours_is_a_loop():
    texts = own_texts()
    assert len(texts) > 100
    assert [text for text in texts if any(is_looping(text[:end]) for end in range(20, len(text) + 20, 20))] == []
