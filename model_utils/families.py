"""The one table of what differs between kinds of models: a new kind is a new row."""

from dataclasses import dataclass
from typing import Any

from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, PretrainedConfig


@dataclass(frozen=True)
class Family:
    """What a kind of model calls its parts, and who else knows it.

    `projections` write into the residual stream; `last_norm` stands before the head, which is `head`. `gguf` is
    llama.cpp's name of the architecture, `reader` the function of chat_utils/runtimes/network.py that reads the weights
    for NumPy; None where there is none. `batched`: whether chat_utils/runtimes/batched.py may try it. `task` is peft's
    name of what it does.

    `normalizes_heads`: queries and keys are brought to one size, by a gain of its own (Henry et al. 2020).

    So many `sentinels` are kept in a new tokenizer, each in the place of a span of the source that is to be written.
    `inputs` name the ids that its forward takes, `starts` the fields of a config that say what a target begins with.

    A row's T tokens are shared out to `halves`. `attention`: operations of its training for each of them, in L D T: 12,
    half of that where it is causal, a quarter where half a row looks at half a row (3 in the encoder, 1.5 in the
    decoder, 3 from it to the encoder).
    """

    auto: Any = AutoModelForCausalLM
    projections: tuple[str, ...] = ("o_proj", "down_proj", "c_proj")
    last_norm: str = "norm"
    head: str = "lm_head"
    gguf: str | None = None
    reader: str | None = None
    batched: bool = True
    task: str = "CAUSAL_LM"
    normalizes_heads: bool = False
    halves: int = 1
    attention: float = 6
    sentinels: int = 0
    inputs: tuple[str, ...] = ("input_ids",)
    starts: tuple[str, ...] = ()

    @property
    def has_encoder(self) -> bool:
        """Whether one half reads a source and the other writes a target."""
        return self.halves > 1


def encoder_decoder(*projections: str) -> Family:
    """Return the row of a kind with an encoder and a decoder."""
    return Family(
        AutoModelForSeq2SeqLM, projections, batched=False, task="SEQ_2_SEQ_LM", halves=2, attention=7.5, sentinels=64,
        inputs=("input_ids", "decoder_input_ids"), starts=("bos_token_id", "decoder_start_token_id"),
    )  # fmt: skip


FAMILIES = {  # by transformers' model_type
    "qwen3": Family(gguf="qwen3", reader="read_llama", normalizes_heads=True),
    "qwen2": Family(gguf="qwen2", reader="read_llama"),
    "llama": Family(gguf="llama", reader="read_llama"),
    "mistral": Family(gguf="llama", reader="read_llama"),
    "gemma3_text": Family(gguf="gemma3"),
    "gpt2": Family(projections=("c_proj",), last_norm="ln_f", gguf="gpt2", reader="read_gpt2"),
    "t5gemma": encoder_decoder("o_proj", "down_proj"),
    **dict.fromkeys(("t5", "mt5", "umt5"), encoder_decoder(".o", ".wo")),
}
OTHER = Family()  # any causal language model of transformers
OTHER_ENCODER_DECODER = encoder_decoder("out_proj", "fc2")


def family_of(config: PretrainedConfig) -> Family:
    """Return the row of a model's kind; of one that is not in the table, what most kinds have.

    >>> from types import SimpleNamespace
    >>> family_of(SimpleNamespace(model_type="gpt2")).last_norm
    'ln_f'
    """
    other = OTHER_ENCODER_DECODER if getattr(config, "is_encoder_decoder", False) else OTHER
    return FAMILIES.get(config.model_type, other)


def first_ids(config: PretrainedConfig, prompt: list[int]) -> list[int]:
    """Return the ids that a decoder has before it writes: the prompt, or what a target begins with.

    >>> from types import SimpleNamespace
    >>> [first_ids(SimpleNamespace(model_type=kind, decoder_start_token_id=0), [7, 8]) for kind in ("gpt2", "t5")]
    [[7, 8], [0]]
    """
    return [start_token_id(config)] if family_of(config).has_encoder else prompt


def start_token_id(config: PretrainedConfig) -> int:
    """Return the token that a decoder begins a target with."""
    given = getattr(config, "decoder_start_token_id", None)
    return given if given is not None else config.get_text_config(decoder=True).bos_token_id
