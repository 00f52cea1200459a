"""Which recipe learns best: at two sizes and two horizons, three seeds, both languages.

    python -m benchmarks.recipe                       # all: 144 short runs, some four hours on two CPU cores
    python -m benchmarks.recipe --seeds 0 --only default adamw --widths 128 --steps 960

Held-out bits per byte in English and Chinese of the default corpus, mean and standard deviation over the seeds. Nothing
here depends on the clock: it may run beside other work.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from statistics import mean, stdev

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.train import run_script
from model_utils.shapes import HEAD_SIZE, model_config
from train_utils.steps.optimizer import scale_rates

STEP_TOKENS, ROW_TOKENS = 4096, 256
WIDTHS, STEPS = (128, 192), (60, 240)


def recipes(width: int, steps: int) -> dict[str, tuple[list[str], dict]]:
    """Return what is compared, each a change to the default: options of train.py, and values of the model's config."""
    rates = scale_rates(width, STEP_TOKENS, "fitted", steps)
    return {
        "default": ([], {}),
        "adamw": (["--optim", "adamw"], {}),
        "no head start": (["--head_start", "false"], {}),
        "rate of the rest x 0.5": (["--learning_rate", str(0.5 * rates.rest)], {}),
        "rate of the rest x 2": (["--learning_rate", str(2 * rates.rest)], {}),
        "Muon's rate x 0.5": (["--matrix_learning_rate", str(0.5 * rates.matrices)], {}),
        "Muon's rate x 2": (["--matrix_learning_rate", str(2 * rates.matrices)], {}),
        "decay over the last 30%": (["--decay_share", "0.3"], {}),
        "decay over all": (["--decay_share", "1"], {}),
        "tied head": ([], {"tie_word_embeddings": True}),
        "no QK-norm (Llama)": ([], {"model_type": "llama"}),
        "Gemma 3's layers": (
            [],
            {"model_type": "gemma3_text", "query_pre_attn_scalar": HEAD_SIZE, "sliding_window": ROW_TOKENS},
        ),
    }


def measure(width: int, steps: int, options: list[str], config: dict, seed: int, folder: Path) -> tuple[float, float]:
    """Train once; return held-out bits per byte in English and Chinese."""
    shape = folder / f"{width}.json"
    shape.write_text(json.dumps(model_config(width) | config), encoding="utf-8")
    record = run_script(
        ["--model_shape", str(shape), "--vocab_size", "4096", "--max_steps", str(steps), "--seed", str(seed),
         "--per_device_train_batch_size", str(STEP_TOKENS // ROW_TOKENS), "--block_tokens", str(ROW_TOKENS),
         "--eval_steps", "0.999", "--save_steps", "0.999", "--eval_tokens", "32768",
         "--overwrite", "true", "--torch_compile", "true", *options],
        folder / "ckpt",
    )  # fmt: skip
    return tuple(record["metrics"][f"eval_{language}_bits_per_byte"] for language in ("en", "zh"))


def main() -> None:
    """Print a line for each run, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds, a run of each")
    parser.add_argument("--only", nargs="+", choices=list(recipes(128, 60)), help="recipes; all by default")
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS, help="of the model, with a layer for each 64")
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS, help=f"of {STEP_TOKENS:,} tokens")
    options = parser.parse_args()
    found: dict[tuple, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        for seed in options.seeds:
            for width in options.widths:
                for steps in options.steps:
                    for title in options.only or recipes(width, steps):
                        bits = measure(width, steps, *recipes(width, steps)[title], seed, Path(name))
                        found.setdefault((width, steps, title), []).append(bits)
                        print(f"seed {seed}, width {width}, {steps} steps, {title}: {bits[0]:.3f} en, {bits[1]:.3f} zh",
                              flush=True)  # fmt: skip
    print(f"\n| width | tokens | recipe | en | zh |{chr(10)}| --- | --- | --- | --- | --- |")
    for (width, steps, title), runs in found.items():
        cells = [mean(bits) if len(runs) == 1 else (mean(bits), stdev(bits)) for bits in zip(*runs, strict=True)]
        shown = [f"{c[0]:.3f} ± {c[1]:.3f}" if isinstance(c, tuple) else f"{c:.3f}" for c in cells]
        print(f"| {width} | {steps * STEP_TOKENS / 1e6:.2f} M | {title} | {' | '.join(shown)} |")


if __name__ == "__main__":
    main()
