"""Causal attention for training on a CPU: by blocks of queries, each against the keys that it can see.

PyTorch's flash kernel for CPUs runs at a sixth of what matrix products reach. Blocks are plain matrix products around a
softmax that the compiler fuses: twice as fast for rows of 256 and 512 tokens, even at 1,024 (benchmarks/LOG.md).
"""

import math

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "causal_blocks"
BLOCK = 128  # queries
LONGEST = 512  # tokens of a row; the flash kernel is as fast beyond, and needs less memory


def attend_by_blocks(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scaling: float
) -> torch.Tensor:
    """Return causal attention (B, H, T, D) of queries, keys and values (B, H, T, D).

    `mask` (B, 1, T, T), true where a query sees a key, may hide more than what is to come; None hides just that.
    """
    length = query.size(-2)
    places = torch.arange(length, device=query.device)
    outputs = []
    for start in range(0, length, BLOCK):
        end = min(start + BLOCK, length)
        seen = places[start:end, None] >= places[None, :end] if mask is None else mask[:, :, start:end, :end]
        scores = (query[:, :, start:end] @ key[:, :, :end].transpose(-1, -2)).float() * scaling
        # The least number, not -inf: a query that sees nothing (padding) gets a mean, not NaN.
        shares = torch.where(seen, scores, torch.finfo(torch.float32).min).softmax(-1).to(query.dtype)
        outputs.append(shares @ value[:, :, :end])
    return torch.cat(outputs, dim=2)


def block_attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """Attend by blocks in training on rows that gain from it, else as transformers' `sdpa` does."""
    length = query.size(2)
    is_causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
    masked = attention_mask is None or (attention_mask.dtype == torch.bool and attention_mask.dim() == 4)
    special = any(kwargs.get(name) is not None for name in ("position_bias", "softcap", "s_aux"))
    plain = is_causal and masked and not special and dropout == 0
    if not (module.training and plain and BLOCK < length <= LONGEST and key.size(2) == length):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, is_causal=is_causal, **kwargs
        )
    groups = getattr(module, "num_key_value_groups", 1)
    scaling = scaling if scaling is not None else 1 / math.sqrt(query.size(-1))
    output = attend_by_blocks(query, repeat_kv(key, groups), repeat_kv(value, groups), attention_mask, scaling)
    return output.transpose(1, 2).contiguous(), None


def use_block_attention(model: PreTrainedModel) -> None:
    """Let a model that attends by `sdpa` on a CPU do so by blocks in training; what it saves does not say so."""
    if model.device.type != "cpu" or model.config._attn_implementation != "sdpa":
        return
    AttentionInterface.register(NAME, block_attention_forward)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)
