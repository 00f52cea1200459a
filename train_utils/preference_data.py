"""Finds the preferences of a run, read from files or made from the model, and packs them with their references."""

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data_utils.caching import preparation_lock
from data_utils.dialogue.pairs import read_pairs
from data_utils.dialogue.reading import name_assistant, read_checked, split_dialogues
from data_utils.rows.packing import Rows, thin_rows
from data_utils.rows.preferences import encode_pairs, pack_pairs
from data_utils.sources.corpus import split_languages
from data_utils.sources.source import open_sources
from errors import InputError
from eval_utils.likelihood import window_of
from model_utils.checkpoint import load_model
from model_utils.shapes import find_embedding, resize_vocabulary
from model_utils.tokenizer import tokenizer_fingerprint
from train_utils.own_pairs import Asked, make_own_pairs, pick_prompts, sample_replies
from train_utils.preferences import add_references
from train_utils.reply_report import ReplyReport
from train_utils.rewarded import RewardedRows, load_reward, rank_prompts
from train_utils.run import Run
from train_utils.steps.reply_scores import score_replies

SHOWN_PAIRS = 5
REPORT_PROMPTS = 60
MEASURED_ROWS = 64  # of the training rows, to see how far they are learned


@dataclass(frozen=True)
class Prepared:
    """What a run learns from and is measured by: rows, held-out rows of each part, the report on replies, and facts."""

    rows: Rows
    eval_rows: dict[str, Dataset]
    report: ReplyReport
    facts: dict[str, Any]


def find_preferences(
    run: Run, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, options: Any
) -> tuple[Dataset, Dataset, list[Asked], dict[str, str]]:
    """Return the preferences that options of tune_preferences.py name: of files, or what the model makes of prompts.

    They are (to train on, held out, held-out prompts that are reported on, facts of the reading).
    """
    seed, facts = run.args.seed, {}
    with preparation_lock():
        if options.preferences:
            reading = read_pairs(open_sources(options.preferences), options.skip_bad_dialogues)
            facts = reading.facts
            for line in reading.lines:
                run.say(line)
            train, held_out = split_dialogues(reading.dialogues, options.eval_fraction, "prompt")
            rows = [row for row in held_out if row["chosen"]][:REPORT_PROMPTS]
            dialogues = [{**row, "messages": [*row["prompt"], {"role": "assistant", "content": row["chosen"]}]}
                         for row in rows]  # fmt: skip
            how = {"count": REPORT_PROMPTS, "window": window_of(model), "seed": seed, "name": options.assistant_name}
            asked = pick_prompts(Dataset.from_list(dialogues), tokenizer, **how)
        else:
            made = []
            for asked in ask_dialogues(run, model, tokenizer, options):
                how = {"key": run.settings["base_version"], "samples": options.samples, "seed": seed}
                pairs = make_own_pairs(model, tokenizer, asked, **how)
                made.append(pairs)
                run.say(f"preferences: {len(asked)} prompts, {options.samples} replies to each: {len(pairs)} pairs, "
                        f"{len(asked) - len(pairs)} prompts whose replies don't differ")  # fmt: skip
            train, held_out = made
    return train, held_out, asked[:: max(1, len(asked) // REPORT_PROMPTS)], facts


def ask_dialogues(
    run: Run, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, options: Any
) -> tuple[list[Asked], list[Asked]]:
    """Return the prompts of `--dialogues` that the model answers: (to train on, held out)."""
    reading = read_checked(open_sources(options.dialogues), options.skip_bad_dialogues)
    how: dict[str, Any] = {"window": window_of(model), "seed": run.args.seed, "name": options.assistant_name}
    parts = [name_assistant(part, how["name"]) for part in split_dialogues(reading.dialogues, options.eval_fraction)]
    counts = (options.prompts, max(40, options.prompts // 5))
    train, held_out = (pick_prompts(part, tokenizer, count=n, **how) for part, n in zip(parts, counts, strict=True))
    return train, held_out


def describe_pairs(pairs: Dataset) -> Iterator[str]:
    """Yield lines that show what is preferred to what."""
    for row in pairs.select(range(min(SHOWN_PAIRS, len(pairs)))):
        texts = (row["prompt"][-1]["content"], row["chosen"] or "-", row["rejected"] or "-")
        asked, chosen, rejected = (" ".join(text.split())[:160] for text in texts)
        yield f"    {asked}\n        + {chosen}\n        - {rejected} ({row['source']})"


def pack_preferences(
    run: Run, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Dataset, row_tokens: int
) -> Dataset:
    """Return rows of preferences with the log-probabilities of the model as it is, the reference."""
    encoded = encode_pairs(pairs, tokenizer, tokenizer_fingerprint(tokenizer), row_tokens, run.say)
    rows = pack_pairs(encoded, row_tokens, tokenizer.pad_token_id)
    how = {"batch_rows": run.args.per_device_eval_batch_size, "bf16": bool(run.args.bf16)}
    return add_references(rows, model, key=run.settings["base_version"], **how) if len(rows) else rows


def prepare_rows(run: Run, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, options: Any) -> Prepared:
    """Return what a run of tune_preferences.py learns from and is measured by, as its options say.

    Raises InputError where nothing is left.
    """
    if options.reward:
        return prepare_rewarded(run, model, tokenizer, options)
    train, others, asked, reading = find_preferences(run, model, tokenizer, options)
    for line in describe_pairs(train):
        run.say(line)
    with preparation_lock():
        report = ReplyReport(model, tokenizer, asked, seed=run.args.seed)
        rows = pack_preferences(run, model, tokenizer, train, options.row_tokens)
        held_out = pack_languages(run, model, tokenizer, others, options.row_tokens)
    if not len(rows) or not held_out:
        raise InputError("no preference is left to train on and to measure with; give more, or larger --row_tokens")
    facts = {"pairs": len(train), "held out": len(others), "kinds": dict(Counter(train["source"])), **reading}
    return Prepared(rows, {"training": thin_rows(rows, MEASURED_ROWS), **held_out}, report, facts)


def pack_languages(
    run: Run, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Dataset, row_tokens: int
) -> dict[str, Dataset]:
    """Return the rows of `pack_preferences` of each language that has some."""
    parts = split_languages(pairs) if len(pairs) else ()
    packed = {part: pack_preferences(run, model, tokenizer, found, row_tokens) for part, found in parts}
    return {part: rows for part, rows in packed.items() if len(rows)}


def prepare_rewarded(run: Run, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, options: Any) -> Prepared:
    """Return rows that the model makes by a reward as it goes, and held-out pairs of its replies as it is now."""
    reward, seed = load_reward(options.reward), run.args.seed
    with preparation_lock():
        prompts, asked = ask_dialogues(run, model, tokenizer, options)
    replies = sample_replies(model, tokenizer, [one.ids for one in asked], count=options.samples, seed=seed)
    pairs, mean = rank_prompts(asked, replies, reward)
    run.say(f"held out: {len(asked)} prompts, mean reward {mean:.3f}, {len(pairs)} pairs")
    held_out = pack_languages(run, model, tokenizer, pairs, options.row_tokens)
    if not held_out or not prompts:
        reason = f"{len(pairs)} pairs of held-out replies differ in it, none fits in --row_tokens {options.row_tokens}"
        raise InputError(f"--reward {options.reward}: {reason}; nothing could be learned")
    reference = load_model(options.base)
    resize_vocabulary(reference, find_embedding(model).num_embeddings)
    score_replies(reference)
    folder = run.folder / "rounds"
    if not run.resume:
        shutil.rmtree(folder, ignore_errors=True)
    how = {"count": options.rounds, "samples": options.samples, "row_tokens": options.row_tokens, "seed": seed}
    rows = RewardedRows(model, reference, tokenizer, reward, prompts, folder=folder, say=run.say, **how)
    report = ReplyReport(model, tokenizer, asked[:REPORT_PROMPTS], seed=seed, reward=reward)
    facts = {"prompts": len(prompts), "rounds": options.rounds, "mean reward before": round(mean, 4)}
    return Prepared(rows, held_out, report, facts)
