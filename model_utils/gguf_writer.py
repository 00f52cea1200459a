"""A checkpoint as one GGUF file for llama.cpp and what builds on it: weights, tokenizer, chat template, stop token.

Written in float32 by the `gguf` package; every smaller type is made from that by llama.cpp's own quantizer.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from errors import InputError
from model_utils.llama_library import load_library
from model_utils.tokenizer import QWEN2_PATTERN

# What --quantize may name, and llama.cpp's number for it (llama.h, enum llama_ftype).
FILE_TYPES = {
    "f32": 0, "bf16": 32, "f16": 1, "q8_0": 7, "q6_k": 18, "q5_k_m": 17, "q5_0": 8, "q4_k_m": 15, "q4_0": 2,
}  # fmt: skip
# Architectures by transformers' model_type. Mistral's is Llama's.
ARCHITECTURES = {"qwen3": "qwen3", "qwen2": "qwen2", "llama": "llama", "mistral": "llama", "gpt2": "gpt2"}
# Splitting patterns that llama.cpp knows, and its names for them.
SPLITTERS = {QWEN2_PATTERN: "qwen2", QWEN2_PATTERN.replace(r"|\p{N}|", r"|\p{N}{1,3}|"): "llama-bpe"}


def write_gguf(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, stop_id: int, file: Path, quantize: str
) -> None:
    """Write a model in float32 with its tokenizer to `file`, its matrices in the type `quantize`.

    Raises InputError for a model or a tokenizer that llama.cpp has no like of.
    """
    from gguf import GGUFWriter

    config = model.config
    if config.model_type not in ARCHITECTURES:
        raise InputError(
            f"a {config.model_type} model has no GGUF form here; there is one for {', '.join(ARCHITECTURES)}"
        )
    plain = file if quantize == "f32" else file.with_suffix(".f32")
    writer = GGUFWriter(plain, ARCHITECTURES[config.model_type])
    writer.add_name(Path(model.name_or_path).name)
    writer.add_file_type(FILE_TYPES["f32"])
    describe_shape(writer, config)
    describe_tokenizer(writer, tokenizer, stop_id, model.get_input_embeddings().num_embeddings)
    for name, weight in convert_weights(model):
        writer.add_tensor(name, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    if plain != file:
        try:
            quantize_file(plain, file, quantize)
        finally:
            plain.unlink()


def quantize_file(source: Path, file: Path, quantize: str) -> None:
    """Write a GGUF file in float32 again in a smaller type, by llama.cpp's quantizer."""
    llama_cpp = load_library()
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = FILE_TYPES[quantize]
    if llama_cpp.llama_model_quantize(str(source).encode(), str(file).encode(), params) != 0:
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
    rope = config.rope_parameters
    if rope.get("rope_type", "default") != "default" or rope.get("partial_rotary_factor", 1) != 1:
        raise InputError(f"positions of the kind {rope} have no GGUF form here")
    if any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or []) or (
        config.model_type == "mistral" and config.sliding_window
    ):
        raise InputError("a sliding window of attention has no GGUF form here")
    if config.hidden_act != "silu":
        raise InputError(f"llama.cpp's {config.model_type} has no {config.hidden_act}; its activation is silu")
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    writer.add_rope_dimension_count(head_size)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


def convert_weights(model: PreTrainedModel) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each weight under its GGUF name, laid out as llama.cpp wants it."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    config = model.config
    architecture = next(key for key, name in MODEL_ARCH_NAMES.items() if name == ARCHITECTURES[config.model_type])
    names = get_tensor_name_map(architecture, config.num_hidden_layers)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    for name, tensor in model.state_dict().items():
        if tied and name == "lm_head.weight":
            continue  # llama.cpp takes the embedding for it
        new_name = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if new_name is None:
            raise InputError(f"llama.cpp's {ARCHITECTURES[config.model_type]} has no place for the weight {name}")
        weight = tensor.float()
        if config.model_type == "gpt2" and name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
            weight = weight.T
        elif architecture.name == "LLAMA" and ".self_attn." in name and ".v_proj." not in name:
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
    """Write a byte-level BPE tokenizer: tokens (as many as embedding rows), kinds, merges, pattern, chat template."""
    from gguf import TokenType

    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    if backend["model"]["type"] != "BPE":
        raise InputError(f"a {backend['model']['type']} tokenizer has no GGUF form here; byte-level BPE has")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(name_splitter(backend["pre_tokenizer"]))
    names = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    special = set(tokenizer.all_special_ids)
    added = {entry["id"] for entry in backend["added_tokens"]}
    kinds = [
        TokenType.CONTROL if i in special else TokenType.USER_DEFINED if i in added else TokenType.NORMAL
        for i in range(len(names))
    ]
    unused = range(len(names), rows)
    writer.add_token_list([*names, *(f"[unused{i}]" for i in unused)])
    writer.add_token_types([*kinds, *(TokenType.UNUSED for _ in unused)])
    merges = backend["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
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
