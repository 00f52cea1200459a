"""Fits a dialogue into the context window: whole oldest turns drop, the system turn stays."""

from transformers import PreTrainedTokenizerBase

from data_utils.dialogue.checking import DialogueError, too_long
from data_utils.dialogue.format import encode_messages, label_parts
from errors import coded


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
        # Drop by the lengths at hand as many turns as must go, then measure again. Part 2i is what the template writes
        # before message i; the opening of the first turn stays for the turn that takes its place.
        start = first = 1 if messages[0]["role"] == "system" else 0
        ends = [i for i in range(first + 1, len(messages)) if messages[i]["role"] == "user"]
        for end in [*ends, len(messages)]:
            if excess > 0:
                excess -= max(1, sum(lengths[2 * start + 1 : 2 * end + 1]))
                start = end
        messages = messages[:first] + messages[start:]
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
        return coded(DialogueError("the dialogue has no message of the user's"), "no_question")
    system = messages[:1] if messages[0]["role"] == "system" else []
    parts = encode_messages(tokenizer, [*system, *messages[asked[-1] :]], add_generation_prompt=True)
    system_tokens = sum(len(ids) for ids, origin in parts if origin == "system")
    question_tokens = next(len(ids) for ids, origin in parts if origin == "user")
    room = window - reply_tokens - (sum(len(ids) for ids, _ in parts) - question_tokens)
    if system and room < 1:  # not even a message of one token has room beside it
        return too_long("system", window, max(0, room - 1 + system_tokens), 1)
    return too_long("user", window, max(0, room), asked[-1] + 1)
