"""export.py from the command line: what is written, that it is proved in its runtime, and that nothing else is left."""

import importlib.util
import json
import os
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub.errors import LocalTokenNotFoundError
from peft import LoraConfig, get_peft_model

import export
from chat_utils.sampling import Sampling
from data_utils.dialogue.format import stop_token_id
from errors import InputError
from eval_utils import agreement
from eval_utils.agreement import MAX_TIES, MIN_AGREEMENT, PROMPTS, TIE
from export_utils.ctranslate2 import CTranslate2Model
from export_utils.files import check_replaceable, list_public
from export_utils.ollama import make_modelfile, split_template
from model_utils.checkpoint import load_checkpoint, save_model
from model_utils.reply_steps import open_reply
from model_utils.shapes import build_model

SLOW = pytest.mark.skipif(not os.environ.get("SLOW_TESTS"), reason="takes long: SLOW_TESTS=1 runs it")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(checkpoint: Path, *options: str) -> int:
    return export.main([str(checkpoint), *options])


# GGUF


@pytest.fixture(scope="module")
def exported(tiny_checkpoint, tmp_path_factory) -> Path:
    pytest.importorskip("gguf")
    pytest.importorskip("xllamacpp")
    output = tmp_path_factory.mktemp("gguf") / "out"
    assert run(tiny_checkpoint, "--to", "gguf", "--quantize", "f16", "--output_dir", str(output)) == 0
    return output


def test_gguf_comes_with_a_modelfile_and_a_record(exported, tiny_checkpoint):
    name = tiny_checkpoint.name
    assert sorted(path.name for path in exported.iterdir()) == sorted(["Modelfile", "export.json", f"{name}-f16.gguf"])
    assert list(exported.parent.iterdir()) == [exported]
    record = json.loads((exported / "export.json").read_text())
    assert (record["checkpoint"], record["form"]) == (name, "gguf")
    assert record["f32"] == "256 of 256 greedy tokens equal (100.0%)"
    assert re.fullmatch(r"2\d\d of 256 greedy tokens equal \(\d+\.\d%\)", record["f16"])


def test_llama_cpp_python_chats_with_the_file(exported, tiny_checkpoint, capfd):
    """The package's own chat, by the template and the stop token in the file, says what the checkpoint says."""
    Llama = pytest.importorskip("llama_cpp").Llama

    from chat_utils.engine import load_engine

    (file,) = exported.glob("*.gguf")
    llama = Llama(str(file), n_ctx=256, verbose=False)
    question = [{"role": "user", "content": PROMPTS[1]}]
    engine = load_engine(str(tiny_checkpoint), "transformers")
    expected = "".join(engine.reply(question, Sampling(temperature=0, repetition_penalty=1.0, max_new_tokens=8)))
    answer = llama.create_chat_completion(question, temperature=0, repeat_penalty=1.0, max_tokens=8)
    found = answer["choices"][0]["message"]["content"]  # the package leaves bytes that are no character out
    assert found.startswith(expected.replace("\ufffd", ""))
    assert llama.token_eos() == 2
    llama.close()


def test_an_export_is_replaced_by_the_next_but_nothing_else_is(exported, tiny_checkpoint, folder, monkeypatch):
    output = shutil.copytree(exported, folder / "out")
    assert run(tiny_checkpoint, "--to", "gguf", "--quantize", "q8_0", "--output_dir", "out") == 0
    assert {path.suffix for path in output.iterdir()} == {".gguf", ".json", ""}
    assert [path.name.endswith("q8_0.gguf") for path in output.glob("*.gguf")] == [True]
    (folder / "mine").mkdir()
    (folder / "mine" / "thesis.txt").write_text("x")
    (output / "notes.txt").write_text("y")
    for path in (folder / "mine" / "thesis.txt", output / "notes.txt"):
        with pytest.raises(InputError, match=f"{path.parent.name}: holds {path.name}, which no export is known"):
            run(tiny_checkpoint, "--to", "gguf", "--output_dir", path.parent.name)
        assert path.exists()
    (output / "notes.txt").unlink()
    # One that cannot be verified leaves the one before.
    before = sorted((path.name, path.stat().st_size) for path in output.iterdir())
    real = agreement.compare_replies

    def fail_quantized(*args, exact):
        if not exact:
            raise InputError("verification failed: another model")
        return real(*args, exact=exact)

    monkeypatch.setattr(agreement, "compare_replies", fail_quantized)
    with pytest.raises(InputError, match="another model"):
        run(tiny_checkpoint, "--to", "gguf", "--quantize", "f16", "--output_dir", "out")
    assert sorted((path.name, path.stat().st_size) for path in output.iterdir()) == before
    with pytest.raises(InputError, match="another model"):
        run(tiny_checkpoint, "--to", "gguf", "--output_dir", "new")
    assert sorted(path.name for path in folder.iterdir()) == ["mine", "out"]


@pytest.mark.parametrize("record", ["{}", "[]", '{"files": 1}', "my notes, not JSON"])
def test_a_folder_with_another_export_json_is_left(folder, record):
    (folder / "mine").mkdir()
    (folder / "mine" / "export.json").write_text(record)
    with pytest.raises(InputError, match=r"mine: holds export\.json, which no export is known to have written"):
        check_replaceable(folder / "mine")


# Ollama


def test_the_modelfile_writes_what_the_chat_template_writes(tokenizer):
    text = make_modelfile(tokenizer, {0, 2}, 256, asdict(Sampling()), "model.gguf")
    assert text.startswith('FROM ./model.gguf\nTEMPLATE """')
    lines = text.splitlines()
    assert [line for line in lines if "stop" in line] == [
        'PARAMETER stop "<|endoftext|>"', 'PARAMETER stop "<|im_end|>"'
    ]  # fmt: skip
    assert {"PARAMETER num_ctx 256", "PARAMETER temperature 0.4", "PARAMETER repeat_penalty 1.1"} <= set(lines)
    # The template of Go, filled as Ollama does.
    body = re.search(r'TEMPLATE """\{\{ range .Messages \}\}(.*)\{\{ end \}\}\{\{ end \}\}"""', text, re.DOTALL)[1]
    system, user, other = re.split(r"\{\{ (?:else )?(?:if eq .Role \"\w+\" )?\}\}", body)[1:]
    messages = [
        {"role": "system", "content": "Be kind."}, {"role": "user", "content": "你好"},
        {"role": "assistant", "content": "Hi!"}, {"role": "user", "content": "Bye"},
    ]  # fmt: skip
    forms = {"system": system, "user": user, "assistant": other}
    filled = "".join(forms[m["role"]].replace("{{ .Content }}", m["content"]) for m in messages)
    assert filled == tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def test_a_template_that_go_cannot_follow_is_left_out(tokenizer, monkeypatch):
    template = "{% for m in messages %}[{{ loop.index }}]{{ m['content'] }}{% endfor %}>"
    monkeypatch.setattr(tokenizer, "chat_template", template)
    assert split_template(tokenizer) is None
    assert "TEMPLATE" not in make_modelfile(tokenizer, {2}, 256, asdict(Sampling()), "model.gguf")


# Other forms


@pytest.mark.parametrize("quantize", ["float32", "int8"])
def test_ctranslate2_is_proved_and_stops_by_itself(tiny_checkpoint, folder, quantize, capsys):
    ctranslate2 = pytest.importorskip("ctranslate2")
    assert run(tiny_checkpoint, "--to", "ctranslate2", "--quantize", quantize, "--output_dir", "out") == 0
    assert "ctranslate2 float32: text tokenized alike, 256 of 256 greedy tokens equal" in capsys.readouterr().out
    assert json.loads((folder / "out" / "config.json").read_text())["eos_token"] == "<|im_end|>"
    assert (folder / "out" / "chat_template.jinja").is_file()
    size = (folder / "out" / "model.bin").stat().st_size
    assert size < 300_000 if quantize == "int8" else size > 900_000
    assert ctranslate2.Generator(str(folder / "out"))


HALF = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 32, "query_pre_attn_scalar": 32, "max_position_embeddings": 256,
    "sliding_window": 256, "layer_types": ["full_attention"] * 2, "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
}  # fmt: skip
T5 = {"d_model": 64, "d_kv": 32, "d_ff": 96, "num_layers": 2, "num_heads": 2}
PAIRS = {
    "t5gemma": {"encoder": HALF, "decoder": HALF}, "umt5": T5,
    "bart": {"d_model": 64, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64},
}  # fmt: skip


def save_pair(kind: str, tokenizer, folder: Path, *, std: float = 0.05, is_tied: bool = True) -> Path:
    """Write a random model with an encoder, its weights wide enough that greedy output varies."""
    model = build_model({"model_type": kind, **PAIRS[kind], "tie_word_embeddings": is_tied}, tokenizer)
    torch.manual_seed(0)
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=std)
    save_model(model, tokenizer, folder, [stop_token_id(tokenizer)])
    return folder


@pytest.mark.parametrize(
    ("kind", "std", "tied"), [("t5gemma", 0.05, True), ("t5gemma", 0.2, False), ("umt5", 0.3, True)]
)
def test_ctranslate2_reads_a_source(kind, std, tied, tokenizer, folder, capsys):
    pytest.importorskip("ctranslate2")
    checkpoint = save_pair(kind, tokenizer, folder / kind, std=std, is_tied=tied)
    assert run(checkpoint, "--to", "ctranslate2", "--quantize", "float32", "--output_dir", "out") == 0
    assert "ctranslate2 float32: text tokenized alike, 256 of 256 greedy tokens equal" in capsys.readouterr().out
    config = json.loads((folder / "out" / "config.json").read_text())
    assert (config["decoder_start_token"], config["eos_token"]) == ("<|im_start|>", "<|im_end|>")
    # Led along another reply, of which each token differs from its own.
    model, prompt, reply = load_checkpoint(str(checkpoint))[0], [40, 50, 60], [7, 300, 9, 200, 11]
    written = open_reply(model, prompt)
    with torch.inference_mode():
        expected = [int(written.write(ids).argmax()) for ids in (prompt, *([token] for token in reply[:-1]))]
    runtime = CTranslate2Model(folder / "out")
    assert runtime.follow(prompt, reply) == expected
    assert len({*expected, *reply}) > len(reply) + 1
    runtime.close()


def test_a_base_that_was_taught_no_dialogues_is_told_so(tiny_checkpoint, folder):
    pytest.importorskip("ctranslate2")
    base = shutil.copytree(tiny_checkpoint, folder / "base")
    (base / "chat_template.jinja").unlink()
    with pytest.raises(InputError, match=r"base: has no chat template, .*; teach it dialogues first"):
        run(base, "--to", "ctranslate2", "--output_dir", "out")
    assert not (folder / "out").exists()


def test_what_a_runtime_cannot_hold_is_refused_by_its_class(tokenizer, folder):
    pytest.importorskip("ctranslate2")
    bart = save_pair("bart", tokenizer, folder / "bart")
    with pytest.raises(InputError, match=r"bart: CTranslate2 cannot convert a Bart model \(.*\); try --to onnx"):
        run(bart, "--to", "ctranslate2")
    pair = save_pair("t5gemma", tokenizer, folder / "pair")
    pytest.importorskip("gguf")
    pytest.importorskip("xllamacpp")
    with pytest.raises(InputError, match=r"a t5gemma model has no GGUF form here; there is one for qwen3, .*gpt2$"):
        run(pair, "--to", "gguf")
    assert sorted(path.name for path in folder.iterdir()) == ["bart", "pair"]


@SLOW
def test_onnx_of_a_model_with_an_encoder_is_proved_with_both_caches(tokenizer, folder, capsys):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    checkpoint = save_pair("t5gemma", tokenizer, folder / "pair", std=0.2, is_tied=False)
    assert run(checkpoint, "--to", "onnx", "--output_dir", "out") == 0
    assert "onnx float32: text tokenized alike, 256 of 256 greedy tokens equal" in capsys.readouterr().out
    read, write = (
        onnxruntime.InferenceSession(folder / "out" / f"{half}_model.onnx") for half in ("encoder", "decoder")
    )
    caches = [f"{layer}.{{}}.{part}" for layer in (0, 1) for part in ("key", "value")]
    kept = {f"past_key_values.{name.format(half)}" for name in caches for half in ("encoder", "decoder")}
    assert {value.name for value in read.get_inputs()} == {"input_ids", "attention_mask"}
    assert {value.name for value in read.get_outputs()} == {f"present.{name.format('encoder')}" for name in caches}
    assert {value.name for value in write.get_inputs()} == {"input_ids", "encoder_attention_mask", *kept}
    written = {f"present.{name.format('decoder')}" for name in caches}
    assert {value.name for value in write.get_outputs()} == {"logits", *written}


@SLOW
@pytest.mark.parametrize("quantize", ["float32", "int8"])
def test_onnx_is_proved_with_its_cache(tiny_checkpoint, folder, quantize, capsys):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    assert run(tiny_checkpoint, "--to", "onnx", "--quantize", quantize, "--output_dir", "out") == 0
    assert "onnx float32: text tokenized alike, 256 of 256 greedy tokens equal" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(folder / "out" / "model.onnx")
    inputs = {value.name: value.shape for value in session.get_inputs()}
    assert set(inputs) == {
        "input_ids", "attention_mask", "position_ids", "past_key_values.0.key", "past_key_values.0.value",
        "past_key_values.1.key", "past_key_values.1.value",
    }  # fmt: skip
    assert [type(size) for size in inputs["past_key_values.0.key"]] == [str, int, str, int]
    outputs = [value.name for value in session.get_outputs()]
    assert outputs[:3] == ["logits", "present.0.key", "present.0.value"]
    assert (folder / "out" / "model.onnx").stat().st_size < (1_000_000 if quantize == "int8" else 1_600_000)


@pytest.fixture
def adapted(tiny_checkpoint, folder) -> Path:
    """A checkpoint of a run with --lora true: adapter/ and the merged model."""
    model, tokenizer = load_checkpoint(str(tiny_checkpoint))
    torch.manual_seed(0)
    model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.05)
    model.save_pretrained(folder / "ckpt" / "adapter")
    save_model(model.merge_and_unload(), tokenizer, folder / "ckpt", [2])
    return folder / "ckpt"


def test_an_adapter_is_proved_upon_its_base(adapted, folder, tiny_checkpoint, capsys):
    assert run(adapted, "--to", "peft") == 0
    assert "peft float32: text tokenized alike, 256 of 256 greedy tokens equal" in capsys.readouterr().out
    config = json.loads((folder / "ckpt-peft" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tiny_checkpoint)
    config["base_model_name_or_path"] = "gone"
    (adapted / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="the adapter's base gone: no such checkpoint"):
        run(adapted, "--to", "peft", "--output_dir", "again")
    assert not (folder / "again").exists()


def test_a_checkpoint_without_an_adapter_says_how_to_get_one(tiny_checkpoint, folder):
    with pytest.raises(InputError, match=r"has no adapter/; finetune_dialogue\.py writes one with --lora true"):
        run(tiny_checkpoint, "--to", "peft")
    assert list(folder.iterdir()) == []


# The command line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "name a form: --to gguf, ctranslate2, onnx, peft"),
        (["--to", "word"], "--to word: use one of gguf, ctranslate2, onnx, peft"),
        (["--to", "peft", "--output", "out"], "'output' is now --output_dir"),
        (["--to", "peft", "--quantize", "q8_0"], "peft has float32"),
        (["--push", "me/chat", "--quantize", "q8_0"], "--quantize has no effect without --to"),
        (["--push", "me/chat", "--output_dir", "out"], "--output_dir has no effect without --to"),
        (["--push", "me/chat"], "allow it by HF_HUB_OFFLINE=0"),
        (["--too", "gguf"], "unknown key 'too'; did you mean 'to'?"),
        (["--to", "peft", "--output_dir", "."], "--output_dir .: the folder of this command or one around it"),
        (["--to", "peft", "--output_dir", "/"], "--output_dir /: the folder of this command or one around it"),
    ],
)
def test_a_wrong_option_is_one_line(tiny_checkpoint, folder, options, message):
    with pytest.raises(InputError, match=re.escape(message)):
        run(tiny_checkpoint, *options)
    assert list(folder.iterdir()) == []


def test_a_missing_package_names_the_file_to_install(tiny_checkpoint, folder, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "gguf" else find(name, *rest))
    with pytest.raises(InputError, match=r"--to gguf needs gguf: pip install -r requirements/export.txt"):
        run(tiny_checkpoint, "--to", "gguf")


def test_no_checkpoint_is_one_line(folder):
    with pytest.raises(InputError, match="nowhere: no such checkpoint"):
        run(folder / "nowhere", "--to", "peft")


def test_help_gives_each_type_and_default(capsys):
    with pytest.raises(SystemExit):
        export.main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "but at ties (it leads the next by 0.01 logits at most), which are counted" in text
    assert (TIE, MAX_TIES, MIN_AGREEMENT) == (0.01, 0.25, 0.5)  # as the help says
    assert "gguf: f32, bf16, f16, q8_0, q6_k, q5_k_m, q5_0, q4_k_m, q4_0 (q8_0)" in text
    assert "--output_dir (unset) Folder to write; unset: by checkpoint and form, as ckpt_chat-gguf" in text


@pytest.mark.parametrize("private", [True, False])
def test_push_uploads_what_a_model_is_loaded_by_and_says_who_reads_it(
    tiny_checkpoint, tmp_path, folder, private, monkeypatch, capsys
):
    """report.md quotes held-out text, run.yaml has paths of this machine, and who knows what else lies there."""
    source, calls = shutil.copytree(tiny_checkpoint, tmp_path / "mine"), {}
    for name in ("run.yaml", "report.md", "notes.txt", "optimizer.safetensors", "checkpoint-5/model.safetensors"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text("private")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda self, name, **rest: calls.update(name=name, **rest))
    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", lambda self, name: SimpleNamespace(private=private))
    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", lambda self, **rest: calls.update(rest))
    assert run(source, "--push", "me/chat") == 0
    assert (calls["name"], calls["private"], calls["folder_path"]) == ("me/chat", True, source)
    files = {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert set(calls["allow_patterns"]) == files | {"chat_template.jinja"}
    said = capsys.readouterr().out
    readers = "private" if private else "public: everybody can read it"
    assert f"me/chat is {readers}; uploading chat_template.jinja, config.json, " in said
    assert "pushed to me/chat" in said


def test_of_an_export_its_files_are_uploaded(tmp_path):
    for name in ("a[1].gguf", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "export.json").write_text(json.dumps({"files": ["a[1].gguf"]}))
    assert list_public(tmp_path) == ["export.json", "a[1].gguf"]


def test_a_hub_that_cannot_be_reached_is_one_line(tiny_checkpoint, folder, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    with pytest.raises(InputError, match=r"--push me/chat: .+") as caught:
        run(tiny_checkpoint, "--push", "me/chat")
    assert "log in" not in str(caught.value)


def test_a_hub_that_wants_a_login_says_how(tiny_checkpoint, folder, monkeypatch):
    def refuse(*args, **rest):
        raise LocalTokenNotFoundError("Token is required")

    monkeypatch.setenv("HF_HUB_OFFLINE", "false")
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", refuse)
    with pytest.raises(InputError, match="Token is required; log in with: hf auth login"):
        run(tiny_checkpoint, "--push", "me/chat")
