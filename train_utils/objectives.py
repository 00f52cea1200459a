"""Says what one way to train is: rows, collator, loss, figures and samples. A new way to train is a new Objective."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from data_utils.caching import preparation_lock
from data_utils.dialogue.format import stop_token_id
from data_utils.rows.packing import Rows
from data_utils.rows.pretraining import pack_held_out
from errors import InputError
from eval_utils.metrics import token_losses
from eval_utils.short_form import assess_briefly
from model_utils.families import family_of
from model_utils.tokenizer import tokenizer_fingerprint
from train_utils.clock import process_seconds
from train_utils.row_formats import PairFormat, TextFormat
from train_utils.samples import continue_prompts, find_beginnings
from train_utils.steps.fast_model import make_fast

REPEATED = 0.1  # share of a new decoder's rows in which a passage stands twice
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

    Figures: `reduce_logits`, Trainer's `preprocess_logits_for_metrics`, makes of logits and labels what
    `compute_metrics` takes; None for the latter: loss, perplexity, bits per byte and accuracy of tokens.
    Each is shown by its name while it trains and in the report.
    `is_language`: the loss is in nats of a token, so that bits per byte of the training can be shown.

    Shown: `sample(model)` returns (prompt, continuation) pairs at each evaluation; `assess(model, tokenizer)` returns
    lines of Markdown for the report of the finished model; `facts` stand in report and record; `next_step` is the
    command that is told at the end.

    `finish(model)` changes the weights of the trained model in place before they are measured and saved, and returns
    in words what they are then.

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
    compute_metrics: Callable | None = None
    reduce_logits: Callable | None = token_losses
    is_language: bool = True
    callbacks: Sequence[TrainerCallback] = ()
    finish: Callable[[Any], str] | None = None
    assess: Callable[[PreTrainedModel, PreTrainedTokenizerBase], list[str]] | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    next_step: str = ""


def language_objective(
    form: TextFormat | PairFormat, blocks: Rows, held_out: Dataset, *, row_tokens: int, **more: Any
) -> Objective:
    """Return the objective of pretraining: the next token of packed documents; of an encoder-decoder, hidden parts.

    Args:
        form: how rows are made for the model. blocks: rows of T tokens. held_out: documents.
        more: other fields of the Objective.
    """
    tokenizer = form.tokenizer
    drawn = {"max_new_tokens": 40, "temperature": 0.8, "top_p": 0.9}
    with preparation_lock():  # one process prepares, the others find it in the cache
        eval_blocks = pack_held_out(held_out, tokenizer, tokenizer_fingerprint(tokenizer), row_tokens)
        return Objective(
            train_rows=form.vary(blocks),
            eval_rows={part: form.hide_once(rows) for part, rows in eval_blocks.items()},
            row_tokens=row_tokens,
            collate=form.collate,
            speed_up=form.speed_up,
            sample=partial(
                continue_prompts, tokenizer=tokenizer, prompts=find_beginnings(held_out, tokenizer), **drawn
            ),
            stop_token_ids=[tokenizer.eos_token_id],
            assess=partial(assess_briefly, elapsed=process_seconds),
            **more,
        )


def choose_format(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, denoise: str | None = None, repeated: float | None = 0.0
) -> TextFormat | PairFormat:
    """Return how rows are made for a model; raise InputError for what one with or without an encoder has no use for.

    `repeated` is the share of a decoder's rows of text in which a passage stands twice; None: a new one's.
    """
    if family_of(model.config).has_encoder:
        if repeated:
            raise InputError(f"--repeated {repeated:g}: a model with an encoder copies from its source; leave it out")
        return PairFormat(model, tokenizer, denoise or "prefix")
    if denoise:
        raise InputError(f"--denoise {denoise}: a {model.config.model_type} model has no encoder; leave it out")
    return TextFormat(model, tokenizer, REPEATED if repeated is None else repeated)


def dialogue_objective(
    rows: Rows,
    eval_rows: dict[str, Dataset],
    tokenizer: PreTrainedTokenizerBase,
    *,
    questions: list[tuple[str, list[int]]],
    row_tokens: int,
    **more: Any,
) -> Objective:
    """Return the objective of a chat model: the assistant's words and stop tokens, of packed dialogues.

    Args:
        questions: (text, ids of its prompt), answered in the samples. more: other fields of the Objective.
    """
    stop_id = stop_token_id(tokenizer)
    drawn = {"max_new_tokens": REPLY_TOKENS, "temperature": 0.7, "top_p": 0.9, "eos_token_id": stop_id}
    return Objective(
        train_rows=rows,
        eval_rows=eval_rows,
        row_tokens=row_tokens,
        sample=partial(continue_prompts, tokenizer=tokenizer, prompts=questions, **drawn),
        stop_token_ids=[stop_id],
        **more,
    )
