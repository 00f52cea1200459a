"""A share of the base in a finished model: exact, rows of new tokens as trained, an adapter as its merged model."""

from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from errors import InputError
from model_utils.shapes import find_embedding, find_head
from train_utils.adapters import add_adapters, merge_adapter, save_adapter
from train_utils.base_share import mix_base
from train_utils.finishing import finish_weights
from train_utils.run_folder import weights_version

SIZE = {
    "qwen3": {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
              "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 32},
    "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32},
    "t5": {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2},
}  # fmt: skip
SHARE = 0.2
IDS = torch.tensor([[5, 9, 18, 4, 17, 19]])


def build(kind: str, tied: bool, rows: int = 20):
    config = AutoConfig.for_model(kind, **SIZE[kind], vocab_size=rows, tie_word_embeddings=tied, pad_token_id=0)
    return (AutoModelForSeq2SeqLM if kind == "t5" else AutoModelForCausalLM).from_config(config)


def as_trained(model):
    """Return a model with other weights everywhere, as after a training."""
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight))
    return model.eval()


def known(folder, new_ids) -> dict:
    return {"base": str(folder), "version": weights_version(str(folder)), "share": SHARE, "new_ids": new_ids}


@pytest.mark.parametrize("kind", SIZE)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("new_ids", [[], [17, 19], [18, 19, 20, 21]])
def test_each_weight_is_the_mix_and_rows_of_new_tokens_stay(kind, tied, new_ids, tmp_path):
    """New tokens may have had rows that nobody trained, or none."""
    base = build(kind, tied)
    base.save_pretrained(tmp_path)
    before = {name: weight.clone() for name, weight in base.state_dict().items()}
    if 21 in new_ids:
        base.resize_token_embeddings(22)
    trained = as_trained(base)
    after = {name: weight.clone() for name, weight in trained.state_dict().items()}
    is_tied = find_head(trained).weight is find_embedding(trained).weight  # T5 always
    assert mix_base(trained, **known(tmp_path, new_ids)).startswith("80% trained, 20% the base's (--base_share 0.2)")
    tables = [name for name, weight in after.items() if len(weight) == len(find_embedding(trained).weight)]
    assert tables
    for name, weight in trained.state_dict().items():
        expected = after[name].clone()
        expected[: len(before[name])].lerp_(before[name], SHARE)
        if name in tables:
            expected[new_ids] = after[name][new_ids]
        assert torch.equal(weight, expected), name
        torch.testing.assert_close(weight[:4], 0.8 * after[name][:4] + 0.2 * before[name][:4])
    assert (find_head(trained).weight is find_embedding(trained).weight) is is_tied


@pytest.mark.parametrize("kind", ["qwen3", "gpt2"])
@pytest.mark.parametrize(
    ("targets", "new_ids"), [("all-linear", []), ("all-linear", [18, 19]), ("{embedding},{head}", [])]
)
def test_an_adapter_upon_its_base_and_the_merged_model_are_the_mix(kind, targets, new_ids, tmp_path):
    base = build(kind, tied=False).eval()
    base.save_pretrained(tmp_path / "base")
    names = {"embedding": "wte" if kind == "gpt2" else "embed_tokens", "head": "lm_head"}
    model = add_adapters(base, 4, 8, targets.format(**names), new_ids=new_ids)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in (weight for weight in model.parameters() if weight.requires_grad):
            weight.add_(torch.randn_like(weight))
    save_adapter(model, tmp_path / "trained")
    mix_base(model, **known(tmp_path / "base", new_ids))
    save_adapter(model, tmp_path / "adapter")
    merged = merge_adapter(model, tmp_path / "adapter")
    bases = [AutoModelForCausalLM.from_pretrained(tmp_path / "base").eval() for _ in range(3)]
    adapted = PeftModel.from_pretrained(bases[0], tmp_path / "adapter").eval()
    torch.testing.assert_close(adapted(input_ids=IDS).logits, merged(input_ids=IDS).logits, atol=1e-4, rtol=1e-4)
    trained = PeftModel.from_pretrained(bases[1], tmp_path / "trained").merge_and_unload().state_dict()
    before, changed = bases[2].state_dict(), 0
    for name, weight in merged.state_dict().items():
        expected = torch.lerp(trained[name], before[name], SHARE)
        if len(weight) == 20:
            expected[new_ids] = trained[name][new_ids]
        torch.testing.assert_close(weight, expected, atol=1e-5, rtol=1e-5)
        changed += not torch.equal(trained[name], before[name])
    assert changed >= 2


def test_a_base_that_was_replaced_meanwhile_is_not_mixed_in(tmp_path):
    model = build("qwen3", tied=True)
    model.save_pretrained(tmp_path)
    given = known(tmp_path, []) | {"version": "1:1"}
    with pytest.raises(InputError, match="its weights have changed since the training began"):
        mix_base(model, **given)


def test_of_several_processes_the_report_says_what_was_measured():
    """One process has the finished weights: all the others would measure those before."""
    said: list[str] = []
    args = SimpleNamespace(world_size=2, minutes=None, eval_strategy="steps")
    run = SimpleNamespace(args=args, say=said.append, watch=SimpleNamespace(lap=lambda part: None))
    told = finish_weights(run, None, None, SimpleNamespace(finish=lambda model: "mixed"))
    assert told == "mixed; held-out figures and samples are of the trained ones, before that"
    assert said == ["finished weights: mixed"]
