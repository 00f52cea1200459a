"""Proves that an exported model is the checkpoint: the same tokens of text in, the same greedy tokens out."""

from dataclasses import dataclass
from typing import Protocol

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data_utils.dialogue.window import encode_prompt
from errors import InputError
from eval_utils.likelihood import window_of
from model_utils.reply_steps import open_reply
from model_utils.same_tokens import PROMPTS, Tokenizing

REPLY_TOKENS = 64
TIE = 0.01  # logits; where the checkpoint's own two best are closer, rounding may choose either
MAX_TIES = 0.25  # of the positions; where more ties differ, there is nothing left to compare by
MIN_AGREEMENT = 0.5  # below it a quantized model is not the checkpoint any more


class Runtime(Tokenizing, Protocol):
    """An exported model, loaded by the library that it is meant for."""

    def follow(self, prompt: list[int], reply: list[int]) -> list[int]:
        """Return the likeliest token after the prompt and after each token of `reply` but the last."""


@dataclass
class Agreement:
    """How many of the checkpoint's greedy tokens a runtime finds too."""

    equal: int
    total: int
    ties: int = 0  # that differ where the checkpoint's two best tokens are as likely; not among the equal

    def __str__(self) -> str:
        ties = f", {self.ties} differ at ties" if self.ties else ""
        return f"{self.equal} of {self.total} greedy tokens equal ({self.equal / self.total:.1%}){ties}"


@torch.inference_mode()
def reply_greedily(model: PreTrainedModel, ids: list[int], count: int) -> tuple[list[int], list[float]]:
    """Return a checkpoint's own `count` likeliest tokens after ids, and by how much (logits) each beats the next."""
    reply, leads = [], []
    written, pending = open_reply(model, ids), ids
    for _ in range(count):
        best = written.write(pending).float().topk(2)
        pending = [int(best.indices[0])]
        reply += pending
        leads.append(float(best.values[0] - best.values[1]))
    return reply, leads


def compare_replies(
    runtime: Runtime, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, exact: bool
) -> Agreement:
    """Compare greedy replies, 64 tokens to each prompt in both languages, with the checkpoint's in float32.

    The runtime is led along the checkpoint's reply, so that a token that differs doesn't spoil what follows; where none
    differs, its own reply is the same. Raises InputError where any differs but at a tie, or a quarter at ties
    (`exact`), or half of them (quantized).
    """
    window = window_of(model)
    count = min(REPLY_TOKENS, window // 2)
    equal = ties = total = 0
    for text in PROMPTS:
        prompt, _ = encode_prompt(tokenizer, [{"role": "user", "content": text}], window - count)
        reply, leads = reply_greedily(model, prompt, count)
        found = runtime.follow(prompt, reply)
        for position, (token, other, lead) in enumerate(zip(reply, found, leads, strict=True)):
            if exact and token != other and lead > TIE:
                raise InputError(
                    f"verification failed: after {text!r}, token {position + 1} is {tokenizer.decode([other])!r}, the "
                    f"checkpoint's {tokenizer.decode([token])!r}; nothing is left"
                )
            equal += token == other
            ties += exact and token != other
        total += count
    agreement = Agreement(equal, total, ties)
    if ties > MAX_TIES * total:
        raise InputError(
            f"verification failed: {agreement}; the checkpoint hardly prefers a token, so nothing tells that the "
            "export is right; nothing is left; train it longer"
        )
    if not exact and equal < MIN_AGREEMENT * total:
        raise InputError(f"verification failed: only {agreement}; nothing is left; choose a larger --quantize")
    return agreement
