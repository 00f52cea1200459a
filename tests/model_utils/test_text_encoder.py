"""Ids are those of the tokenizer's own call, however they are made."""

from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from model_utils import text_encoder as encoding
from model_utils.text_encoder import cut_text, encode_texts

WORDS = [
    "tea ",
    "warm",
    "\n",
    " ",
    "  ",
    "茶",
    "喝茶。",
    "，好",
    "it's",
    "\n\n",
    "10",
    "<|im_end|>",
    "é",
    "\u3000",
    "x、y",
]
TEXTS = st.lists(st.sampled_from(WORDS) | st.text(max_size=5), max_size=40).map("".join)


def call(tokenizer, texts: list[str]) -> list[list[int]]:
    ids = tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return [[*text_ids, tokenizer.eos_token_id] for text_ids in ids]


@settings(max_examples=40, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=5))
def test_ids_are_those_of_the_tokenizer(tokenizer, texts):
    assert [ids.tolist() for ids in encode_texts(tokenizer, texts)] == call(tokenizer, texts)


@pytest.mark.parametrize("typecode", ["i", "H", "I"])
def test_ids_come_in_the_asked_type(tokenizer, typecode):
    [ids] = encode_texts(tokenizer, ["茶 and tea"], typecode)
    assert ids == array(typecode, call(tokenizer, ["茶 and tea"])[0])


def test_no_text_no_ids(tokenizer):
    assert encode_texts(tokenizer, []) == []


def test_special_use_before_leaves_no_trace(tokenizer):
    tokenizer(["tea", "more tea"], padding=True, truncation=True, max_length=1)
    texts = ["a<|im_start|>b and much more tea"]
    assert [ids.tolist() for ids in encode_texts(tokenizer, texts)] == call(tokenizer, texts)


@settings(max_examples=150, deadline=None)
@given(text=TEXTS, size=st.integers(1, 20))
def test_a_long_text_is_cut_only_where_words_end(tokenizer, text, size):
    pieces = cut_text(text, size)
    assert "".join(pieces) == text
    backend = tokenizer.backend_tokenizer
    for pattern in (backend.pre_tokenizer, pre_tokenizers.ByteLevel(add_prefix_space=False)):
        whole = [word for word, _ in pattern.pre_tokenize_str(text)]
        assert [word for piece in pieces for word, _ in pattern.pre_tokenize_str(piece)] == whole


def test_long_texts_give_the_same_ids(tokenizer, monkeypatch):
    texts = ["One cup of tea. " * 40 + "我们去公园喝茶，好吗。" * 30, "short", "x" * 900]
    expected = call(tokenizer, texts)
    monkeypatch.setattr(encoding, "LONG_CHARACTERS", 100)
    assert len(cut_text(texts[0], 100)) > 5
    assert [ids.tolist() for ids in encode_texts(tokenizer, texts)] == expected
