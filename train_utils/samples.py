"""Lets a model write by itself, to be read beside its figures."""

from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from model_utils.tokenizer import decode_text


def continue_prompts(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[tuple[str, list[int]]], **settings
) -> list[tuple[str, str]]:
    """Return (prompt, continuation) for each prompt.

    Args:
        prompts: what is shown of each, and its ids. settings: as `generate` takes them; a token is drawn by chance.
    """
    samples, threads = [], torch.get_num_threads()
    generator: Any = model  # `generate` is a mix-in's
    # A token's operations are so small that threads only wait for each other: on a busy machine eight times as long.
    torch.set_num_threads(1)
    try:
        for shown, ids in prompts:
            input_ids = torch.tensor([ids], device=model.device)
            output = generator.generate(input_ids=input_ids, do_sample=True, use_cache=True, **settings)
            samples.append((shown, decode_text(tokenizer, output[0, len(ids) :].tolist())))
    finally:
        torch.set_num_threads(threads)
    return samples
