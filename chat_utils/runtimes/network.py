"""Reads a transformers model as NumPy arrays, for the classes that numpy_decoder.py can compute.

In bfloat16 a matrix stays PyTorch's, since NumPy has no such numbers: a token costs the time that its weights take to
come from memory, and they are half as many bytes. All between the matrices is float32 either way.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedConfig, PreTrainedModel

from model_utils.families import family_of


class Linear(NamedTuple):
    """A matrix (inputs, outputs) and a bias (outputs) or None, in float32.

    It stands the other way round than PyTorch's: a row of one token is multiplied up to twice as fast so.
    """

    weight: np.ndarray
    bias: np.ndarray | None = None

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Return (N, outputs) of rows (N, inputs)."""
        product = rows @ self.weight
        return product if self.bias is None else product + self.bias


class HalfLinear(NamedTuple):
    """A matrix (outputs, inputs) in bfloat16 and a bias (outputs) in float32 or None."""

    weight: torch.Tensor
    bias: np.ndarray | None = None

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Return (N, outputs), float32, of rows (N, inputs), float32."""
        halves = torch.from_numpy(rows).bfloat16()
        if len(rows) > 1:
            product = functional.linear(halves, self.weight)
        else:  # oneDNN takes twice the time that reading the weights does; without it PyTorch's own loop runs
            was_enabled = torch.backends.mkldnn.enabled
            torch.backends.mkldnn.enabled = False  # ty: ignore[invalid-assignment]  # typed as its descriptor
            try:
                product = functional.linear(halves, self.weight)
            finally:
                torch.backends.mkldnn.enabled = was_enabled
        product = product.float().numpy()
        return product if self.bias is None else product + self.bias


def make_linear(weight: torch.Tensor, bias: torch.Tensor | None) -> Linear | HalfLinear:
    """Return a matrix (outputs, inputs) in the precision that it comes in, as a copy."""
    bias = None if bias is None else bias.detach().float().numpy().copy()
    if weight.dtype == torch.bfloat16:
        return HalfLinear(weight.detach().clone(memory_format=torch.contiguous_format), bias)
    return Linear(np.ascontiguousarray(weight.detach().numpy().T), bias)


class Norm(NamedTuple):
    """RMS norm, or layer norm where there is a bias; `weight` and `epsilon` count the sum of squares, not the mean."""

    weight: np.ndarray
    bias: np.ndarray | None
    epsilon: np.float32

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Return rows (..., D) normed over their last axis."""
        if self.bias is not None:
            rows = rows - rows.mean(-1, keepdims=True)
        rows = rows / np.sqrt(np.vecdot(rows, rows) + self.epsilon)[..., None] * self.weight
        return rows if self.bias is None else rows + self.bias


def swiglu(hidden: np.ndarray) -> np.ndarray:
    """Source: Shazeer 2020, equation 6; the gate is the first half."""
    half = hidden.shape[-1] // 2
    gate, up = hidden[:, :half], hidden[:, half:]
    return gate / (1 + np.exp(-gate)) * up


def gelu(x: np.ndarray) -> np.ndarray:
    """The tanh form. Source: Hendrycks and Gimpel 2016, section 2."""
    return 0.5 * x * (1 + np.tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))


ROPE_TYPES = ("default", "linear", "llama3", "yarn")  # the same angles whatever the length


@dataclass
class Layer:
    """One block; `gate_up` holds gate and up of a SwiGLU side by side, or the single matrix before a GELU."""

    norm: Norm
    qkv: Linear | HalfLinear
    qk_norm: Norm | None
    output: Linear | HalfLinear
    second_norm: Norm
    gate_up: Linear | HalfLinear
    down: Linear | HalfLinear
    sliding_window: int | None = None


@dataclass
class Network:
    """The weights of a model; H query heads, K key-value heads, each E wide."""

    embedding: np.ndarray  # (V, D)
    activate: Callable[[np.ndarray], np.ndarray]  # between `gate_up` and `down` of each layer
    positions: np.ndarray | None  # (window, D): GPT-2's
    rotation: np.ndarray | None  # (window, 1, E / 2), complex: RoPE's
    layers: list[Layer]
    norm: Norm
    head: Linear | HalfLinear
    heads: int
    kv_heads: int
    head_width: int
    window: int


def read_network(model: PreTrainedModel) -> Network | None:
    """Return the model's weights, the embedding shared with it; None for a class not known here."""
    if model.device.type != "cpu" or model.dtype not in (torch.float32, torch.bfloat16):
        return None
    reader = family_of(model.config).reader
    return None if reader is None or not has_fixed_angles(model.config) else READERS[reader](model)


def has_fixed_angles(config: PreTrainedConfig) -> bool:
    """Tell whether a position's angles are the same however long the text is; true where there is no RoPE."""
    rope = getattr(config, "rope_parameters", None) or {}
    parts = [part for part in rope.values() if isinstance(part, dict)] or [rope]  # for each kind of layer, or for all
    return all(part.get("rope_type", "default") in ROPE_TYPES for part in parts)


def as_array(parameter: torch.Tensor) -> np.ndarray:
    """Return a parameter as an array in float32, on the same memory where it is in float32."""
    return parameter.detach().float().numpy()


def read_linear(*modules: nn.Linear, order: np.ndarray | None = None) -> Linear | HalfLinear:
    """Return one matrix of several with the same input, their outputs one after the other, or in another order."""
    weight = torch.cat([module.weight for module in modules])
    bias = None if modules[0].bias is None else torch.cat([module.bias for module in modules])
    if order is not None:
        weight, bias = weight[order], None if bias is None else bias[order]
    return make_linear(weight, bias)


def read_norm(module: Any) -> Norm:
    """Return an RMS norm or a layer norm."""
    epsilon = module.eps if isinstance(module, nn.LayerNorm) else module.variance_epsilon
    width = len(module.weight)
    bias = getattr(module, "bias", None)
    weight = as_array(module.weight) * np.float32(width**0.5)
    return Norm(weight, None if bias is None else as_array(bias), np.float32(epsilon * width))


def interleave(columns: np.ndarray, heads: int) -> np.ndarray:
    """Put the two numbers that RoPE turns together side by side in each head, as a complex number has them.

    transformers keeps them E / 2 apart. Queries and keys alike are put so, and their products stay the same.
    """
    halves = columns.reshape(*columns.shape[:-1], heads, 2, -1)
    return halves.swapaxes(-1, -2).reshape(columns.shape)


def read_llama(model: PreTrainedModel) -> Network | None:
    """Read Llama, Mistral, Qwen2 and Qwen3; None with another activation than theirs."""
    config = model.config
    body: Any = model.base_model
    if config.hidden_act != "silu":
        return None
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    cos, sin = body.rotary_emb(torch.zeros(1), torch.arange(config.max_position_embeddings)[None])
    head_width = cos.shape[-1]
    turned = heads + kv_heads
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    sliding_window = getattr(config, "sliding_window", None)
    if config.model_type == "mistral":  # slides in every layer, and says so by its window alone
        kinds = ["sliding_attention"] * config.num_hidden_layers
    order = np.arange((turned + kv_heads) * head_width)
    order[: turned * head_width] = interleave(order[: turned * head_width], turned)
    layers = []
    for block, kind in zip(body.layers, kinds, strict=True):
        attention, mlp = block.self_attn, block.mlp
        qkv = read_linear(attention.q_proj, attention.k_proj, attention.v_proj, order=order)
        qk_norm = None
        if hasattr(attention, "q_norm"):
            norms = [read_norm(attention.q_norm)] * heads + [read_norm(attention.k_norm)] * kv_heads
            weight = np.stack([interleave(norm.weight, 1) for norm in norms])
            qk_norm = Norm(weight, None, norms[0].epsilon)
        layer = Layer(
            norm=read_norm(block.input_layernorm), qkv=qkv, qk_norm=qk_norm, output=read_linear(attention.o_proj),
            second_norm=read_norm(block.post_attention_layernorm), gate_up=read_linear(mlp.gate_proj, mlp.up_proj),
            down=read_linear(mlp.down_proj), sliding_window=sliding_window if kind == "sliding_attention" else None,
        )  # fmt: skip
        layers.append(layer)
    half = head_width // 2
    rotation = (cos[0, :, None, :half] + 1j * sin[0, :, None, :half]).numpy().astype(np.complex64)
    return Network(
        embedding=as_array(body.embed_tokens.weight), activate=swiglu, positions=None, rotation=rotation, layers=layers,
        norm=read_norm(body.norm), head=read_linear(model.lm_head), heads=heads, kv_heads=kv_heads,
        head_width=head_width, window=config.max_position_embeddings,
    )  # fmt: skip


def read_gpt2(model: PreTrainedModel) -> Network:
    """Read GPT-2, whose matrices stand as ours."""
    config = model.config
    body: Any = model.base_model

    def as_linear(module: Any) -> Linear | HalfLinear:
        return make_linear(module.weight.T, module.bias)

    layers = [
        Layer(
            norm=read_norm(block.ln_1), qkv=as_linear(block.attn.c_attn), qk_norm=None,
            output=as_linear(block.attn.c_proj), second_norm=read_norm(block.ln_2),
            gate_up=as_linear(block.mlp.c_fc), down=as_linear(block.mlp.c_proj),
        )
        for block in body.h
    ]  # fmt: skip
    return Network(
        embedding=as_array(body.wte.weight), activate=gelu, positions=as_array(body.wpe.weight), rotation=None,
        layers=layers, norm=read_norm(body.ln_f), head=read_linear(model.lm_head), heads=config.n_head,
        kv_heads=config.n_head, head_width=config.n_embd // config.n_head, window=config.n_positions,
    )  # fmt: skip


READERS = {"read_llama": read_llama, "read_gpt2": read_gpt2}  # by their names in model_utils/families.py
