"""Checks a dialogue: who speaks when, and that each message has words."""

from data_utils.text.cleaning import clean_text
from errors import coded

ROLES = ("system", "user", "assistant")


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
    text = f"the {what} is longer than the model's window of {window} tokens allows{left}; shorten it"
    error = DialogueError(text, "context_length_exceeded", number)
    return coded(error, f"long_{what.split(maxsplit=1)[0]}{'_room' if left else ''}", window, room)


def as_exchange(question: str, answer: str, system: str | None = None) -> list[dict]:
    """Return one question and its answer as messages, after the system's if there is one."""
    exchange = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return [{"role": "system", "content": system}, *exchange] if system else exchange


def check_dialogue(messages: list[dict]) -> list[dict]:
    """Return the messages cleaned, or raise DialogueError that says what is wrong.

    A dialogue is an optional system turn, then user and assistant in turn, and it ends with the assistant. A message
    with `weight` 0 is kept as one that is not learned from.
    """
    if not messages:
        raise coded(DialogueError("the dialogue has no messages"), "no_messages")
    checked = []
    for number, message in enumerate(messages, 1):
        check_message(message, number)
        role, content = message["role"], clean_text(message["content"])
        if not content:
            raise coded(DialogueError(f"message {number} ({role}) is empty"), "empty_message", number, role)
        checked.append({"role": role, "content": content} | ({} if is_learned(message) else {"weight": 0}))
    check_order(checked)
    if checked[-1]["role"] != "assistant":
        error = DialogueError("the last message must be the assistant's, since that is what is learned")
        raise coded(error, "no_answer")
    if not any(message["role"] == "assistant" and is_learned(message) for message in checked):
        raise coded(DialogueError("nothing would be learned: each reply has 'weight' 0"), "no_weight")
    return checked


def is_learned(message: dict) -> bool:
    """Tell whether a message may be learned from, if it is the assistant's: one with `weight` 0 is not."""
    return message.get("weight", 1) != 0


def check_message(message: dict, number: int) -> None:
    """Raise DialogueError unless a message, the `number`-th from 1, has a role and a text."""
    role = message.get("role")
    if role not in ROLES:
        error = DialogueError(f"role {str(role)[:40]!r} is not user, assistant or system; rename it", number=number)
        raise coded(error, "wrong_role", repr(str(role)[:40]))
    if not isinstance(message.get("content"), str):
        error = DialogueError(f"message {number} ({role}) has no text in 'content'", number=number)
        raise coded(error, "no_text", number, role)


def check_order(messages: list[dict]) -> None:
    """Raise DialogueError unless user and assistant alternate, the user first, after a system turn if there is one."""
    first = 1 if messages[0]["role"] == "system" else 0
    for number, message in enumerate(messages[first:]):
        role, expected = message["role"], ("user", "assistant")[number % 2]
        if role == expected:
            continue
        place = number + first + 1
        advice = f"message {place} breaks the turns, which must alternate"
        if place > 1 and role == messages[place - 2]["role"]:
            advice = f"messages {place - 1} and {place} have one role; join them, since a turn is one message"
        error = DialogueError(f"wrong order of roles: {expected} expected, {role} found; {advice}")
        raise coded(error, "wrong_order", expected, role)
