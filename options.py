"""Parses the options of all scripts: `script.py [config.yaml] [--key value ...]` into dataclasses, in one dialect.

Precedence: dataclass, then YAML, then command line. Light to import, so that help and mistakes come at once.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence, Set
from dataclasses import MISSING, Field, field, fields
from difflib import get_close_matches
from pathlib import Path
from textwrap import shorten
from types import NoneType, UnionType
from typing import Any, ClassVar, Union, cast, get_args, get_origin, get_type_hints

import yaml

from errors import InputError, first_line

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is fetched unless the user says so

BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
EXPECTED: dict[type, str] = {bool: "true or false", int: "a whole number", float: "a number"}
RENAMED = {  # options that are no longer there: what is told of them, in whatever script
    "output": "is now --output_dir",
    "max_seconds": "is now --reader_limits seconds=20",
    "sources": "is now --mixture, of train.py",
    "streaming": "is gone: a large text is tokenized to shards as it is read; leave it out",
    "reference_tokenizer": "is gone: held-out bits per byte compare tokenizers; leave it out",
    "remove_stop_words": "is gone: no model could write a sentence without them; leave it out",
}


PATHS = {  # options whose values are paths
    "base", "choices", "compare", "continuations", "corpus", "dialogues", "eval_files", "history", "model", "models",
    "model_shape", "output_dir", "pairs", "preferences", "replay_corpus", "resume_from_checkpoint", "sources", "text",
    "tokenizer",
}  # fmt: skip
# What yaml raises for a text that is none: beside its own errors those of what makes a tag, a date or a number.
YAML_FAULTS = (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, RecursionError)
UNSET = "unset"  # what help shows for no value, and what takes a recipe's value back


class Options:
    """A dataclass of options: their ranges are checked, and `parse_arguments` notes which of them were given."""

    NEEDS: ClassVar[str] = ""  # options of which one must be set, or none of these has an effect
    typed: set[str]  # options of the command line
    given: set[str]  # these, and those of a YAML that the user named

    def __post_init__(self) -> None:
        for one in fields(cast(Any, self)):
            value, limits = getattr(self, one.name, None), one.metadata.get("within")
            if limits and value is not None and not limits[0] <= value <= limits[1]:
                raise ValueError(f"--{one.name} {value} is outside {limits[0]:g} to {limits[1]:g}")


def option(
    default: Any,
    about: str,
    *,
    choices: Sequence[str] = (),
    within: tuple[float, float] | None = None,
    needs: str = "",
    replaced_by: str = "",
) -> Any:
    """Return the field of a dataclass that is an option.

    Args:
        about: what --help says of it. choices: its values, if they are few. within: its lowest and highest value.
        needs: options of which one must be set, or this one has no effect: "--web or --serve", "--executor ray".
        replaced_by: those with which it has none.
    """
    metadata = {"help": about, "choices": choices, "within": within, "needs": needs, "replaced_by": replaced_by}
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


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
    kinds: Sequence[type],
    argv: list[str] | None,
    recipe: Path | None,
    description: str,
    *,
    other_names: Set[str] = frozenset(),
    positional: str | None = None,
) -> tuple[Any, ...]:
    """Parse `[config.yaml] [--key value ...]` into one object of each dataclass.

    An option of the command line that another one leaves without effect is refused; a recipe may hold any. An object
    with a method `check_typed` is told those of the command line, and may raise ValueError or `refuse_useless`.

    Args:
        recipe: the YAML where none is named, if any. other_names: options that exist, but in no dataclass given here;
            their values are passed over, and --help says that there are some. positional: the option whose values may
            stand without its name.
    Raises InputError for a key that no dataclass has, with the nearest that one has, and for a value of the wrong kind.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help", "--help_all"} & set(argv):
        print(format_help(kinds, recipe, description, has_more=bool(other_names)))
        sys.exit(0)
    named = bool(argv) and argv[0].endswith((".yaml", ".yml"))
    config = Path(argv.pop(0)) if named else recipe
    options = {option.name: (option, hint) for kind in kinds for option, hint in list_options(kind)}
    known = options.keys() | other_names
    place = f"command line or {config}" if config else "command line"
    found = read_config(config) if config else {}
    for key in found:
        check_key(key, known, str(config))
    values = {key: convert(options[key], words, f"{config}: {key}") for key, words in found.items() if key in options}
    typed = read_words(argv, options, known, positional=positional)
    for key in filter(options.__contains__, typed):
        values[key] = convert(options[key], typed[key], f"command line: --{key}")
    results = []
    for kind in kinds:
        try:
            result = kind(**{one.name: values[one.name] for one, _ in list_options(kind) if one.name in values})
        except (ValueError, TypeError) as error:
            raise InputError(f"{place}: {first_line(error)}") from error
        result.typed = set(typed)
        result.given = result.typed | (set(found) if named else set())
        results.append(result)
    refuse_without_effect(results, set(typed))
    for result in results:
        if hasattr(result, "check_typed"):
            try:
                result.check_typed(set(typed))
            except ValueError as error:
                raise InputError(f"command line: {error}") from error
    return tuple(results)


def refuse_without_effect(results: Sequence[Any], typed: Set[str]) -> None:
    """Raise InputError for the first option of the command line that another one, or its absence, makes useless."""
    values = {one.name: show_value(getattr(result, one.name)) for result in results for one, _ in list_options(result)}

    def holds(other: str) -> bool:
        name, _, wanted = other.removeprefix("--").partition(" ")
        value = values.get(name, UNSET)
        return value == wanted if wanted else value not in (UNSET, "false")

    for result in results:
        for one, _ in list_options(result):
            if one.name in typed:
                needs = one.metadata.get("needs") or getattr(result, "NEEDS", "")
                if needs and not any(map(holds, needs.split(" or "))):
                    refuse_useless(typed, {one.name}, f"without {needs}; leave it out")
                for other in filter(holds, filter(None, one.metadata.get("replaced_by", "").split(" or "))):
                    refuse_useless(typed, {one.name}, f"with {other}; leave out one of the two")


def list_options(kind: Any) -> list[tuple[Field, Any]]:
    """Return the fields of a dataclass that can be given, with their types."""
    hints = get_type_hints(kind if isinstance(kind, type) else type(kind))
    ordered = sorted(fields(kind), key=lambda option: option.kw_only is True)  # of a class that others build on: last
    return [(option, hints[option.name]) for option in ordered if option.init]


def read_words(
    argv: list[str], options: Mapping[str, tuple[Field, Any]], known: Set[str], *, positional: str | None
) -> dict[str, list[str]]:
    """Return the words of the command line by their options; raise InputError for one that belongs to none."""
    found: dict[str, list[str]] = {}
    loose: list[str] = []
    words = list(argv)
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            loose.append(word)
            continue
        key, equals, value = word[2:].partition("=")
        key = key.replace("-", "_")
        check_key(key, known, "command line")
        found[key] = [value] if equals else []
        kind, is_list, _ = describe_type(options[key][1]) if key in options else (str, True, False)
        while not equals and words and not words[0].startswith("--"):
            if (found[key] and not is_list) or (positional and kind is bool and words[0].lower() not in BOOLEANS):
                break  # the next word is a positional one
            found[key].append(words.pop(0))
    if loose and (positional is None or positional in found):
        raise InputError(f"command line: '{loose[0]}' is neither a .yaml file nor an option (--key value)")
    return found | {positional: loose} if positional and loose else found


def describe_type(hint: Any) -> tuple[type, bool, bool]:
    """Return (type of a value, whether there may be several, whether there may be none) of a field's type.

    >>> describe_type(list[str] | None), describe_type(float | None), describe_type(bool)
    ((<class 'str'>, True, True), (<class 'float'>, False, True), (<class 'bool'>, False, False))
    """
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    kinds = [member for member in members if member is not NoneType]
    is_list = len(kinds) == 1 and get_origin(kinds[0]) is list
    kinds = list(get_args(kinds[0])) if is_list else kinds
    kind = next((known for known in (bool, int, float) if known in kinds and str not in kinds), str)
    return kind, is_list, NoneType in members


def convert(option: tuple[Field, Any], words: list[str], place: str) -> Any:
    """Return the value of an option that was written in words; raise InputError for one of the wrong kind."""
    kind, is_list, is_optional = describe_type(option[1])
    if is_optional and words == [UNSET]:
        return None
    if kind is bool and not words:
        return True
    if not words:
        raise InputError(f"{place}: a value is expected")
    if len(words) > 1 and not is_list:
        raise InputError(f"{place}: one value is expected, not {len(words)}")
    values = []
    for word in words:
        if option[0].name in PATHS and re.match(r"~[/\\]", word):  # no shell has seen a word of YAML, or behind a "="
            word = str(Path(word).expanduser())  # noqa: PLW2901
        try:
            values.append(BOOLEANS[word.lower()] if kind is bool else kind(word))
        except (KeyError, ValueError) as error:
            raise InputError(f"{place}: {EXPECTED[kind]} is expected, not '{word}'") from error
    choices = option[0].metadata.get("choices") or ()
    for value in values:
        if choices and value not in choices:
            raise InputError(f"{place} {value}: use one of {', '.join(choices)}")
    return values if is_list else values[0]


def read_config(path: Path) -> dict[str, list[str]]:
    """Return a YAML file of `key: value` lines, each value as the words of a command line; those of null are left out.

    Words are as they are written, so that each option gives them its type: YAML alone reads 3e-4 as a string.
    """
    try:
        text = path.read_text(encoding="utf-8")
        values = yaml.safe_load(text) or {}
        written = yaml.load(text, Loader=yaml.BaseLoader) or {}
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except YAML_FAULTS as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or first_line(error)
        raise InputError(f"{path}{line}: not valid YAML: {reason}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: 'key: value' lines are expected")
    words = {}
    for (key, value), word in zip(values.items(), written.values(), strict=True):
        if value is not None:
            items = word if isinstance(word, list) else [json.dumps(value) if isinstance(value, dict) else word]
            if any(isinstance(item, list) for item in items):
                raise InputError(f"{path}: {key}: a value or a list of values is expected, not lists in a list")
            words[str(key)] = [json.dumps(item) if isinstance(item, dict) else item for item in items]
    return words


def check_key(key: str, names: Set[str], place: str) -> None:
    """Raise InputError for a key that does not exist, with what it has become or with the nearest that does."""
    if key in names:
        return
    if key in RENAMED:
        raise InputError(f"{place}: '{key}' {RENAMED[key]}")
    if key.removeprefix("no_") in names:
        raise InputError(f"{place}: unknown key '{key}'; write --{key.removeprefix('no_')} false")
    near = get_close_matches(key, names, n=1)
    hint = f"did you mean '{near[0]}'?" if near else "see --help for all"
    raise InputError(f"{place}: unknown key '{key}'; {hint}")


def format_help(kinds: Sequence[type], recipe: Path | None, description: str, *, has_more: bool = False) -> str:
    """Return the help: what the script does, then each option with its default."""
    found = read_config(recipe) if recipe else {}
    place = f", with the values of {recipe.parent.name}/{recipe.name}, the recipe where none is named" if recipe else ""
    lines = [description.strip(), "", f"options{place}", ""]
    for kind in kinds:
        for one, _ in list_options(kind):
            own = one.default if one.default_factory is MISSING else one.default_factory()
            default = " ".join(found[one.name]) if one.name in found else show_value(own)
            about = one.metadata
            text = "; one of: ".join(filter(None, [about.get("help", ""), ", ".join(about.get("choices", ()))]))
            lines.append(f"  --{one.name} ({default})\n        {shorten(text, 160, placeholder=' ...')}")
    if has_more:
        lines += ["", "Every other option of transformers.TrainingArguments works too: --help_all lists them."]
    return "\n".join(lines)


def show_value(value: Any) -> str:
    """Return a default as it would be typed.

    >>> show_value(True), show_value(None), show_value(["a", "b"])
    ('true', 'unset', 'a b')
    """
    if isinstance(value, list):
        return " ".join(map(str, value)) or UNSET
    return UNSET if value in (None, "") else str(value).lower() if isinstance(value, bool) else str(value)
