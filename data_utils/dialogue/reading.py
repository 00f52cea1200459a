"""Reads dialogues from files, hub datasets and built-in sources, checks all, tells what was read, and splits them."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash
from datasets import Dataset, Features, List, Value, concatenate_datasets

from data_utils.caching import cache_key, generate_rows
from data_utils.dialogue.checking import DialogueError, check_dialogue, is_learned
from data_utils.dialogue.files import choose_parts, describe_passed
from data_utils.dialogue.forms import TEXT_FORM, convert_row
from data_utils.dialogue.turns import take_turns
from data_utils.readers.files import Fault, FaultLimit, file_suffix, judge_faults, pass_empty, raise_fault
from data_utils.readers.limits import OutOfTime, TooManyFaults, limit_document
from data_utils.sources.builtin import NAME_PLACEHOLDER, dialogue_text
from data_utils.sources.corpus import repeat_rows
from data_utils.sources.source import Source
from data_utils.text.languages import detect_language
from data_utils.text.splitting import hash_share
from errors import InputError, escape_unprintable

MESSAGES = List({"role": Value("string"), "content": Value("string")})
# `unlearned`: the numbers of the messages that are not learned from, from the end (-1 is the last): turns are dropped
# from the front.
DIALOGUE_FEATURES = Features(
    {"messages": MESSAGES, "unlearned": List(Value("int32")), **dict.fromkeys(("language", "source"), Value("string"))}
)
# What was read with it: the name of the form, place and reason of a fault, the keys that were not read, and a hash of
# what was said.
NOTES = Features(
    {**dict.fromkeys(("form", "place", "fault", "hash"), Value("string")), "unread": List(Value("string"))}
)
# Who speaks, before a line of plain text, and when, as WhatsApp and WeChat write it.
ASKS, ANSWERS = "user|human|question|q|用户|人类|问题|问", "assistant|ai|bot|gpt|answer|a|助手|助理|机器人|回答|答"
LABEL = re.compile(rf"(?:({ASKS})|{ANSWERS})\s*[:：]\s*", re.IGNORECASE)
STAMP = re.compile(r"\W?\d{1,4}[-/.年]\d{1,2}[-/.月]\d{1,4}日?,?\s+\d{1,2}:\d\d")
SKIP_OPTION = "--skip_bad_dialogues"


@dataclass
class Reading:
    """Dialogues that were read, the lines that tell how, and facts for the report: rows left out, rows that repeat."""

    dialogues: Dataset
    lines: list[str]
    facts: dict[str, str]


def split_turns(text: str) -> list[dict]:
    """Return the messages of a paragraph of plain text: lines of user and assistant in turn, or with labels.

    Raises DialogueError for a messenger's export, and where the first line has a label and another has none.

    >>> split_turns("Q: Tea?\\nA: Yes.")
    [{'role': 'user', 'content': 'Tea?'}, {'role': 'assistant', 'content': 'Yes.'}]
    """
    lines = text.split("\n")
    if STAMP.match(lines[0]):
        raise DialogueError("a date stands before the words, as messengers export them; write who says what: "
                            '{"messages": [{"role": "user", "content": "..."}, ...]}')  # fmt: skip
    labels = [LABEL.match(line) for line in lines]
    if not labels[0] and all("\t" in line.strip() for line in lines):
        raise DialogueError("tabs stand between columns; name the file .tsv, and the columns in its first line: "
                            "question and answer")  # fmt: skip
    if not labels[0]:
        return take_turns(lines)
    bare = next((line for line, label in zip(lines, labels, strict=True) if not label), None)
    if bare is not None:
        raise DialogueError(f"the first line has a label, {labels[0][0].strip()}, and {bare[:40]!r} has none")
    return [{"role": "user" if label[1] else "assistant", "content": line[label.end() :]}
            for line, label in zip(lines, labels, strict=True) if label]  # fmt: skip


def check_rows(
    source: Source, part: str, accept: Callable[[object, str], tuple[list[dict], str, list[str]]], empty: dict
) -> Iterator[dict]:
    """Yield what `accept` makes of each row of a part, and `empty` with its fault for a row that it refuses.

    `accept` takes a row and the name of its form, where that shows in the kind of file, and returns (columns of each
    example in it, name of the form, keys not read), or raises DialogueError. Raises InputError where a file as a whole
    can't be read.
    """
    faults: list[Fault] = []
    empty = {**empty, "source": escape_unprintable(Path(part).name), "form": "", "unread": [], "fault": "", "hash": ""}
    is_text = file_suffix(part) == ".txt"

    def note(fault: Fault) -> None:
        if not fault.place:  # of how many rows, nobody knows
            raise_fault(fault)
        faults.append(fault)

    tell = FaultLimit(note)
    try:
        for place, row in source.rows(part, tell):
            yield from ({**empty, "place": fault.place, "fault": fault.reason} for fault in faults)
            faults.clear()
            try:
                with limit_document():
                    found, form, unread = accept(split_turns(row["text"]), TEXT_FORM) if is_text else accept(row, "")
            except (DialogueError, OutOfTime) as error:
                tell(Fault(part, str(place), as_line(str(error))))
                continue
            tell.rows += 1
            read = {"form": form, "unread": [as_line(key)[:40] for key in unread], "place": str(place)}
            known = {"language": row["language"]} if source.is_builtin else {}
            for columns in found:
                said = json.dumps([columns[key] for key in sorted(columns.keys() - {"language"})])
                yield {**empty, **columns, **read, **known, "hash": xxhash.xxh64_hexdigest(said.encode())}
    except TooManyFaults as error:
        raise InputError(f"{part}: {error}") from error
    yield from ({**empty, "place": fault.place, "fault": fault.reason} for fault in faults)


def read_part(source: Source, part: str) -> Iterator[dict]:
    """Yield a row for each row of a part: a checked dialogue, or one without messages and its fault."""

    def accept(row: Any, named: str) -> tuple[list[dict], str, list[str]]:
        messages, form, unread = (row, named, []) if named else convert_row(row)
        return [as_row(check_dialogue(messages))], form, unread

    yield from check_rows(source, part, accept, {"messages": [], "unlearned": [], "language": ""})


def as_row(messages: list[dict]) -> dict:
    """Return the columns of a checked dialogue: its messages, those not learned from, and its language."""
    return {
        "messages": [{"role": message["role"], "content": message["content"]} for message in messages],
        "unlearned": [number - len(messages) for number, message in enumerate(messages) if not is_learned(message)],
        "language": detect_language(" ".join(message["content"] for message in messages)),
    }


def as_line(text: str) -> str:
    """Return a text as one line that can be written as UTF-8."""
    return " ".join(text.encode(errors="replace").decode().split())


def describe_file(path: str, rows: Dataset) -> str:
    """Return in words how the rows of a file were read, and which of their keys were not."""
    forms = Counter(form for form in rows["form"] if form)
    unread = Counter(key for keys in rows["unread"] for key in keys)
    words = ", ".join(f"{form} ({count:,})" for form, count in forms.most_common()) or "none"
    keys = ", ".join(f"'{key}' ({count:,})" for key, count in unread.most_common())
    return f"{path}: read as {words}" + (f"; keys not read: {keys}" if keys else "")


def read_parts(
    sources: list[Source], read: Callable[[Source, str], Iterator[dict]], features: Features, skip_bad: bool
) -> Reading:
    """Read the rows of sources of any kind, each as often as it says; all are checked.

    Args:
        read: yields the rows of a part. features: their columns but NOTES.
    Raises InputError that names the first of the bad rows by file and line, unless `skip_bad` leaves them out and they
    are few.
    """
    parts, lines, faults, hashes, count = [], [], [], [], 0
    for source in sources:
        kept, passed_over = choose_parts(source)
        lines += describe_passed(source, passed_over)
        for part in kept:
            key = cache_key(
                getattr(read, "__name__", ""), type(source), part, source.part_version(part), source.reading
            )
            columns = Features({**features, **NOTES})
            rows = generate_rows(read, columns, key, f"reading {part}", source=source, part=part)
            is_bad = [bool(fault) for fault in rows["fault"]]
            bad = rows.select([number for number, found in enumerate(is_bad) if found])
            faults += [Fault(part, row["place"], row["fault"]) for row in bad]
            if source.files and not len(rows):
                pass_empty(part, source.path)
            elif not source.is_builtin:
                count += len(rows)
                lines.append(describe_file(part, rows))
                hashes += [row for row, found in zip(rows["hash"], is_bad, strict=True) if not found]
            good = rows.select([number for number, found in enumerate(is_bad) if not found]) if len(bad) else rows
            parts.append(repeat_rows(good.select_columns(list(features)), source.times))
    left_out = judge_faults(faults, count, skip_bad, f"leave them out with {SKIP_OPTION} true")
    dialogues = concatenate_datasets(parts)
    if not len(dialogues):
        raise InputError(f"{', '.join(source.path for source in sources)}: no row in it; name files that hold some")
    facts = {"rows": left_out} if left_out else {}
    if repeated := len(hashes) - len(set(hashes)):
        facts["repeated"] = f"{repeated:,} of {len(hashes):,} rows say word for word what another says; all are kept"
        lines.append(f"repeated: {facts['repeated']}")
    return Reading(dialogues, lines + [left_out] * bool(left_out), facts)


def read_checked(sources: list[Source], skip_bad: bool = False) -> Reading:
    """Read dialogues by `read_parts`: a Dataset with `messages`, `unlearned`, `language` and `source`."""
    return read_parts(sources, read_part, DIALOGUE_FEATURES, skip_bad)


def read_dialogues(sources: list[Source]) -> Dataset:
    """Return the dialogues of `read_checked`: a Dataset with `messages`, `unlearned`, `language` and `source`."""
    return read_checked(sources).dialogues


def split_dialogues(dialogues: Dataset, eval_fraction: float, column: str = "messages") -> tuple[Dataset, Dataset]:
    """Split dialogues by the hash of their text into (training, held-out), as documents are split.

    `column` holds the messages that count: of preferences the prompt, so that no prompt is in both. Of a few dialogues,
    where no hash falls low enough, the lowest is held out; a single one is both.
    """
    shares = [hash_share(dialogue_text(messages)) for messages in dialogues[column]]
    limit = eval_fraction if min(shares) < eval_fraction else min(shares) + 1e-12
    held = [i for i, share in enumerate(shares) if share < limit]
    kept = [i for i, share in enumerate(shares) if share >= limit] or held
    return dialogues.select(kept), dialogues.select(held)


def name_assistant(dialogues: Dataset, assistant_name: str) -> Dataset:
    """Put the assistant's name where dialogues have the placeholder; after the split, which goes by the text before."""

    def fill() -> Iterator[dict]:
        for row in dialogues:
            filled = [m | {"content": m["content"].replace(NAME_PLACEHOLDER, assistant_name)} for m in row["messages"]]
            yield row | {"messages": filled}

    key = cache_key("name_assistant", dialogues._fingerprint, assistant_name)
    return generate_rows(fill, DIALOGUE_FEATURES, key, "naming the assistant")
