"""The life of a run's folder: may it be written, where to go on, when is a checkpoint whole, what is left at the end.

ckpt/run.yaml           settings, versions, data, metrics; `status: training`, later `finished`
ckpt/checkpoint-N/      for resuming: Trainer's state; `complete.json`, written last, has every file's size and hash
ckpt/model.safetensors  the trained model beside its config, tokenizer and chat template: the one checkpoint form
"""

import platform
import re
import subprocess
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from transformers import TrainingArguments

from errors import InputError, say_note
from files import find_damage, remove, remove_cut_off, write_whole
from train_utils.arguments import count_step_rows
from train_utils.places import RUN_FILE, check_output, read_record

PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "accelerate", "peft")
# Options that change where and how a run is shown, kept or shared out, not what it computes.
NOT_SETTINGS = {
    "output_dir", "resume_from_checkpoint", "overwrite", "report_to", "run_name", "disable_tqdm", "log_level",
    "log_level_replica", "logging_steps", "logging_first_step", "logging_strategy", "save_steps", "save_strategy",
    "save_seconds", "save_total_limit", "local_rank", "ddp_backend", "ddp_timeout", "mixed_precision", "hub_token",
    "do_train", "do_eval", "fsdp", "fsdp_config", "reference_tokenizer",
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


class Start(NamedTuple):
    """How a run starts: anew, from a checkpoint, or not at all, since this very run is finished."""

    checkpoint: str | None = None
    is_finished: bool = False


def prepare_folder(
    output_dir: Path, settings: dict[str, Any], resume: str | None, overwrite: bool, base: str | None = None
) -> Start:
    """Decide how a run starts, before anything is written in its folder.

    Raises InputError where the folder holds something else that would be lost, such as the `base` that the run starts
    from.
    """
    check_output(output_dir, base)
    record = read_record(output_dir)
    if resume and resume.lower() not in ("true", "false"):
        damage = find_damage(Path(resume))
        if damage:
            raise InputError(
                f"{resume}: not a complete checkpoint ({damage}); --resume_from_checkpoint true finds the last one"
            )
        if output_dir.resolve() != Path(resume).resolve().parent:
            raise InputError(f"{resume}: belongs to another run; resume it with --output_dir {Path(resume).parent}")
        changed = describe_changes(record["settings"], settings) if record else "no run.yaml"
        if changed:
            raise InputError(f"{output_dir}: cannot go on with other settings ({changed})")
        return Start(resume)
    if record is None or overwrite:
        return Start()
    changed = describe_changes(record["settings"], settings)
    if changed:
        raise InputError(
            f"{output_dir}: holds a run with other settings ({changed}); choose another --output_dir, or add "
            "--overwrite true"
        )
    if record["status"] == "finished":
        return Start(is_finished=True)
    last = find_last_complete(output_dir)
    if resume and resume.lower() == "true":
        if last is None:
            say_note(f"{output_dir}: holds no whole checkpoint; the run begins anew")
        return Start(str(last) if last else None)
    if last is None:
        return Start()
    raise InputError(
        f"{output_dir}: holds an unfinished run at step {checkpoint_step(last)}; go on with --resume_from_checkpoint "
        "true, or start anew with --overwrite true"
    )


def describe_changes(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Return in words which settings differ, at most three.

    An option that one of the two versions of this code does not have counts where it was in use.
    """
    names = [name for name in sorted({*before, *now} - NOT_SETTINGS) if before.get(name) != now.get(name)]
    names = [name for name in names if before.get(name) or now.get(name) or (name in before and name in now)]
    words = [f"{name} was {before.get(name)}, is {now.get(name)}" for name in names[:3]]
    return "; ".join(words) + (f"; and {len(names) - 3} more" if len(names) > 3 else "")


def weights_version(base: str | None) -> str | None:
    """Return what changes when the weights of a base checkpoint change; None where there are none here."""
    files = sorted(Path(base).glob("*.safetensors")) if base else []
    return ",".join(f"{file.stat().st_size}:{file.stat().st_mtime_ns}" for file in files) or None


def start_record(output_dir: Path, script: str, settings: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """Write the record of a run that begins, without what an earlier one left in its folder, and return the record.

    The checkpoints go before the earlier record and the weights after it: no record ever speaks of another's.
    """
    for old in find_checkpoints(output_dir):
        remove(old)
    record = {"status": "training", "script": script, "settings": settings, "data": data, **describe_code()}
    write_record(output_dir, record)
    for pattern in ("model*.safetensors", "runs", "adapter", ".saving", "metrics.jsonl", "heartbeat.json"):
        for old in output_dir.glob(pattern):
            remove(old)
    remove_cut_off(output_dir)
    return record


def continue_record(output_dir: Path, checkpoint: Path) -> None:
    """Make a folder ready for its run to go on from a checkpoint: the record says with what, and later ones go.

    Those were cut off, or their steps are trained again; Trainer would count them among the newest, which it keeps.
    """
    for folder in find_checkpoints(output_dir):
        if checkpoint_step(folder) > checkpoint_step(checkpoint):
            remove(folder)
    remove_cut_off(output_dir)
    record, code = read_record(output_dir) or {}, describe_code()
    before = {name: record.get(name) for name in code}
    if before != code:
        record["went_on"] = [*record.get("went_on", []), {"until_step": checkpoint_step(checkpoint), **before}]
        write_record(output_dir, record | code)


def describe_code() -> dict[str, Any]:
    """Return what a run is computed by: versions of packages, and the revision of this repository."""
    versions = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    versions["torch"] = str(torch.__version__)  # which names the build too, as 2.13.0+cu130
    return {"versions": versions, "git_revision": git_revision()}


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
    return int(folder.resolve().name.rpartition("-")[2])


def find_checkpoints(output_dir: Path) -> list[Path]:
    """Return the checkpoints of a run, whole or not, the last one first."""
    folders = [path for path in output_dir.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(folders, key=checkpoint_step, reverse=True)


def find_last_complete(output_dir: Path) -> Path | None:
    """Return the last complete checkpoint; name later ones that are cut off or damaged."""
    for folder in find_checkpoints(output_dir):
        damage = find_damage(folder)
        if damage is None:
            return folder
        say_note(f"{folder}: {damage}; it is skipped")
    return None
