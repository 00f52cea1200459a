"""Asks a model many dialogues at once, each answered as chat.py draws a reply by default."""

from collections.abc import Callable
from typing import Any

import torch
from tqdm import tqdm
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from data_utils.dialogue.format import stop_token_id
from data_utils.dialogue.window import encode_prompt
from eval_utils.likelihood import window_of
from eval_utils.scorecard import MAX_TOKENS, Answer, Dialogue
from model_utils.families import first_ids
from model_utils.tokenizer import decode_text

TOGETHER = 32  # replies that a step computes at most
# As chat.py draws by default.
DRAWN = {"do_sample": True, "temperature": 0.4, "top_p": 0.9, "top_k": 0, "repetition_penalty": 1.1}


def ask_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    asked: list[tuple[Dialogue, int]],
    open_bar: Callable[[int], tqdm] = lambda total: tqdm(total=total, disable=True),
) -> list[Answer]:
    """Return a model's answers to dialogues, each with its seed, in their order.

    Those of one seed are drawn together, prompts of like length beside each other.
    """
    window = window_of(model)
    prompts = [encode_prompt(tokenizer, dialogue, window, min(MAX_TOKENS, window // 2))[0] for dialogue, _ in asked]
    answers: dict[int, Answer] = {}
    with open_bar(len(asked)) as bar:
        for seed in sorted({seed for _, seed in asked}):
            left = sorted((i for i, (_, of) in enumerate(asked) if of == seed), key=lambda i: len(prompts[i]))
            for start in range(0, len(left), TOGETHER):
                chunk = left[start : start + TOGETHER]
                found = answer_together(model, tokenizer, [prompts[i] for i in chunk], seed)
                answers.update(zip(chunk, found, strict=True))
                bar.update(len(chunk))
    return [answers[i] for i in range(len(asked))]


def answer_together(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]], seed: int
) -> list[Answer]:
    """Return the answers to prompts (ids), computed side by side."""
    stops = sorted({stop_token_id(tokenizer), tokenizer.eos_token_id} - {None})
    room = min(MAX_TOKENS, window_of(model) - max(map(len, prompts)))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        found = continue_together(model, prompts, stops, max_new_tokens=room, **DRAWN)
    return [Answer(decode_text(tokenizer, ids).strip(), has_stopped) for ids, has_stopped in found]


@torch.inference_mode()
def continue_together(
    model: PreTrainedModel, prompts: list[list[int]], stops: list[int], **settings: Any
) -> list[tuple[list[int], bool]]:
    """Return what a model goes on with after each prompt of ids, up to the first of `stops`, and whether one came.

    `settings` are those of a GenerationConfig; with `num_return_sequences` several follow each prompt.
    """
    longest = max(map(len, prompts))
    # A row is padded with its own first token: the repetition penalty sees no token that isn't its own.
    rows = [[ids[0]] * (longest - len(ids)) + ids for ids in prompts]
    mask = [[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts]
    generator: Any = model  # `generate` is a mix-in's
    output = generator.generate(
        torch.tensor(rows, device=model.device),
        attention_mask=torch.tensor(mask, device=model.device),
        generation_config=GenerationConfig(eos_token_id=stops, pad_token_id=stops[0], use_cache=True, **settings),
    )
    found = []
    for ids in output[:, len(first_ids(model.config, rows[0])) :].tolist():
        end = next((place for place, token in enumerate(ids) if token in stops), None)
        found.append((ids[:end], end is not None))
    return found
