"""Reads dialogues in any common form from files, hub datasets and built-in sources, and splits them."""

import json
from collections.abc import Iterator
from pathlib import Path

from datasets import Dataset, Features, List, Value, concatenate_datasets

from data_utils.caching import cache_key, generate_rows
from data_utils.dialogue.checking import DialogueError, as_exchange, check_dialogue
from data_utils.readers.files import file_suffix, file_version, find_files
from data_utils.sources import builtin as sources
from data_utils.sources.corpus import dialogue_text, parse_source, repeat_rows
from data_utils.sources.inputs import is_hub_name, load_hub, read_rows
from data_utils.text.languages import detect_language
from data_utils.text.splitting import hash_share
from errors import InputError

# Names that roles have in the ShareGPT form.
SHAREGPT_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
FEATURES = Features(
    {
        "messages": List({"role": Value("string"), "content": Value("string")}),
        "language": Value("string"),
        "source": Value("string"),
    }
)
FORMS = {
    "OpenAI messages": {"messages"},
    "ShareGPT conversations": {"conversations"},
    "Alpaca instructions": {"instruction", "output"},
    "prompts and responses": {"prompt", "response"},
    "lines of user and assistant in turn": {"text"},
}


def convert_row(row: dict) -> list[dict]:
    """Turn one row of a known form into messages; the form shows in its keys and is never guessed.

    Forms: OpenAI `messages`, ShareGPT `conversations`, Alpaca `instruction`/`input`/`output`, `prompt`/`response`.

    >>> convert_row({"prompt": "Hi", "response": "Hello!"})
    [{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Hello!'}]
    """
    for key, role_key, content_key in (("messages", "role", "content"), ("conversations", "from", "value")):
        turns = row.get(key)
        if turns is None or turns == "":
            continue
        if isinstance(turns, str):  # a cell of a sheet
            try:
                turns = json.loads(turns)
            except json.JSONDecodeError as error:
                raise DialogueError(f"'{key}' is not valid JSON: {error}") from error
        if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
            raise DialogueError(f"'{key}' must be a list of objects with '{role_key}' and '{content_key}'")
        roles = [turn.get(role_key) for turn in turns]
        if key == "conversations":
            roles = [SHAREGPT_ROLES.get(role, role) if isinstance(role, str) else role for role in roles]
        system = [{"role": "system", "content": row["system"]}] if row.get("system") else []
        return system + [{"role": r, "content": turn.get(content_key)} for r, turn in zip(roles, turns, strict=True)]
    if {"instruction", "output"} <= row.keys():
        parts = [part for part in (row["instruction"], row.get("input")) if part]
        if not all(isinstance(part, str) for part in parts):
            raise DialogueError("'instruction' and 'input' must be text")
        return as_exchange("\n".join(parts), row["output"], row.get("system"))
    if {"prompt", "response"} <= row.keys():
        return as_exchange(row["prompt"], row["response"], row.get("system"))
    raise DialogueError(
        f"unknown form with the keys {', '.join(sorted(row))}; use messages, conversations, instruction/output or "
        "prompt/response"
    )


def describe_forms(paths: list[str]) -> list[str]:
    """Return for each file of these sources in words how its rows are read, so that nothing is guessed in silence."""
    lines = []
    for path in (parse_source(name)[0] for name in paths):
        if path in sources.DIALOGUE_SOURCES or is_hub_name(path):
            continue
        for file in find_files(path):
            keys = {"text"} if file_suffix(file) in (".txt", ".md") else next(read_rows(file))[1].keys()
            form = next((name for name, needed in FORMS.items() if needed <= keys), "an unknown form")
            lines.append(f"{file}: read as {form}")
    return lines


def read_turns(path: str) -> Iterator[tuple[int, list[dict]]]:
    """Yield (line, messages) of plain text: lines of user and assistant in turn, a blank line between dialogues."""
    for start, row in read_rows(path):
        contents = row["text"].split("\n")
        yield start, [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]


def read_file(path: str) -> Iterator[dict]:
    """Yield the dialogues of one file or hub dataset, each checked; raise InputError with file and line."""
    if is_hub_name(path):
        rows = enumerate(load_hub(path), 1)
    else:
        rows = read_turns(path) if file_suffix(path) in (".txt", ".md") else read_rows(path)
    for number, row in rows:
        try:
            messages = check_dialogue(row if isinstance(row, list) else convert_row(row))
        except DialogueError as error:
            raise InputError(f"{path}:{number}: {error}") from error
        text = " ".join(message["content"] for message in messages)
        yield {"messages": messages, "language": detect_language(text), "source": Path(path).name}


def read_source(source: str) -> Iterator[dict]:
    """Yield the dialogues of a built-in source, each checked."""
    for dialogue in sources.DIALOGUE_SOURCES[source]():
        yield {**dialogue, "messages": check_dialogue(dialogue["messages"])}


def read_dialogues(paths: list[str]) -> Dataset:
    """Read dialogues from files, folders, globs, hub names and built-in sources, each as `PATH[@TIMES]`.

    Returns a Dataset with `messages`, `language` and `source`. Raises InputError with file and line for what is not a
    dialogue.
    """
    parts = []
    for name in paths:
        path, times = parse_source(name)
        if path in sources.DIALOGUE_SOURCES:
            readers = [(read_source, {"source": path}, sources.source_version(path))]
        elif is_hub_name(path):
            readers = [(read_file, {"path": path}, "hub")]
        else:
            readers = [(read_file, {"path": file}, file_version(file)) for file in find_files(path)]
        for reader, arguments, version in readers:
            key = cache_key(reader.__name__, arguments, version)
            part = generate_rows(reader, FEATURES, key, **arguments)
            parts.append(repeat_rows(part, times))
    return concatenate_datasets(parts)


def split_dialogues(dialogues: Dataset, eval_fraction: float) -> tuple[Dataset, Dataset]:
    """Split dialogues by the hash of their text into (training, held-out), as documents are split.

    Of a few dialogues, where no hash falls low enough, the lowest is held out; a single one is both.
    """
    shares = [hash_share(dialogue_text(messages)) for messages in dialogues["messages"]]
    limit = eval_fraction if min(shares) < eval_fraction else min(shares) + 1e-12
    held = [i for i, share in enumerate(shares) if share < limit]
    kept = [i for i, share in enumerate(shares) if share >= limit] or held
    return dialogues.select(kept), dialogues.select(held)


def name_assistant(dialogues: Dataset, assistant_name: str) -> Dataset:
    """Put the assistant's name where dialogues have the placeholder; after the split, which goes by the text before."""

    def fill(dialogue: dict) -> dict:
        messages = dialogue["messages"]
        filled = [m["content"].replace(sources.NAME_PLACEHOLDER, assistant_name) for m in messages]
        return {"messages": [{"role": m["role"], "content": text} for m, text in zip(messages, filled, strict=True)]}

    key = cache_key("name_assistant", dialogues._fingerprint, assistant_name)
    return dialogues.map(fill, new_fingerprint=key, desc="naming the assistant")
