"""Imports a GGUF file once into a plain checkpoint: weights in float32, tokenizer, template, stop tokens, pad.

transformers unpacks the weights and the vocabulary. What it leaves out is done here: how llama.cpp splits digits, what
ends a reply, a pad token that does not end one. The tokenizer is proved against llama.cpp's where that is installed.
The checkpoint lies in the cache, HF_HOME/imported, and its import.json says what it was made from.
"""

import contextlib
import importlib.util
import io
import json
import math
import os
from collections import Counter
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from filelock import FileLock
from huggingface_hub import constants
from tokenizers import pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    GgufConfig,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.integrations.gguf.reader import _read_metadata, _read_tensor_table

from errors import InputError, explained, say_note
from files import COMPLETE_FILE, find_damage, mark_complete, move_content, remove, write_whole
from model_utils.llama_library import GgufFile, has_library
from model_utils.same_tokens import check_tokens
from model_utils.shapes import check_ranges, check_sizes
from model_utils.tokenizer import save_tokenizer

RECORD_FILE = "import.json"
WEIGHTS_FILE = "model.safetensors"
# Names of llama.cpp for GPT-2's split after each digit was parted; transformers 5.23 takes them for GPT-2's own.
DIGIT_SPLITS = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")
STOPS = ("eos", "eot", "eom")
PADS = ("<pad>", "[PAD]", "<|padding|>", "<|finetune_right_pad_id|>", "<|endoftext|>")


def import_gguf(file: Path, weights: bool = True) -> str:
    """Return the folder of a GGUF file's checkpoint, made where it isn't in the cache; only with `weights` has it them.

    Raises InputError for a file that is none, is cut short, or that transformers or llama.cpp read otherwise.
    """
    metadata = read_metadata(file)
    state = file.stat()
    name = f"{file.resolve()} {state.st_size} {state.st_mtime_ns} {version('transformers')}"
    folder = Path(constants.HF_HOME) / "imported" / f"{file.stem}-{xxhash.xxh64(os.fsencode(name)).hexdigest()[:8]}"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"), explained(str(file), "cannot be imported"):
        if not is_as_written(folder):
            import_tokenizer(file, metadata, folder)
        if weights and not (folder / WEIGHTS_FILE).is_file():
            import_weights(file, metadata, folder)
            say_note(f"{file} is imported into {folder}")
    return str(folder)


@cache
def find_damage_once(folder: Path, _: int) -> str | None:
    """Return what `find_damage` does, once in a process for each time at which a folder's mark was written."""
    return find_damage(folder)


def is_as_written(folder: Path) -> bool:
    """Tell whether a folder's files are as they were written; what isn't is said and removed.

    It takes what reading the weights takes, before they are read again from the system's memory.
    """
    mark = folder / COMPLETE_FILE
    if damage := find_damage_once(folder, mark.stat().st_mtime_ns if mark.exists() else 0):
        if mark.exists():
            say_note(f"{folder}: {damage}; it is made anew")
        for path in folder.iterdir():
            if path.name != ".lock":
                remove(path)
    return not damage


def read_metadata(file: Path) -> dict:
    """Return what a GGUF file says of itself; InputError where it is cut short, or gguf is not installed."""
    if importlib.util.find_spec("gguf") is None:
        raise InputError(f"{file}: the package gguf is not installed: pip install --no-deps -r requirements/bases.txt")
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    try:  # gguf's own reader takes 20 times as long, for a vocabulary that is not needed here
        data = np.memmap(file, mode="r", dtype=np.uint8)
        metadata, count, place = _read_metadata(data, str(file))
        tensors, place = _read_tensor_table(data, count, place)
        sizes = {int(kind): size for kind, size in GGML_QUANT_SIZES.items()}
        ends = [offset + math.prod(shape) // sizes[kind][0] * sizes[kind][1] for _, shape, kind, offset in tensors]
    except Exception as error:  # NumPy and struct raise many kinds
        raise InputError(f"{file}: is cut short or damaged; fetch it again") from error
    if place + max(ends, default=0) > len(data):
        raise InputError(f"{file}: is cut short: {len(data):,} bytes of {place + max(ends):,}; fetch it again")
    if metadata.get("split.count", 1) not in (0, 1):
        raise InputError(f"{file}: is one of {metadata['split.count']} parts; join them: llama-gguf-split --merge")
    check_sizes({"num_hidden_layers": metadata.get(f"{metadata.get('general.architecture')}.block_count")}, str(file))
    metadata["scales_positions"] = any(name.startswith("rope_f") for name, *_ in tensors)
    return {**metadata, "types": dict(Counter(GGMLQuantizationType(kind).name for _, _, kind, _ in tensors))}


def read_stops(metadata: dict) -> list[int]:
    """Return the ids of the tokens that end a text or a reply."""
    found = (metadata.get(f"tokenizer.ggml.{name}_token_id") for name in STOPS)
    return list(dict.fromkeys(token for token in found if token is not None))


def import_tokenizer(file: Path, metadata: dict, folder: Path) -> None:
    """Write a file's tokenizer, chat template and generation settings, proved, and the record last."""
    tokenizer: Any = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name, trust_remote_code=False)
    if metadata.get("tokenizer.ggml.pre") in DIGIT_SPLITS:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    stops = read_stops(metadata)
    choose_pad(tokenizer, stops)
    proof = "not proved, since llama.cpp is not installed"
    if has_library():
        check_tokens(GgufFile(file), tokenizer)
        proof = "gives llama.cpp's ids"
    save_tokenizer(tokenizer, folder)
    GenerationConfig(eos_token_id=stops, pad_token_id=tokenizer.pad_token_id).save_pretrained(folder)
    record = {"file": str(file.resolve()), "bytes": file.stat().st_size, "types": metadata["types"], "tokenizer": proof}
    record |= {
        name: metadata[key] for name in ("architecture", "name", "license") if (key := f"general.{name}") in metadata
    }
    write_whole(folder / RECORD_FILE, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    mark_complete(folder)


def choose_pad(tokenizer: PreTrainedTokenizerBase, stops: list[int]) -> None:
    """Give a tokenizer whose pad token ends replies another one: a collator that masks pads would mask the stop."""
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id not in stops:
        return
    known = tokenizer.get_vocab()
    tokenizer.pad_token = next(
        (token for token in (*PADS, tokenizer.unk_token) if token in known and known[token] not in stops),
        tokenizer.eos_token,
    )


def read_gguf_config(file: Path, metadata: dict) -> PretrainedConfig:
    """Return a file's config; transformers 5.23 takes its own defaults for what is read here again.

    Raises InputError where positions are scaled, which it leaves out.
    """
    kind = metadata["general.architecture"]
    config = AutoConfig.from_pretrained(str(file.parent), gguf_file=file.name, trust_remote_code=False)
    check_ranges(config, str(file))
    if metadata["scales_positions"] or metadata.get(f"{kind}.rope.scaling.type", "none") != "none":
        raise InputError(f"{file}: its positions are scaled, which is not imported; take the folder of the same model")
    head_size = metadata.get(f"{kind}.attention.key_length")
    if head_size and hasattr(config, "head_dim"):
        config.head_dim = head_size
    if kind == "gpt2":
        config.n_positions = metadata["gpt2.context_length"]
        config.n_inner = metadata["gpt2.feed_forward_length"]
    elif kind == "gemma3":
        rope = {"full_attention": metadata["gemma3.rope.freq_base"], "sliding_attention": 10000.0}
        config.rope_parameters = {part: {"rope_type": "default", "rope_theta": base} for part, base in rope.items()}
        config.query_pre_attn_scalar = head_size
    return config


def import_weights(file: Path, metadata: dict, folder: Path) -> None:
    """Write a file's config and weights, unpacked to float32, the weights last."""
    partial, config = folder / ".partial", read_gguf_config(file, metadata)
    with contextlib.redirect_stderr(io.StringIO()):  # progress bars
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            str(file.parent), config=config, gguf_file=file.name, quantization_config=GgufConfig(dequantize=True),
            dtype=torch.float32, trust_remote_code=False, output_loading_info=True,
        )  # fmt: skip
        model, loading = loaded
        if loading["missing_keys"]:
            raise InputError(f"{file}: weights are missing from it: {min(loading['missing_keys'])}")
        model.generation_config = GenerationConfig.from_pretrained(folder)
        model.config.pad_token_id = model.generation_config.pad_token_id
        remove(partial)
        model.save_pretrained(partial, max_shard_size="1000GB")
    move_content(partial, folder)
    mark_complete(folder)
