"""Turns a row of any known form into messages. One table, FORMS, holds the forms: to add one, write a function that
takes a Row and returns messages, and give it a line there.
"""

from collections.abc import Callable, Iterator, Set
from itertools import chain, product
from typing import NamedTuple

from data_utils.dialogue.checking import DialogueError, as_exchange
from data_utils.dialogue.turns import (
    MEDIA,
    ROLE_KEYS,
    Row,
    add_system,
    as_question,
    is_absent,
    name_kind,
    open_turn,
    read_turns,
    take_turns,
)

TALKS = ("data", "dialog", "dialogue")  # UltraChat, DailyDialog
# What ChatGPT's export holds beside what was said: the user's settings, and the model's thoughts.
UNSAID = ("user_editable_context", "model_editable_context", "thoughts", "reasoning_recap")


def talk_reader(key: str) -> Callable[[Row], list[dict]]:
    """Return a function that reads the messages under a key, or, where a published set has them, texts in turn.

    ShareGPT's `conversations` have their own keys; minimind's have OpenAI's under that name.
    """

    def read_talk(row: Row) -> list[dict]:
        turns = row.get_list(key)
        if turns and key in TALKS and all(isinstance(turn, str) for turn in turns):
            return add_system(row, take_turns(turns))
        if key == "data":
            raise DialogueError(
                f"'{key}' must be a list of texts in turn; if it holds rows, let the file hold it alone"
            )
        return add_system(row, read_turns(row, turns, key))

    return read_talk


def read_contents(row: Row) -> list[dict]:
    """Return the messages of Gemini's form, whose system prompt has parts too."""
    messages = read_turns(row, row.get_list("contents"), "contents")
    for key in ("systemInstruction", "system_instruction"):
        system = row.get(key)
        if isinstance(system, dict):
            messages = read_turns(row, [{**system, "role": "system"}], key) + messages
    return messages


def read_mapping(row: Row) -> list[dict]:
    """Return the messages of a conversation of ChatGPT's export: those on the way to the one that was seen last."""
    nodes = row.get_object("mapping")
    place, way, turns = row.get_text("current_node") or next(reversed(nodes.values), ""), [], []
    while place in nodes.values and len(way) <= len(nodes.values):
        node = nodes.get_object(place)
        way.append(node.get_object("message"))
        place = node.get_text("parent")
    for message in reversed(way):
        if not message.values:
            continue
        author, content = message.get_object("author"), message.get_object("content")
        kind = content.get_text("content_type")
        if kind in UNSAID:
            row.in_messages.add(f"mapping.{kind}")
            continue
        if kind != "text":
            raise DialogueError(f"a message of '{kind}' stands in it, but {MEDIA}; leave it out")
        words = "".join(content.get_texts("parts"))
        if words.strip():  # hidden ones have none
            turns.append({"role": author.get("role"), "content": words})
        row.in_messages |= {f"mapping.{key}" for key in message.unread()}
    return read_turns(row, turns, "mapping")


def read_conversation(row: Row) -> list[dict]:
    """Return the messages of Firefly's form, pairs of `human` and `assistant`, or XTuner's `input` and `output`."""
    messages: list[dict] = []
    turns = [open_turn(turn) for turn in row.get_list("conversation")]
    if turns and all(
        isinstance(turn, str) or (isinstance(turn, dict) and {*ROLE_KEYS} & turn.keys()) for turn in turns
    ):
        return talk_reader("conversation")(row)
    for number, pair in enumerate(turns, 1):
        turn = Row(pair if isinstance(pair, dict) else {}, f"conversation.{number}.")
        asked, answered = ("human", "assistant") if "human" in turn.values else ("input", "output")
        if not {asked, answered} <= turn.values.keys():
            expected = "'human' and 'assistant', or 'input' and 'output', are expected"
            raise DialogueError(f"'conversation': {expected} in turn {number}")
        system = turn.get_text("system")
        if system and number > 1:
            raise DialogueError(f"'conversation': a system message in turn {number}; it must stand in the first")
        messages += as_exchange(turn.get_text(asked), turn.get_text(answered), system)
        row.in_messages |= {f"conversation.{key}" for key in turn.unread()}
    return add_system(row, messages)


def read_history(row: Row) -> list[dict]:
    """Return the earlier turns, pairs of question and answer, that stand in `history`."""
    messages = []
    for pair in row.get_list("history"):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise DialogueError("'history' must be a list of pairs of texts: [[question, answer], ...]")
        messages += as_exchange(*pair)
    return messages


def read_instruction(row: Row) -> list[dict]:
    """Return the messages of Alpaca's form or Dolly's: instruction and input are one question, `history` before it."""
    names = (("input", "context"), ("output", "response"))
    more, answer = (row.get_text(alpacas) or row.get_text(dollys) for alpacas, dollys in names)
    question = "\n".join(filter(None, (row.get_text("instruction"), more)))
    return add_system(row, read_history(row) + as_question(question) + [{"role": "assistant", "content": answer}])


def pair_reader(asked: str, answered: str) -> Callable[[Row], list[dict]]:
    """Return a function that reads a question and its answer by these keys; either may be a list of messages."""

    def read_pair(row: Row) -> list[dict]:
        messages = read_history(row)
        for key, role in ((asked, "user"), (answered, "assistant")):
            if isinstance(row.get(key), list):
                messages += read_turns(row, row.get_list(key), key)
            else:
                text = row.get_text(key)
                messages += as_question(text) if role == "user" else [{"role": role, "content": text}]
        return add_system(row, messages)

    return read_pair


class Form(NamedTuple):
    """A form of dialogue: its name, the keys by which it is known, and the function that reads it."""

    name: str
    keys: tuple[str, ...]
    read: Callable[[Row], list[dict]]


FORMS = (
    Form("OpenAI messages", ("messages",), talk_reader("messages")),
    Form("ShareGPT conversations", ("conversations",), talk_reader("conversations")),
    Form("Firefly or XTuner conversation", ("conversation",), read_conversation),
    Form("Alpaca instructions", ("instruction", "output"), read_instruction),
    Form("Dolly instructions", ("instruction", "response"), read_instruction),
    Form("prompts and responses", ("prompt", "response"), pair_reader("prompt", "response")),
    Form("prompts and completions", ("prompt", "completion"), pair_reader("prompt", "completion")),
    Form("queries and responses", ("query", "response"), pair_reader("query", "response")),
    Form("questions and responses", ("question", "response"), pair_reader("question", "response")),
    Form("questions and answers", ("question", "answer"), pair_reader("question", "answer")),
    Form("inputs and outputs", ("input", "output"), pair_reader("input", "output")),
)
EXPECTED = "; ".join("/".join(form.keys) for form in FORMS)
# What a question and its answer are called besides, in any pair; of each the first name that a row has is taken.
ASKED = ("prompt", "question", "query", "instruction", "input", "inputs", "input_text", "user", "human", "q")
ASKED += ("问题", "提问", "问", "用户", "指令", "输入")
ANSWERED = ("response", "answer", "completion", "output", "outputs", "target", "targets", "output_text", "reply")
ANSWERED += ("assistant", "gpt", "bot", "a", "答案", "回答", "答", "助手", "输出", "回复")
# Forms that are looked for after those: a pair may stand beside such a key.
OTHER_FORMS = (
    *(Form(f"messages under '{key}'", (key,), talk_reader(key))
      for key in ("dialogue", "dialog", "chat", "chat_messages", "items", "data")),
    Form("Gemini contents", ("contents",), read_contents),
    Form("ChatGPT's export", ("mapping", "current_node"), read_mapping),
)  # fmt: skip
LIST_FORM, TEXT_FORM = "a list of messages", "lines of user and assistant in turn"


def list_forms(names: Set[str]) -> Iterator[Form]:
    """Yield the forms whose keys are all among these names, the one to be taken first."""
    pairs = product(*([name for name in called if name in names] for called in (ASKED, ANSWERED)))
    named = (Form(" and ".join(pair), pair, pair_reader(*pair)) for pair in pairs)
    return (form for form in chain(FORMS, named, OTHER_FORMS) if {*form.keys} <= names)


def find_form(values: dict) -> Form:
    """Return the form of a row: the first whose keys all hold something, else the first whose keys are there.

    Raises DialogueError, which says what is expected, where no form fits.
    """
    there = {key for key, value in values.items() if value is not None}
    for form in chain(list_forms({key for key in there if not is_absent(values[key])}), list_forms(there)):
        return form
    for pair in (("chosen", "rejected"), ("preferred_output", "non_preferred_output")):
        if {*pair} <= values.keys():
            raise DialogueError(f"{' and '.join(pair)} are a pair of replies; give these rows to tune_preferences.py")
    if {"role", "content"} <= values.keys() or {"from", "value"} <= values.keys():
        raise DialogueError('this is one message; a dialogue is a list of them: {"messages": [...]}')
    keys = ", ".join(sorted(str(key)[:40] for key, value in values.items() if value is not None)[:12]) or "none"
    for key, value in values.items():
        if isinstance(value, list) and value and isinstance(value[0], dict) and len(values) < 5:
            keys += f" ('{str(key)[:40]}' holds objects: if these are the rows, write that list alone)"
    raise DialogueError(f"unknown form with the keys {keys}; expected: {EXPECTED}")


def convert_row(values: object) -> tuple[list[dict], str, list[str]]:
    """Return (messages, name of the form, keys not read) of a row; the form shows in its keys and is never guessed.

    A message has `weight: 0` where it is not learned from. Raises DialogueError for what can't be read.

    >>> convert_row({"prompt": "Hi", "response": "Hello!", "id": 7})[1:]
    ('prompts and responses', ['id'])
    """
    if isinstance(values, list):
        row = Row({})
        if values and all(isinstance(turn, str) for turn in values):  # LCCC
            return take_turns(values), LIST_FORM, []
        return read_turns(row, values, "the list"), LIST_FORM, row.unread()
    if not isinstance(values, dict):
        raise DialogueError(f"an object or a list of messages is expected, not {name_kind(values)}")
    try:
        form = find_form(values)
    except DialogueError:
        plain = {str(key).strip().lower(): value for key, value in values.items()}  # as headers of sheets are written
        if len(plain) < len(values) or plain.keys() == values.keys():
            raise
        values, form = plain, find_form(plain)
    row = Row(values)
    messages = form.read(row)
    return messages, form.name, row.unread()
