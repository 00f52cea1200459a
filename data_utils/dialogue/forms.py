"""Turns a row of any known form into messages. One table, FORMS, holds the forms: to add one, write a function that
takes a Row and returns messages, and give it a line there.
"""

from collections.abc import Callable
from typing import NamedTuple

from data_utils.dialogue.checking import DialogueError, as_exchange
from data_utils.dialogue.turns import Row, add_system, is_absent, name_kind, read_turns


def read_messages(row: Row) -> list[dict]:
    """Return the messages of OpenAI's form."""
    return add_system(row, read_turns(row, row.get_list("messages"), "messages"))


def read_conversations(row: Row) -> list[dict]:
    """Return the messages of ShareGPT's form, or of minimind's, which has OpenAI's keys under that name."""
    return add_system(row, read_turns(row, row.get_list("conversations"), "conversations"))


def read_conversation(row: Row) -> list[dict]:
    """Return the messages of Firefly's form, pairs of `human` and `assistant`, or XTuner's `input` and `output`."""
    messages: list[dict] = []
    for number, pair in enumerate(row.get_list("conversation"), 1):
        turn = Row(pair if isinstance(pair, dict) else {})
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
    return add_system(row, read_history(row) + as_exchange(question, answer))


def pair_reader(asked: str, answered: str, system: str = "system") -> Callable[[Row], list[dict]]:
    """Return a function that reads a question and its answer by these keys; either may be a list of messages."""

    def read_pair(row: Row) -> list[dict]:
        messages = read_history(row)
        for key, role in ((asked, "user"), (answered, "assistant")):
            if isinstance(row.get(key), list):
                messages += read_turns(row, row.get_list(key), key)
            else:
                messages.append({"role": role, "content": row.get_text(key)})
        return add_system(row, messages, system)

    return read_pair


class Form(NamedTuple):
    """A form of dialogue: its name, the keys by which it is known, and the function that reads it."""

    name: str
    keys: tuple[str, ...]
    read: Callable[[Row], list[dict]]


FORMS = (
    Form("OpenAI messages", ("messages",), read_messages),
    Form("ShareGPT conversations", ("conversations",), read_conversations),
    Form("Firefly or XTuner conversation", ("conversation",), read_conversation),
    Form("Alpaca instructions", ("instruction", "output"), read_instruction),
    Form("Dolly instructions", ("instruction", "response"), read_instruction),
    Form("prompts and responses", ("prompt", "response"), pair_reader("prompt", "response")),
    Form("prompts and completions", ("prompt", "completion"), pair_reader("prompt", "completion")),
    Form("queries and responses", ("query", "response"), pair_reader("query", "response")),
    Form("questions and responses", ("question", "response"), pair_reader("question", "response", "system_prompt")),
    Form("questions and answers", ("question", "answer"), pair_reader("question", "answer")),
    Form("inputs and outputs", ("input", "output"), pair_reader("input", "output")),
)
EXPECTED = "; ".join("/".join(form.keys) for form in FORMS)
LIST_FORM, TEXT_FORM = "a list of messages", "lines of user and assistant in turn"


def find_form(values: dict) -> Form:
    """Return the form of a row: the first whose keys all hold something, else the first whose keys are there.

    Raises DialogueError, which says what is expected, where no form fits.
    """
    for holds in (lambda value: not is_absent(value), lambda value: value is not None):
        for form in FORMS:
            if all(holds(values.get(key)) for key in form.keys):
                return form
    if {"chosen", "rejected"} <= values.keys():
        raise DialogueError("chosen and rejected are a pair of replies; give these rows to tune_preferences.py")
    if {"role", "content"} <= values.keys() or {"from", "value"} <= values.keys():
        raise DialogueError('this is one message; a dialogue is a list of them: {"messages": [...]}')
    keys = ", ".join(sorted(str(key)[:40] for key, value in values.items() if value is not None)[:12]) or "none"
    raise DialogueError(f"unknown form with the keys {keys}; expected: {EXPECTED}")


def convert_row(values: object) -> tuple[list[dict], str, list[str]]:
    """Return (messages, name of the form, keys not read) of a row; the form shows in its keys and is never guessed.

    A message has `weight: 0` where it is not learned from. Raises DialogueError for what can't be read.

    >>> convert_row({"prompt": "Hi", "response": "Hello!", "id": 7})[1:]
    ('prompts and responses', ['id'])
    """
    if isinstance(values, list):
        row = Row({})
        return read_turns(row, values, "the list"), LIST_FORM, row.unread()
    if not isinstance(values, dict):
        raise DialogueError(f"an object or a list of messages is expected, not {name_kind(values)}")
    row, form = Row(values), find_form(values)
    messages = form.read(row)
    return messages, form.name, row.unread()
