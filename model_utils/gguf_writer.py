"""A checkpoint as one GGUF file for llama.cpp and what builds on it: weights, tokenizer, chat template, stop token.

Written by the `gguf` package, which packs the simple types; the K types are made by llama.cpp's own quantizer.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from errors import InputError
from model_utils.families import FAMILIES, family_of
from model_utils.llama_library import FILE_TYPES, K_TYPES, check_quantizer, load_library
from model_utils.shapes import find_embedding
from model_utils.tokenizer import BYTE_TOKEN, QWEN2_PATTERN

BLOCK = 32  # numbers that share a scale in the simple quantized types
# Splitting patterns that llama.cpp knows, and its names for them.
SPLITTERS = {QWEN2_PATTERN: "qwen2", QWEN2_PATTERN.replace(r"|\p{N}|", r"|\p{N}{1,3}|"): "llama-bpe"}


def write_gguf(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, stop_id: int, file: Path, quantize: str
) -> None:
    """Write a model in float32 with its tokenizer to `file`, its matrices in the type `quantize`.

    Raises InputError for a model or a tokenizer that llama.cpp has no like of.
    """
    from gguf import GGUFWriter

    config, name = model.config, family_of(model.config).gguf
    if name is None:
        known = ", ".join(kind for kind, family in FAMILIES.items() if family.gguf)
        raise InputError(f"a {config.model_type} model has no GGUF form here; there is one for {known}")
    plain = file.with_suffix(".f32") if quantize in K_TYPES else file
    written = "f32" if quantize in K_TYPES else quantize
    writer = GGUFWriter(plain, name)
    writer.add_name(Path(model.name_or_path or "").name)
    writer.add_file_type(FILE_TYPES[written])
    describe_shape(writer, config)
    describe_tokenizer(writer, tokenizer, stop_id, find_embedding(model).num_embeddings)
    for weight_name, weight in convert_weights(model):
        data, kind = pack_weight(weight_name, weight, written)
        writer.add_tensor(weight_name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    if plain != file:
        try:
            quantize_file(plain, file, quantize)
        finally:
            plain.unlink()


def pack_weight(name: str, weight: np.ndarray, quantize: str) -> tuple[np.ndarray, int]:
    """Return a weight in a type that Python can pack, with gguf's number for it.

    Vectors and positions stay in float32. Embedding and head, by which each token is chosen, get 8 bits at least.
    """
    from gguf import GGMLQuantizationType, quants

    kind = GGMLQuantizationType[quantize.upper()]
    if weight.ndim == 1 or name.startswith("position_embd"):
        kind = GGMLQuantizationType.F32
    elif quantize.startswith("q"):
        if name.startswith(("token_embd", "output.")):
            kind = GGMLQuantizationType.Q8_0
        if weight.shape[-1] % BLOCK:
            kind = GGMLQuantizationType.F16
    return quants.quantize(weight, kind), kind


def quantize_file(source: Path, file: Path, quantize: str) -> None:
    """Write a GGUF file in float32 again in a smaller type, by llama.cpp's quantizer."""
    check_quantizer(quantize)
    library = load_library()
    params = library.llama_model_quantize_default_params()
    params.ftype = FILE_TYPES[quantize]
    if library.llama_model_quantize(os.fsencode(source), os.fsencode(file), params) != 0:
        raise InputError(f"llama.cpp cannot quantize this model to {quantize}; try q8_0 or f16")


def describe_shape(writer, config: PretrainedConfig) -> None:
    """Write what a model's shape is: layers, widths in numbers, window in tokens, positions."""
    heads = config.num_attention_heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(heads)
    if config.model_type == "gpt2":
        writer.add_feed_forward_length(config.n_inner or 4 * config.hidden_size)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        if config.activation_function not in ("gelu_new", "gelu_pytorch_tanh"):
            raise InputError(f"llama.cpp's GPT-2 has no {config.activation_function}; its activation is gelu_new")
        return
    rope = describe_attention(writer, config)
    if rope.get("rope_type", "default") != "default" or rope.get("partial_rotary_factor", 1) != 1:
        raise InputError(f"positions of the kind {rope} have no GGUF form here")
    activation = "gelu_pytorch_tanh" if config.model_type == "gemma3_text" else "silu"
    found = getattr(config, "hidden_activation", None) or config.hidden_act
    if found != activation:
        raise InputError(f"llama.cpp's {config.model_type} has no {found}; its activation is {activation}")
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    writer.add_rope_dimension_count(head_size)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


def describe_attention(writer, config: PretrainedConfig) -> dict:
    """Write which layers see a window alone, as Gemma's do, and return how positions turn the others' queries."""
    kinds = getattr(config, "layer_types", None) or []
    if config.model_type == "gemma3_text":
        head_size, rope = config.head_dim, config.rope_parameters
        every = [("full" if number % 6 == 5 else "sliding") + "_attention" for number in range(len(kinds))]
        base = rope["sliding_attention"]["rope_theta"]
        if kinds != every or base != 10000 or config.query_pre_attn_scalar != head_size:
            raise InputError("llama.cpp's gemma3 has sliding layers of base 10000 but for each sixth; this one differs")
        writer.add_sliding_window(config.sliding_window)
        return rope["full_attention"]
    if any(kind != "full_attention" for kind in kinds) or (config.model_type == "mistral" and config.sliding_window):
        raise InputError("a sliding window of attention has no GGUF form here")
    return config.rope_parameters


def convert_weights(model: PreTrainedModel) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each weight under its GGUF name, laid out as llama.cpp wants it."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    config, family = model.config, family_of(model.config)
    architecture = next(key for key, name in MODEL_ARCH_NAMES.items() if name == family.gguf)
    names = get_tensor_name_map(architecture, config.num_hidden_layers)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    for name, tensor in model.state_dict().items():
        if tied and name == f"{family.head}.weight":
            continue  # llama.cpp takes the embedding for it
        new_name = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if new_name is None:
            raise InputError(f"llama.cpp's {family.gguf} has no place for the weight {name}")
        weight = tensor.float()
        if config.model_type == "gpt2" and name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
            weight = weight.T
        elif family.gguf == "gemma3" and name.endswith("norm.weight"):
            weight = weight + 1  # transformers adds it as it computes
        elif family.gguf == "llama" and ".self_attn." in name and ".v_proj." not in name:
            weight = interleave_halves(name, weight, config)
        yield new_name, weight.contiguous().numpy()


def interleave_halves(name: str, weight: torch.Tensor, config: PretrainedConfig) -> torch.Tensor:
    """Return a query's or key's weight for rotary positions in pairs: transformers turns dimension i with i + half.

    >>> from types import SimpleNamespace
    >>> config = SimpleNamespace(num_attention_heads=1, num_key_value_heads=1)
    >>> interleave_halves("q_proj", torch.tensor([[1], [2], [3], [4]]), config).flatten().tolist()
    [1, 3, 2, 4]
    """
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    count = next((number for part, number in heads.items() if part in name), None)
    return weight if count is None else weight.unflatten(0, (count, 2, -1)).transpose(1, 2).reshape(weight.shape)


def describe_tokenizer(writer, tokenizer: PreTrainedTokenizerBase, stop_id: int, rows: int) -> None:
    """Write a BPE tokenizer: tokens (as many as embedding rows), kinds, merges or scores, pattern, chat template."""
    from gguf import TokenType

    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    if backend["model"]["type"] != "BPE":
        raise InputError(f"a {backend['model']['type']} tokenizer has no GGUF form here; BPE has")
    by_score = backend["model"].get("byte_fallback", False)  # SentencePiece's kind
    names = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    special = set(tokenizer.all_special_ids)
    added = {entry["id"] for entry in backend["added_tokens"]}

    def find_kind(number: int, name: str) -> TokenType:
        if by_score and number == tokenizer.unk_token_id:
            return TokenType.UNKNOWN
        if number in special:
            return TokenType.CONTROL
        if number in added:
            return TokenType.USER_DEFINED
        return TokenType.BYTE if by_score and BYTE_TOKEN.fullmatch(name) else TokenType.NORMAL

    kinds = [find_kind(number, name) for number, name in enumerate(names)]
    unused = range(len(names), rows)
    writer.add_tokenizer_model("llama" if by_score else "gpt2")
    if by_score:
        writer.add_token_scores([-float(number) for number in range(rows)])
        writer.add_add_space_prefix("Prepend" in str(backend["normalizer"]))
    else:
        writer.add_tokenizer_pre(name_splitter(backend["pre_tokenizer"]))
        merges = backend["model"]["merges"]
        writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_token_list([*names, *(f"[unused{i}]" for i in unused)])
    writer.add_token_types([*kinds, *(TokenType.UNUSED for _ in unused)])
    writer.add_eos_token_id(stop_id)
    writer.add_eot_token_id(stop_id)
    writer.add_pad_token_id(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stop_id)
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_add_bos_token(False)  # what begins a dialogue stands in the chat template
    writer.add_chat_template(tokenizer.chat_template)


def name_splitter(pre_tokenizer: dict) -> str:
    """Return llama.cpp's name for how a tokenizer splits text before BPE; InputError where it has none."""
    steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    kinds = [step["type"] for step in steps]
    if kinds == ["Split", "ByteLevel"] and steps[0]["pattern"].get("Regex") in SPLITTERS and not steps[1]["use_regex"]:
        return SPLITTERS[steps[0]["pattern"]["Regex"]]
    if kinds == ["ByteLevel"] and steps[0]["use_regex"]:
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and steps[0]["individual_digits"] and steps[1]["use_regex"]:
        return "smollm"
    raise InputError(
        "the tokenizer splits text by a pattern that llama.cpp has no name for, so its tokens would differ"
    )
