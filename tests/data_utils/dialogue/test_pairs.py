"""Preferences of every form in, pairs of replies to one prompt out; what is no preference is named."""

import json
from collections.abc import Iterator
from copy import deepcopy

import pytest

from data_utils.dialogue.checking import DialogueError, check_dialogue
from data_utils.dialogue.forms import convert_row
from data_utils.dialogue.pairs import check_pair, convert_pair, read_pairs
from data_utils.dialogue.reading import read_dialogues
from data_utils.sources.source import open_sources
from errors import InputError
from tests.data_utils.dialogue.test_forms import READ as READ_DIALOGUES


def turns(*contents: str, system: str | None = None) -> list[dict]:
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]
    return [{"role": "system", "content": system}, *messages] if system else messages


def write(path, *rows) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


REPLY, WORSE = turns("", "茶")[1:], turns("", "水")[1:]
# Row -> (prompt, chosen, rejected) of each preference in it.
READ = [
    ({"prompt": "喝？", "chosen": "茶", "rejected": "水"}, [(turns("喝？"), "茶", "水")]),
    ({"prompt": "喝？", "chosen": "茶", "rejected": "水", "system": "s"}, [(turns("喝？", system="s"), "茶", "水")]),
    ({"prompt": turns("a", "b", "c"), "chosen": REPLY, "rejected": WORSE[0]}, [(turns("a", "b", "c"), "茶", "水")]),
    ({"prompt": "a", "chosen": turns("a", "b"), "rejected": turns("a", "c")}, [(turns("a"), "b", "c")]),
    (
        {"prompt": turns("a", system="s"), "chosen": turns("a", "b"), "rejected": "c"},
        [(turns("a", system="s"), "b", "c")],
    ),
    ({"chosen": turns("a", "b", "c", "d"), "rejected": turns("a", "b", "c", "e")}, [(turns("a", "b", "c"), "d", "e")]),
    ({"instruction": "a", "input": "b", "chosen": "c", "rejected": "d"}, [(turns("a\nb"), "c", "d")]),
    ({"input": "a", "chosen": "b", "rejected": "c"}, [(turns("a"), "b", "c")]),
    ({"问题": "喝？", "chosen": REPLY, "rejected": WORSE}, [(turns("喝？"), "茶", "水")]),
    ({"user": "name 7", "chosen": turns("a", "b"), "rejected": turns("a", "c")}, [(turns("a"), "b", "c")]),
    ({"instruction": "c", "history": [["a", "b"]], "chosen": "d", "rejected": "e"}, [(turns("a", "b", "c"), "d", "e")]),
    (
        {"conversations": [{"from": "human", "value": "a"}], "chosen": {"from": "gpt", "value": "b"},
         "rejected": {"from": "gpt", "value": "c"}},
        [(turns("a"), "b", "c")],
    ),
    ({"prompt": "a", "completion": "b", "label": True}, [(turns("a"), "b", "")]),
    ({"prompt": "a", "completion": "b", "label": "False"}, [(turns("a"), "", "b")]),
    ({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"}, [(turns("a"), "b", "c")]),
    ({"prompt": "\n\nHuman: a\n\nAssistant:", "chosen": " b", "rejected": " c"}, [(turns("a"), "b", "c")]),
    (
        {"prompt": "c", "chosen": turns("a", "b", "c", "d"), "rejected": turns("a", "b", "c", "e"), "messages": [5]},
        [(turns("a", "b", "c"), "d", "e")],
    ),
    (
        {"input": {"messages": turns("a"), "tools": []}, "preferred_output": REPLY, "non_preferred_output": WORSE},
        [(turns("a"), "茶", "水")],
    ),
    ({"messages": turns("a", "b"), "rejected_response": "c"}, [(turns("a"), "b", "c")]),
    ({"messages": turns("a", "b"), "rejected_messages": turns("a", "c")}, [(turns("a"), "b", "c")]),
    (
        {"prompt": "a", "chosen": {"role": ["user", "assistant"], "content": ["a", "b"]},
         "rejected": {"role": ["user", "assistant"], "content": ["a", "c"]}},
        [(turns("a"), "b", "c")],
    ),
    ({"prompt": turns("a"), "completion": turns("", "b")[1:], "label": False}, [(turns("a"), "", "b")]),
    ({"messages": turns("a", "b"), "kto_tag": False}, [(turns("a"), "", "b")]),
    (
        {"messages": [*turns("a", "b", "c")[:1], {**turns("", "b")[1], "liked": True}, turns("c")[0],
                      {**turns("", "d")[1], "liked": False}, *turns("e", "f")]},
        [(turns("a"), "b", ""), (turns("a", "b", "c"), "", "d")],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("row", "expected"), READ, ids=[json.dumps(row[0])[:50] for row in READ])
def test_forms_of_preferences(tmp_path, row, expected):
    pairs = read_pairs(open_sources([write(tmp_path / "a.jsonl", row)])).dialogues
    assert [(row["prompt"], row["chosen"], row["rejected"]) for row in pairs] == expected


BAD = [
    ({"prompt": "a", "chosen": "b"}, "'rejected' is missing or empty; a pair has a chosen and a rejected reply"),
    ({"prompt": "a", "chosen": "b", "rejected": ""}, "'rejected' is missing or empty"),
    ({"prompt": "a", "chosen": "b", "rejected": " \n"}, r"message 2 \(assistant\) is empty"),
    ({"prompt": "a", "chosen": "b ", "rejected": "b"}, "'chosen' and 'rejected' are equal; leave the pair out"),
    ({"prompt": "", "chosen": "b", "rejected": "c"}, "there is no prompt: give 'prompt', or whole dialogues"),
    ({"chosen": "b", "rejected": "c"}, "there is no prompt"),
    ({"chosen": turns("a", "b"), "rejected": turns("x", "c")}, "'chosen' and 'rejected' answer other prompts"),
    (
        {"prompt": "a", "chosen": turns("x", "b"), "rejected": "c"},
        "the messages before the last of 'chosen' are not those",
    ),
    ({"prompt": "a", "chosen": turns("b"), "rejected": "c"}, "wrong order of roles: assistant expected, user found"),
    ({"prompt": 3, "chosen": "b", "rejected": "c"}, "'prompt' must be text, not a number"),
    ({"prompt": "a", "chosen": 3, "rejected": "c"}, "'chosen' must be a list, not a number"),
    ({"prompt": "a", "completion": "b", "label": "good"}, r"'label' must be true \(liked\) or false, not text"),
    ({"messages": turns("a", "b")}, "no reply is rated: 'liked' stands beside none; expected: prompt/chosen/rejected"),
    ({"question": "a", "best": "b"}, "unknown form with the keys best, question; expected: prompt/chosen/rejected"),
]


@pytest.mark.parametrize(("row", "message"), BAD, ids=[json.dumps(row[0])[:50] for row in BAD])
def test_what_is_no_preference_is_named_by_file_and_line(tmp_path, row, message):
    path = write(tmp_path / "a.jsonl", {"prompt": "a", "chosen": "b", "rejected": "c"}, row)
    with pytest.raises(InputError, match=f"a.jsonl:2: {message}"):
        read_pairs(open_sources([path]))


def test_a_disliked_reply_is_not_learned_from_in_fine_tuning(tmp_path):
    messages = turns("a", "b", "c", "d")
    messages[1]["liked"], messages[3]["liked"] = False, True
    [row] = read_dialogues(open_sources([write(tmp_path / "a.jsonl", {"messages": messages})]))
    assert row["unlearned"] == [-3]
    assert row["messages"] == turns("a", "b", "c", "d")


def test_bad_preferences_are_left_out_where_that_is_asked(tmp_path):
    good = {"prompt": "a", "chosen": "b", "rejected": "c", "score": 1}
    path = write(tmp_path / "a.jsonl", *[good] * 9, {"prompt": "a", "chosen": "b"})
    reading = read_pairs(open_sources([path]), skip_bad=True)
    assert len(reading.dialogues) == 9
    assert reading.facts["rows"].startswith(f"left out: 1 of 10 rows: {path}:10: 'rejected' is missing")
    assert reading.lines[0] == f"{path}: read as chosen and rejected replies (9); keys not read: 'score' (9)"


# What stands in a row where something else is expected.
WRONG = [None, True, 7, "x", "[1]", "{}", [1], [[1]], [None], {"a": 1}, [{"role": [1], "content": {"a": [1]}}]]


def change_each(value: object) -> Iterator[object]:
    """Yield copies of a value of JSON, in each of which one value, at any depth, is one of WRONG."""
    yield from WRONG
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        for changed in change_each(value[key]):
            whole = deepcopy(value)
            whole[key] = changed
            yield whole


@pytest.mark.parametrize("row", [row for row, *_ in (*READ_DIALOGUES, *READ)], ids=lambda row: json.dumps(row)[:50])
def test_a_value_of_another_kind_anywhere_in_a_row_is_read_or_named_by_an_error(row):
    for changed in change_each(row):
        try:
            check_dialogue(convert_row(changed)[0])
        except DialogueError as error:
            assert "\n" not in str(error)
        try:
            [check_pair(sides) for sides in convert_pair(changed)[0]]
        except DialogueError as error:
            assert "\n" not in str(error)


def test_a_wrong_value_in_an_export_is_named_by_its_place():
    message = {"author": {"role": "user"}, "content": {"content_type": "text", "parts": ["a"]}}
    for changes, words in [
        ({"message": "x"}, "'mapping.1.message' must be an object, not text"),
        ({"message": {**message, "content": "x"}}, "'mapping.1.message.content' must be an object, not text"),
        ({"message": {**message, "author": [1]}}, "'mapping.1.message.author' must be an object, not a list"),
        ({"message": {**message, "content": {"content_type": "text", "parts": ["a", 1]}}},
         "'mapping.1.message.content.parts' must hold texts; number 2 is a number"),
        ({"parent": [1]}, "'mapping.1.parent' must be text, not a list"),
    ]:  # fmt: skip
        row = {"mapping": {"1": {"message": message, "parent": None, **changes}}, "current_node": "1"}
        with pytest.raises(DialogueError, match=f"^{words}$"):
            convert_row(row)
    with pytest.raises(DialogueError, match=r"^'current_node' must be text, not a list$"):
        convert_row({**row, "current_node": ["1"]})
    with pytest.raises(DialogueError, match="'messages': message 1 is a list"):  # a map of Parquet with lists for keys
        convert_row({"messages": [[([], 1)]]})
