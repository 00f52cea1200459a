"""The head start: a new model knows which token follows which before it is trained."""

import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from train_utils.steps.first_fit import find_last_norm, fit_bigrams

SHAPE = {
    "model_type": "qwen3", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "vocab_size": 64, "pad_token_id": 0,
}  # fmt: skip


def build(**changes):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**SHAPE | changes))
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    return model


@pytest.fixture(scope="module")
def blocks() -> Dataset:
    """Rows in which a token is followed by the next one four times in five, else by any."""
    random = np.random.default_rng(0)
    rows = np.zeros((200, 33), dtype=np.int32)
    rows[:, 0] = random.integers(64, size=200)
    for t in range(1, 33):
        rows[:, t] = np.where(random.random(200) < 0.8, (rows[:, t - 1] + 1) % 64, random.integers(64, size=200))
    return Dataset.from_dict({"input_ids": rows})


def test_model_predicts_pairs_and_its_layers_are_as_they_were(blocks):
    model = build(tie_word_embeddings=False)
    before = {name: p.clone() for name, p in model.named_parameters()}
    fit_bigrams(model, find_last_norm(model), blocks, bf16=False, steps=80)
    logits = model(input_ids=torch.arange(64)[:, None]).logits[:, 0]
    assert (logits.argmax(-1) == (torch.arange(64) + 1) % 64).float().mean() > 0.95
    ids = torch.tensor(np.stack(blocks["input_ids"])).long()
    loss = model(input_ids=ids, labels=ids).loss.item()
    ideal = -0.8 * math.log(0.8) + 0.2 * math.log(64 / 0.2)  # nats of the chain itself, nearly
    assert loss < ideal + 0.3 < math.log(64) - 1
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"model.embed_tokens.weight", "lm_head.weight"}
    assert all(p.grad is None for p in model.parameters())


def test_a_decoder_with_an_encoder_is_fitted_too(blocks):
    half = {name: value for name, value in SHAPE.items() if name not in ("model_type", "tie_word_embeddings")}
    half |= {"query_pre_attn_scalar": 16, "layer_types": ["full_attention"], "final_logit_softcapping": None}
    torch.manual_seed(0)
    model, tied = (
        AutoModelForSeq2SeqLM.from_config(
            AutoConfig.for_model("t5gemma", encoder=dict(half), decoder=dict(half), tie_word_embeddings=is_tied)
        )
        for is_tied in (False, True)
    )
    with torch.no_grad():
        for name, module in model.named_modules():
            if name.endswith(("o_proj", "down_proj")):
                module.weight.zero_()
    assert find_last_norm(tied) is None
    fit_bigrams(model, find_last_norm(model), blocks, bf16=False, steps=80)
    ids = torch.arange(64)[:, None]
    logits = model(input_ids=ids, decoder_input_ids=ids).logits[:, 0]
    assert (logits.argmax(-1) == (torch.arange(64) + 1) % 64).float().mean() > 0.95
    encoder, decoder = model.model.encoder.embed_tokens.weight, model.model.decoder.embed_tokens.weight
    assert torch.equal(encoder, decoder)  # a word that is read is what it is where it is written


def test_same_text_same_weights(blocks):
    first, second = build(tie_word_embeddings=False), build(tie_word_embeddings=False)
    torch.manual_seed(1)
    fit_bigrams(first, find_last_norm(first), blocks, bf16=False, steps=3)
    torch.manual_seed(2)
    fit_bigrams(second, find_last_norm(second), blocks, bf16=False, steps=3)
    assert torch.equal(first.lm_head.weight, second.lm_head.weight)


def test_tied_model_is_not_for_bigrams():
    model = build(tie_word_embeddings=True)
    before = model.lm_head.weight.clone()
    assert find_last_norm(model) is None
    assert torch.equal(model.lm_head.weight, before)
    untied = build(tie_word_embeddings=False)
    assert find_last_norm(untied) is untied.model.norm
