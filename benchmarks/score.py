"""How many sentences a second score.py scores, beside lm-evaluation-harness where that is installed.

python -m benchmarks.score ckpt_chat                # pip install lm_eval, to compare
python -m benchmarks.score ckpt_chat --pairs 4      # of each phenomenon; --batch 1 64: sizes of the harness's batch
"""

import argparse
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from environment import begin_script
from errors import run_script

if __name__ == "__main__":
    begin_script()

from eval_utils.likelihood import Scorer, encode_scored, window_of
from eval_utils.minimal_pairs import LANGUAGES, make_pairs
from model_utils.checkpoint import load_checkpoint


def measure(name: str, sentences: list[str], score: Callable[[list[str]], object]) -> float:
    """Print and return how many sentences a second of processor time are scored; that of other work doesn't count."""
    score(sentences[:8])  # what is made once
    started, wall = time.process_time(), time.perf_counter()
    score(sentences)
    seconds, wall = time.process_time() - started, time.perf_counter() - wall
    rate = len(sentences) / seconds
    print(f"{rate:8,.0f} a second of processor time, {len(sentences) / wall:8,.0f} of the clock  {name}")
    return rate


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="ckpt_chat", help="checkpoint (ckpt_chat)")
    parser.add_argument("--pairs", type=int, default=20, help="of each phenomenon and language (20)")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16, 64], help="of the harness (1 16 64)")
    options = parser.parse_args(argv)
    model, tokenizer = load_checkpoint(options.model)
    pairs = [pair for language in LANGUAGES for pair in make_pairs(language, options.pairs)]
    sentences = [text for pair in pairs for text in (pair.good, pair.bad)]
    scorer, window = Scorer(model), window_of(model)
    print(f"{len(sentences):,} sentences, {Path(options.model).name}")

    def score_all(texts: list[str]) -> None:
        scorer.score([encode_scored(tokenizer, "", text, window) for text in texts], finds_greedy=False)

    ours = measure("score.py", sentences, score_all)
    if find_spec("lm_eval") is None:
        print("lm_eval is not installed; nothing to compare with")
        return 0
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    for size in options.batch:
        harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=size, device="cpu")

        def ask(texts: list[str], harness: HFLM = harness) -> None:
            harness.loglikelihood(
                [Instance("loglikelihood", {}, ("", t), i) for i, t in enumerate(texts)], disable_tqdm=True
            )

        theirs = measure(f"lm_eval, batches of {size}", sentences, ask)
        print(f"{ours / theirs:8.1f} times")
    return 0


if __name__ == "__main__":
    run_script(main)
