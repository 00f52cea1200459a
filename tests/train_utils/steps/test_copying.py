"""Heads that copy: a new model makes likelier what followed a token before."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoConfig, AutoModelForCausalLM

from train_utils.steps.copying import can_copy, find_codes, start_copying
from train_utils.steps.first_fit import find_last_norm, fit_bigrams

SHAPE = {
    "model_type": "qwen3", "hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 64, "vocab_size": 256, "pad_token_id": 0,
    "tie_word_embeddings": False,
}  # fmt: skip


def build(**changes):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**SHAPE | changes), attn_implementation="eager")
    with torch.no_grad():
        for name, module in model.named_modules():
            if name.endswith(("o_proj", "down_proj")):
                module.weight.zero_()
    return model.eval()


@pytest.fixture(scope="module")
def blocks() -> Dataset:
    """Rows in which a token is followed by one of eight."""
    random = np.random.default_rng(0)
    rows = random.integers(256, size=(300, 1)).astype(np.int32)
    for _ in range(64):
        rows = np.concatenate([rows, (rows[:, -1:] * 5 + random.integers(8, size=(300, 1))) % 256], axis=1)
    return Dataset.from_dict({"input_ids": rows.astype(np.int32)})


@pytest.fixture(scope="module")
def models(blocks) -> tuple:
    """A fitted model, and one whose heads copy."""
    plain, copying = build(), build()
    for model in (plain, copying):
        fit_bigrams(model, find_last_norm(model), blocks, bf16=False)
    start_copying(copying, blocks)
    return plain, copying


@torch.no_grad()
def test_what_followed_before_is_likelier_and_text_without_repeats_costs_no_more(models, blocks):
    first, second = [], []
    for model in models:
        ids = torch.tensor(np.stack(blocks["input_ids"][:20])).long()
        ids = torch.cat([ids, ids], 1)
        nats = torch.nn.functional.cross_entropy(model(ids).logits[:, :-1].mT, ids[:, 1:], reduction="none")
        first.append(nats[:, :64].mean().item())
        second.append(nats[:, 65:].mean().item())
    assert second[1] < second[0] - 0.1
    assert first[1] < first[0] + 0.1
    assert abs(second[0] - first[0]) < 0.05  # a fitted model knows pairs alone


@torch.no_grad()
def test_one_head_looks_one_back_and_one_to_what_followed(models, blocks):
    ids = torch.tensor(blocks["input_ids"][0][:40]).unique(sorted=False)[:24]  # none stands there twice
    ids = torch.cat([ids, ids])[None]
    layers = models[1](ids, output_attentions=True).attentions
    places = torch.arange(26, 47)
    assert layers[0][0, 0, places, places - 1].mean() > 0.7
    assert layers[1][0, 0, places, places - 23].mean() > 0.4
    assert layers[1][0, 0, places, places - 24].mean() < 0.1  # the same token, which tells nothing


def test_only_models_with_the_parts_are_changed(models):
    assert can_copy(models[0])
    assert not can_copy(build(num_hidden_layers=1))
    assert not can_copy(build(head_dim=4))  # no pair turns slowly
    assert not can_copy(build(model_type="llama"))
    assert not can_copy(build(use_sliding_window=True, sliding_window=8, max_window_layers=0))


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": 120, "head_dim": 128},  # a head wider than the model
        {"hidden_size": 320, "vocab_size": 272},  # fewer tokens than directions
        {"dtype": torch.bfloat16},
    ],
)
def test_shapes_out_of_the_ordinary(blocks, changes):
    model = build(**changes)
    assert can_copy(model)
    fit_bigrams(model, find_last_norm(model), blocks, bf16=False, steps=20)
    start_copying(model, blocks)
    assert all(p.isfinite().all() for p in model.parameters())
    codes = find_codes(model.get_input_embeddings().weight.float(), np.stack(blocks["input_ids"]))
    width = len(codes.common)
    assert (codes.axes @ codes.axes.T - torch.eye(width - 1)).abs().max() < 1e-3
    assert (codes.axes @ codes.common).abs().max() < 1e-3


def test_same_text_same_weights(models, blocks):
    again = build()
    fit_bigrams(again, find_last_norm(again), blocks, bf16=False)
    start_copying(again, blocks)
    assert all(torch.equal(a, b) for a, b in zip(models[1].parameters(), again.parameters(), strict=True))
    assert not torch.equal(models[0].lm_head.weight, again.lm_head.weight)
