"""Reads the `messages` of a chat request into the dialogue that the model learned to answer."""

from chat_utils.messages import clean_dialogue
from chat_utils.server.api_error import ApiError
from chat_utils.server.openai_parameters import NEUTRAL_IN_MESSAGES, check_neutral
from data_utils.dialogue.checking import DialogueError
from data_utils.dialogue.turns import TEXT_PARTS


def parse_messages(messages: object, window: int) -> tuple[list[dict], int]:
    """Return the dialogue in `messages`, cleaned as the dialogues are that the model learned from.

    The model knows an optional system turn and then user and assistant in turn: system and developer messages at the
    start become one, and what one side says in several messages one turn. The oldest turns that can't be in the window
    are left out unread; how many, is returned too.
    """
    if not isinstance(messages, list) or not messages:
        raise ApiError(400, "'messages' must be a list with at least one message", "messages")
    turns: list[dict] = []
    for number, message in enumerate(messages):
        place = f"messages[{number}]"
        role = message.get("role") if isinstance(message, dict) else None
        role = "system" if role == "developer" else role
        if role not in ("system", "user", "assistant"):
            raise ApiError(400, f"{place}: a role is expected: system, developer, user or assistant", place)
        if role == "system" and turns and turns[-1]["role"] != "system":
            raise ApiError(400, f"{place}: a system message stands before all others", place)
        for name, neutral in NEUTRAL_IN_MESSAGES.items():
            check_neutral(name, message.get(name), neutral, f"{place}.{name}")
        if not turns or turns[-1]["role"] != role:
            turns.append({"role": role, "texts": []})
        turns[-1]["texts"].append(join_content(message.get("content"), place))
        turns[-1]["place"] = place
    if next((turn["role"] for turn in turns if turn["role"] != "system"), "user") != "user":
        raise ApiError(400, "the first message after the system's must be the user's", "messages")
    dialogue = [{"role": turn["role"], "content": "\n".join(filter(None, turn["texts"]))} for turn in turns]
    try:
        return clean_dialogue(dialogue, window)
    except DialogueError as error:
        place = turns[error.number - 1]["place"] if error.number else "messages"
        raise ApiError(400, f"{place}: {error}", place, code=error.code) from error


def join_content(content: object, place: str) -> str:
    """Return the text of a message: a text, or a list of text parts."""
    if content is None:
        return ""
    parts = [content] if isinstance(content, str) else content
    if not isinstance(parts, list):
        raise ApiError(400, f"{place}: 'content' must be text or a list of text parts", place)
    texts = []
    for part in parts:
        text = part.get("text") if isinstance(part, dict) and part.get("type") in TEXT_PARTS else part
        if not isinstance(text, str):
            raise ApiError(400, f"{place}: this server reads text alone, no images, sound or files", place)
        texts.append(text)
    return "".join(texts)
