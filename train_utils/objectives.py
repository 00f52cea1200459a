"""Says what one way to train is: rows, collator, loss, figures and samples. A new way to train is a new Objective."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from data_utils.caching import preparation_lock
from data_utils.dialogue.format import stop_token_id
from data_utils.rows.denoising import DenoisedRows, denoise_blocks
from data_utils.rows.halves import collate_halves
from data_utils.rows.packing import Rows, collate_blocks, collate_rows
from data_utils.rows.pretraining import pack_held_out
from errors import InputError
from eval_utils.metrics import measure_tokens
from eval_utils.short_form import assess_briefly
from model_utils.families import family_of, start_token_id
from model_utils.tokenizer import find_sentinels, tokenizer_fingerprint
from train_utils.clock import process_seconds
from train_utils.samples import continue_prompts, find_beginnings
from train_utils.steps.fast_model import make_fast
from train_utils.steps.halves import join_halves, keeps_pairs_apart

REPLY_TOKENS = 60  # of the samples that are shown at each evaluation


@dataclass(kw_only=True)
class Objective:
    """One way to train: what is learned from, how rows become batches and a loss, what is measured and shown.

    Data: `train_rows` holds rows of `row_tokens` tokens (of all their columns together), `eval_rows` held-out ones of
    each part (a language), from which an evaluation takes some; `sampling` is Trainer's `train_sampling_strategy`;
    `collate` makes a batch of rows.

    Loss: the model's own, of labels; `speed_up(model, compiled_rows)` makes its training steps fast in place. Or
    `compute_loss(outputs, labels, num_items_in_batch)`, as Trainer's `compute_loss_func` (labels may be any nest of
    tensors), with a `speed_up` that suits it.

    Figures: `measure(model)` lets a model in evaluation return what `compute_metrics` takes; None for that: loss,
    perplexity, accuracy and bits per byte of tokens. `reduce_logits` is Trainer's `preprocess_logits_for_metrics`.
    `is_language`: the loss is in nats of a token, so that bits per byte of the training can be shown.

    Shown: `sample(model)` returns (prompt, continuation) pairs at each evaluation; `assess(model, tokenizer)` returns
    lines of Markdown for the report of the finished model; `facts` stand in report and record; `next_step` is the
    command that is told at the end.

    `start` says what embedding and head know at first: "random", "fitted" (to pairs of tokens) or "trained".
    `stop_token_ids` end a generated text.
    """

    train_rows: Rows
    eval_rows: dict[str, Dataset]
    row_tokens: int
    collate: Callable[[list[dict]], dict[str, torch.Tensor]]
    sample: Callable[[PreTrainedModel], list[tuple[str, str]]]
    stop_token_ids: list[int]
    sampling: str = "random"
    start: str = "trained"
    speed_up: Callable[[PreTrainedModel, int | None], None] = make_fast
    compute_loss: Callable | None = None
    measure: Callable[[PreTrainedModel], None] = measure_tokens
    compute_metrics: Callable | None = None
    reduce_logits: Callable | None = None
    is_language: bool = True
    callbacks: Sequence[TrainerCallback] = ()
    assess: Callable[[PreTrainedModel, PreTrainedTokenizerBase], list[str]] | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    next_step: str = ""


def language_objective(
    model: PreTrainedModel,
    blocks: Rows,
    held_out: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    row_tokens: int,
    denoise: str | None = None,
    **more: Any,
) -> Objective:
    """Return the objective of pretraining: the next token of packed documents; of an encoder-decoder, hidden parts.

    Args:
        blocks: rows of T tokens. held_out: documents. denoise: which parts are hidden, one of DENOISERS.
        more: other fields of the Objective.
    Raises InputError for `denoise` of a model that has no encoder.
    """
    has_encoder = family_of(model.config).has_encoder
    if denoise and not has_encoder:
        raise InputError(f"--denoise {denoise}: a {model.config.model_type} model has no encoder; leave it out")
    drawn = {"max_new_tokens": 40, "temperature": 0.8, "top_p": 0.9}
    with preparation_lock():  # one process prepares, the others find it in the cache
        objective = Objective(
            train_rows=blocks,
            eval_rows=pack_held_out(held_out, tokenizer, tokenizer_fingerprint(tokenizer), row_tokens),
            row_tokens=row_tokens,
            collate=collate_blocks,
            sample=partial(
                continue_prompts, tokenizer=tokenizer, prompts=find_beginnings(held_out, tokenizer), **drawn
            ),
            stop_token_ids=[tokenizer.eos_token_id],
            assess=partial(assess_briefly, elapsed=process_seconds),
            **more,
        )
        return hide_parts(objective, choose_hidden(model, tokenizer, denoise or "prefix")) if has_encoder else objective


def choose_hidden(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, denoise: str) -> dict[str, Any]:
    """Return how parts of text are hidden, as DenoisedRows takes it; InputError where that can't be learned."""
    sentinels = find_sentinels(tokenizer)
    if denoise != "prefix" and not sentinels:
        raise InputError(f"--denoise {denoise}: the tokenizer has no sentinels (<extra_id_0>); choose prefix")
    if not keeps_pairs_apart(model):
        kind = model.config.model_type
        raise InputError(f"a {kind} model cannot keep packed documents apart; choose T5Gemma, T5, mT5 or UMT5")
    start_id = start_token_id(model.config)
    return {"how": denoise, "end_id": tokenizer.eos_token_id, "start_id": start_id, "sentinels": sentinels}


def hide_parts(objective: Objective, hidden: dict[str, Any]) -> Objective:
    """Return an objective of packed documents as one of text to text."""
    return replace(
        objective,
        train_rows=DenoisedRows(objective.train_rows, **hidden),
        eval_rows={part: denoise_blocks(blocks, **hidden) for part, blocks in objective.eval_rows.items()},
        collate=collate_halves,
        speed_up=join_halves,
    )


def dialogue_objective(
    rows: Dataset,
    eval_rows: dict[str, Dataset],
    tokenizer: PreTrainedTokenizerBase,
    *,
    questions: list[tuple[str, list[int]]],
    row_tokens: int,
    **more: Any,
) -> Objective:
    """Return the objective of dialogue fine-tuning: the assistant's words and stop tokens, of packed dialogues.

    Args:
        questions: (text, ids of its prompt), answered in the samples. more: other fields of the Objective.
    """
    stop_id = stop_token_id(tokenizer)
    drawn = {"max_new_tokens": REPLY_TOKENS, "temperature": 0.7, "top_p": 0.9, "eos_token_id": stop_id}
    has_sources = "source_parts" in rows.column_names
    return Objective(
        train_rows=rows,
        eval_rows=eval_rows,
        row_tokens=row_tokens,
        collate=collate_halves if has_sources else collate_rows,
        speed_up=join_halves if has_sources else make_fast,
        sample=partial(continue_prompts, tokenizer=tokenizer, prompts=questions, **drawn),
        stop_token_ids=[stop_id],
        **more,
    )
