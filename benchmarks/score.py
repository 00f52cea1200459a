"""How many items a second score.py scores, beside lm-evaluation-harness on the same model, items and threads.

python -m benchmarks.score ckpt_chat smollm2        # pip install lm_eval, to compare
python -m benchmarks.score ckpt_chat --pairs blimp/ --items 1000 --rounds 5 --batch 1 64
python score.py ONE TWO ... --parts pairs --pairs blimp/ && python -m benchmarks.score --order score/score.json
                                                    # do our own pairs order models as those of the files do?
"""

import argparse
import json
import logging
import platform
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median

from environment import begin_script
from errors import InputError, run_script

if __name__ == "__main__":
    begin_script()

import numpy as np
import torch

from eval_utils.held_out import read_held_out
from eval_utils.items import READERS
from eval_utils.likelihood import Scorer, encode_scored, window_of
from eval_utils.minimal_pairs import LANGUAGES, make_both
from model_utils.checkpoint import load_checkpoint

Item = list[tuple[str, str]]  # contexts and texts, of which the likeliest is asked
Score = Callable[[list[tuple[str, str]]], list[float]]
CONTEXT, ANSWER, ANSWERS = 400, 60, 4  # characters of a question and of each of its answers


def as_items(pairs: list, count: int) -> list[Item]:
    """Return the first pairs as items."""
    return [[("", pair.good), ("", pair.bad)] for pair in pairs[:count]]


def make_choices(count: int) -> list[Item]:
    """Return questions made of held-out texts: how does it go on? The other answers are from other texts."""
    texts = [row["text"] for row in read_held_out()["documents"] if row["language"] in LANGUAGES]
    texts = [text for text in texts if len(text) > CONTEXT + ANSWER][:count]
    ends = [text[CONTEXT : CONTEXT + ANSWER].strip() for text in texts]
    return [
        [(text[:CONTEXT].strip(), f" {ends[(place + i) % len(ends)]}") for i in range(ANSWERS)]
        for place, text in enumerate(texts)
    ]


def measure(scorers: dict[str, Score], items: list[Item], rounds: int) -> list[tuple[str, float, float]]:
    """Return of each scorer its name, items a second and times the first's: medians of rounds, each scorer in turn.

    Raises SystemExit where their log-likelihoods differ.
    """
    flat = [pair for item in items for pair in item]
    seconds: dict[str, list[float]] = {name: [] for name in scorers}
    expected = None
    for _ in range(rounds):
        for name, score in scorers.items():
            started = time.perf_counter()
            found = score(flat)
            seconds[name].append(time.perf_counter() - started)
            expected = expected or found
            apart = max(abs(one - other) for one, other in zip(found, expected, strict=True))
            if apart > 1e-3:
                sys.exit(f"{name}: a log-likelihood differs by {apart:.4f}")
    ours = next(iter(seconds.values()))
    times = {name: median(a / b for a, b in zip(taken, ours, strict=True)) for name, taken in seconds.items()}
    return [(name, len(items) / median(taken), times[name]) for name, taken in seconds.items()]


def open_scorers(path: str, sizes: list[int]) -> dict[str, Score]:
    """Return what scores texts under a checkpoint: score.py, and the harness with each size of batch."""
    model, tokenizer = load_checkpoint(path)
    scorer, window = Scorer(model), window_of(model)

    def score_ours(pairs: list[tuple[str, str]]) -> list[float]:
        return scorer.score(encode_scored(tokenizer, pairs, window), finds_greedy=False).nats.tolist()

    scorers: dict[str, Score] = {"score.py": score_ours}
    if find_spec("lm_eval") is None:
        print("lm_eval is not installed; nothing to compare with")
        return scorers
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    for size in sizes:
        harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=size, device="cpu")

        def score_theirs(pairs: list[tuple[str, str]], harness: HFLM = harness) -> list[float]:
            asked = [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(pairs)]
            return [-found for found, _ in harness.loglikelihood(asked, disable_tqdm=True)]

        scorers[f"lm_eval, batches of {size}"] = score_theirs
    return scorers


def show_versions() -> str:
    """Return the machine, its threads and the versions of what is compared."""
    versions = [f"{name} {version(name)}" for name in ("torch", "transformers", "lm_eval") if find_spec(name)]
    return ", ".join([platform.machine(), f"{torch.get_num_threads()} threads", *versions])


def show_order(path: str) -> None:
    """Print for each language the rank correlation (Spearman) of our own pairs with those of files over checkpoints."""
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file; run score.py --parts pairs --pairs FILES on several checkpoints")
    scores = json.loads(Path(path).read_text(encoding="utf-8"))
    values = {name: {f["name"]: f["value"] for f in found["figures"]} for name, found in scores.items()}
    for language in LANGUAGES:
        both = [f"{kind}, {language}" for kind in ("minimal pairs", "pairs of files")]
        rows = {name: [found[kind] for kind in both] for name, found in values.items() if both[1] in found}
        for name, row in rows.items():
            print(f"{language}: own {row[0]:.1%}, files {row[1]:.1%}  {name}")
        if len(rows) > 2:
            ranks = [[sum(x < value) + sum(x == value) / 2 for value in x] for x in np.array(list(rows.values())).T]
            print(f"{language}: rank correlation {np.corrcoef(ranks)[0, 1]:.2f} over {len(rows)} checkpoints")


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["ckpt_chat"], help="checkpoints (ckpt_chat)")
    parser.add_argument("--items", type=int, default=1000, help="of each kind at most (1,000)")
    parser.add_argument("--pairs", nargs="+", help="files of minimal pairs in BLiMP's form too")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16, 64], help="of the harness (1 16 64)")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median is shown (3)")
    parser.add_argument("--order", metavar="FILE", help="score.json of checkpoints with --pairs: show their order")
    options = parser.parse_args(argv)
    if options.order:
        show_order(options.order)
        return 0
    kinds = {"pairs": as_items(make_both(100), options.items), "choices": make_choices(options.items)}
    if options.pairs:
        given = list(READERS["pairs"](options.pairs))
        kinds["pairs of files"] = as_items(given[:: max(1, len(given) // options.items)], options.items)
    print(
        f"{show_versions()}\n\n| model | items | by | items a second | score.py is |\n| --- | --- | --- | --- | --- |"
    )
    for path in options.models:
        scorers = open_scorers(path, options.batch)
        for kind, items in kinds.items():
            for name, rate, times in measure(scorers, items, options.rounds):
                faster = "" if name == "score.py" else f"{times:.1f} times as fast"
                print(f"| {path} | {len(items):,} {kind} | {name} | {rate:,.0f} | {faster} |", flush=True)
    return 0


if __name__ == "__main__":
    run_script(main)
