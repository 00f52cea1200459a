"""The life of a run's folder: may it be written, where to go on, when is a checkpoint whole, what is left at the end.

ckpt/run.yaml           settings, versions, data, metrics; `status: training`, later `finished`
ckpt/checkpoint-N/      for resuming: Trainer's state, and `complete.json`, written last, with every file's size
ckpt/model.safetensors  the trained model beside its config, tokenizer and chat template: the one checkpoint form
"""

import json
import platform
import re
import shutil
import subprocess
import warnings
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from transformers import TrainingArguments

from errors import InputError
from files import write_whole
from train_utils.arguments import count_step_rows

RUN_FILE = "run.yaml"
COMPLETE_FILE = "complete.json"
PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "accelerate", "peft")
# Options that change where and how a run is shown or kept, not what it computes.
NOT_SETTINGS = {
    "output_dir", "resume_from_checkpoint", "overwrite", "report_to", "run_name", "disable_tqdm", "log_level",
    "log_level_replica", "logging_steps", "logging_first_step", "logging_strategy", "save_steps", "save_strategy",
    "save_total_limit", "local_rank", "ddp_backend", "ddp_timeout", "mixed_precision", "hub_token", "do_train",
    "do_eval",
}  # fmt: skip


def collect_settings(*arguments: Any) -> dict[str, Any]:
    """Return what determines a run's result: every option of ours, and those of TrainingArguments that were changed."""
    settings: dict[str, Any] = {}
    for group in arguments:
        values, defaults = asdict(group) if not isinstance(group, TrainingArguments) else group.to_dict(), {}
        if isinstance(group, TrainingArguments):
            values["torch_compile"] = group.compile_layers
            defaults = TrainingArguments(output_dir="", use_cpu=True).to_dict()
            # A step is the same with half the processes and twice the accumulation.
            for name in ("per_device_train_batch_size", "gradient_accumulation_steps"):
                values.pop(name)
            values["step_rows"] = count_step_rows(group)
        for name, value in values.items():
            if name not in NOT_SETTINGS and (name not in defaults or defaults[name] != value):
                settings[name] = value
    return yaml.safe_load(yaml.safe_dump(settings))


def prepare_folder(
    output_dir: Path, settings: dict[str, Any], resume: str | None, overwrite: bool, base: str | None = None
) -> str | None:
    """Decide what to do with a run's folder before anything is written in it.

    Returns the checkpoint to resume from, None for a new run, or "finished" where this very run is already done. Raises
    InputError where the folder holds something else that would be lost, such as the `base` that the run starts from.
    """
    if base and Path(base).resolve() == output_dir.resolve():
        raise InputError(f"{output_dir}: is the --base too, which would be lost; choose another --output_dir")
    if output_dir.exists() and not output_dir.is_dir():
        raise InputError(f"{output_dir}: is a file; choose another --output_dir")
    record = read_record(output_dir)
    if resume and resume.lower() not in ("true", "false"):
        if not is_complete(Path(resume)):
            raise InputError(f"{resume}: not a complete checkpoint; --resume_from_checkpoint true finds the last one")
        if output_dir.resolve() != Path(resume).resolve().parent:
            raise InputError(f"{resume}: belongs to another run; resume it with --output_dir {Path(resume).parent}")
        changed = describe_changes(record["settings"], settings) if record else "no run.yaml"
        if changed:
            raise InputError(f"{output_dir}: cannot go on with other settings ({changed})")
        return resume
    if overwrite:
        return None
    if record is None:
        if output_dir.is_dir() and any(output_dir.iterdir()):
            raise InputError(
                f"{output_dir}: is not empty and holds no run; choose another --output_dir, or --overwrite true"
            )
        return None
    changed = describe_changes(record["settings"], settings)
    if changed:
        raise InputError(
            f"{output_dir}: holds a run with other settings ({changed}); choose another --output_dir, or add "
            "--overwrite true"
        )
    if record["status"] == "finished":
        return "finished"
    last = find_last_complete(output_dir)
    if resume and resume.lower() == "true":
        return str(last) if last else None
    if last is None:
        return None
    raise InputError(
        f"{output_dir}: holds an unfinished run at step {checkpoint_step(last)}; go on with --resume_from_checkpoint "
        "true, or start anew with --overwrite true"
    )


def describe_changes(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Return in words which settings differ, at most three."""
    names = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    words = [f"{name} was {before.get(name)}, is {now.get(name)}" for name in names[:3]]
    return "; ".join(words) + (f"; and {len(names) - 3} more" if len(names) > 3 else "")


def weights_version(base: str | None) -> str | None:
    """Return what changes when the weights of a base checkpoint change; None where there are none here."""
    files = sorted(Path(base).glob("*.safetensors")) if base else []
    return ",".join(f"{file.stat().st_size}:{file.stat().st_mtime_ns}" for file in files) or None


def read_record(folder: Path) -> dict[str, Any] | None:
    """Return a run's record, or None where the folder holds none."""
    try:
        record = yaml.safe_load((folder / RUN_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, yaml.YAMLError, UnicodeDecodeError):
        return None
    return record if isinstance(record, dict) and {"settings", "status"} <= record.keys() else None


def start_record(output_dir: Path, script: str, settings: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """Empty the folder of an earlier run, write the record of one that begins, and return it."""
    for old in [*output_dir.glob("checkpoint-*"), output_dir / "runs", output_dir / "adapter"]:
        shutil.rmtree(old, ignore_errors=True)
    for old in output_dir.glob("*.safetensors"):
        old.unlink()
    record = {
        "status": "training",
        "script": script,
        "settings": settings,
        "data": data,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "git_revision": git_revision(),
    }
    write_record(output_dir, record)
    return record


def write_record(output_dir: Path, record: dict[str, Any]) -> None:
    """Write a run's record in one step: whole or not at all."""
    write_whole(output_dir / RUN_FILE, yaml.safe_dump(record, sort_keys=False, allow_unicode=True))


def git_revision() -> str | None:
    """Return the revision of this repository, marked where files differ from it; None outside of git."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def checkpoint_step(folder: Path) -> int:
    """Return the step of a folder `checkpoint-N`."""
    return int(re.fullmatch(r"checkpoint-(\d+)", folder.name)[1])


def mark_complete(folder: Path) -> None:
    """Write the size of every file of a checkpoint beside them, last of all: what lacks it was cut off."""
    sizes = {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    sizes.pop(COMPLETE_FILE, None)
    partial = folder / f".{COMPLETE_FILE}"
    partial.write_text(json.dumps(sizes), encoding="utf-8")
    partial.replace(folder / COMPLETE_FILE)


def is_complete(folder: Path) -> bool:
    """Tell whether a checkpoint has all of its files in full."""
    try:
        sizes = json.loads((folder / COMPLETE_FILE).read_text(encoding="utf-8"))
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def find_last_complete(output_dir: Path) -> Path | None:
    """Return the last complete checkpoint; warn of later ones that are only half written."""
    folders = [path for path in output_dir.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    for folder in sorted(folders, key=checkpoint_step, reverse=True):
        if is_complete(folder):
            return folder
        warnings.warn(f"{folder}: was cut off while being written; it is skipped", stacklevel=2)
    return None
