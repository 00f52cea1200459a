"""Begins and ends the record of a run, and writes the finished model with its figures."""

import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import psutil
import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase, Trainer

from model_utils.checkpoint import save_model
from model_utils.shapes import count_parameters
from train_utils.adapters import merge_adapter, save_adapter
from train_utils.callbacks import Progress, Samples
from train_utils.guard import Guard
from train_utils.objectives import Objective
from train_utils.places import read_record
from train_utils.report import plot_loss, write_report
from train_utils.run import Run
from train_utils.run_folder import continue_record, start_record, write_record
from train_utils.sharding import is_alone, is_split


def begin_record(run: Run, facts: dict[str, Any]) -> None:
    """Write the record of a run that begins, or note in it that the run goes on."""
    if run.resume:
        continue_record(run.folder, Path(run.resume))
    else:
        plan = {"plan": asdict(run.plan)} if run.plan else {}
        start_record(run.folder, run.script, run.settings, facts | plan)


def is_evaluation(entry: dict[str, Any]) -> bool:
    """Tell whether an entry of Trainer's log is one of held-out figures."""
    return any(name.startswith("eval_") for name in entry)


def finish_weights(run: Run, trainer: Trainer, model: Any, objective: Objective) -> str:
    """Finish the weights of a trained model as its objective does, and measure what is saved; return what is told.

    Figures of the last step go, which are those of the weights before.
    """
    if not objective.finish:
        return ""
    told = objective.finish(model)
    run.say(f"finished weights: {told}")
    run.watch.lap("finished weights")
    if not is_alone(run.args):  # the first process has them, and only all together could measure
        return f"{told}; held-out figures and samples are of the trained ones, before that"
    if run.args.minutes or run.args.eval_strategy != "no":
        log, last = trainer.state.log_history, trainer.state.global_step
        trainer.state.log_history = [entry for entry in log if entry["step"] < last or not is_evaluation(entry)]
        trainer.is_in_train = True  # else --bf16_full_eval would turn the weights themselves into bf16
        trainer.evaluate()
    return told


def finish_run(
    run: Run, trainer: Trainer, model: Any, tokenizer: PreTrainedTokenizerBase, objective: Objective
) -> None:
    """Write what a finished run leaves: the model (and its adapter), run.yaml, loss.png and report.md."""
    told = finish_weights(run, trainer, model, objective)
    progress, samples, guard = (cast(Any, trainer.pop_callback(kind)) for kind in (Progress, Samples, Guard))
    if isinstance(model, PeftModel):
        save_adapter(model, run.folder / "adapter")
        model = merge_adapter(model, run.folder / "adapter")
    history = trainer.state.log_history
    evaluations = list(filter(is_evaluation, history))
    final = {name: value for entry in evaluations for name, value in entry.items() if name.startswith("eval_")}
    metrics = {name: round(value, 4) for name, value in final.items() if not name.endswith(("_second", "_runtime"))}
    training = next((entry for entry in reversed(history) if "train_runtime" in entry), {})
    figures = progress.figures(next((entry["loss"] for entry in reversed(history) if "loss" in entry), math.nan))
    tokens = trainer.state.global_step * run.step_rows * objective.row_tokens
    memory = peak_memory(trainer.args.device.type)
    facts = {
        "model": f"{model.config.model_type}, {count_parameters(model) / 1e6:.2f} M parameters",
        "finished weights": told,
        "trained on": f"{tokens / 1e6:.2f} M tokens in {trainer.state.global_step} steps",
        "data": ", ".join(f"{name}: {value}" for name, value in objective.facts.items()),
        "time": "",
        "speed": f"{figures['tokens_per_second']:,.0f} tokens a second in steps, {figures['mfu']:.0%} of the "
        f"{progress.peak_flops / 1e9:,.0f} GFLOP/s that matrix products reach here",
        "training text": f"{figures['bits_per_byte']:.3f} bits per byte at the end" if objective.is_language else "",
        "peak memory": describe_memory(memory),
        "skipped steps": guard.describe(),
    }
    plot_loss(history, run.folder / "loss.png")
    run.watch.lap("report")
    save_model(model, tokenizer, run.folder, objective.stop_token_ids)
    run.watch.lap("saving")
    since = f" since step {progress.first_step}, where this process went on" if progress.first_step else ""
    facts["time"] = f"{run.watch.last:.0f} s{since}: {run.watch.describe()}"
    more = objective.assess(model, tokenizer) if objective.assess and not is_split(trainer) else []
    run.watch.lap("report")
    shown: dict[str, Any] = {"evaluations": evaluations, "samples": samples.last, "more": more}
    write_report(run.folder / "report.md", f"A run of {run.script}", facts, **shown)
    record = read_record(run.folder) or {}
    outcome = {
        "speed": record_speed(run, progress, figures, memory),
        "steps": trainer.state.global_step,
        "training_loss": training.get("train_loss"),
        "metrics": metrics,
        "skipped_steps": guard.skipped,
        "went_back": [list(pair) for pair in guard.returns],
    }
    write_record(run.folder, {**record, "status": "finished", **outcome})


def record_speed(run: Run, progress: Progress, figures: dict[str, float], memory: dict[str, int]) -> dict[str, Any]:
    """Return a run's speed, seconds and memory as its record has them: those of this process alone."""
    watch = run.watch
    speed: dict[str, Any] = {"tokens_per_second": round(figures["tokens_per_second"]), "mfu": round(figures["mfu"], 3)}
    speed |= {"seconds": round(watch.last, 1), "since_step": progress.first_step}
    speed |= {"seconds_of": {part: round(value, 2) for part, value in watch.seconds.items()}}
    return speed | {f"peak_{name}_bytes": value for name, value in memory.items()}


def peak_memory(device: str) -> dict[str, int]:
    """Return the most memory in bytes that this process has held: its own, and what torch allocated on a GPU."""
    if sys.platform == "win32":
        resident = psutil.Process().memory_info().peak_wset
    else:
        import resource  # which Windows lacks

        # ru_maxrss is in KiB on Linux, in bytes on macOS.
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"memory": resident} | ({"gpu_memory": torch.cuda.max_memory_allocated()} if device == "cuda" else {})


def describe_memory(peaks: dict[str, int]) -> str:
    """Return the peaks of memory in words.

    >>> describe_memory({"memory": 1_250_000_000, "gpu_memory": 3_000_000_000})
    '1.2 GB of the process, 3.0 GB on the GPU'
    """
    places = {"memory": "of the process", "gpu_memory": "on the GPU"}
    return ", ".join(f"{value / 1e9:.1f} GB {places[name]}" for name, value in peaks.items())
