"""Attention by blocks: the same as transformers' own, in training only, and not seen in what is saved."""

import json

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM

from train_utils.steps import attention
from train_utils.steps.attention import attend_by_blocks, block_attention_forward, use_block_attention


def random_heads(length: int, seed: int, heads: int = 2) -> torch.Tensor:
    """Return (2, heads, T, 16)."""
    return torch.randn(2, heads, length, 16, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def build(key_value_heads: int = 2):
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "qwen3", hidden_size=32, intermediate_size=48, num_hidden_layers=2, head_dim=16, num_attention_heads=2,
        num_key_value_heads=key_value_heads, vocab_size=50, initializer_range=0.2, use_cache=False,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config).train()


@pytest.mark.parametrize("length", [1, 127, 128, 129, 300, 512])
def test_blocks_attend_as_sdpa_does(length):
    inputs = [random_heads(length, seed) for seed in range(3)]
    weights = random_heads(length, 9).detach()
    found = attend_by_blocks(*inputs, None, 0.3)
    expected = F.scaled_dot_product_attention(*inputs, is_causal=True, scale=0.3)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    gradients = [torch.autograd.grad((out * weights).sum(), inputs, retain_graph=True) for out in (found, expected)]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-4)


def test_a_mask_hides_more_and_a_query_without_keys_gives_numbers():
    inputs = [random_heads(200, seed) for seed in range(3)]
    dialogue = torch.arange(200) // 70
    mask = (dialogue[:, None] == dialogue[None]).tril()[None, None].repeat(2, 1, 1, 1)
    expected = F.scaled_dot_product_attention(*inputs, attn_mask=mask, scale=0.3)
    torch.testing.assert_close(attend_by_blocks(*inputs, mask, 0.3), expected, atol=1e-5, rtol=1e-4)
    mask[:, :, :5] = False  # padding sees nothing
    found = attend_by_blocks(*inputs, mask, 0.3)
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found[:, :, 5:], expected[:, :, 5:], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("key_value_heads", [2, 1])
@pytest.mark.parametrize("packed", [False, True])
def test_a_model_learns_the_same(key_value_heads, packed, monkeypatch):
    plain, blocks = build(key_value_heads), build(key_value_heads)
    use_block_attention(blocks)
    calls = []
    monkeypatch.setattr(
        attention, "attend_by_blocks", lambda *a: calls.append(a[3] is not None) or attend_by_blocks(*a)
    )
    ids = torch.randint(50, (2, 200), generator=torch.Generator().manual_seed(1))
    positions = torch.cat([torch.arange(n) for n in (120, 80)])[None].repeat(2, 1) if packed else None
    losses = [model(input_ids=ids, labels=ids, position_ids=positions).loss for model in (plain, blocks)]
    for loss in losses:
        loss.backward()
    assert calls == [packed, packed]
    torch.testing.assert_close(losses[1], losses[0], atol=1e-5, rtol=1e-5)
    for (name, expected), found in zip(plain.named_parameters(), blocks.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, atol=1e-5, rtol=1e-4, msg=name)


def test_only_training_on_rows_that_gain_attends_by_blocks(monkeypatch):
    monkeypatch.setattr(attention, "attend_by_blocks", lambda *_: pytest.fail("by blocks"))
    model = build()
    use_block_attention(model)
    for length in (attention.BLOCK, attention.LONGEST + 1):
        model(input_ids=torch.ones(1, length, dtype=torch.long))
    model.eval()
    model(input_ids=torch.ones(1, 200, dtype=torch.long))
    heads = [random_heads(200, seed).detach() for seed in range(3)]
    module = torch.nn.Module().train()
    block_attention_forward(module, *heads, None, dropout=0.1)
    block_attention_forward(module, *heads, None, is_causal=False)


def test_a_checkpoint_does_not_say_how_it_was_trained(tmp_path):
    model = build()
    use_block_attention(model)
    model.save_pretrained(tmp_path)
    assert "causal_blocks" not in json.dumps(json.loads((tmp_path / "config.json").read_text(encoding="utf-8")))
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config._attn_implementation == "sdpa"
