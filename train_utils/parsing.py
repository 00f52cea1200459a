"""Parses the options of the scripts that train, those of Trainer among them; light until they are all right."""

import ast
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from options import parse_arguments
from train_utils.cpu_processes import start_cpu_processes


def parse_training(kinds: tuple[type, ...], argv: list[str] | None, recipe: Path, description: str) -> tuple[Any, ...]:
    """Parse the options of a script that trains; the last of `kinds`, RunOptions or its child, with TrainingArguments.

    Help and mistakes are told before what training needs is imported. `accelerate launch` on CPUs gets the processes
    that it was asked for.
    """
    *others, options = kinds
    trained: Any = options
    if "--help_all" not in (sys.argv if argv is None else argv):  # which lists Trainer's too
        parse_arguments(kinds, argv, recipe, description, other_names=trainer_names())
    start_cpu_processes()
    from train_utils.arguments import add_trainer_options

    kinds = (*others, add_trainer_options(trained))
    return parse_arguments(kinds, argv, recipe, description)


def trainer_names() -> set[str]:
    """Return the names of all options of TrainingArguments, read from its source: importing it takes seconds."""
    folder = next(iter(getattr(find_spec("transformers"), "submodule_search_locations", ())))
    source = Path(folder, "training_args.py").read_text(encoding="utf-8")
    classes = (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    lines = next(node.body for node in classes if node.name == "TrainingArguments")
    return {ast.unparse(line.target) for line in lines if isinstance(line, ast.AnnAssign)}
