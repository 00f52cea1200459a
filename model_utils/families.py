"""The one table of what differs between kinds of models: a new kind is a new row."""

from dataclasses import dataclass
from typing import Any

from transformers import AutoModelForCausalLM, PretrainedConfig


@dataclass(frozen=True)
class Family:
    """What a kind of model calls its parts, and who else knows it.

    `projections` write into the residual stream; `last_norm` stands before the head, which is `head`. `gguf` is
    llama.cpp's name of the architecture, `reader` the function of chat_utils/runtimes/network.py that reads the weights
    for NumPy; None where there is none.
    """

    auto: Any = AutoModelForCausalLM
    projections: tuple[str, ...] = ("o_proj", "down_proj", "c_proj")
    last_norm: str = "norm"
    head: str = "lm_head"
    gguf: str | None = None
    reader: str | None = None


FAMILIES = {  # by transformers' model_type
    "qwen3": Family(gguf="qwen3", reader="read_llama"),
    "qwen2": Family(gguf="qwen2", reader="read_llama"),
    "llama": Family(gguf="llama", reader="read_llama"),
    "mistral": Family(gguf="llama", reader="read_llama"),
    "gemma3_text": Family(gguf="gemma3"),
    "gpt2": Family(projections=("c_proj",), last_norm="ln_f", gguf="gpt2", reader="read_gpt2"),
}
OTHER = Family()  # any causal language model of transformers


def family_of(config: PretrainedConfig) -> Family:
    """Return the row of a model's kind; of one that is not in the table, what most kinds have.

    >>> from types import SimpleNamespace
    >>> family_of(SimpleNamespace(model_type="gpt2")).last_norm
    'ln_f'
    """
    return FAMILIES.get(config.model_type, OTHER)
