"""A model sharded over processes: as on one process, on any number, and refused where that can't be."""

import json
import os
import shutil
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands import launch
from accelerate.utils.launch import prepare_multi_gpu_env
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

import train
from errors import InputError
from model_utils.families import FAMILIES
from train_utils import parsing, reply_report, sharding
from train_utils.arguments import RunArguments
from train_utils.steps.fast_model import decoder_layers

# Rows that no number of processes divides, and one matrix for embedding and head.
SHAPE = {
    "model_type": "qwen3", "hidden_size": 66, "intermediate_size": 130, "num_hidden_layers": 3,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}  # fmt: skip
ROOT = Path(__file__).parents[2]
STEPS = 4


@pytest.fixture(scope="module")
def options(tmp_path_factory, train_options) -> list[str]:
    """Options of a run of STEPS steps that is not evaluated until its end."""
    shape = tmp_path_factory.mktemp("shape") / "uneven.json"
    shape.write_text(json.dumps(SHAPE))
    given = dict(zip(train_options[::2], train_options[1::2], strict=True))
    given |= {"--model_shape": str(shape), "--max_steps": str(STEPS), "--eval_steps": str(STEPS), "--save_steps": "2"}
    given["--logging_steps"] = "1"
    del given["--per_device_train_batch_size"]
    return [word for pair in given.items() for word in pair]


def losses(folder: Path) -> dict[int, float]:
    log = json.loads((folder / f"checkpoint-{STEPS}" / "trainer_state.json").read_text())["log_history"]
    return {entry["step"]: entry["loss"] for entry in log if "loss" in entry}


def assert_same_run(folder: Path, other: Path) -> None:
    assert losses(folder) == pytest.approx(losses(other), abs=1e-4)
    assert len(losses(other)) == STEPS
    weights, expected = (load_file(place / "model.safetensors") for place in (folder, other))
    assert weights.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, atol=1e-4, rtol=0)


def test_sharded_runs_equal_one_process_and_go_on_with_another_number(forked, options, tmp_path):
    """Muon and AdamW on 2 processes, from the middle on 4 by a shipped configuration; uneven shares of rows."""
    one, two, four = (tmp_path / name for name in ("one", "two", "four"))
    batch = ["--per_device_train_batch_size"]
    assert train.main([*options, *batch, "8", "--output_dir", str(one)]) == 0
    codes, job = forked.run("train", [*options, "--fsdp", "true", "--output_dir", str(two), *batch, "4"], count=2)
    assert codes == [0, 0], job.text
    size = sum(value.numel() for value in load_file(one / "model.safetensors").values())
    assert f"holds {size / 2 / 1e6:.2f} of {size / 1e6:.2f} M parameters" in job.text
    assert_same_run(two, one)
    assert AutoModelForCausalLM.from_pretrained(two).config.architectures == ["Qwen3ForCausalLM"]

    # As if it had been killed after step 2.
    shutil.copytree(two, four)
    shutil.rmtree(four / f"checkpoint-{STEPS}")
    (four / "model.safetensors").unlink()
    record = yaml.safe_load((four / "run.yaml").read_text())
    (four / "run.yaml").write_text(yaml.safe_dump({**record, "status": "training"}))
    resumed = [*batch, "2", "--resume_from_checkpoint", "true", "--output_dir", str(four)]
    codes, job = forked.run("train", [*options, *resumed], count=4, env=launched("machines"))
    assert codes == [0] * 4, job.text
    assert_same_run(four, one)


def launched(name: str) -> dict[str, str]:
    """Return the variables that `accelerate launch` gives each process by a shipped configuration."""
    path = ROOT / "configs" / "accelerate" / f"{name}.yaml"
    settings = ["--config_file", str(path), "--main_process_ip", "localhost", "train.py"]
    args, _, _ = launch._validate_launch_command(launch.launch_command_parser().parse_args(settings))
    return {key: value for key, value in prepare_multi_gpu_env(args).items() if os.environ.get(key) != value}


@pytest.fixture(scope="module")
def tuning(tiny_checkpoint, tmp_path_factory) -> dict[str, list[str]]:
    """Options of runs of 2 steps of a script on the same tiny model, by the script."""
    folder = tmp_path_factory.mktemp("tuning")
    asked = [
        (f"Where is the {word} {number}?", f"By the {word}, of course.")
        for word in ("sea", "门")
        for number in range(20)
    ]
    talks = [[{"role": "user", "content": one}, {"role": "assistant", "content": two}] for one, two in asked]
    (folder / "talks.jsonl").write_text("\n".join(json.dumps({"messages": talk}) for talk in talks))
    pairs = [{"prompt": one, "chosen": two, "rejected": "no " * 6} for one, two in asked]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    common = ["--base", str(tiny_checkpoint), "--row_tokens", "128", "--max_steps", "2", "--eval_fraction", "0.1"]
    common += ["--eval_strategy", "no", "--eval_on_start", "false", "--logging_steps", "1", "--save_steps", "2"]
    common += ["--report_to", "none", "--bf16", "false", "--torch_compile", "false", "--use_cpu", "true"]
    common += ["--neftune_noise_alpha", "unset"]  # a process draws its own noise
    return {
        "finetune_dialogue": [*common, "--dialogues", str(folder / "talks.jsonl")],
        "tune_preferences": [*common, "--preferences", str(folder / "pairs.jsonl")],
    }


@pytest.mark.parametrize(
    ("script", "more"),
    [
        ("finetune_dialogue", ["--activation_checkpointing", "true"]),
        ("tune_preferences", ["--lora", "true"]),
    ],
    ids=["all weights", "adapters"],
)
def test_tuning_by_the_shipped_configuration_equals_one_process(forked, tuning, tmp_path, monkeypatch, script, more):
    monkeypatch.setattr(reply_report, "QUESTIONS", 1)
    argv, one, two = [*tuning[script], *more], tmp_path / "one", tmp_path / "two"
    batch = "--per_device_train_batch_size"
    assert import_module(script).main([*argv, batch, "2", "--output_dir", str(one)]) == 0
    codes, job = forked.run(script, [*argv, batch, "1", "--output_dir", str(two)], count=2, env=launched("fsdp2"))
    assert codes == [0, 0], job.text
    assert "sharded: this process, one of 2, holds" in job.text
    logs = []
    for folder in (one, two):
        log = json.loads((folder / "checkpoint-2" / "trainer_state.json").read_text())["log_history"]
        logs.append([entry[name] for entry in log if "loss" in entry for name in ("loss", "grad_norm")])
    assert len(logs[0]) == 4
    assert logs[1] == pytest.approx(logs[0], rel=1e-3)
    weights, expected = (load_file(folder / "model.safetensors") for folder in (two, one))
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, atol=1e-4, rtol=0)


def test_an_encoder_and_a_decoder_sharded_equal_one_process_and_its_accumulation(forked, options, tmp_path):
    """T5's own loss counts the labels of one pass alone: gradients twice as large, which Muon and AdamW hide."""
    shape = tmp_path / "t5.json"
    sizes = {"d_model": 64, "d_kv": 32, "d_ff": 96, "num_layers": 1, "num_heads": 2, "dropout_rate": 0.0}
    shape.write_text(json.dumps({"model_type": "t5", **sizes}))
    given = dict(zip(options[::2], options[1::2], strict=True))
    given |= {"--model_shape": str(shape), "--max_steps": "2", "--eval_strategy": "no", "--denoise": "spans"}
    del given["--eval_steps"], given["--eval_tokens"], given["--head_start"]
    argv, logs = [word for pair in given.items() for word in pair], []
    one, passes, two = folders = [tmp_path / name for name in ("one", "passes", "two")]
    batch = "--per_device_train_batch_size"
    assert train.main([*argv, "--output_dir", str(one), batch, "8"]) == 0
    assert train.main([*argv, "--output_dir", str(passes), batch, "4", "--gradient_accumulation_steps", "2"]) == 0
    codes, job = forked.run("train", [*argv, "--fsdp", "true", "--output_dir", str(two), batch, "4"], count=2)
    assert codes == [0, 0], job.text
    for folder in folders:
        log = json.loads((folder / "checkpoint-2" / "trainer_state.json").read_text())["log_history"]
        logs.append([entry[name] for entry in log if "loss" in entry for name in ("loss", "grad_norm")])
    assert len(logs[0]) == 4
    assert logs[1:] == [pytest.approx(logs[0], rel=1e-3)] * 2


def test_a_sharded_checkpoint_does_not_go_on_whole_nor_the_other_way(tmp_path):
    args = RunArguments(output_dir=str(tmp_path), use_cpu=True)
    (tmp_path / "pytorch_model_fsdp_0").mkdir()
    with pytest.raises(InputError, match="is sharded by FSDP, this run is not sharded; go on as it began"):
        sharding.check_resume(str(tmp_path), args)
    (tmp_path / "pytorch_model_fsdp_0").rmdir()
    sharding.check_resume(str(tmp_path), args)
    args.fsdp = True
    with pytest.raises(InputError, match="is not sharded, this run is sharded by FSDP"):
        sharding.check_resume(str(tmp_path), args)


@pytest.mark.parametrize(
    ("argv", "env", "message"),
    [
        (["--fsdp", "true"], {}, "FSDP shards over processes, and this is one alone"),
        (["--fsdp", "full_shard auto_wrap"], {}, "FSDP shards over processes"),
        (["--fsdp", "hybrid_shard"], {"RANK": "0"}, "--fsdp hybrid_shard: is neither true nor false"),
        (["--fsdp_config", "x.json"], {}, "--fsdp_config has no effect without --fsdp true"),
        (["--fsdp", "true", "--fsdp_config", "x.json"], {"RANK": "0"}, "--fsdp_config x.json: no such file"),
        ([], {"ACCELERATE_USE_FSDP": "true"}, "FSDP shards over processes"),
        ([], {"ACCELERATE_USE_DEEPSPEED": "true"}, "DeepSpeed needs GPUs"),
        (["--deepspeed", "x.json"], {}, "DeepSpeed needs GPUs"),
        ([], {"ACCELERATE_USE_MEGATRON_LM": "true"}, "Megatron-LM"),
        ([], {"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, "parallelism_config"),
    ],
)
def test_what_cannot_be_done_here_is_refused_before_anything_is_prepared(argv, env, message, monkeypatch, tmp_path):
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=message):
        train.main(["--use_cpu", "true", "--output_dir", str(tmp_path / "out"), *argv])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"version": 1}, "FSDP1 is no longer developed"),
        ({"cpu_offload": True}, "fsdp_offload_params has no effect"),
        ({"cpu_ram_efficient_loading": True}, "fsdp_cpu_ram_efficient_loading gives its weights to one process alone"),
    ],
)
def test_settings_of_fsdp_that_do_nothing_here_are_refused(settings, message, monkeypatch, tmp_path):
    monkeypatch.setattr(sharding, "check_sharding", lambda args: None)
    args = RunArguments(output_dir=str(tmp_path), use_cpu=True)
    args.fsdp, args.fsdp_config = True, settings
    args.fsdp_plugin_args = args._process_fsdp_args()
    with pytest.raises(ValueError, match=message):
        sharding.settle_sharding(args)


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED"])
def test_cpu_processes_of_a_sharding_configuration_are_not_started_as_ddp(kind, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(f"distributed_type: {kind}\nnum_processes: 4\n")
    with pytest.raises(InputError, match=f"{kind} has no effect with --cpu"):
        parsing.count_asked_processes([sys.executable, "--config_file", str(path), "--cpu", "train.py"])


@pytest.mark.parametrize("kind", FAMILIES)
def test_layers_of_every_family_are_found_by_their_class(kind):
    config = AutoConfig.for_model(kind)
    config.num_hidden_layers = 4
    with torch.device("meta"):
        model = FAMILIES[kind].auto.from_config(config)
    halves = [model.get_encoder(), model.get_decoder()] if FAMILIES[kind].has_encoder else [model]
    classes = sharding.layer_classes(model)
    layers = [module for module in model.modules() if type(module).__name__ in classes]
    assert len(layers) >= 4 * len(halves)
    assert layers == [layer for half in halves for layer in decoder_layers(half)]
    assert sharding.shares_ends(model) == FAMILIES[kind].has_encoder


def test_an_empty_copy_shares_no_weight_and_keeps_what_is_tied(tokenizer):
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**SHAPE, vocab_size=50))
    empty = sharding.copy_empty(model)
    assert {p.device.type for p in empty.parameters()} == {"meta"}
    assert empty.lm_head.weight is empty.model.embed_tokens.weight
    assert len(list(empty.parameters())) == len(list(model.parameters()))


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configurations_are_understood_by_accelerate(path):
    settings = ["--config_file", str(path), "--main_process_ip", "localhost", "train.py"]
    args, _, _ = launch._validate_launch_command(launch.launch_command_parser().parse_args(settings))
    env = prepare_multi_gpu_env(args)
    assert (args.multi_gpu, args.use_fsdp, args.use_deepspeed) == {
        "multi_gpu": (True, False, False),
        "fsdp2": (False, True, False),
        "machines": (False, True, False),
        "deepspeed_zero3": (False, False, True),
    }[path.stem]
    assert env["ACCELERATE_MIXED_PRECISION"] == "bf16"
    if args.use_fsdp:
        assert (env["ACCELERATE_USE_FSDP"], env["FSDP_VERSION"]) == ("true", "2")
        assert env["FSDP_STATE_DICT_TYPE"] == "SHARDED_STATE_DICT"
        assert env["FSDP_AUTO_WRAP_POLICY"] == "TRANSFORMER_BASED_WRAP"
    if args.use_deepspeed:
        assert (args.zero_stage, args.zero3_save_16bit_model) == (3, True)
