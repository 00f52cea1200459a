"""The plan for devices: memory by parts, what fits, and speeds that published runs reached."""

import psutil
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import train
from errors import InputError
from tests.train_utils.steps.test_encoder_decoder_steps import D, V, build
from train_utils.device_options import DeviceOptions
from train_utils.plan import machine
from train_utils.plan.devices import Sizes, measure_model, plan_strategy, row_bytes, state_bytes

LLAMA = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3,
    "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 500, "tie_word_embeddings": False,
}  # fmt: skip
# Published: karpathy/nanochat's speedrun, 670 ms for a step of 524,288 tokens on 8 H100; SmolLM3, 14,000 tokens a
# second of each of 384 H100, 29.4% of their peak; allenai/OLMo-core 1.4, 10,000 tokens a second of each H100 at 7 B and
# 4,600 at 13 B, rows of 4,096, on how many is not said.
NANOCHAT = {
    "model_type": "gpt2", "n_embd": 1280, "n_layer": 20, "n_head": 10, "n_positions": 2048, "vocab_size": 65536,
    "tie_word_embeddings": False,
}  # fmt: skip
SMOLLM3 = {
    "model_type": "llama", "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36,
    "num_attention_heads": 16, "num_key_value_heads": 4, "vocab_size": 128256, "tie_word_embeddings": True,
}  # fmt: skip
OLMO_7B = SMOLLM3 | {
    "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
    "vocab_size": 100352, "tie_word_embeddings": False,
}  # fmt: skip
OLMO_13B = OLMO_7B | {
    "hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40,
    "num_key_value_heads": 40,
}  # fmt: skip


def sizes_of(shape: dict, row_tokens: int, **more) -> Sizes:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**shape))
    return measure_model(model, row_tokens, **more)


def test_a_model_is_counted_and_what_is_sharded_is_divided():
    attention, mlp = 64 * 64 * 2 + 64 * 32 * 2, 3 * 64 * 160
    sizes = sizes_of(LLAMA, 128)
    assert sizes.layer == attention + mlp + 2 * 64
    assert sizes.ends == 2 * 500 * 64 + 64
    assert sizes.matrices == 3 * (attention + mlp)
    n = sizes.parameters
    assert n == 3 * sizes.layer + sizes.ends
    whole, sharded = state_bytes(sizes, "DDP", 4), state_bytes(sizes, "FSDP2", 4)
    assert (whole["weights"], whole["gradients"]) == (4 * n, 4 * n)
    assert whole["optimizer"] == 4 * sizes.matrices + 8 * (n - sizes.matrices)
    assert [sharded[name] * 4 for name in ("weights", "gradients", "optimizer")] == [
        whole[name] for name in ("weights", "gradients", "optimizer")
    ]
    adamw = sizes_of(LLAMA, 128, muon=False)
    assert sum(state_bytes(adamw, "ZeRO-3", 8)[name] for name in ("weights", "gradients", "optimizer")) == 16 * n / 8
    precise = sizes_of(LLAMA, 128, compute_bytes=4)
    assert row_bytes(precise, 2)["activations"] == 2 * row_bytes(sizes, 2)["activations"]
    assert row_bytes(sizes_of(LLAMA, 128, checkpointed=True), 2)["activations"] < row_bytes(sizes, 2)["activations"]


def test_a_token_passes_the_layers_of_one_half():
    sizes = measure_model(build("t5gemma"), 32)
    assert (sizes.layers, sizes.width, sizes.vocab_size) == (2, D, V)
    assert sizes.ends == 2 * V * D + 2 * D  # a table of each half, one of them the head, and their last norms


def test_the_largest_batch_is_the_largest_that_fits():
    sizes, options = sizes_of(LLAMA, 128), DeviceOptions(devices="2x1GB")
    plan = plan_strategy(sizes, options, "FSDP2", 2)
    fixed = sum(state_bytes(sizes, "FSDP2", 2).values())
    assert fixed + sum(row_bytes(sizes, plan.rows).values()) <= 0.92e9
    assert fixed + sum(row_bytes(sizes, plan.rows + 1).values()) > 0.92e9
    assert plan_strategy(sizes, DeviceOptions(devices="2x0.001GB"), "DDP", 2).rows == 0


def test_a_slow_link_is_waited_for():
    sizes = sizes_of(SMOLLM3, 4096, muon=False)
    fast, slow = (
        plan_strategy(sizes, DeviceOptions(devices="64x80GB", link_gb_per_second=speed), "FSDP2", 64)
        for speed in (450, 1)
    )
    assert fast.link_seconds < fast.compute_seconds
    assert slow.link_seconds == pytest.approx(450 * fast.link_seconds)
    assert slow.tokens_per_second < fast.tokens_per_second / 2


@pytest.mark.parametrize(
    ("shape", "row_tokens", "devices", "published"),
    [
        (NANOCHAT, 2048, 8, 524288 / 0.67),
        (SMOLLM3, 4096, 384, 14_000 * 384),
        (OLMO_7B, 4096, 128, 10_000 * 128),
        (OLMO_13B, 4096, 128, 4_600 * 128),
    ],
    ids=["nanochat", "SmolLM3", "OLMo 2 7B", "OLMo 2 13B"],
)
def test_published_runs_are_met_within_a_factor_of_one_and_a_half(shape, row_tokens, devices, published):
    plan = plan_strategy(sizes_of(shape, row_tokens), DeviceOptions(devices=f"{devices}x80GB"), "FSDP2", devices)
    assert published / 1.5 < plan.tokens_per_second < published * 1.5


def test_the_plan_is_printed_and_nothing_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert train.main(["--plan_only", "true", "--devices", "8x80GB", "--optim", "adamw", "--plan_tokens", "1e9"]) == 0
    text = capsys.readouterr().out
    assert "| GB of a device | DDP | FSDP2 | ZeRO-3 |" in text
    assert "| FSDP2 | 1,024 | " in text
    assert "1.00 B tokens" in text
    assert not list(tmp_path.iterdir())


def test_the_plan_of_this_machine_has_its_memory_and_the_peak_that_is_measured(monkeypatch, capsys):
    monkeypatch.setattr(machine, "measure_peak", lambda device, dtype: 2e11)
    argv = ["--plan_only", "true", "--devices", "here", "--use_cpu", "true", "--bf16", "false"]
    for more, peak in (([], "0.2"), (["--device_tflops", "0.5"], "0.5")):
        assert train.main([*argv, *more]) == 0
        memory = psutil.virtual_memory().total / 1e9
        assert f"on 1x{memory:.1f}GB: {peak} TFLOP/s" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--devices", "8x80GB"], "--devices is for a plan alone; add --plan_only true"),
        (["--plan_only", "true", "--devices", "8 GPUs"], "expected is COUNTxMEMORY"),
        (["--plan_only", "true", "--devices", "2048x80GB"], "expected is COUNTxMEMORY"),
        (["--device_watts", "300"], "--device_watts has no effect without --devices"),
        (["--plan_only", "true", "--devices", "8x80GB", "--model_shape", "none.json"], "no such model shape"),
        (["--plan_only", "true", "--devices", "8x80GB", "--base", "none"], "none"),
    ],
)
def test_what_is_no_plan_is_refused(argv, message):
    with pytest.raises(InputError, match=message):
        train.main(argv)
