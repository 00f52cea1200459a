"""Which recipe learns best: at two sizes and two horizons, three seeds, both languages.

    python -m benchmarks.recipe                       # all: 60 short runs, about 50 minutes on two CPU cores
    python -m benchmarks.recipe --seeds 0 --only default adamw

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
from train_utils.model import model_config
from train_utils.optimizer import scale_rates

STEP_TOKENS, ROW_TOKENS = 4096, 256
WIDTHS, STEPS = (128, 192), (60, 240)


def recipes(width: int) -> dict[str, list[str]]:
    """Return what is compared: options of train.py, each a change to the default."""
    rate = scale_rates(width, STEP_TOKENS, "fitted").rest
    return {
        "default": [],
        "no head start": ["--head_start", "false"],
        "adamw": ["--optim", "adamw"],
        "rate x 0.5": ["--learning_rate", str(0.5 * rate)],
        "rate x 2": ["--learning_rate", str(2 * rate)],
    }


def measure(width: int, steps: int, options: list[str], seed: int, folder: Path) -> tuple[float, float]:
    """Train once; return held-out bits per byte in English and Chinese."""
    shape = folder / f"{width}.json"
    shape.write_text(json.dumps(model_config(width)), encoding="utf-8")
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
    parser.add_argument("--only", nargs="+", choices=list(recipes(128)), help="recipes; all by default")
    options = parser.parse_args()
    found: dict[tuple, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        for seed in options.seeds:
            for width in WIDTHS:
                for steps in STEPS:
                    for title in options.only or recipes(width):
                        bits = measure(width, steps, recipes(width)[title], seed, Path(name))
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
