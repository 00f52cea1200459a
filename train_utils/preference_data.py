"""Finds what a run of preferences learns from: pairs of files, packed with their references, or prompts to answer."""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data_utils.caching import preparation_lock
from data_utils.dialogue.pairs import hold_pairs, read_pairs
from data_utils.dialogue.reading import name_assistant, read_checked, split_dialogues
from data_utils.rows.packing import Rows, thin_rows
from data_utils.rows.preferences import collate_pairs, encode_pairs, pack_pairs
from data_utils.sources.corpus import split_languages
from data_utils.sources.source import open_sources
from errors import InputError
from eval_utils.likelihood import window_of
from model_utils.tokenizer import tokenizer_fingerprint
from train_utils.objectives import Objective, dialogue_objective
from train_utils.own_replies import Asked, judge_replies, pick_prompts
from train_utils.preferences import PreferenceLoss, add_references
from train_utils.reply_report import ReplyReport
from train_utils.rewarded import AskedRows, RewardLoss, collate_asked, describe_choice, judge_by, load_reward
from train_utils.run import Run
from train_utils.sharding import is_deepspeed, is_sharded
from train_utils.steps.fast_model import Compiler, compile_layers

SHOWN_PAIRS = 5
REPORT_PROMPTS = 120
MEASURED_ROWS = 64  # of the training rows, to see how far they are learned


@dataclass(frozen=True)
class Prepared:
    """What a run learns from and is measured by: rows, held-out rows of each part, the report on replies, and facts.

    `loss` is of the rows, of `row_tokens` tokens each, and `collate` makes batches of them.
    """

    rows: Rows
    row_tokens: int
    eval_rows: dict[str, Dataset]
    report: ReplyReport
    facts: dict[str, Any]
    loss: PreferenceLoss | RewardLoss
    collate: Callable[[list[dict]], dict[str, torch.Tensor]]


def find_preferences(
    run: Run, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, options: Any
) -> tuple[Dataset, Dataset, list[Asked], dict[str, str]]:
    """Return the preferences of files that options of tune_preferences.py name.

    They are (to train on, held out, held-out prompts that are reported on, facts of the reading).
    """
    reading = read_pairs(open_sources(options.preferences), options.skip_bad_dialogues)
    for line in reading.lines:
        run.say(line)
    train, held_out = split_dialogues(reading.dialogues, options.eval_fraction, "prompt")
    rows = held_out.select(range(min(len(held_out), REPORT_PROMPTS))).to_list()
    replies = [{"role": "assistant", "content": row["chosen"] or row["rejected"]} for row in rows]
    dialogues = [{**row, "messages": [*row["prompt"], reply]} for row, reply in zip(rows, replies, strict=True)]
    how = {"count": REPORT_PROMPTS, "window": window_of(model), "seed": run.args.seed, "name": options.assistant_name}
    return train, held_out, pick_prompts(Dataset.from_list(dialogues), tokenizer, **how), reading.facts


def ask_dialogues(
    run: Run, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, options: Any
) -> tuple[list[Asked], list[Asked]]:
    """Return the prompts of `--dialogues` that the model answers: (to train on, held out)."""
    reading = read_checked(open_sources(options.dialogues), options.skip_bad_dialogues)
    window = min(window_of(model), options.row_tokens)
    how: dict[str, Any] = {"window": window, "seed": run.args.seed, "name": options.assistant_name}
    parts = [name_assistant(part, how["name"]) for part in split_dialogues(reading.dialogues, options.eval_fraction)]
    counts = (options.prompts, max(40, options.prompts // 5))
    train, held_out = (pick_prompts(part, tokenizer, count=n, **how) for part, n in zip(parts, counts, strict=True))
    return train, held_out


def describe_pairs(pairs: Dataset) -> Iterator[str]:
    """Yield lines that show what is preferred to what."""
    for row in pairs.select(range(min(SHOWN_PAIRS, len(pairs)))):
        shown = describe_choice(row["prompt"][-1]["content"], row["chosen"] or "-", row["rejected"] or "-")
        yield f"{shown} ({row['source']})"


def pack_preferences(
    run: Run, model: PreTrainedModel | None, tokenizer: PreTrainedTokenizerBase, pairs: Dataset, row_tokens: int
) -> Dataset:
    """Return rows of preferences with the log-probabilities of a model, the reference; without any for None."""
    encoded = encode_pairs(pairs, tokenizer, tokenizer_fingerprint(tokenizer), row_tokens, run.say)
    rows = pack_pairs(encoded, row_tokens, tokenizer.pad_token_id)
    how = {"batch_rows": run.args.per_device_eval_batch_size, "bf16": bool(run.args.bf16)}
    return add_references(rows, model, key=run.settings["base_version"], **how) if model and len(rows) else rows


def prepare_rows(run: Run, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, options: Any) -> Prepared:
    """Return what a run of tune_preferences.py learns from and is measured by, as its options say.

    Raises InputError where nothing is left.
    """
    if not options.preferences:
        return prepare_prompts(run, model, tokenizer, options)
    with preparation_lock():
        train, others, asked, reading = find_preferences(run, model, tokenizer, options)
        for line in describe_pairs(train):
            run.say(line)
        report = ReplyReport(model, tokenizer, asked, seed=run.args.seed)
        rows = pack_preferences(run, model, tokenizer, train, options.row_tokens)
        held_out = pack_languages(run, model, tokenizer, others, options.row_tokens)
    if not len(rows) or not held_out:
        raise InputError("no preference is left to train on and to measure with; give more, or larger --row_tokens")
    facts = {"pairs": len(train), "held out": len(others), "kinds": dict(Counter(train["source"])), **reading}
    loss = PreferenceLoss(options.beta, options.sft_weight, options.label_smoothing, options.by_length)
    eval_rows = {"training": thin_rows(rows, MEASURED_ROWS), **held_out}
    return Prepared(rows, options.row_tokens, eval_rows, report, facts, loss, collate_pairs)


def pack_languages(
    run: Run, model: PreTrainedModel | None, tokenizer: PreTrainedTokenizerBase, pairs: Dataset, row_tokens: int
) -> dict[str, Dataset]:
    """Return the rows of `pack_preferences` of each language that has some."""
    parts = split_languages(pairs) if len(pairs) else ()
    packed = {part: pack_preferences(run, model, tokenizer, found, row_tokens) for part, found in parts}
    return {part: rows for part, rows in packed.items() if len(rows)}


def prepare_prompts(run: Run, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, options: Any) -> Prepared:
    """Return prompts that the model answers as it goes, its replies judged by `--reward`, and held-out true replies."""
    if is_sharded(run.args) or is_deepspeed(run.args):
        raise InputError("a model that is sharded can't answer on the way; give --preferences, or leave sharding out")
    if run.args.dataloader_num_workers:
        raise InputError("--dataloader_num_workers: the model answers in its own process; leave it out")
    reward, seed = load_reward(options.reward) if options.reward else None, run.args.seed
    with preparation_lock():
        prompts, asked = ask_dialogues(run, model, tokenizer, options)
        place = {"rejected": "", "source": "held out"}
        pairs = [
            {"prompt": one.messages, "chosen": one.truth, "language": one.language, "place": str(number), **place}
            for number, one in enumerate(asked, 1)
        ]
        held_out = pack_languages(run, None, tokenizer, hold_pairs(pairs), options.row_tokens)
    if not held_out or not prompts:
        raise InputError("no prompt is left to train on and to measure with; give more, or larger --row_tokens")
    run.say(f"prompts: {len(prompts)} to train on, {len(asked)} held out; {options.samples} replies to each")
    folder = run.folder / "rounds"
    if run.is_first and not (run.resume or run.args.plan_only):
        shutil.rmtree(folder, ignore_errors=True)
    report = ReplyReport(model, tokenizer, asked[:REPORT_PROMPTS], seed=seed, reward=reward)
    rows = AskedRows(
        model,
        tokenizer,
        judge=judge_by(reward) if reward else judge_replies,
        measure_kl=partial(report.measure_kl, model, tokenizer),
        prompts=prompts,
        samples=options.samples,
        truth_weight=options.sft_weight,
        seed=seed,
        folder=folder,
        say=run.say,
    )
    collate = partial(collate_asked, row_tokens=options.row_tokens, pad_token_id=tokenizer.pad_token_id)
    facts = {"prompts": len(prompts), "held out": len(asked), "replies to each": options.samples}
    return Prepared(rows, rows.item_tokens, held_out, report, facts, RewardLoss(), collate)


def preference_objective(data: Prepared, tokenizer: PreTrainedTokenizerBase, *, draws: bool, **more: Any) -> Objective:
    """Return the objective of preference tuning; `more` as `dialogue_objective` takes it.

    Args:
        draws: whether the model learns from its own replies, whose prompts come in their order.
    """
    return dialogue_objective(
        data.rows,
        data.eval_rows,
        tokenizer,
        row_tokens=data.row_tokens,
        collate=data.collate,
        compute_loss=data.loss,
        compute_metrics=data.loss.measure,
        sampling="sequential" if draws else "random",
        speed_up=lambda model, compiled_rows: compile_layers(model, Compiler(), compiled_rows),
        reduce_logits=None,
        is_language=False,
        questions=data.report.questions,
        assess=data.report.assess,
        facts=data.facts,
        **more,
    )
