"""Items that models are measured on, read from JSONL files in the forms of published sets."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_utils.readers.files import find_files
from data_utils.sources.inputs import read_rows
from data_utils.text.languages import detect_language
from errors import InputError
from eval_utils.minimal_pairs import Pair

KINDS: dict[type, str] = {str: "a text", list: "a list", int: "a whole number"}
PAIR_GROUPS = ("UID", "paradigm", "phenomenon")  # of BLiMP's rows and ZhoBLiMP's, the finest first


@dataclass(frozen=True)
class Choice:
    """A question with answers of which one, number `gold` from 0, is right."""

    query: str
    choices: tuple[str, ...]
    gold: int
    group: str = ""


@dataclass(frozen=True)
class Continuation:
    """A text and what follows it, which a model should find out."""

    context: str
    continuation: str
    group: str = ""


def read_minimal_pairs(paths: list[str]) -> Iterator[Pair]:
    """Yield minimal pairs of files in BLiMP's form: sentence_good, sentence_bad, and UID for the phenomenon."""
    for place, row in read_items(paths, {"sentence_good": str, "sentence_bad": str}):
        good, bad = row["sentence_good"], row["sentence_bad"]
        if good == bad:
            raise InputError(f"{place}: the two sentences are the same: {good!r}")
        group = next((str(row[name]) for name in PAIR_GROUPS if row.get(name)), Path(place).stem)
        yield Pair(
            good, bad, group, str(row.get("linguistics_term") or row.get("phenomenon") or ""), detect_language(good)
        )


def read_choices(paths: list[str]) -> Iterator[Choice]:
    """Yield questions of files in CORE's form: query, choices and gold, the number of the right one from 0."""
    for place, row in read_items(paths, {"query": str, "choices": list, "gold": int}):
        choices, gold = row["choices"], row["gold"]
        if len(choices) < 2 or not all(isinstance(choice, str) and choice.strip() for choice in choices):
            raise InputError(f"{place}: 'choices' must be two texts or more")
        if not 0 <= gold < len(choices):
            raise InputError(f"{place}: 'gold' is {gold}, but there are {len(choices)} choices, counted from 0")
        query = row["query"]
        yield Choice(query, tuple(join_texts(query, choice) for choice in choices), gold, Path(place).stem)


def read_continuations(paths: list[str]) -> Iterator[Continuation]:
    """Yield texts of files in LAMBADA's form: context and continuation."""
    for place, row in read_items(paths, {"context": str, "continuation": str}):
        if not row["context"].strip() or not row["continuation"].strip():
            raise InputError(f"{place}: 'context' and 'continuation' must have words")
        context = row["context"]
        yield Continuation(context, join_texts(context, row["continuation"]), Path(place).stem)


def read_items(paths: list[str], needed: dict[str, type]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (file:line, row) of JSON lines, each with the needed keys and kinds; raise InputError for one without."""
    count = 0
    for file in (file for path in paths for file in find_files(path)):
        for number, row in read_rows(file):
            for name, kind in needed.items():
                if not isinstance(row.get(name), kind) or isinstance(row.get(name), bool):
                    wanted = KINDS[kind]
                    needs = f"needed are {', '.join(needed)}"
                    raise InputError(f"{file}:{number}: '{name}' is missing or not {wanted}; {needs}")
            count += 1
            yield f"{file}:{number}", row
    if not count:
        raise InputError(f"{' '.join(paths)}: no item in it")


def join_texts(before: str, after: str) -> str:
    """Return what follows a text with the space that parts the two, where both are written with spaces.

    >>> join_texts("The sky is", "blue"), join_texts("天是", "蓝的"), join_texts("A: ", "yes")
    (' blue', '蓝的', 'yes')
    """
    has_space = not before or before[-1].isspace() or after[0].isspace()
    return after if has_space or detect_language(after) == "zh" else f" {after}"
