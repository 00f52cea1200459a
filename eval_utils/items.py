"""Items of the user's files that models are measured on: texts, dialogues, and JSONL in the forms of published sets."""

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from data_utils.dialogue.reading import read_dialogues
from data_utils.readers.files import EMPTY_FILE, Fault, FaultLimit, find_files, judge_faults, pass_empty
from data_utils.readers.limits import TooManyFaults
from data_utils.sources.corpus import read_corpus
from data_utils.sources.inputs import read_rows
from data_utils.sources.source import open_sources
from data_utils.text.languages import detect_language
from errors import InputError, say_note
from eval_utils.minimal_pairs import Pair

Item = TypeVar("Item")
KINDS: dict[type, str] = {str: "a text", list: "a list", int: "a whole number"}
HALF = re.compile(r"[\ud800-\udfff]")  # JSON can hold one; UTF-8 and a tokenizer cannot
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


def make_pair(row: dict[str, Any], group: str) -> Pair:
    """Return a minimal pair of a row in BLiMP's form: sentence_good, sentence_bad, and UID for the phenomenon."""
    good, bad = row["sentence_good"], row["sentence_bad"]
    if not good.strip() or not bad.strip():
        raise ValueError("'sentence_good' and 'sentence_bad' must have words")
    if good == bad:
        raise ValueError(f"the two sentences are the same: {good[:40]!r}")
    group = next((str(row[name]) for name in PAIR_GROUPS if row.get(name)), group)
    return Pair(good, bad, phenomenon=group, language=detect_language(good))


def make_choice(row: dict[str, Any], group: str) -> Choice:
    """Return a question of a row in CORE's form: query, choices and gold, the number of the right one from 0."""
    query, choices, gold = row["query"], row["choices"], row["gold"]
    if len(choices) < 2 or not all(isinstance(choice, str) and choice.strip() for choice in choices):
        raise ValueError("'choices' must be two texts or more")
    if not 0 <= gold < len(choices):
        raise ValueError(f"'gold' is {gold}, but there are {len(choices)} choices, counted from 0")
    return Choice(query, tuple(choices), gold, group)


def make_continuation(row: dict[str, Any], group: str) -> Continuation:
    """Return a text and what follows it of a row in LAMBADA's form: context and continuation."""
    context = row["context"]
    if not context.strip() or not row["continuation"].strip():
        raise ValueError("'context' and 'continuation' must have words")
    return Continuation(context, join_texts(context, row["continuation"]), group)


def check_keys(row: dict[str, Any], needed: Mapping[str, type]) -> None:
    """Raise ValueError where a row lacks a needed key or has another kind there, or half of a character."""
    for name, kind in needed.items():
        value = row.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"'{name}' is missing or not {KINDS[kind]}; needed are {', '.join(needed)}")
        if any(HALF.search(str(text)) for text in (value if isinstance(value, list) else [value])):
            raise ValueError(f"'{name}' holds half of a character (a surrogate)")


def read_items(
    needed: Mapping[str, type], make: Callable[[dict[str, Any], str], Item], paths: list[str]
) -> Iterator[Item]:
    """Yield what `make` returns of each row, which has the needed keys and kinds, and of its file's name.

    `make` raises ValueError for a row that is no item. Published sets have some (BLiMP has 7 pairs of equal sentences
    among 67,000): they are left out, and the first are named by file and line at the end. InputError is raised there
    where too many are none.
    """
    faults, count = [], 0
    for named, file in ((path, file) for path in paths for file in find_files(path)):
        tell = FaultLimit(faults.append)
        try:
            for number, row in read_rows(file, on_fault=tell):
                try:
                    check_keys(row, needed)
                    item = make(row, Path(file).stem)
                except ValueError as error:
                    tell(Fault(file, str(number), str(error)))
                    continue
                tell.rows += 1
                yield item
        except TooManyFaults as error:
            raise InputError(f"{file}: {error}") from error
        if faults and faults[-1].reason == EMPTY_FILE:
            pass_empty(file, named)
            faults.pop()
        count += tell.rows
    if left_out := judge_faults(faults, count + len(faults), True, ""):
        say_note(left_out)
    if not count:
        raise InputError(f"{' '.join(paths)}: no item in it")


READERS: dict[str, Callable[[list[str]], Iterable]] = {
    "text": lambda paths: read_corpus(open_sources(paths))[0],
    "dialogues": lambda paths: read_dialogues(open_sources(paths)),
    "pairs": partial(read_items, {"sentence_good": str, "sentence_bad": str}, make_pair),
    "choices": partial(read_items, {"query": str, "choices": list, "gold": int}, make_choice),
    "continuations": partial(read_items, {"context": str, "continuation": str}, make_continuation),
}


def read_own_items(given: dict[str, list[str] | None]) -> dict[str, list]:
    """Return the items of the user's files for each part that has some, and tell how many they are."""
    found = {}
    for part, paths in given.items():
        if paths:
            found[part] = list(READERS[part](paths))
            print(f"{part}: {len(found[part]):,} items of {' '.join(paths)}", file=sys.stderr)
    return found


def join_texts(before: str, after: str) -> str:
    """Return what follows a text with the space that parts the two, where both are written with spaces.

    >>> join_texts("The sky is", "blue"), join_texts("天是", "蓝的"), join_texts("A: ", "yes")
    (' blue', '蓝的', 'yes')
    """
    has_space = not before or before[-1].isspace() or after[0].isspace()
    return after if has_space or detect_language(after) == "zh" else f" {after}"
