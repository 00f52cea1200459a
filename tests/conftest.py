"""Fixtures: nothing is fetched, nothing outside a temporary folder is written, and all runs on the CPU."""

import atexit
import json
import os
import shutil
import tempfile
from pathlib import Path

# Before anything of Hugging Face is imported.
_HOME = tempfile.mkdtemp(prefix="chat-tests-")
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
os.environ.update(HF_HUB_OFFLINE="1", HF_HOME=_HOME, HF_DATASETS_DISABLE_PROGRESS_BARS="1", CUDA_VISIBLE_DEVICES="")
for name in ("HF_DATASETS_CACHE", "HF_HUB_CACHE"):
    os.environ.pop(name, None)

import pytest
import torch

ROOT = Path(__file__).parents[1]
TINY_SHAPE = {
    "model_type": "qwen3", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 256,
    "tie_word_embeddings": False,
}  # fmt: skip


def own_texts() -> list[str]:
    """Return the words of the project's own dialogues, a text for each dialogue."""
    lines = [line for path in sorted(ROOT.glob("data_utils/chat_data/*.jsonl")) for line in path.open(encoding="utf-8")]
    return ["\n".join(message["content"] for message in json.loads(line)["messages"]) for line in lines]


@pytest.fixture(scope="session")
def tokenizer():
    """A small bilingual tokenizer, trained on the spot."""
    from data_utils.tokenizer import train_tokenizer

    return train_tokenizer(own_texts(), 1200)


@pytest.fixture(scope="session")
def tiny_shape(tmp_path_factory) -> Path:
    """The file of a model shape that trains in seconds."""
    path = tmp_path_factory.mktemp("shape") / "tiny.json"
    path.write_text(json.dumps(TINY_SHAPE))
    return path


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory, tokenizer) -> Path:
    """A random model in the one checkpoint form, its weights wide enough that greedy output varies."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from data_utils.dialogue import stop_token_id
    from train_utils.checkpoint import save_model

    torch.manual_seed(0)
    special = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    config = AutoConfig.for_model(**TINY_SHAPE, **special, vocab_size=len(tokenizer), initializer_range=0.2)
    folder = tmp_path_factory.mktemp("checkpoint")
    save_model(AutoModelForCausalLM.from_config(config), tokenizer, folder, [stop_token_id(tokenizer)])
    return folder


@pytest.fixture(scope="session")
def corpus_file(tmp_path_factory) -> Path:
    """A corpus of both languages from the project's own dialogues, one document a paragraph."""
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text("\n\n".join(own_texts()[::3]), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def train_options(tiny_shape, corpus_file) -> list[str]:
    """Options of train.py for a run of seconds: small, in float32, deterministic."""
    return [
        "--corpus", str(corpus_file), "--model_shape", str(tiny_shape), "--vocab_size", "600", "--block_tokens", "64",
        "--per_device_train_batch_size", "8", "--max_steps", "12", "--eval_tokens", "256", "--eval_fraction", "0.05",
        "--logging_steps", "4", "--save_steps", "4", "--eval_steps", "6", "--warmup_steps", "2", "--report_to", "none",
        "--bf16", "false", "--torch_compile", "false", "--use_cpu", "true",
    ]  # fmt: skip


@pytest.fixture(scope="session")
def trained(tmp_path_factory, train_options) -> Path:
    """A checkpoint that train.py wrote."""
    import train

    folder = tmp_path_factory.mktemp("trained") / "ckpt"
    assert train.main([*train_options, "--output_dir", str(folder)]) == 0
    return folder
