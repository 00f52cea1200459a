"""Finds the preferences of a run, read from files or made from the model, and packs them with their references."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data_utils.caching import preparation_lock
from data_utils.dialogue.pairs import read_pairs
from data_utils.dialogue.reading import name_assistant, read_checked, split_dialogues
from data_utils.rows.packing import thin_rows
from data_utils.rows.preferences import encode_pairs, pack_pairs
from data_utils.sources.builtin import dialogue_text
from data_utils.sources.corpus import split_languages
from data_utils.sources.source import open_sources
from data_utils.text.splitting import hash_share
from eval_utils.likelihood import window_of
from model_utils.tokenizer import tokenizer_fingerprint
from train_utils.own_pairs import ReplyReport, make_own_pairs, pick_prompts
from train_utils.preferences import add_references
from train_utils.run import Run

SHOWN_PAIRS = 5
REPORT_PROMPTS = 60
MEASURED_ROWS = 64  # of the training rows, to see how far they are learned


@dataclass(frozen=True)
class Preferences:
    """Preferences to train on and held-out ones, and what reports on replies to held-out prompts."""

    train: Dataset
    held_out: Dataset
    report: ReplyReport


def find_preferences(run: Run, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, options: Any) -> Preferences:
    """Return the preferences that options of tune_preferences.py name: of files, or what the model makes of prompts."""
    window, seed = window_of(model), run.args.seed
    with preparation_lock():
        if options.preferences:
            reading = read_pairs(open_sources(options.preferences), options.skip_bad_dialogues)
            for line in reading.lines:
                run.say(line)
            train, held_out = split_pairs(reading.dialogues, options.eval_fraction)
            rows = [row for row in held_out if row["chosen"]][:REPORT_PROMPTS]
            dialogues = [{**row, "messages": [*row["prompt"], {"role": "assistant", "content": row["chosen"]}]}
                         for row in rows]  # fmt: skip
            asked = pick_prompts(
                Dataset.from_list(dialogues), tokenizer, count=REPORT_PROMPTS, window=window, seed=seed
            )
        else:
            reading = read_checked(open_sources(options.dialogues), options.skip_bad_dialogues)
            parts = split_dialogues(reading.dialogues, options.eval_fraction)
            named = [name_assistant(part, options.assistant_name) for part in parts]
            how = {
                "key": run.settings["base_version"],
                "samples": options.samples,
                "assistant_name": options.assistant_name,
            }
            made = []
            for part, count in zip(named, (options.prompts, max(40, options.prompts // 5)), strict=True):
                prompts = pick_prompts(part, tokenizer, count=count, window=window, seed=seed)
                pairs = make_own_pairs(model, tokenizer, prompts, seed=seed, **how)
                made.append(pairs)
                run.say(f"preferences: {len(prompts)} prompts, {options.samples} replies to each: {len(pairs)} pairs, "
                        f"{len(prompts) - len(pairs)} prompts whose replies don't differ")  # fmt: skip
                asked = prompts
            train, held_out = made
        report = ReplyReport(asked[:: max(1, len(asked) // REPORT_PROMPTS)], seed, options.assistant_name)
        report.before = report.ask(model, tokenizer)
    return Preferences(train, held_out, report)


def split_pairs(pairs: Dataset, eval_fraction: float) -> tuple[Dataset, Dataset]:
    """Split preferences by the hash of their prompt into (training, held-out), so that no prompt is in both.

    Of a few, where no hash falls low enough, those of the lowest are held out; those of a single prompt are both.
    """
    shares = [hash_share(dialogue_text(prompt)) for prompt in pairs["prompt"]]
    limit = eval_fraction if min(shares) < eval_fraction else min(shares) + 1e-12
    held = [i for i, share in enumerate(shares) if share < limit]
    kept = [i for i, share in enumerate(shares) if share >= limit] or held
    return pairs.select(kept), pairs.select(held)


def describe_pairs(pairs: Dataset) -> Iterator[str]:
    """Yield lines that show what is preferred to what."""
    for row in pairs.select(range(min(SHOWN_PAIRS, len(pairs)))):
        texts = (row["prompt"][-1]["content"], row["chosen"] or "-", row["rejected"] or "-")
        asked, chosen, rejected = (" ".join(text.split())[:160] for text in texts)
        yield f"    {asked}\n        + {chosen}\n        - {rejected} ({row['source']})"


def pack_preferences(
    run: Run, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, found: Preferences, row_tokens: int
) -> tuple[Dataset, dict[str, Dataset]]:
    """Return training rows, and held-out rows of each language and some training rows to measure, with references."""
    key = tokenizer_fingerprint(tokenizer)
    how = {"batch_rows": run.args.per_device_eval_batch_size, "bf16": bool(run.args.bf16)}

    def pack(pairs: Dataset) -> Dataset:
        encoded = encode_pairs(pairs, tokenizer, key, row_tokens, run.say)
        rows = pack_pairs(encoded, row_tokens, tokenizer.pad_token_id)
        return add_references(rows, model, key=run.settings["base_version"], **how) if len(rows) else rows

    with preparation_lock():
        rows = pack(found.train)
        eval_rows = {language: pack(pairs) for language, pairs in split_languages(found.held_out)}
    eval_rows = {language: part for language, part in eval_rows.items() if len(part)}
    return rows, {"training": thin_rows(rows, MEASURED_ROWS), **eval_rows} if eval_rows else {}
