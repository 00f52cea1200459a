"""Lets a model write by itself, to be read beside its figures."""

from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from model_utils.families import count_echoed
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
            settings["attention_mask"] = torch.ones_like(input_ids)
            output = generator.generate(input_ids=input_ids, do_sample=True, use_cache=True, **settings)
            written = output[0, count_echoed(model.config, len(ids)) :].tolist()
            samples.append((shown, decode_text(tokenizer, written)))
    finally:
        torch.set_num_threads(threads)
    return samples
