"""Rows of every form in, messages out; what is not read is named, and text never comes from anything but text."""

import json
import math
import re
from datetime import date

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_utils.dialogue.checking import DialogueError, check_dialogue
from data_utils.dialogue.files import choose_parts
from data_utils.dialogue.format import IGNORE_LABEL
from data_utils.dialogue.forms import ANSWERED, ASKED, FORMS, OTHER_FORMS, convert_row
from data_utils.dialogue.pairs import read_pairs
from data_utils.dialogue.reading import read_checked, read_dialogues, read_part
from data_utils.dialogue.turns import UNREADABLE, is_absent
from data_utils.rows.packing import encode_dialogues
from data_utils.sources.source import open_source, open_sources
from errors import InputError


def turns(*contents: str, system: str | None = None) -> list[dict]:
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]
    return [{"role": "system", "content": system}, *messages] if system else messages


def part(text: str) -> dict:
    return {"type": "text", "text": text}


# Row -> its messages, the name of its form, the keys that were not read.
READ = [
    ({"conversations": turns("茶？", "好。", system="简短。")}, turns("茶？", "好。", system="简短。"), "ShareGPT", []),
    (
        {"conversations": [turns("a")[0], {"role": "assistant", "content": "b", "reasoning_content": "c", "name": ""}]},
        turns("a", "b"),
        "ShareGPT",
        ["conversations.reasoning_content"],
    ),
    (turns("a", "b", "c", "d"), turns("a", "b", "c", "d"), "a list of messages", []),
    ([{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], turns("a", "b"), "a list of messages", []),
    (
        {"messages": [{"role": "user", "content": [part("门是"), part("什么？")]}, turns("", "绿。")[1]]},
        turns("门是什么？", "绿。"),
        "OpenAI",
        [],
    ),
    ({"messages": [{"role": "developer", "content": "s"}, *turns("a", "b")]}, turns("a", "b", system="s"), "Open", []),
    ({"messages": [{"role": "system", "content": ""}, *turns("a", "b")]}, turns("a", "b"), "OpenAI", []),
    ({"conversations": [{"from": "system", "value": None}, *turns("a", "b")]}, turns("a", "b"), "ShareGPT", []),
    ({"messages": turns("a", "b"), "system": "s"}, turns("a", "b", system="s"), "OpenAI", []),
    (
        {"messages": [turns("a")[0] | {"name": "Al"}, turns("a", "b")[1]], "id": 7, "tools": [], "prompt": "a"},
        turns("a", "b"),
        "OpenAI",
        ["id", "prompt", "messages.name"],
    ),
    (
        {"instruction": "c", "input": "d", "output": "e", "history": [["a", "b"]], "system": "s"},
        turns("a", "b", "c\nd", "e", system="s"),
        "Alpaca",
        [],
    ),
    ({"instruction": "c", "input": math.nan, "output": "e", "history": None}, turns("c", "e"), "Alpaca", []),
    ({"instruction": "c", "output": "e", "history": '[["a", "b"]]'}, turns("a", "b", "c", "e"), "Alpaca", []),
    ({"query": "c", "response": "d", "history": [["a", "b"]]}, turns("a", "b", "c", "d"), "queries", []),
    ({"system_prompt": "s", "question": "a", "response": "b"}, turns("a", "b", system="s"), "questions and resp", []),
    ({"question": "a", "answer": "b"}, turns("a", "b"), "questions and answers", []),
    ({"system_prompt": "s", "messages": turns("a", "b", system="s")}, turns("a", "b", system="s"), "OpenAI", []),
    (["a", "b", "c", "d"], turns("a", "b", "c", "d"), "a list of messages", []),
    ({"conversation": [[("human", "a"), ("assistant", "b")]]}, turns("a", "b"), "Firefly", []),
    ({"instruction": "Human:a\nAssistant:b\n\nHuman:c\nAssistant:\n", "input": "", "output": "d"},
     turns("a", "b", "c", "d"), "Alpaca", []),
    ({"instruction": "a", "context": "b", "response": "c", "category": ""}, turns("a\nb", "c"), "Dolly", []),
    ({"instruction": "a", "context": "", "response": "c"}, turns("a", "c"), "Dolly", []),
    ({"instruction": "a", "input": "b", "context": "x", "output": "c"}, turns("a\nb", "c"), "Alpaca", ["context"]),
    ({"input": "a", "output": "b", "system": "s"}, turns("a", "b", system="s"), "inputs and outputs", []),
    ({"prompt": "a", "completion": "b"}, turns("a", "b"), "prompts and completions", []),
    ({"prompt": turns("a", "b", "c"), "completion": turns("", "d")[1:]}, turns("a", "b", "c", "d"), "prompts", []),
    ({"conversation": [{"human": "a", "assistant": "b"}, {"human": "c", "assistant": "d"}], "category": "x"},
     turns("a", "b", "c", "d"), "Firefly", ["category"]),
    ({"conversation": [{"system": "s", "input": "a", "output": "b"}]}, turns("a", "b", system="s"), "Firefly", []),
    ({"conversation": turns("a", "b"), "model": "m"}, turns("a", "b"), "Firefly", ["model"]),
    ({"dialog": ["a", "b", "c", "d"], "act": [1]}, turns("a", "b", "c", "d"), "messages under 'dialog'", ["act"]),
    ({"conversations": {"from": ["human", "gpt"], "value": ["a", "b"]}}, turns("a", "b"), "ShareGPT", []),
    ({"id": "0", "data": ["a", "b"]}, turns("a", "b"), "messages under 'data'", ["id"]),
    ({"dialogue": [{"speaker": "User", "text": "a"}, {"speaker": "AI", "text": "b"}]}, turns("a", "b"), "mess", []),
    ({"messages": [{"role": "USER", "content": "a"}, {"role": "model", "value": "b"}]}, turns("a", "b"), "OpenAI", []),
    ({"messages": [{"type": "human", "content": "a"}, {"type": "ai", "data": {"content": "b", "id": 7}}]},
     turns("a", "b"), "OpenAI", ["messages.id"]),
    ({"chat_messages": [{"sender": "human", "text": "a", "uuid": "1"}, {"sender": "assistant", "text": "b"}]},
     turns("a", "b"), "messages under 'chat_messages'", ["chat_messages.uuid"]),
    ({"systemInstruction": {"parts": [{"text": "s"}]}, "contents": [
        {"role": "user", "parts": [{"text": "a"}]}, {"role": "model", "parts": [{"text": "b"}, {"text": "c"}]}]},
     turns("a", "bc", system="s"), "Gemini", []),
    ({"system": [{"text": "s"}], "messages": [{"role": "user", "content": [{"text": "a"}]}, turns("", "b")[1]]},
     turns("a", "b", system="s"), "OpenAI", []),
    ({"Question": "a", " Answer": "b"}, turns("a", "b"), "questions and answers", []),
    ({"input": "a", "target": "b", "kind": "x"}, turns("a", "b"), "input and target", ["kind"]),
    ({"问题": "a", "答案": "b"}, turns("a", "b"), "问题 and 答案", []),
    ({"prompt": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:", "completion": " d"},
     turns("a", "b", "c", "d"), "prompts and completions", []),
    ({"title": "t", "current_node": "4", "mapping": {
        "1": {"message": None, "parent": None},
        "2": {"message": {"author": {"role": "system"}, "content": {"content_type": "text", "parts": [""]}},
              "parent": "1"},
        "3": {"message": {"author": {"role": "user"}, "content": {"content_type": "text", "parts": ["a"]}, "id": 5},
              "parent": "thoughts"},
        "thoughts": {"message": {"author": {"role": "assistant"}, "content": {"content_type": "thoughts"}},
                     "parent": "2"},
        "left": {"message": {"author": {"role": "assistant"}, "content": {"content_type": "text", "parts": ["x"]}},
                 "parent": "3"},
        "4": {"message": {"author": {"role": "assistant"}, "content": {"content_type": "text", "parts": ["b"]}},
              "parent": "3"}}}, turns("a", "b"), "ChatGPT",
     ["title", "mapping.id", "mapping.thoughts"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("User: a\nAssistant: b", turns("a", "b")),
        ("问：茶？\n答：好。\n问: 水？\n答: 不。", turns("茶？", "好。", "水？", "不。")),
        ("a\nA: b", turns("a", "A: b")),
        ("User: a\nb", "the first line has a label, User:, and 'b' has none"),
        ("12/31/23, 10:15 PM - Bob: hi\n12/31/23, 10:16 PM - Al: yes", "a date stands before the words"),
        ("a\tb\nc\td", "tabs stand between columns; name the file .tsv"),
        ("2024-01-01 10:00:00 张三\n你好", "a date stands before the words"),
    ],
)
def test_labels_of_plain_text_are_no_words(tmp_path, text, messages):
    path = tmp_path / "a.txt"
    path.write_text(text, encoding="utf-8")
    if isinstance(messages, str):
        with pytest.raises(InputError, match=f"a.txt:1: {messages}"):
            read_dialogues(open_sources([str(path)]))
    else:
        assert read_dialogues(open_sources([str(path)]))["messages"][0] == messages


def test_half_a_character_costs_itself(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(r'{"prompt": "a\ud83d", "response": "茶\udc00\ud83d\ude00"}', encoding="utf-8")
    assert read_dialogues(open_sources([str(path)]))["messages"][0] == turns("a", "茶😀")


@pytest.mark.parametrize(("row", "messages", "form", "unread"), READ, ids=[json.dumps(row[0])[:50] for row in READ])
def test_forms_of_other_projects_are_read_and_what_is_not_read_is_named(row, messages, form, unread):
    found, name, named = convert_row(row)
    assert check_dialogue(found) == messages
    assert name.startswith(form)
    assert named == unread


@pytest.mark.parametrize(
    ("weight", "train"),
    [({"weight": 0}, False), ({"train": False}, False), ({"loss": False}, False), ({"weight": 1}, True)],
)
def test_a_reply_of_weight_0_is_read_but_not_learned(tmp_path, tokenizer, weight, train):
    messages = turns("one", "two", "three", "four")
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": [messages[0], messages[1] | weight, *messages[2:]]}))
    dialogues = read_dialogues(open_sources([str(tmp_path / "a.jsonl")]))
    assert dialogues[0]["messages"] == messages
    [row] = encode_dialogues(dialogues, tokenizer, f"key {weight}", 64)
    learned = tokenizer.decode([label for label in row["labels"] if label != IGNORE_LABEL])
    assert learned == ("two<|im_end|>four<|im_end|>" if train else "four<|im_end|>")
    assert "two" in tokenizer.decode(row["input_ids"])


def test_the_number_of_a_reply_not_learned_holds_where_old_turns_are_dropped(tmp_path, tokenizer):
    messages = turns("tea " * 40, "no", "one", "two", "three", "four")
    messages[3]["weight"] = 0
    (tmp_path / "a.jsonl").write_text(json.dumps(messages))
    [row] = encode_dialogues(read_dialogues(open_sources([str(tmp_path / "a.jsonl")])), tokenizer, "key", 48)
    assert "tea" not in tokenizer.decode(row["input_ids"])
    assert tokenizer.decode([label for label in row["labels"] if label != IGNORE_LABEL]) == "four<|im_end|>"


# Many rows, some of them bad


def write_lines(path, good: int, bad: int) -> str:
    rows = [{"messages": turns(f"question {i}", "yes")} for i in range(good)]
    rows += [{"messages": turns(f"question {i}")} for i in range(bad)]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return str(path)


def test_all_rows_are_checked_and_the_first_five_bad_ones_named(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", 93, 7)
    with pytest.raises(InputError) as error:
        read_dialogues(open_sources([path]))
    places = re.findall(re.escape(path) + r":(\d+): ", str(error.value))
    assert places == ["94", "95", "96", "97", "98"]
    assert "; and 2 more; 7 of 100 rows can't be used" in str(error.value)
    assert str(error.value).endswith("or leave them out with --skip_bad_dialogues true")
    assert "\n" not in str(error.value)


def test_bad_rows_are_left_out_where_that_is_asked_and_counted(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", 94, 5)
    (tmp_path / "a.jsonl").open("a").write('{"messages": [\n')
    reading = read_checked(open_sources([f"{path}@2", "identity"]), skip_bad=True)
    assert len([source for source in reading.dialogues["source"] if source == "a.jsonl"]) == 2 * 94
    assert reading.facts["rows"].startswith(f"left out: 6 of 100 rows: {path}:95: the last message must be")
    assert reading.lines == [f"{path}: read as OpenAI messages (94)", reading.facts["rows"]]


@pytest.mark.parametrize(("bad", "is_too_many"), [(20, False), (21, True)])
def test_more_than_a_fifth_stops_the_run(tmp_path, bad, is_too_many):
    path = write_lines(tmp_path / "a.jsonl", 100 - bad, bad)
    if is_too_many:
        with pytest.raises(InputError, match=r"21 of 100 rows can't be used, more than the 20% that may be left out"):
            read_checked(open_sources([path]), skip_bad=True)
    else:
        assert len(read_checked(open_sources([path]), skip_bad=True).dialogues) == 80


def test_keys_that_were_not_read_are_told_with_their_number(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [{"messages": turns("a", "b"), "id": 1}, {"prompt": "a", "response": "c", "id": 2, "score": 0.5}]
    path.write_text("\n".join(map(json.dumps, rows)))
    [line] = read_checked(open_sources([str(path)])).lines
    assert line == (
        f"{path}: read as OpenAI messages (1), prompts and responses (1); keys not read: 'id' (2), 'score' (1)"
    )


def test_rows_that_repeat_are_counted_over_all_files(tmp_path):
    rows = [{"messages": turns("a", "b")}, {"prompt": " a", "response": "b"}, {"messages": turns("a", "c")}]
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
    reading = read_checked(open_sources([f"{tmp_path}@2", "identity"]))
    assert reading.facts == {"repeated": "4 of 6 rows say word for word what another says; all are kept"}
    assert reading.lines[-1] == f"repeated: {reading.facts['repeated']}"
    pairs = [{"prompt": "a", "chosen": "b", "rejected": c} for c in "cdcc"]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    assert read_pairs(open_sources([str(tmp_path / "pairs.jsonl")])).facts["repeated"].startswith("2 of 4 rows")


# Folders


def test_an_empty_file_costs_itself_in_a_folder_alone(tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": turns("a", "b")}))
    empty = {"b.jsonl": "", "c.jsonl": "\n\n", "d.csv": "prompt,response\n", "e.json": "[]"}
    for name, text in empty.items():
        (tmp_path / name).write_text(text)
    reading = read_checked(open_sources([str(tmp_path)]))
    assert len(reading.dialogues) == 1
    assert len(reading.lines) == 1
    assert capsys.readouterr().err.splitlines() == [f"note: {tmp_path / n}: the file is empty, left out" for n in empty]
    with pytest.raises(InputError, match=r"b\.jsonl: the file is empty"):
        read_checked(open_sources([str(tmp_path / "b.jsonl")]))
    (tmp_path / "a.jsonl").write_text("")
    with pytest.raises(InputError, match=rf"^{tmp_path}: no row in it"):
        read_checked(open_sources([str(tmp_path)]))


def test_a_readme_a_licence_and_a_description_of_the_data_are_no_dialogues(tmp_path):
    for name in ("README.md", "LICENSE.txt", "dataset_infos.json", "page.html", "data/train.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"messages": turns("a", "b")}))
    reading = read_checked(open_sources([str(tmp_path)]))
    assert len(reading.dialogues) == 1
    assert reading.lines[:2] == [
        f"{tmp_path}: LICENSE.txt: not read beside other kinds; name it by itself",
        f"{tmp_path}: page.html: no dialogues are read from .html, left out",
    ]


def test_a_file_of_another_kind_named_by_itself_is_refused(tmp_path):
    (tmp_path / "chat.md").write_text("a\nb\n")
    with pytest.raises(InputError, match=r"chat.md: dialogues are read from \.jsonl"):
        choose_parts(open_source(str(tmp_path / "chat.md")))


# Any row at all

WORDS = st.sampled_from([f"{word}{i}" for i, word in enumerate(["tea", "rain", "茶水", "boat", "夜"])])
NOT_TEXT = st.sampled_from([None, True, False, 0, 1, -3.5, math.nan, "", [], {}, 10**30])
LEAVES = WORDS | NOT_TEXT
FORM_KEYS = [form.keys for form in (*FORMS, *OTHER_FORMS)] + [(ASKED[-1], ANSWERED[-1]), (ASKED[5], ANSWERED[-1])]
KEYS = sorted(
    {key for keys in FORM_KEYS for key in keys}
    | {*ASKED, *ANSWERED, "system", "history", "input", "label", "id", *UNREADABLE}
)
ROLES = st.sampled_from(["user", "assistant", "system", "human", "gpt", "tool", "developer", "bot"])
PART = st.fixed_dictionaries({"type": st.sampled_from(["text", "image_url"]), "text": LEAVES})
CONTENT = st.one_of(WORDS, WORDS, WORDS, NOT_TEXT, st.lists(PART | WORDS, max_size=2))
EXTRAS = {
    "name": LEAVES,
    "weight": st.sampled_from([0, 1, 0.5, None]),
    "reasoning_content": LEAVES,
    "tool_calls": LEAVES,
}
TURN = st.fixed_dictionaries({"role": ROLES, "content": CONTENT}, optional=EXTRAS)
TURN |= st.fixed_dictionaries({"from": ROLES, "value": CONTENT}, optional=EXTRAS)
PAIR = st.fixed_dictionaries({}, optional=dict.fromkeys(("human", "assistant", "input", "output"), LEAVES))
GOOD = st.lists(WORDS, min_size=2, max_size=4).map(lambda words: turns(*words[: len(words) // 2 * 2]))
LISTS = GOOD | st.lists(TURN | LEAVES, max_size=4) | st.lists(PAIR, max_size=3) | st.lists(st.lists(LEAVES, max_size=2))
VALUES = st.one_of(LEAVES, WORDS, WORDS, LISTS, GOOD.map(json.dumps), st.dictionaries(WORDS, LEAVES, max_size=2))
TYPICAL = st.sampled_from(FORM_KEYS).flatmap(
    lambda keys: st.fixed_dictionaries(
        dict.fromkeys(keys, VALUES), optional={key: VALUES for key in KEYS if key not in keys}
    )
)
ROWS = st.one_of(TYPICAL, TYPICAL, st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4), LISTS, LEAVES)


def leaves_of(value: object, without: frozenset = frozenset()) -> list[str]:
    """Return the texts in a value, those of JSON in a text too, without what these keys hold."""
    if isinstance(value, str):
        return leaves_of(json.loads(value), without) if value[:1] in ("[", "{") else [value] * bool(value)
    if isinstance(value, dict):
        return [leaf for key, item in value.items() if key not in without for leaf in leaves_of(item, without)]
    return [leaf for item in value for leaf in leaves_of(item, without)] if isinstance(value, list) else []


@given(row=ROWS)
def test_what_comes_out_stood_in_the_row_and_what_stood_there_comes_out_or_is_named(row):
    try:
        messages, _, unread = convert_row(row)
        messages = check_dialogue(messages)
    except DialogueError as error:
        assert "\n" not in str(error)
        return
    stood, whole_texts = leaves_of(row), row.values() if isinstance(row, dict) else []
    for message in messages:
        if message["content"] in whole_texts:
            continue
        words = re.findall(r"[a-z茶水夜]+\d", message["content"])
        assert "".join(words) == message["content"].replace("\n", "")
        assert set(words) <= set(stood)
    text = "\n".join(message["content"] for message in messages)
    for key, value in row.items() if isinstance(row, dict) else [("the list", row)]:
        inner = {name.partition(".")[2] for name in unread if name.startswith(f"{key}.")}
        if key not in unread and not is_absent(value) and not (isinstance(value, str) and value in text):
            passed = inner | {"role", "from", "type", "tool_calls", "tools"}
            assert [
                leaf for leaf in leaves_of(value, frozenset(passed)) if leaf not in text and key not in UNREADABLE
            ] == []


@given(rows=st.lists(ROWS, min_size=1, max_size=12))
def test_each_row_of_a_file_is_used_or_named(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("rows") / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    read = list(read_part(open_source(str(path)), str(path)))
    assert sorted(int(row["place"]) for row in read) == list(range(1, len(rows) + 1))
    assert all(bool(row["messages"]) != bool(row["fault"]) for row in read)


@pytest.mark.parametrize(
    ("value", "kind"),
    [(b"\xe9t\xe9", "bytes"), ({"a": 1}, "an object"), (math.nan, ""), (date(2024, 1, 1), "a value of type date")],
)
def test_what_parquet_holds_beside_text_never_becomes_its_repr(tmp_path, value, kind):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"prompt": ["a"], "response": pa.array([value])}), path)
    with pytest.raises(InputError, match=f"a.parquet:1: .*{kind}") as error:
        read_dialogues(open_sources([str(path)]))
    assert "xe9" not in str(error.value)
    pq.write_table(pa.table({"messages": [[{"role": "user", "content": value}]]}), path)
    with pytest.raises(InputError, match=r"a.parquet:1: message 1 \(user\) has no text in 'content'"):
        read_dialogues(open_sources([str(path)]))
