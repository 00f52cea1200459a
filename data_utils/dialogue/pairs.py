"""Reads preferences from files: a prompt with the reply that is better and the one that is worse, or with one of them.

Of a reply that was only liked, or only disliked, the other side is empty. Forms: `prompt`, `chosen`, `rejected` as
texts or messages; whole dialogues in both; Alpaca's and ShareGPT's with a ranking; `prompt`, `completion`, `label`; and
conversations that chat.py saved with thumbs (`liked` beside a reply).
"""

from collections.abc import Iterator

from datasets import Dataset, Features, Value

from data_utils.dialogue.checking import DialogueError, check_dialogue
from data_utils.dialogue.forms import ASKED, convert_row, list_forms
from data_utils.dialogue.reading import MESSAGES, Reading, check_rows, read_parts
from data_utils.dialogue.turns import SYSTEM_KEYS, Row, add_system, is_absent, name_kind, read_turns, split_transcript
from data_utils.sources.source import Source
from data_utils.text.languages import detect_language

# `place` is the line of the file, for what shows only when a pair is encoded.
PAIR_FEATURES = Features(
    {"prompt": MESSAGES, **dict.fromkeys(("chosen", "rejected", "language", "source", "place"), Value("string"))}
)
Sides = tuple[list[dict], list[dict], list[dict]]  # prompt, chosen, rejected: messages
# What a question that stands beside whole dialogues is called; other names of ASKED, as `user`, may be something else.
ASKED_TOO = ("prompt", "question", "query", "instruction")
PAIR_EXPECTED = "prompt/chosen/rejected, chosen/rejected as whole dialogues, or prompt/completion/label"


def read_side(row: Row, key: str) -> list[dict]:
    """Return one side of a pair as messages: from a text, a message, or a list of messages."""
    value = row.get(key)
    if value is None:
        raise DialogueError(f"'{key}' is missing or empty; a pair has a chosen and a rejected reply")
    if isinstance(value, str) and not value.lstrip().startswith(("[{", '{"')):
        return split_transcript(value) or [{"role": "assistant", "content": value}]
    if isinstance(value, dict) and not all(isinstance(column, list) for column in value.values()):
        return read_turns(row, [value], key)
    return read_turns(row, row.get_list(key), key)


def read_prompt(row: Row, names: tuple[str, ...]) -> list[dict]:
    """Return what both sides answer, by the keys of any form of dialogue or these names of a question; else nothing."""
    for key in ("prompt", "messages", "conversations"):
        value = None if key == "messages" and isinstance(row.values.get("prompt"), str) else row.get(key)
        if isinstance(value, list) or (isinstance(value, str) and value.lstrip().startswith("[{")):
            return add_system(row, read_turns(row, row.get_list(key), key))
    for key in names:
        if row.get(key) is not None:
            asked = "\n".join(filter(None, (row.get_text(key), row.get_text("input") if key == "instruction" else "")))
            # By the forms of dialogues, so that history and system are read as there; the reply is a stand-in.
            stand_in = {"prompt": asked, "response": ".", **{k: row.get(k) for k in ("history", *SYSTEM_KEYS)}}
            return convert_row(stand_in)[0][:-1]
    return []


def part_sides(prompt: list[dict], chosen: list[dict], rejected: list[dict]) -> Sides:
    """Return the sides without what they share with the prompt or, where there is none, with each other."""
    if not prompt:
        if chosen[:-1] != rejected[:-1]:
            raise DialogueError(
                "'chosen' and 'rejected' answer other prompts; they may differ in the last message only"
            )
        prompt = chosen[:-1]
    if chosen[:-1] == rejected[:-1] and all(message in chosen for message in prompt):
        prompt = chosen[:-1] or prompt  # of which the prompt may be the last question alone
    if not prompt:
        raise DialogueError("there is no prompt: give 'prompt', or whole dialogues in 'chosen' and 'rejected'")
    for side, name in ((chosen, "chosen"), (rejected, "rejected")):
        if len(side) > 1 and side[:-1] not in (prompt, prompt[1:]):
            raise DialogueError(f"the messages before the last of '{name}' are not those of the prompt")
    return prompt, chosen[-1:], rejected[-1:]


def convert_pair(values: object) -> tuple[list[Sides], str, list[str]]:
    """Return (preferences, name of the form, keys not read) of a row; a saved conversation may hold several.

    Raises DialogueError for what is no preference.
    """
    if isinstance(values, list):
        values = {"messages": values}
    if not isinstance(values, dict):
        raise DialogueError(f"an object is expected, not {name_kind(values)}")
    values = rename_sides(values)
    row = Row(values)
    if {"chosen", "rejected"} & values.keys():
        chosen, rejected = read_side(row, "chosen"), read_side(row, "rejected")
        prompt = read_prompt(row, ASKED if len(chosen) == len(rejected) == 1 else ASKED_TOO)
        return [part_sides(prompt, chosen, rejected)], "chosen and rejected replies", row.unread()
    label = next((key for key in ("label", "kto_tag") if key in values), None)
    if label:
        liked = row.get(label)
        liked = {"true": True, "false": False, "1": 1, "0": 0}.get(str(liked).strip().lower(), liked)  # of a sheet
        if not isinstance(liked, bool) and liked not in (0, 1):
            raise DialogueError(f"'{label}' must be true (liked) or false, not {name_kind(values[label])}")
        rest = {key: value for key, value in values.items() if key != label}
        messages, _, unread = convert_row(rest)
        if not messages:
            raise DialogueError(f"'{label}' stands beside no messages")
        return [as_sides(messages, len(messages) - 1, bool(liked))], "liked and disliked replies", unread
    if any(list_forms(values.keys())):
        return convert_rated(values)
    keys = ", ".join(sorted(str(key)[:40] for key, value in values.items() if not is_absent(value))[:12]) or "none"
    raise DialogueError(f"unknown form with the keys {keys}; expected: {PAIR_EXPECTED}")


def rename_sides(values: dict) -> dict:
    """Return a row of OpenAI's form, or of ms-swift's, with `prompt`, `chosen` and `rejected`; another as it is."""
    rest = dict(values)
    if {"input", "preferred_output", "non_preferred_output"} <= values.keys():
        given = rest.pop("input")
        given = given if isinstance(given, dict) else {"messages": given}
        sides = {"chosen": rest.pop("preferred_output"), "rejected": rest.pop("non_preferred_output")}
        return {**rest, **{key: value for key, value in given.items() if key != "messages"},
                "prompt": given.get("messages"), **sides}  # fmt: skip
    if isinstance(values.get("messages"), list) and "rejected_response" in values:
        messages, rejected = rest.pop("messages"), rest.pop("rejected_response")
        return {**rest, "prompt": messages[:-1], "chosen": messages[-1:], "rejected": rejected}
    if {"messages", "rejected_messages"} <= values.keys():
        sides = {"chosen": rest.pop("messages"), "rejected": rest.pop("rejected_messages")}
        return {**rest, **sides}
    return values


def convert_rated(values: dict) -> tuple[list[Sides], str, list[str]]:
    """Return what was liked and disliked in a conversation that chat.py saved."""
    messages, _, unread = convert_row(values)
    rated = [(i, message["liked"]) for i, message in enumerate(messages) if isinstance(message.get("liked"), bool)]
    if not rated:
        raise DialogueError(f"no reply is rated: 'liked' stands beside none; expected: {PAIR_EXPECTED}")
    return [as_sides(messages, i, liked) for i, liked in rated], "conversations with thumbs", unread


def as_sides(messages: list[dict], place: int, liked: bool) -> Sides:
    """Return the reply at a place of a dialogue as the one that is liked, or not."""
    reply = [messages[place]]
    return messages[:place], reply if liked else [], [] if liked else reply


def check_pair(sides: Sides) -> dict:
    """Return the columns of a preference, its messages cleaned; raise DialogueError for what is none."""
    prompt, *replies = sides
    checked, texts = [], []
    for reply in replies:
        whole = check_dialogue([{**message, "weight": 1} for message in (*prompt, *reply)]) if reply else []
        checked += [whole[:-1]] * bool(reply)
        texts.append(whole[-1]["content"] if reply else "")
    if texts[0] == texts[1]:
        raise DialogueError("'chosen' and 'rejected' are equal; leave the pair out")
    words = " ".join(message["content"] for message in checked[0]) + texts[0] + texts[1]
    return {"prompt": checked[0], "chosen": texts[0], "rejected": texts[1], "language": detect_language(words)}


def read_pair_part(source: Source, part: str) -> Iterator[dict]:
    """Yield a row for each preference of a part of a source, or for each of its rows that is none with its fault."""

    def accept(values: object, named: str) -> tuple[list[dict], str, list[str]]:
        if named:
            raise DialogueError(f"lines of text are no preferences; expected: {PAIR_EXPECTED}")
        found, form, unread = convert_pair(values)
        return [check_pair(sides) for sides in found], form, unread

    empty = {"prompt": [], "chosen": "", "rejected": "", "language": ""}
    yield from check_rows(source, part, accept, empty)


def read_pairs(sources: list[Source], skip_bad: bool = False) -> Reading:
    """Read preferences from sources; all rows are checked.

    Raises InputError that names the first of those that are no preferences by file and line, unless `skip_bad` leaves
    them out and they are few.
    """
    return read_parts(sources, read_pair_part, PAIR_FEATURES, skip_bad)


def hold_pairs(rows: list[dict]) -> Dataset:
    """Return preferences that were made here as those that `read_pairs` returns."""
    return Dataset.from_list(rows, features=PAIR_FEATURES)
