"""Asks a model many dialogues at once, each answered as chat.py draws a reply by default."""

from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

import torch
from tqdm import tqdm
from transformers import Cache, DynamicCache, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.utils import ModelOutput

from data_utils.dialogue.format import stop_token_id
from data_utils.dialogue.window import encode_prompt
from eval_utils.likelihood import window_of
from eval_utils.scorecard import MAX_TOKENS, Answer, Dialogue
from model_utils.tokenizer import decode_text

TOGETHER = 32  # replies that a step computes at most
# Whatever the checkpoint asks for: rows leave it.
CACHE: dict[str, Any] = {"use_cache": True, "cache_implementation": "dynamic"}
# As chat.py draws by default.
DRAWN: dict[str, Any] = {"do_sample": True, "temperature": 0.4, "top_p": 0.9, "top_k": 0, "repetition_penalty": 1.1}


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
    found = continue_together(model, prompts, stops, seed=seed, max_new_tokens=room, **DRAWN)
    return [Answer(decode_text(tokenizer, ids).strip(), has_stopped) for ids, has_stopped in found]


@torch.inference_mode()
def continue_together(
    model: PreTrainedModel, prompts: list[list[int]], stops: list[int], *, seed: int, count: int = 1, **settings: Any
) -> list[tuple[list[int], bool]]:
    """Return what a model goes on with after each prompt of ids, up to the first of `stops`, and whether one came.

    `count` replies follow each prompt, next to each other; each has draws of its own, by seed and prompt, and is the
    same whoever is asked beside. `settings` are those of a GenerationConfig.
    """
    prompts, draws = repeat_prompts(model, prompts, seed, count)
    longest = max(map(len, prompts))
    # A row is padded with its own first token: the repetition penalty sees no token that isn't its own.
    rows = [[ids[0]] * (longest - len(ids)) + ids for ids in prompts]
    mask = [[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts]
    generator: Any = model  # `generate` is a mix-in's
    output = generator.generate(
        torch.tensor(rows, device=model.device),
        attention_mask=torch.tensor(mask, device=model.device),
        generation_config=GenerationConfig(eos_token_id=stops, pad_token_id=stops[0], **CACHE, **settings),
        custom_generate=partial(write_together, draws=draws),
    )
    found = []
    for ids in output.tolist():
        end = next((place for place, token in enumerate(ids) if token in stops), None)
        found.append((ids[:end], end is not None))
    return found


def repeat_prompts(
    model: PreTrainedModel, prompts: list[list[int]], seed: int, count: int
) -> tuple[list[list[int]], list[Random]]:
    """Return the prompts that are read, and the draws of `count` replies to each, in their order.

    A prompt is read once, and what its model keeps of it repeated; by a model whose state is more than keys and values
    once for each reply.
    """
    draws = [Random(f"{seed} {number} {ids}") for ids in prompts for number in range(count)]
    return prompts if keeps_rows(model) else [ids for ids in prompts for _ in range(count)], draws


def keeps_rows(model: PreTrainedModel) -> bool:
    """Tell whether a model keeps the keys and values of each row apart, so that rows can leave."""
    layers = DynamicCache(config=model.config.get_text_config(decoder=True)).layers
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)


def write_together(
    model: Any, input_ids: torch.Tensor, *, logits_processor: Any, generation_config: Any, draws: list[Random], **kwargs
) -> torch.Tensor:
    """Return the ids (rows, tokens) that are written: the loop of `generate` for replies of unlike length.

    That of transformers reads a prompt again for each of its replies, and goes on with all rows to the end of the
    longest. Here rows that are done leave the batch, which takes a fifth of the time where replies are short.

    Args:
        draws: of each reply, as many for each of the B rows of `input_ids`.
    """
    reads_source, stops = "encoder_outputs" in kwargs, generation_config._eos_token_tensor
    for processor in logits_processor:
        if hasattr(processor, "prompt_ignore_length"):  # of the rows there are at first; our padding needs none
            processor.prompt_ignore_length = None
    outputs = model._prefill(input_ids, generation_config, kwargs)
    kwargs = model._update_model_kwargs_for_generation(outputs, kwargs, is_encoder_decoder=reads_source)
    logits, can_leave = outputs.logits[:, -1], keeps_rows(model)
    rows = torch.arange(len(draws), device=input_ids.device)  # those that are written still
    if len(input_ids) < len(draws):
        kept = rows // (len(draws) // len(input_ids))
        input_ids, logits, kwargs = input_ids[kept], logits[kept], keep_live(kwargs, kept)
    is_done = torch.zeros_like(rows, dtype=torch.bool)
    written = input_ids.new_full((len(draws), generation_config.max_new_tokens), int(stops[0]))
    for step in range(written.shape[1]):
        scores = logits_processor(input_ids, logits.float())
        if generation_config.do_sample:
            shares = scores.softmax(-1).cumsum(-1)
            drawn = torch.tensor([[1 - draws[row].random()] for row in rows.tolist()], device=shares.device)
            tokens = torch.searchsorted(shares, drawn * shares[:, -1:])[:, 0]  # of 0 < drawn <= 1: none without a share
        else:
            tokens = scores.argmax(-1)
        written[rows, step] = tokens
        input_ids = torch.cat([input_ids, tokens[:, None]], dim=1)
        is_done |= torch.isin(tokens, stops)
        if is_done.all():
            break
        if can_leave and is_done.any():
            kept = (~is_done).nonzero()[:, 0]
            rows, input_ids, is_done, kwargs = rows[kept], input_ids[kept], is_done[kept], keep_live(kwargs, kept)
        outputs = model(**model.prepare_inputs_for_generation(input_ids, next_sequence_length=1, **kwargs))
        kwargs = model._update_model_kwargs_for_generation(outputs, kwargs, is_encoder_decoder=reads_source)
        logits = outputs.logits[:, -1]
    return written


def keep_live(kwargs: dict, kept: torch.Tensor) -> dict:
    """Return what a forward takes with the rows at `kept` alone."""
    for value in kwargs.values():
        if isinstance(value, Cache):
            value.batch_select_indices(kept)
        elif isinstance(value, ModelOutput):
            for name, part in [*value.items()]:
                value[name] = part[kept]
    return {name: value[kept] if isinstance(value, torch.Tensor) else value for name, value in kwargs.items()}
