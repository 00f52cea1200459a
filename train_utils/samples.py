"""Lets a model go on with held-out documents and dialogues by itself, to be read beside its figures."""

from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data_utils.dialogue.checking import DialogueError
from data_utils.dialogue.window import encode_prompt
from data_utils.sources.corpus import split_languages
from model_utils.families import first_ids
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
            written = output[0, len(first_ids(model.config, ids)) :].tolist()
            samples.append((shown, decode_text(tokenizer, written)))
    finally:
        torch.set_num_threads(threads)
    return samples


def find_beginnings(documents: Dataset, tokenizer: PreTrainedTokenizerBase) -> list[tuple[str, list[int]]]:
    """Return (text, ids) of the first 12 tokens of a document of each language."""
    prompts = []
    for _, rows in split_languages(documents):
        ids = tokenizer(rows[0]["text"][:200], add_special_tokens=False)["input_ids"][:12]
        prompts.append((str(tokenizer.decode(ids)), ids))
    return prompts


def find_questions(
    dialogues: Dataset, tokenizer: PreTrainedTokenizerBase, max_tokens: int
) -> list[tuple[str, list[int]]]:
    """Return (question, ids of its prompt) for the first question of two dialogues of each language."""
    prompts = []
    for _, rows in split_languages(dialogues):
        for messages in rows[:2]["messages"]:
            first = next(i for i, message in enumerate(messages) if message["role"] == "user")
            try:
                ids, _ = encode_prompt(tokenizer, messages[: first + 1], max_tokens)
            except DialogueError:  # too long to be answered here
                continue
            prompts.append((messages[first]["content"], ids))
    return prompts
