"""Options of the scripts: one flat namespace from dataclasses, a YAML file and the command line, in that order."""

import json
import sys
from dataclasses import MISSING, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import HfArgumentParser, TrainingArguments
from transformers.training_args import OptimizerNames

from errors import InputError

# Shown first by --help: what is set most often of the 130 options of TrainingArguments.
COMMON = [
    "output_dir", "max_steps", "num_train_epochs", "learning_rate", "matrix_learning_rate", "optim",
    "per_device_train_batch_size", "gradient_accumulation_steps", "warmup_steps", "lr_scheduler_type", "weight_decay",
    "max_grad_norm", "bf16", "torch_compile", "eval_steps", "save_steps", "logging_steps", "resume_from_checkpoint",
    "overwrite", "seed", "use_cpu",
]  # fmt: skip


@dataclass
class RunArguments(TrainingArguments):
    """transformers' TrainingArguments with the defaults of this project, and what every run of ours adds."""

    output_dir: str = field(default="ckpt", metadata={"help": "Folder of the checkpoint, its report and its curves"})
    optim: str = field(
        default="muon",
        metadata={"help": "muon (Muon on matrices, AdamW on the rest), adamw, sgd, or any name that Trainer knows"},
    )
    matrix_learning_rate: float = field(
        default=0.02, metadata={"help": "Peak learning rate of Muon on the matrices (--learning_rate is AdamW's)"}
    )
    bf16: bool | None = field(
        default=None, metadata={"help": "Compute in bfloat16; unset: where the processor or GPU is faster with it"}
    )
    torch_compile: bool | None = field(
        default=None, metadata={"help": "Compile the layers; unset: where the run is long enough to repay it"}
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace a different run that --output_dir holds"})
    eval_strategy: str = field(default="steps", metadata={"help": "When to evaluate: no, steps or epoch"})
    eval_steps: float = field(default=0.25, metadata={"help": "Steps between evaluations; below 1: share of the run"})
    save_steps: float = field(default=0.25, metadata={"help": "Steps between checkpoints; below 1: share of the run"})
    save_total_limit: int | None = field(default=2, metadata={"help": "How many resumable checkpoints are kept"})
    logging_steps: float = field(default=10, metadata={"help": "Steps between two values of the curves"})
    report_to: str = field(default="tensorboard", metadata={"help": "tensorboard, wandb, ..., or none"})
    lr_scheduler_type: str = field(default="linear", metadata={"help": "Learning-rate schedule, by Trainer's names"})

    def __post_init__(self) -> None:
        for name, low in (("seed", 0), ("gradient_accumulation_steps", 1), ("per_device_train_batch_size", 1)):
            check_range(name, getattr(self, name), low, 2**32)
        check_range("learning_rate", self.learning_rate, 0, 100)
        check_range("matrix_learning_rate", self.matrix_learning_rate, 0, 100)
        optim = {"adamw": OptimizerNames.ADAMW_TORCH_FUSED.value}.get(self.optim, self.optim)
        # TrainingArguments knows no Muon: it is given back after the checks.
        self.optim = OptimizerNames.ADAMW_TORCH_FUSED.value if optim == "muon" else optim
        self.use_cpu = self.use_cpu or not has_accelerator()
        if self.bf16 is None:
            self.bf16 = not self.fp16 and has_fast_bf16(self.use_cpu)
        # Layers are compiled in place (train_utils.model), which leaves no trace in the checkpoint.
        self.compile_layers, self.torch_compile = self.torch_compile, False
        if self.save_total_limit is not None and self.save_total_limit < 2:
            raise ValueError(
                "--save_total_limit must be 2 or more: while one checkpoint is written another must be whole"
            )
        super().__post_init__()
        if optim == "muon":
            self.optim = optim


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Raise ValueError that names the option where its value is outside of what makes sense."""
    if not low <= value <= high:
        raise ValueError(f"--{name} {value} is outside {low:g} to {high:g}")


def has_accelerator() -> bool:
    """Tell whether torch sees a GPU or another accelerator that Trainer can use."""
    return torch.accelerator.is_available()


def has_fast_bf16(use_cpu: bool) -> bool:
    """Tell whether bfloat16 is faster than float32 on the device in use; by its instructions, not by a guess.

    On a CPU with avx512_bf16 or amx_bf16 matrix products run 2.5 to 3 times as fast; on others bfloat16 is emulated.
    """
    if not use_cpu:
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(capabilities.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))


def parse_arguments(
    dataclass_types: tuple[type, ...], argv: list[str] | None, default_config: Path, description: str
) -> tuple[Any, ...]:
    """Parse `[config.yaml] [--key value ...]` into one object of each dataclass.

    Precedence: dataclass, then YAML (the default one where none is named), then command line. Raises InputError for a
    key that no dataclass has, with the nearest that one has, and for a value of the wrong kind.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = HfArgumentParser(dataclass_types, description=description, add_help=False)
    if "--help_all" in argv:
        parser.print_help()
        sys.exit(0)
    if "-h" in argv or "--help" in argv:
        print(format_help(dataclass_types, default_config, description))
        sys.exit(0)
    config = Path(argv.pop(0)) if argv and argv[0].endswith((".yaml", ".yml")) else default_config
    names = {option.name for type_ in dataclass_types for option in fields(type_) if option.init}
    options = read_config(config, names)
    for argument in argv:
        if argument.startswith("--"):
            check_key(argument[2:].split("=")[0].replace("-", "_"), names, "command line")
        elif argument == argv[0]:
            raise InputError(f"command line: '{argument}' is neither a .yaml file nor an option (--key value)")

    def fail(message: str) -> None:
        raise InputError(f"command line or {config}: {message}")

    parser.error = fail
    try:
        return parser.parse_args_into_dataclasses([*options, *argv], look_for_args_file=False)
    except (ValueError, TypeError) as error:
        raise InputError(f"command line or {config}: {str(error).splitlines()[0]}") from error


def read_config(path: Path, names: set[str]) -> list[str]:
    """Return a YAML file of `key: value` lines as command-line arguments, its keys checked against `names`."""
    try:
        text = path.read_text(encoding="utf-8")
        values = yaml.safe_load(text) or {}
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise InputError(f"{path}{line}: not valid YAML: {reason}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: 'key: value' lines are expected")
    arguments = []
    words = yaml.load(text, Loader=yaml.BaseLoader) or {}
    for (key, value), word in zip(values.items(), words.values(), strict=True):
        check_key(str(key), names, str(path))
        if value is None:
            continue
        # As it is written, so that argparse gives each its type: YAML alone reads 3e-4 as a string and `no` as false.
        items = word if isinstance(value, list) else [json.dumps(value) if isinstance(value, dict) else word]
        arguments += [f"--{key}", *items]
    return arguments


def check_key(key: str, names: set[str], place: str) -> None:
    """Raise InputError for a key that does not exist, with the nearest that does."""
    if key in names or key.removeprefix("no_") in names:
        return
    near = get_close_matches(key, names, n=1)
    hint = f"did you mean '{near[0]}'?" if near else "see --help for all"
    raise InputError(f"{place}: unknown key '{key}'; {hint}")


def format_help(dataclass_types: tuple[type, ...], default_config: Path, description: str) -> str:
    """Return the help: what the script does, then each option with its default, ours first."""
    config = yaml.safe_load(default_config.read_text(encoding="utf-8"))
    place = f"{default_config.parent.name}/{default_config.name}"
    lines = [description.strip(), "", f"options, with the values of {place}, the recipe where none is named", ""]
    for type_ in dataclass_types:
        is_training = issubclass(type_, TrainingArguments)
        options = {option.name: option for option in fields(type_) if option.init}
        for name in COMMON if is_training else options:
            if name in options:
                option = options[name]
                default = option.default if option.default is not MISSING else option.default_factory()
                default = config.get(name, default)
                default = " ".join(default) if isinstance(default, list) else default
                text = " ".join(str(option.metadata.get("help", "")).split())
                text = text if len(text) < 160 else text[:157] + "..."
                lines.append(f"  --{name} ({default})\n        {text}")
    lines += ["", "Every other option of transformers.TrainingArguments works too: --help_all lists them."]
    return "\n".join(lines)
