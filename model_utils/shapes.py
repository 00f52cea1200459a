"""Builds a language model from a shape, counts its parameters and FLOPs, and checks that parts fit together."""

import json
from collections.abc import Generator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import cast

import torch
from torch import nn
from transformers import AutoConfig, EncoderDecoderModel, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from errors import InputError, explained
from model_utils.families import family_of
from model_utils.tokenizer import turn_start_id

HEAD_SIZE = 64  # of a model that a plan makes
# Largest values that are built: a model that says more is broken, or made to take all memory.
LARGEST = {
    "max_position_embeddings": 2**20, "num_hidden_layers": 1000, "hidden_size": 2**17, "intermediate_size": 2**20,
    "num_attention_heads": 2**12, "num_key_value_heads": 2**12, "head_dim": 2**12, "vocab_size": 2**24,
    "num_labels": 2**16, "sliding_window": 2**31, "attention_chunk_size": 2**31,
}  # fmt: skip


def model_config(width: int) -> dict:
    """Return a width's model as a transformers config: a layer for each head of 64, so that all grows in step.

    >>> model_config(256)["num_hidden_layers"], model_config(1536)["intermediate_size"]
    (4, 4608)
    """
    heads = width // HEAD_SIZE
    return {
        "model_type": "qwen3", "hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": heads,
        "num_attention_heads": heads, "num_key_value_heads": heads, "head_dim": HEAD_SIZE,
        "max_position_embeddings": 2048, "rope_theta": 10000.0, "tie_word_embeddings": False,
        "initializer_range": 0.02,
    }  # fmt: skip


def build_model(shape: Path | dict, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Build a model with random weights from a shape: a transformers config without the vocabulary, or JSON of one.

    The projections that write into the residual stream start at zero, so that every layer begins as the identity.
    Raises InputError for a file that is no such shape.
    """
    config = read_shape(shape, len(tokenizer))
    for part in list_parts(config):
        part.eos_token_id = part.bos_token_id = tokenizer.eos_token_id
        part.pad_token_id = tokenizer.pad_token_id
        for name in family_of(config).starts:  # not with the pad token, which is hidden by default
            setattr(part, name, turn_start_id(tokenizer))
    model = build_from(config, str(shape))
    with torch.no_grad():
        for name, module in model.named_modules():
            if name.endswith(family_of(config).projections):
                module.weight.zero_()
    return model


def read_shape(shape: Path | dict, vocab_size: int) -> PretrainedConfig:
    """Return the config of a shape with a vocabulary; raise InputError for a file that is no shape."""
    with explained(str(shape), "not a model shape"):
        values = shape if isinstance(shape, dict) else json.loads(shape.read_text(encoding="utf-8"))
        check_sizes(values, str(shape))
        config = AutoConfig.for_model(**values)
    for part in list_parts(config):
        part.vocab_size, part.pad_token_id = vocab_size, None
    check_ranges(config, str(shape))
    return config


def build_from(config: PretrainedConfig, place: str) -> PreTrainedModel:
    """Build a model with random weights of a config; raise InputError where its values fit no model."""
    with explained(place, "not a model shape"):
        return family_of(config).auto.from_config(config)


def find_embedding(model: PreTrainedModel) -> nn.Embedding:
    """Return the embedding of a model's input ids; torch gives any module's attributes the type of a tensor."""
    return cast(nn.Embedding, model.get_input_embeddings())


def find_head(model: PreTrainedModel) -> nn.Linear:
    """Return what makes logits of a model's last hidden states."""
    return cast(nn.Linear, model.get_output_embeddings())


def resize_vocabulary(model: PreTrainedModel, rows: int, **settings: bool) -> None:
    """Give a model rows for so many tokens: in both halves, and in the config of each.

    EncoderDecoderModel has transformers resize two models, and T5Gemma2's encoder keeps the old number in its config.
    """
    before = find_embedding(model).num_embeddings
    for part in (model.encoder, model.decoder) if isinstance(model, EncoderDecoderModel) else (model,):
        cast(PreTrainedModel, part).resize_token_embeddings(rows, **settings)
    for config in [part.config.get_text_config() for part in model.modules() if isinstance(part, PreTrainedModel)]:
        if getattr(config, "vocab_size", None) == before:
            config.vocab_size = rows


@contextmanager
def evaluating(model: nn.Module) -> Generator[None]:
    """Put a model into evaluation for as long as this context is open."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def check_finite(model: nn.Module, place: str) -> None:
    """Raise InputError where a base's weights are no numbers: nothing that is trained on them would be."""
    bad = [name for name, weights in model.named_parameters() if not bool(torch.isfinite(weights).all())]
    if bad:
        raise InputError(f"{place}: {len(bad)} weights, {bad[0]} first, are not finite; name another base")


def hidden_matrices(model: PreTrainedModel) -> list[nn.Parameter]:
    """Return the weights of two dimensions outside of embeddings and head, which Muon trains."""
    embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    ends = {id(p) for module in (*embeddings, find_head(model)) if module is not None for p in module.parameters()}
    return [p for p in model.parameters() if p.ndim == 2 and id(p) not in ends]


def list_parts(config: PretrainedConfig) -> list[PretrainedConfig]:
    """Return a config and those in it, of an encoder and a decoder."""
    return [config, *(getattr(config, name) for name in config.sub_configs)]


def open_config(folder: str, place: str) -> PretrainedConfig:
    """Return a checkpoint's config; raise InputError where it is none, or a size that it names is none."""
    with explained(place, "no model can be loaded from it"):
        check_sizes(PretrainedConfig.get_config_dict(folder)[0], place)
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    check_ranges(config, place)
    return config


def check_sizes(values: object, place: str) -> None:
    """Raise InputError for a size beyond all models, before a config makes lists of so many layers or labels."""
    parts = values.items() if isinstance(values, dict) else ()
    for name, value in parts:
        largest = LARGEST.get(name)
        if largest is not None and isinstance(value, int) and value > largest:
            raise InputError(f"{place}: its config says {name} {value!r}; from 1 to {largest:,} is expected")
        check_sizes(value, place)


def check_ranges(config: PretrainedConfig, place: str) -> None:
    """Raise InputError where a size that a config names is none, before memory is taken for it."""
    for part, (name, largest) in product(list_parts(config), LARGEST.items()):
        value = getattr(part, name, None)
        if value is not None and not (isinstance(value, int) and 1 <= value <= largest):
            raise InputError(f"{place}: its config says {name} {value!r}; from 1 to {largest:,} is expected")


def check_window(config: PretrainedConfig, row_tokens: int, place: str) -> None:
    """Raise InputError where rows are longer than what the model can see."""
    longest = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None) or row_tokens
    if row_tokens > longest:
        raise InputError(f"{place}: its window is {longest} tokens, shorter than the rows of {row_tokens}")


@torch.no_grad()
def check_packing(model: PreTrainedModel, place: str) -> None:
    """Raise InputError where a decoder does not heed restarting positions: packed dialogues would see each other."""
    size = find_embedding(model).num_embeddings
    first, second = (torch.arange(n, n + 6).remainder(size)[None] for n in (3, 11))
    positions = torch.cat([torch.arange(6), torch.arange(6)])[None]
    try:
        with evaluating(model):
            packed = model(input_ids=torch.cat([first, second], 1), position_ids=positions, use_cache=False).logits
            alone = model(input_ids=second, use_cache=False).logits
        is_same = torch.allclose(packed[:, 6:], alone, atol=1e-3, rtol=1e-3)
    except (TypeError, ValueError):  # it reads a source, and writes nothing without a target
        is_same = False
    if not is_same:
        kind = model.config.model_type
        raise InputError(
            f"{place}: a {kind} model cannot learn from dialogues that are packed to one text; use a decoder such as "
            "Llama, Qwen or GPT-2"
        )


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters, tied ones once; those in 4 bits, of which a byte holds two, by their shape."""
    states = ((getattr(parameter, "quant_state", None), parameter) for parameter in model.parameters())
    return sum(state.shape.numel() if state else parameter.numel() for state, parameter in states)


def flops_per_token(model: PreTrainedModel, row_tokens: int) -> float:
    """Return the floating-point operations that training needs for a token: 6 N and the attention's.

    N counts every weight that multiplies (the embedding's look-up does not). Source: Kaplan et al. 2020, section 2.1.
    An encoder and a decoder are taken to work on half of the row's tokens each.
    """
    embeddings = {id(m.weight): m.weight.numel() for m in model.modules() if isinstance(m, nn.Embedding)}
    head = model.get_output_embeddings()
    tied = head is not None and id(head.weight) in embeddings
    weights = count_parameters(model) - sum(embeddings.values()) + (head.weight.numel() if tied else 0)
    config = model.config.get_text_config(decoder=True)
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    width = config.num_attention_heads * head_size
    family = family_of(model.config)
    return 6 * weights / family.halves + family.attention * config.num_hidden_layers * width * row_tokens
