"""Ids are those of the tokenizer's own call, however they are made."""

import copy
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers, processors

from errors import InputError
from model_utils import text_encoder as encoding
from model_utils.text_encoder import cut_text, encode_text, encode_texts

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


# One text


@given(TEXTS)
def test_one_text_has_the_ids_of_many(tokenizer, text):
    assert [*encode_text(tokenizer, text), tokenizer.eos_token_id] == call(tokenizer, [text])[0]


def test_the_callers_tokenizer_stays_as_it_is(tokenizer):
    tokenizer("tea", truncation=True, max_length=7)
    before = tokenizer.backend_tokenizer.to_str(), tokenizer.backend_tokenizer.encode_special_tokens
    encode_texts(tokenizer, ["a<|im_end|>" * 9])
    assert 2 not in encode_text(tokenizer, "a<|im_end|>" * 9)
    assert (tokenizer.backend_tokenizer.to_str(), tokenizer.backend_tokenizer.encode_special_tokens) == before
    assert tokenizer.backend_tokenizer.encode("<|im_end|>").ids == [2]


def test_tokens_that_are_added_later_are_known(tokenizer):
    grown = copy.deepcopy(tokenizer)
    assert len(encode_text(grown, "<tea>")) > 1
    grown.add_tokens(["<tea>"])
    grown.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>", "<|milk|>"]})
    assert encode_text(grown, "<tea>") == [len(tokenizer)]
    assert len(encode_text(grown, "<|milk|>")) > 1
    assert len(encode_text(tokenizer, "<tea>")) > 1


def test_the_tokenizers_own_tokens_around_a_text_are_asked_for(tokenizer):
    begun = copy.deepcopy(tokenizer)
    begun.backend_tokenizer.post_processor = processors.TemplateProcessing(
        "<|im_start|> $A", None, [("<|im_start|>", 1)]
    )
    assert encode_text(begun, "<|im_start|>tea") == encode_text(tokenizer, "<|im_start|>tea")
    asked = encode_text(begun, "<|im_start|>tea", add_special_tokens=True)
    assert asked == [1, *encode_text(tokenizer, "<|im_start|>tea")]


# A text on which the engine of a pattern gives up, such as one of ten million spaces in a row


def test_a_text_on_which_the_tokenizer_gives_up_is_named(tokenizer, capfd):
    frail = copy.deepcopy(tokenizer)
    frail.backend_tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"(x+x+)+y"), "isolated")
    for encode in (lambda text: encode_text(frail, text), lambda text: encode_texts(frail, ["tea", text, "milk"])):
        with pytest.raises(
            InputError, match=r"^the text of 60 characters that begins with 'x{40}': .*cannot encode"
        ) as error:
            encode("x" * 60)
        assert "\n" not in str(error.value)
    assert [len(ids) for ids in encode_texts(frail, ["xy"])] == [len(frail.backend_tokenizer.encode("xy").ids) + 1]
