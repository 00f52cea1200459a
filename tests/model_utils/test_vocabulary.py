"""A base's vocabulary extended: old ids stay, new tokens join old ones, and their rows begin as those they replace."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from errors import InputError
from model_utils.checkpoint import load_tokenizer
from model_utils.shapes import find_embedding, resize_vocabulary
from model_utils.tokenizer import bytes_per_token, train_tokenizer
from model_utils.vocabulary import extend_tokenizer, grow_model
from tests.conftest import own_texts

TEXTS = ["今天天气真好，我们去公园散步吧。你好！", "她说：“我明天去北京学习中文。”", "Hello, 你好 mixed 中文 123 😀"]


@pytest.fixture(scope="module")
def english():
    """A tokenizer that never saw Chinese."""
    return train_tokenizer([text for text in own_texts()[::3] if text.isascii()], 600)


@pytest.fixture(scope="module")
def extended(english, tmp_path_factory):
    folder = tmp_path_factory.mktemp("extended")
    extend_tokenizer(english, own_texts()[::3], 400, folder)
    return load_tokenizer(str(folder))


def test_old_ids_stay_and_new_tokens_join_old_ones(english, extended):
    assert len(extended) == len(english) + 400
    names = english.convert_ids_to_tokens(list(range(len(english))))
    assert extended.convert_ids_to_tokens(list(range(len(english)))) == names
    assert extended.chat_template == english.chat_template
    assert extended.all_special_ids == english.all_special_ids
    for text in ["The weather is nice today, isn't it?\n\n  Yes: 12,345!", "x = [1, 2]", *own_texts()[:50]]:
        old, new = (each(text, add_special_tokens=False)["input_ids"] for each in (english, extended))
        assert extended.decode(new) == text
        if text.isascii():
            assert new == old
        # The new tokens, taken apart again, are the old ones.
        pieces = english.backend_tokenizer.model
        apart = [pieces.tokenize(extended.convert_ids_to_tokens(i)) if i >= len(english) else None for i in new]
        taken = [[piece.id for piece in part] if part else [i] for part, i in zip(apart, new, strict=True)]
        assert [token for part in taken for token in part] == old
    assert bytes_per_token(extended, TEXTS) > 1.5 * bytes_per_token(english, TEXTS)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("more", [0, 64])
def test_rows_begin_as_the_mean_of_those_they_replace(english, extended, tied, more):
    config = AutoConfig.for_model(
        "qwen3", hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, head_dim=16,
        num_key_value_heads=1, vocab_size=len(english) + more, tie_word_embeddings=tied,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    before = model.get_input_embeddings().weight.clone(), model.get_output_embeddings().weight.clone()
    grow_model(model, english, extended)
    token = extended("你好", add_special_tokens=False)["input_ids"][0]
    assert token >= len(english)
    pieces = english.backend_tokenizer.model.tokenize(extended.convert_ids_to_tokens(token))
    for part, old in zip((model.get_input_embeddings(), model.get_output_embeddings()), before, strict=True):
        assert len(part.weight) == len(extended)
        assert torch.equal(part.weight[: len(english)], old[: len(english)])
        assert torch.allclose(part.weight[token], old[[piece.id for piece in pieces]].mean(0))
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == tied


def test_another_kind_of_tokenizer_is_refused(tmp_path):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    words = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="a")
    with pytest.raises(InputError, match="no byte-level BPE"):
        extend_tokenizer(words, ["a"], 10, tmp_path)


HALF = {
    "vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 1,
    "num_key_value_heads": 1, "head_dim": 16, "layer_types": ["full_attention"], "pad_token_id": 0,
}  # fmt: skip
BERT = {**HALF, "model_type": "bert"}
IMAGES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 32, "patch_size": 16}


@pytest.mark.parametrize(
    "config",
    [
        {
            "model_type": "encoder-decoder",
            "encoder": BERT,
            "decoder": {**BERT, "is_decoder": True, "add_cross_attention": True},
        },
        {"model_type": "t5gemma2", "encoder": {"text_config": HALF, "vision_config": IMAGES}, "decoder": HALF},
    ],
    ids=lambda config: config["model_type"],
)
def test_both_halves_get_rows_and_are_opened_again(config, tmp_path):
    model = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model(**config))
    resize_vocabulary(model, 70)
    model.save_pretrained(tmp_path)
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert find_embedding(again).num_embeddings == again.get_decoder().get_input_embeddings().num_embeddings == 70
    ids = torch.tensor([[1, 69]])
    assert again(input_ids=ids, decoder_input_ids=ids).logits.shape[-1] == 70
