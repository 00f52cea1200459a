"""Options of the scripts: one flat namespace from dataclasses, a YAML file and the command line, in that order."""

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Set
from dataclasses import MISSING, Field, fields
from difflib import get_close_matches
from pathlib import Path
from textwrap import shorten
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

import yaml

from errors import InputError, first_line, run_guarded

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is fetched unless the user says so


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Raise ValueError that names the option where its value is outside of what makes sense."""
    if not low <= value <= high:
        raise ValueError(f"--{name} {value} is outside {low:g} to {high:g}")


def format_command(*words: object) -> str:
    """Return a command as it can be pasted into a shell: a path with a space is quoted.

    >>> format_command("python", "chat.py", "--model", Path("my models"))
    "python chat.py --model 'my models'"
    """
    texts = [str(word) for word in words]
    return subprocess.list2cmdline(texts) if os.name == "nt" else shlex.join(texts)


def refuse_useless(given: Set[str], names: Set[str], why: str) -> None:
    """Raise InputError for the first of the names that is among the options given on the command line."""
    for name in sorted(given & names):
        raise InputError(f"command line: --{name} has no effect {why}")


def parse_arguments(
    dataclass_types: tuple[type, ...],
    argv: list[str] | None,
    default_config: Path,
    description: str,
    other_names: Set[str] = frozenset(),
) -> tuple[Any, ...]:
    """Parse `[config.yaml] [--key value ...]` into one object of each dataclass.

    Precedence: dataclass, then YAML (the default one where none is named), then command line. Raises InputError for a
    key that no dataclass has, with the nearest that one has, and for a value of the wrong kind. Each object gets an
    attribute `given`: the options that the user gave, by command line or a YAML that they named. An object with a
    method `check_typed` is told those of the command line alone, and may raise ValueError or `refuse_useless`. The
    values of `other_names`, options that exist but that no dataclass given here has, are passed over.
    """
    from transformers import HfArgumentParser  # which takes a second

    argv = list(sys.argv[1:] if argv is None else argv)
    parser = HfArgumentParser(dataclass_types, description=description, add_help=False, allow_abbrev=False)
    if "--help_all" in argv:
        parser.print_help()
        sys.exit(0)
    if "-h" in argv or "--help" in argv:
        print(format_help(dataclass_types, default_config, description))
        sys.exit(0)
    named = bool(argv) and argv[0].endswith((".yaml", ".yml"))
    config = Path(argv.pop(0)) if named else default_config
    names = {option.name for type_ in dataclass_types for option in fields(type_) if option.init} | other_names
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
        results = parser.parse_args_into_dataclasses(
            [*options, *argv], return_remaining_strings=bool(other_names), look_for_args_file=False
        )[: len(dataclass_types)]
    except (ValueError, TypeError) as error:
        raise InputError(f"command line or {config}: {first_line(error)}") from error
    typed = name_options(argv)
    for result in results:
        result.given = typed | (name_options(options) if named else set())
        if hasattr(result, "check_typed"):
            try:
                result.check_typed(typed)
            except ValueError as error:
                raise InputError(f"command line: {error}") from error
    return results


def answer_early(
    dataclass_types: tuple[type, ...], default_config: Path, description: str, other_names: Set[str]
) -> None:
    """Leave the process where the command line asks for help or is wrong, before all that training needs is imported.

    Takes what `parse_arguments` takes; a script calls it between its options and its imports of the rooms.
    """
    if "--help_all" in sys.argv:  # lists those of `other_names` too, which only what follows knows
        return
    code = run_guarded(
        lambda: parse_arguments(dataclass_types, None, default_config, description, other_names) and None
    )
    if code:
        sys.exit(code)


def name_options(arguments: list[str]) -> set[str]:
    """Return the names of the options among command-line arguments."""
    return {word[2:].split("=")[0].replace("-", "_") for word in arguments if word.startswith("--")}


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
        reason = getattr(error, "problem", None) or first_line(error)
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
        items = (
            [json.dumps(item) if isinstance(item, dict) else item for item in word]
            if isinstance(word, list)
            else [json.dumps(value) if isinstance(value, dict) else word]
        )
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
        options = {option.name: option for option in fields(type_) if option.init}
        for name in getattr(type_, "COMMON", options):
            if name in options:
                option = options[name]
                default = config.get(name, default_of(option))
                default = " ".join(default) if isinstance(default, list) else default
                default = "unset" if default in (None, "") else default
                text = shorten(str(option.metadata.get("help", "")), 160, placeholder=" ...")
                lines.append(f"  --{name} ({default})\n        {text}")
    if any(hasattr(type_, "COMMON") for type_ in dataclass_types):
        lines += ["", "Every other option of transformers.TrainingArguments works too: --help_all lists them."]
    return "\n".join(lines)


def default_of(option: Field) -> Any:
    """Return the default of a dataclass's field."""
    return option.default_factory() if option.default_factory is not MISSING else option.default


def add_options(parser: argparse.ArgumentParser, dataclass_type: type, title: str) -> None:
    """Add an option for each field of a dataclass: its type, its default and the help of its metadata.

    A bool is a flag, off by default, a list takes several values.
    """
    group = parser.add_argument_group(title)
    hints = get_type_hints(dataclass_type)
    for option in fields(dataclass_type):
        kind, default = hints[option.name], default_of(option)
        how: dict[str, Any] = {"default": default}
        if kind is bool:
            how["action"] = "store_true"
        else:
            if get_origin(kind) is list:
                how["nargs"] = "+"
                kind = get_args(kind)[0]
            kinds = [one for one in get_args(kind) or (kind,) if one is not NoneType]
            how |= {"type": kinds[0], "metavar": kinds[0].__name__.upper().replace("STR", "TEXT")}
        shown = "off" if kind is bool else "none" if default in (None, []) else default
        text = str(option.metadata.get("help", "")).replace("%", "%%")
        group.add_argument(f"--{option.name}", help=f"{text} ({shown})", **how)


def read_options(options: argparse.Namespace, dataclass_type: type) -> Any:
    """Return the dataclass that `add_options` added; raises InputError for a value that it refuses."""
    try:
        return dataclass_type(**{option.name: getattr(options, option.name) for option in fields(dataclass_type)})
    except ValueError as error:
        raise InputError(f"command line: {error}") from error
