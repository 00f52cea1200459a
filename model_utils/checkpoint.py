"""Opens and saves a checkpoint on disk: weights, config, tokenizer, chat template, generation settings."""

import json
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from errors import InputError, first_line
from files import remove, sync, sync_tree, write_whole


def load_model(path: str) -> PreTrainedModel:
    """Load a causal language model in float32 from a checkpoint; raise InputError where it is none or is cut short."""
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    except Exception as error:  # transformers and safetensors raise many kinds for a broken folder
        raise InputError(f"{path}: no model can be loaded from it: {first_line(error)}") from error
    if loading["missing_keys"]:
        first, *others = sorted(loading["missing_keys"])
        raise InputError(f"{path}: weights are missing from it: {first}{f' and {len(others)} more' if others else ''}")
    return model


def save_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, output_dir: Path, stop_token_ids: list[int]
) -> None:
    """Write the one checkpoint form: weights, config, tokenizer, chat template, generation settings.

    All is written aside and then moved, the weights last, so that a folder with weights is whole.
    """
    partial = output_dir / ".saving"
    remove(partial)
    model.config.use_cache = True
    model.generation_config = GenerationConfig(
        eos_token_id=stop_token_ids, pad_token_id=tokenizer.pad_token_id, do_sample=True, temperature=0.7, top_p=0.9
    )
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    name_tokenizer_class(partial)
    for path in partial.glob("*.safetensors"):  # which its library writes for this user's eyes alone
        path.chmod((partial / "config.json").stat().st_mode)
    sync_tree(partial)
    for path in sorted(partial.iterdir(), key=lambda path: path.suffix == ".safetensors"):
        path.replace(output_dir / path.name)
    partial.rmdir()
    sync(output_dir)


def name_tokenizer_class(folder: Path) -> None:
    """Name the tokenizer's class as every version of transformers knows it; version 5 writes a name of its own."""
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    if config.get("tokenizer_class") == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        write_whole(path, json.dumps(config, indent=2, ensure_ascii=False))
