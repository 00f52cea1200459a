"""Asks a model many dialogues at once, each answered as chat.py draws a reply by default."""

from collections.abc import Callable

import torch
from tqdm import tqdm
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from data_utils.dialogue.format import stop_token_id
from data_utils.dialogue.window import encode_prompt
from eval_utils.likelihood import window_of
from eval_utils.scorecard import MAX_TOKENS, Answer, Dialogue

TOGETHER = 32  # replies that a step computes at most
# As chat.py draws by default.
DRAWN = {"do_sample": True, "temperature": 0.4, "top_p": 0.9, "top_k": 0, "repetition_penalty": 1.1, "use_cache": True}


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


@torch.inference_mode()
def answer_together(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]], seed: int
) -> list[Answer]:
    """Return the answers to prompts (ids), computed side by side."""
    longest = max(map(len, prompts))
    # A row is padded with its own first token: the repetition penalty sees no token that isn't its own.
    rows = [[ids[0]] * (longest - len(ids)) + ids for ids in prompts]
    mask = [[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts]
    stops = sorted({stop_token_id(tokenizer), tokenizer.eos_token_id} - {None})
    room = min(MAX_TOKENS, window_of(model) - longest)
    settings = GenerationConfig(max_new_tokens=room, eos_token_id=stops, pad_token_id=stops[0], **DRAWN)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        output = model.generate(
            torch.tensor(rows, device=model.device),
            attention_mask=torch.tensor(mask, device=model.device),
            generation_config=settings,
        )
    answers = []
    for ids in output[:, longest:].tolist():
        end = next((place for place, token in enumerate(ids) if token in stops), None)
        text = tokenizer.decode(ids[:end], skip_special_tokens=True)
        answers.append(Answer(text.strip(), end is not None))
    return answers
