"""What a model writes by itself, to be read beside its figures."""

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase


def continue_prompts(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[tuple[str, list[int]]], **settings
) -> list[tuple[str, str]]:
    """Return (prompt, continuation) for each prompt.

    Args:
        prompts: what is shown of each, and its ids. settings: as `generate` takes them; a token is drawn by chance.
    """
    samples, threads = [], torch.get_num_threads()
    # A token's operations are so small that threads only wait for each other: on a busy machine eight times as long.
    torch.set_num_threads(1)
    try:
        for shown, ids in prompts:
            input_ids = torch.tensor([ids], device=model.device)
            output = model.generate(input_ids=input_ids, do_sample=True, use_cache=True, **settings)
            samples.append((shown, tokenizer.decode(output[0, len(ids) :], skip_special_tokens=True)))
    finally:
        torch.set_num_threads(threads)
    return samples
