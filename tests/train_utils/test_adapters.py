"""Low-rank adapters: rows of new tokens, tied heads, and one model whichever way it is put together."""

import pytest
import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from errors import InputError
from model_utils.checkpoint import load_model
from model_utils.shapes import count_parameters, find_head
from train_utils.adapters import add_adapters, four_bits, merge_adapter, name_module, save_adapter
from train_utils.steps.fast_model import make_fast

SIZE = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "vocab_size": 60, "max_position_embeddings": 64, "pad_token_id": 0,
    "initializer_range": 0.2,
}  # fmt: skip
IDS = torch.tensor([[5, 9, 58, 42, 17, 59, 3, 58]])
NEW = [58, 59]


def build(kind: str = "qwen3", **changes):
    torch.manual_seed(0)
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "vocab_size": 60} if kind == "gpt2" else SIZE
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**shape, **changes})).eval()


def train(model, steps: int = 3):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    model.train()
    for _ in range(steps):
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@pytest.mark.parametrize("kind", ["qwen3", "llama", "gpt2", "gemma3_text"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("new_ids", [[], NEW])
def test_merged_model_and_adapter_upon_its_base_agree(kind, tied, new_ids, tmp_path):
    base = build(kind, tie_word_embeddings=tied)
    before = {name: weight.clone() for name, weight in base.state_dict().items()}
    base.save_pretrained(tmp_path / "base")
    model = add_adapters(base, 4, 8, "all-linear", new_ids=new_ids)
    make_fast(model.get_base_model())
    train(model)
    expected = model(input_ids=IDS).logits
    save_adapter(model, tmp_path / "adapter")
    merged = merge_adapter(model, tmp_path / "adapter")
    assert torch.allclose(merged(input_ids=IDS).logits, expected, atol=1e-4)
    merged.save_pretrained(tmp_path / "merged")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    assert torch.allclose(loaded(input_ids=IDS).logits, expected, atol=1e-4)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    adapted = PeftModel.from_pretrained(again, tmp_path / "adapter").eval()
    assert torch.allclose(adapted(input_ids=IDS).logits, expected, atol=1e-4)
    # The rows of new tokens were trained, in embedding and head; all others are as they were.
    after = loaded.state_dict()
    for name in (name for name in before if name.endswith(("embed_tokens.weight", "wte.weight", "lm_head.weight"))):
        changed = (after[name] != before[name]).any(1).nonzero().flatten().tolist()
        assert changed == new_ids, name


def test_an_adapter_on_an_untied_head_is_trained(tmp_path):
    model = add_adapters(build(tie_word_embeddings=False), 4, 8, "lm_head,q_proj")
    make_fast(model.get_base_model())
    train(model)
    trained = dict(model.named_parameters())
    assert trained["base_model.model.lm_head.lora_B.default.weight"].abs().sum() > 0


@pytest.mark.parametrize("new_ids", [[], [60, 61]])
def test_a_base_in_4_bits_is_merged_as_it_was(new_ids, tmp_path):
    pytest.importorskip("bitsandbytes")
    build(initializer_range=0.02).save_pretrained(tmp_path / "base")
    base = load_model(str(tmp_path / "base"), quantization=four_bits(torch.float32))
    assert base.model.layers[0].mlp.up_proj.weight.dtype == torch.uint8
    assert count_parameters(base) == count_parameters(build())
    if new_ids:
        base.resize_token_embeddings(62)
    model = add_adapters(base, 4, 8, "all-linear", new_ids=new_ids)
    make_fast(model.get_base_model())
    trained = train(model)(input_ids=IDS).logits
    save_adapter(model, tmp_path / "adapter")
    merged = merge_adapter(model, tmp_path / "adapter").eval()
    away = (merged(input_ids=IDS).logits - trained).abs().mean()
    assert 1e-4 < away < 0.2 * trained.abs().mean()  # what 4 bits take away
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    if new_ids:
        plain.resize_token_embeddings(62)
    adapted = PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()
    assert torch.allclose(adapted(input_ids=IDS).logits, merged(input_ids=IDS).logits, atol=1e-5)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ("lm_head,q_proj", "lm_head is tied to the model's other end"),
        ("embed_tokens", "embed_tokens is tied to the model's other end"),
        ("qproj", "qproj is no module of it; there are down_proj, embed_tokens"),
        ("q_norm", "q_norm is a Qwen3RMSNorm, which takes no adapter"),
    ],
)
def test_a_target_that_cannot_be_adapted_is_told_in_one_line(targets, message):
    with pytest.raises(InputError, match=message) as error:
        add_adapters(build(tie_word_embeddings=True), 4, 8, targets)
    assert "\n" not in str(error.value)


def test_new_rows_that_two_modules_share_are_refused():
    """Each would learn rows of its own, and the merged matrix could hold one of them."""
    half = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 20, "model_type": "bert"}
    writes = {**half, "is_decoder": True, "add_cross_attention": True}
    config = AutoConfig.for_model("encoder-decoder", encoder=half, decoder=writes)
    model = AutoModelForSeq2SeqLM.from_config(config)
    assert name_module(model, find_head(model)) == "decoder.cls.predictions.decoder"
    with pytest.raises(InputError, match="halves of a encoder-decoder model share the rows"):
        add_adapters(model, 2, 4, "all-linear", new_ids=[18, 19])
