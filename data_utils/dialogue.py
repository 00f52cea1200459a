"""The single owner of the chat format: dialogues in any common form in, token ids and labels out.

One function encodes a dialogue for training and for asking, so that what is trained is what is asked. Text of a user is
data: it is encoded with `split_special_tokens=True` and joined with the template's own control tokens part by part, so
that somebody who types a control token gets its letters and never forges a turn.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from datasets import Dataset, Features, List, Value, concatenate_datasets
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from data_utils import sources
from data_utils.caching import cache_key, generate_rows
from data_utils.cleaning.languages import detect_language
from data_utils.corpus import clean_text, dialogue_text, parse_source, repeat_rows
from data_utils.readers.files import file_suffix, file_version, find_files
from data_utils.readers.inputs import is_hub_name, load_hub, read_rows
from data_utils.splitting import hash_share
from errors import InputError

IGNORE_LABEL = -100  # what the loss of PyTorch and transformers skips
ROLES = ("system", "user", "assistant")
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


class DialogueError(ValueError):
    """A dialogue that is not one: the text says what is wrong, the caller knows where.

    `code` is for programs: "invalid_dialogue", "empty_message" or "context_length_exceeded", as in OpenAI's protocol.
    `number` counts from 1 to the message at fault, where it is one.
    """

    def __init__(self, message: str, code: str = "invalid_dialogue", number: int | None = None) -> None:
        super().__init__(message)
        self.code, self.number = code, number


def too_long(role: str, window: int, room: int | None = None, number: int | None = None) -> DialogueError:
    """Return the error for a message that the window can't hold; `room`: the tokens left for it, where that is known.

    >>> str(too_long("user", 512, 243))
    "the message is longer than the model's window of 512 tokens allows, which leaves it 243; shorten it"
    """
    what = "system prompt" if role == "system" else "message"
    left = "" if room is None else f", which leaves it {room}"
    return DialogueError(
        f"the {what} is longer than the model's window of {window} tokens allows{left}; shorten it",
        "context_length_exceeded",
        number,
    )


# Reading


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


def as_exchange(question: str, answer: str, system: str | None = None) -> list[dict]:
    """Return one question and its answer as messages, after the system's if there is one."""
    exchange = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return [{"role": "system", "content": system}, *exchange] if system else exchange


def check_dialogue(messages: list[dict]) -> list[dict]:
    """Return the messages cleaned, or raise DialogueError that says what is wrong.

    A dialogue is an optional system turn, then user and assistant in turn, and it ends with the assistant.
    """
    if not messages:
        raise DialogueError("the dialogue has no messages")
    checked = []
    for number, message in enumerate(messages, 1):
        check_message(message, number)
        role, content = message["role"], clean_text(message["content"])
        if not content:
            raise DialogueError(f"message {number} ({role}) is empty")
        checked.append({"role": role, "content": content})
    check_order(checked)
    if checked[-1]["role"] != "assistant":
        raise DialogueError("the last message must be the assistant's, since that is what is learned")
    return checked


def check_message(message: dict, number: int) -> None:
    """Raise DialogueError unless a message, the `number`-th from 1, has a role and a text."""
    role = message.get("role")
    if role not in ROLES:
        raise DialogueError(f"role {role!r} is not user, assistant or system; rename it", number=number)
    if not isinstance(message.get("content"), str):
        raise DialogueError(f"message {number} ({role}) has no text in 'content'", number=number)


def check_order(messages: list[dict]) -> None:
    """Raise DialogueError unless user and assistant alternate, the user first, after a system turn if there is one."""
    turns = messages[1:] if messages[0]["role"] == "system" else messages
    for number, message in enumerate(turns):
        expected = ("user", "assistant")[number % 2]
        if message["role"] != expected:
            raise DialogueError(
                f"wrong order of roles: {expected} expected, {message['role']} found; they must alternate"
            )


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


# Encoding


def encode_messages(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict], add_generation_prompt: bool = False
) -> list[tuple[list[int], str]]:
    """Encode messages by the tokenizer's chat template, as (ids, origin) parts in order.

    The origin of a part is the role whose words it holds, or "template" for what the template writes around them.
    For ordinary text the ids, joined, equal those of `apply_chat_template`. Raises DialogueError where the template
    refuses.
    """
    # The template is rendered with a mark for each content, and cut at the marks: what is left is the template's own.
    marks = [f"\u27e6{number}\u27e7" for number in range(len(messages))]
    marked = [{"role": message["role"], "content": mark} for message, mark in zip(messages, marks, strict=True)]
    try:
        rest = tokenizer.apply_chat_template(marked, tokenize=False, add_generation_prompt=add_generation_prompt)
    except TemplateError as error:
        raise DialogueError(f"the chat template refuses this dialogue: {error}") from error
    around = []
    for mark in marks:
        before, found, rest = rest.partition(mark)
        if not found:
            raise DialogueError("the chat template leaves out a message")
        around.append(before)
    contents = [message["content"] for message in messages]
    control_ids = tokenizer([*around, rest], add_special_tokens=False)["input_ids"]
    content_ids = tokenizer(contents, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    parts = []
    for message, before, ids in zip(messages, control_ids, content_ids, strict=False):
        parts += [(before, "template"), (ids, message["role"])]
    return [*parts, (control_ids[-1], "template")]


def label_parts(tokenizer: PreTrainedTokenizerBase, parts: list[tuple[list[int], str]]) -> dict[str, list[int]]:
    """Join encoded parts to `input_ids` and `labels`, equally long (T tokens).

    Labels are -100 but for the assistant's words and the stop token after each of its turns. Raises DialogueError where
    the chat template ends the assistant's turn with no special token.
    """
    special = set(tokenizer.all_special_ids)
    input_ids, labels = [], []
    for number, (ids, origin) in enumerate(parts):
        input_ids += ids
        if origin == "assistant":
            labels += ids
        elif number and parts[number - 1][1] == "assistant":
            stop = next((i for i, token in enumerate(ids) if token in special), None)
            if stop is None:
                raise DialogueError("the chat template ends the assistant's turn without a special token")
            labels += ids[: stop + 1] + [IGNORE_LABEL] * (len(ids) - stop - 1)
        else:
            labels += [IGNORE_LABEL] * len(ids)
    return {"input_ids": input_ids, "labels": labels}


def encode_dialogue(tokenizer: PreTrainedTokenizerBase, messages: list[dict]) -> dict[str, list[int]]:
    """Encode a whole dialogue for training: `input_ids` and `labels` of T tokens, as `label_parts` says."""
    return label_parts(tokenizer, encode_messages(tokenizer, messages))


def stop_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id that the assistant's turn ends with, as it is trained."""
    exchange = as_exchange("a", "b")
    encoded = encode_dialogue(tokenizer, exchange)
    return [label for label in encoded["labels"] if label != IGNORE_LABEL][-1]


def drop_oldest(messages: list[dict]) -> list[dict]:
    """Return the messages without the oldest turn of the user and what was answered to it; the system turn stays.

    >>> [m["content"] for m in drop_oldest(as_exchange("a", "b") + as_exchange("c", "d"))]
    ['c', 'd']
    """
    first = 1 if messages and messages[0]["role"] == "system" else 0
    following = [i for i in range(first + 1, len(messages)) if messages[i]["role"] == "user"]
    return messages[:first] + (messages[following[0] :] if following else [])


def fit_messages(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict], max_tokens: int, add_generation_prompt: bool = False
) -> tuple[list[tuple[list[int], str]], int]:
    """Encode the end of a dialogue that fits in `max_tokens`: whole oldest turns drop, never the system turn.

    Returns the parts, as `encode_messages` does, and how many messages were dropped; no parts where not one turn fits.
    """
    total = len(messages)
    while any(message["role"] == "user" for message in messages):
        parts = encode_messages(tokenizer, messages, add_generation_prompt)
        lengths = [len(ids) for ids, _ in parts]
        excess = sum(lengths) - max_tokens
        if excess <= 0:
            return parts, total - len(messages)
        # Drop by the lengths at hand as many turns as must go, then measure again.
        first = 1 if messages[0]["role"] == "system" else 0
        while excess > 0:
            shorter = drop_oldest(messages)
            # The opening of the first turn stays for the turn that takes its place.
            gone = slice(2 * first + 1, 2 * (first + len(messages) - len(shorter)) + 1)
            excess -= max(1, sum(lengths[gone]))
            del lengths[gone]
            messages = shorter
    return [], total


def fit_dialogue(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict], max_tokens: int
) -> dict[str, list[int]] | None:
    """Encode as much of the end of a dialogue as fits in `max_tokens`, whole turns only; None where not one fits."""
    parts, _ = fit_messages(tokenizer, messages, max_tokens)
    return label_parts(tokenizer, parts) if parts else None


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict], window: int, reply_tokens: int = 0
) -> tuple[list[int], int]:
    """Encode a dialogue that awaits the assistant's reply, so that `reply_tokens` of the window are left for that.

    Returns the ids and how many of the oldest messages were dropped; raises DialogueError where the last question or
    the system prompt is too long, and where nothing is asked.
    """
    parts, dropped = fit_messages(tokenizer, messages, window - reply_tokens, add_generation_prompt=True)
    if not parts:
        raise explain_excess(tokenizer, messages, window, reply_tokens)
    return [token for ids, _ in parts for token in ids], dropped


def explain_excess(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict], window: int, reply_tokens: int
) -> DialogueError:
    """Return the error for a dialogue of which not one turn fits: what is too long, and the tokens left for it."""
    asked = [number for number, message in enumerate(messages) if message["role"] == "user"]
    if not asked:
        return DialogueError("the dialogue has no message of the user's")
    system = messages[:1] if messages[0]["role"] == "system" else []
    parts = encode_messages(tokenizer, [*system, *messages[asked[-1] :]], add_generation_prompt=True)
    system_tokens = sum(len(ids) for ids, origin in parts if origin == "system")
    question_tokens = next(len(ids) for ids, origin in parts if origin == "user")
    room = window - reply_tokens - (sum(len(ids) for ids, _ in parts) - question_tokens)
    if system and room < 1:  # not even a message of one token has room beside it
        return too_long("system", window, max(0, room - 1 + system_tokens), 1)
    return too_long("user", window, max(0, room), asked[-1] + 1)
