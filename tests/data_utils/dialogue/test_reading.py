"""Dialogues of any form in, ids and labels out; a user's words never become a turn."""

import csv
import io
import json
import math
import os
import re
import sys
from collections import Counter
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from data_utils.dialogue.checking import DialogueError, check_dialogue
from data_utils.dialogue.format import IGNORE_LABEL, encode_dialogue, encode_messages, stop_token_id
from data_utils.dialogue.forms import convert_row
from data_utils.dialogue.reading import DIALOGUE_FEATURES, name_assistant, read_dialogues, split_dialogues, split_turns
from data_utils.dialogue.window import encode_prompt, fit_dialogue
from data_utils.readers.arguments import use_limits
from data_utils.rows.packing import encode_dialogues
from data_utils.sources.source import open_sources
from data_utils.text.cleaning import clean_text
from data_utils.text.splitting import hash_share
from errors import InputError


def make_messages(*contents: str, system: str | None = None) -> list[dict]:
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]
    return [{"role": "system", "content": system}, *messages] if system is not None else messages


# Reading

LONG = make_messages("Hi, “you”,\nthere", "你好！", "茶, or tea?", "Tea 😀", system="Be kind.")
SHORT = make_messages("What is 3 + 5?", "8")
SHAREGPT = {"system": "system", "user": "human", "assistant": "gpt"}

# Form -> rows of it, and the messages that they stand for.
FORMS = {
    "messages": ([{"messages": LONG}, {"messages": SHORT}], [LONG, SHORT]),
    "sharegpt": (
        [
            {"conversations": [{"from": SHAREGPT[m["role"]], "value": m["content"]} for m in row]}
            for row in (LONG, SHORT)
        ],
        [LONG, SHORT],
    ),
    "alpaca": (
        [{"instruction": "Name a drink.", "output": "茶, tea"}, {"instruction": "一加一？", "output": "二"}],
        [make_messages("Name a drink.", "茶, tea"), make_messages("一加一？", "二")],
    ),
    "alpaca with input": (
        [
            {"instruction": "Translate:", "input": "你好，\n世界", "output": "Hello,\nworld", "system": ""},
            {"instruction": "Hi", "input": "", "output": "Hello", "system": "Be kind."},
        ],
        [make_messages("Translate:\n你好，\n世界", "Hello,\nworld"), make_messages("Hi", "Hello", system="Be kind.")],
    ),
    "prompt and response": (
        [{"prompt": "Hi", "response": 'He said "hi"', "id": 1}, {"prompt": "你好", "response": "None", "id": 2}],
        [make_messages("Hi", 'He said "hi"'), make_messages("你好", "None")],
    ),
}


def as_bytes(kind: str, rows: list[dict]) -> bytes:
    """Write rows in a form of file; what is nested stands in a sheet as JSON."""
    if kind == ".jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    if kind == ".json":
        return json.dumps(rows, ensure_ascii=False, indent=1).encode()
    if kind == ".csv":
        sheet = io.StringIO()
        writer = csv.DictWriter(sheet, rows[0])
        writer.writeheader()
        for row in rows:
            writer.writerow({k: v if isinstance(v, str | int) else json.dumps(v) for k, v in row.items()})
        return sheet.getvalue().encode()
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def write(path: Path, content: bytes | str) -> str:
    """Write a file, compressed as its name says; return its path."""
    content = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".gz", ".zst"):
        with fsspec.open(str(path), "wb", compression="infer") as file:
            file.write(content)
    else:
        path.write_bytes(content)
    return str(path)


def write_rows(path: Path, *rows: dict) -> str:
    return write(path, as_bytes(".jsonl", list(rows)))


@pytest.mark.parametrize("compression", ["", ".gz", ".zst"])
@pytest.mark.parametrize("kind", [".jsonl", ".json", ".csv", ".parquet"])
@pytest.mark.parametrize("form", FORMS)
def test_reads_every_form_from_every_kind_of_file(tmp_path, form, kind, compression):
    rows, expected = FORMS[form]
    path = write(tmp_path / f"chat{kind}{compression}", as_bytes(kind, rows))
    dialogues = read_dialogues(open_sources([path]))
    assert dialogues.features == DIALOGUE_FEATURES
    assert dialogues["messages"] == expected
    assert set(dialogues["source"]) == {f"chat{kind}{compression}"}


@pytest.mark.parametrize("compression", ["", ".gz", ".zst"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_reads_plain_text_with_alternating_lines(tmp_path, compression, line_end):
    text = "\n\n你好\n  你好！\n\n \nHi\nHello\nTea?\nYes\n"
    path = write(tmp_path / f"chat.txt{compression}", text.replace("\n", line_end))
    dialogues = read_dialogues(open_sources([path]))
    assert dialogues["messages"] == [make_messages("你好", "你好！"), make_messages("Hi", "Hello", "Tea?", "Yes")]
    assert dialogues["language"] == ["zh", "en"]


def test_reads_several_forms_from_one_file(tmp_path):
    rows = [rows[0] for rows, _ in FORMS.values()]
    path = write_rows(tmp_path / "chat.jsonl", *rows)
    assert read_dialogues(open_sources([path]))["messages"] == [expected[0] for _, expected in FORMS.values()]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.jsonl"], ["a"]),
        (["b.txt", "a.jsonl"], ["b", "a"]),
        (["*.*"], ["a", "b"]),
        (["."], ["a", "c"]),  # the .txt beside them may be a licence
        (["deep"], ["c"]),
        (["notes"], ["d"]),
        (["a.jsonl@3"], ["a", "a", "a"]),
        (["deep/*.jsonl.gz@2", "b.txt"], ["c", "c", "b"]),
    ],
)
def test_a_file_several_a_glob_a_folder_and_repeats(tmp_path, names, expected):
    write_rows(tmp_path / "a.jsonl", {"prompt": "a", "response": "x"})
    write(tmp_path / "b.txt", "b\nx\n")
    write_rows(tmp_path / "deep" / "c.jsonl.gz", {"prompt": "c", "response": "x"})
    write(tmp_path / "notes" / "d.txt", "d\nx\n")
    dialogues = read_dialogues(open_sources([f"{tmp_path}/{name}" for name in names]))
    assert [messages[0]["content"] for messages in dialogues["messages"]] == expected


@pytest.mark.slow
def test_built_in_sources_stand_beside_files(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", {"prompt": "a", "response": "x"})
    counts = Counter(read_dialogues(open_sources([f"{path}@5", "chatterbot@0.1", "hsk@0.01"]))["source"])
    assert counts["a.jsonl"] == 5
    assert counts["hsk"] == 44
    assert 50 < counts["chatterbot"] < 110


def test_words_are_cleaned(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", {"prompt": " cafe\u0301\r\n\x00ok ", "response": "schÃ¶n\n\n\n\n好，"})
    assert read_dialogues(open_sources([path]))["messages"] == [make_messages("café\nok", "schön\n\n好，")]


@pytest.mark.parametrize("name", ["Momo", "小茉", "{assistant_name}"])
def test_the_name_is_filled_in_everywhere(tmp_path, name):
    words = "I am {assistant_name}, yes, {assistant_name}; {other} {} stay"
    path = write_rows(tmp_path / "a.jsonl", {"messages": make_messages(words, words, system=words)})
    [dialogue] = name_assistant(read_dialogues(open_sources([path])), name)
    filled = f"I am {name}, yes, {name}; {{other}} {{}} stay"
    assert dialogue["messages"] == make_messages(filled, filled, system=filled)
    assert (dialogue["language"], dialogue["source"]) == ("en", "a.jsonl")


def test_own_dialogues_hold_the_name_given():
    named = name_assistant(read_dialogues(open_sources(["identity"])), "Zorblax")
    texts = [m["content"] for messages in named["messages"] for m in messages]
    assert sum("Zorblax" in text for text in texts) >= 20
    assert [text for text in texts if "assistant_name" in text] == []


# Splitting


def make_dialogues(*questions: str) -> Dataset:
    rows = [
        {"messages": make_messages(text, "yes"), "unlearned": [], "language": "en", "source": "test"}
        for text in questions
    ]
    return Dataset.from_list(rows, features=DIALOGUE_FEATURES)


def questions_of(dialogues: Dataset) -> list[str]:
    return [messages[0]["content"] for messages in dialogues["messages"]]


def test_dialogues_are_split_as_documents_are():
    questions = [f"question {i % 400}" for i in range(500)]
    train, held_out = (questions_of(part) for part in split_dialogues(make_dialogues(*questions), 0.1))
    assert sorted([*train, *held_out]) == sorted(questions)
    assert set(held_out) == {text for text in questions if hash_share(f"{text}\nyes") < 0.1}
    assert not set(train) & set(held_out)
    assert 20 <= len(held_out) <= 80


@pytest.mark.parametrize("count", [2, 3, 10])
def test_of_a_few_dialogues_one_is_held_out_and_always_the_same(count):
    questions = [f"question {i}" for i in range(count)]
    assert not any(hash_share(f"{text}\nyes") < 0.001 for text in questions)
    train, held_out = (questions_of(part) for part in split_dialogues(make_dialogues(*questions), 0.001))
    assert len(held_out) == 1
    assert sorted(train + held_out) == questions
    assert questions_of(split_dialogues(make_dialogues(*questions[::-1]), 0.001)[1]) == held_out


def test_a_single_dialogue_is_both():
    train, held_out = split_dialogues(make_dialogues("question"), 0.02)
    assert questions_of(train) == questions_of(held_out) == ["question"]


USER, ASSISTANT = make_messages("hi", "hello")
PICTURE = {"type": "image_url", "image_url": {"url": "x.png"}}
ALTERNATE = "message . breaks the turns, which must alternate"
BAD = [
    (
        {"messages": [USER, {**ASSISTANT, "role": "narrator"}]},
        "role 'narrator' is not user, assistant or system; rename it",
    ),
    ({"messages": [USER, {**ASSISTANT, "role": None}]}, "message 2 has no role: 'role' and 'content' are expected"),
    ({"messages": [USER, {"content": "hello"}]}, "message 2 has no role: .*; its keys: content$"),
    ({"messages": [USER, {"who": "me", "text": "hello"}]}, "message 2 has no role: .*; its keys: text, who$"),
    ({"conversations": [{"from": "human", "value": "a"}, {"from": "robot", "value": "b"}]}, "role 'robot' is not user"),
    ({"messages": [USER, USER, ASSISTANT]}, "wrong .*: assistant expected, user found; messages 1 and 2 have one role"),
    ({"messages": [USER, ASSISTANT, ASSISTANT]}, "wrong .*: user expected, assistant found; messages 2 and 3 have one"),
    ({"messages": [ASSISTANT, USER]}, f"wrong order of roles: user expected, assistant found; {ALTERNATE}"),
    ({"messages": [USER, ASSISTANT, {"role": "system", "content": "x"}]}, f"wrong .* system found; {ALTERNATE}"),
    ({"messages": [USER, ASSISTANT, USER]}, "the last message must be the assistant's"),
    ({"messages": [{"role": "system", "content": "x"}]}, "the last message must be the assistant's"),
    ({"messages": []}, "the dialogue has no messages"),
    ({"conversations": []}, "the dialogue has no messages"),
    ([], "the dialogue has no messages"),
    ({"prompt": "hi", "response": ""}, r"message 2 \(assistant\) is empty"),
    ({"prompt": "hi", "response": " \n\x00"}, r"message 2 \(assistant\) is empty"),
    ({"instruction": "", "output": "x"}, r"message 1 \(user\) is empty"),
    ({"messages": [{"role": "user", "content": None}, ASSISTANT]}, r"message 1 \(user\) has no text .* nothing stands"),
    ({"messages": [{"role": "user"}, ASSISTANT]}, r"message 1 \(user\) has no text in 'content': nothing stands there"),
    ({"messages": [{"role": "user", "content": ["x"]}, ASSISTANT]}, r"message 1 \(user\) has no text .* a list stands"),
    ({"messages": [{"role": "user", "content": math.nan}, ASSISTANT]}, r"message 1 \(user\) has no text .* NaN stands"),
    ({"messages": [{"role": "user", "content": {"a": 1}}, ASSISTANT]}, r"message 1 \(user\) .* an object stands there"),
    (
        {"messages": [{"role": "user", "content": [PICTURE]}, ASSISTANT]},
        r"message 1 \(user\) has a part of type 'image_url",
    ),
    (
        {"messages": [USER, {**ASSISTANT, "tool_calls": [{"id": "1"}]}]},
        "message 2 has 'tool_calls', but calls of tools",
    ),
    (
        {"messages": [USER, {"role": "tool", "content": "x"}]},
        "message 2 has the role 'tool', but calls of tools aren't",
    ),
    ({"conversations": [{"from": "observation", "value": "x"}]}, "message 1 has the role 'observation', but calls of"),
    ({"messages": [USER, {**ASSISTANT, "weight": 0.5}]}, "message 2 has 'weight'; 0 .* is expected, or 1"),
    (
        {"messages": [{**USER, "weight": 1}, ASSISTANT]},
        "message 1 has 'weight'; 0 .* is expected, or 1 for the assistant",
    ),
    ({"messages": [USER, {**ASSISTANT, "weight": 0}]}, "nothing would be learned: each reply has 'weight' 0"),
    (
        {"messages": [USER, ASSISTANT], "tools": [{"name": "x"}]},
        "the row has 'tools', but calls of tools aren't learned",
    ),
    ({"prompt": "x", "response": "y", "images": ["x.png"]}, "the row has 'images', but only text is learned here"),
    ({"prompt": "x", "completion": "y", "label": False}, "'label' tells what was liked .* tune_preferences.py"),
    (
        {"prompt": "x", "chosen": "y", "rejected": "z"},
        "chosen and rejected are a pair of replies; .* tune_preferences.py",
    ),
    (
        {"messages": [{"role": "system", "content": "a"}, USER, ASSISTANT], "system": "b"},
        "'system' and a system message",
    ),
    ({"instruction": "x", "output": "y", "history": [["a"]]}, "'history' must be a list of pairs of texts"),
    ({"instruction": "x", "output": "y", "history": "before"}, "'history' is not valid JSON"),
    ({"conversation": [{"human": "a"}]}, "'conversation': 'human' and 'assistant', or .* are expected in turn 1"),
    ({"role": "user", "content": "x"}, "this is one message; a dialogue is a list of them"),
    ({"prompt": 3, "response": "x"}, "'prompt' must be text, not a number"),
    ({"prompt": "x", "response": {"a": 1}}, "'response' must be text, not an object"),
    ({"ask": "x", "reply": "y"}, "unknown form with the keys ask, reply; expected: messages; conversations; "),
    ({"messages": "hello"}, "'messages' is not valid JSON"),
    ({"messages": ["hi", "hello"]}, "'messages': message 1 is text; each must be an object with 'role' and 'content'"),
    (["hi", 3], "'the list': message 1 is text; each must be an object with 'role' and 'content'"),
    ({"messages": {"role": "user", "content": "x"}}, "'messages' must be a list, not an object"),
    ({"messages": 3}, "'messages' must be a list, not a number"),
    ({"conversations": ["hi", "hello"]}, "'conversations': message 1 is text"),
    ({"conversations": [{"from": ["human"], "value": "x"}]}, "role .* is not user, assistant or system"),
    ({"instruction": 3, "output": "x"}, "'instruction' must be text, not a number"),
    ({"instruction": ["a"], "input": "b", "output": "x"}, "'instruction' must be text, not a list"),
]


@pytest.mark.parametrize(("row", "message"), BAD, ids=[json.dumps(row)[:60] for row, _ in BAD])
def test_what_is_no_dialogue_is_named_with_file_and_line(tmp_path, row, message):
    path = write_rows(tmp_path / "bad.jsonl", row)
    with pytest.raises(InputError, match=f"^{re.escape(path)}:1: {message}") as error:
        read_dialogues(open_sources([path]))
    assert "\n" not in str(error.value)


def test_messages_without_content_are_refused_in_memory_too():
    for row, message in BAD:
        with pytest.raises(DialogueError, match=message):
            check_dialogue(convert_row(row)[0])


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("bad.jsonl", '{"prompt": "a", "response": "b"}\n{"prompt": "a", "response": ""}\n', 2),
        ("blank.jsonl", '\n{"prompt": "a", "response": "b"}\n\n\n{"prompt": "a", "response": ""}\n', 5),
        ("bad.jsonl.gz", '{"prompt": "a", "response": "b"}\n{"prompt": "a", "response": ""}\n', 2),
        ("bad.jsonl.zst", '{"prompt": "a", "response": "b"}\n{"prompt": "a", "response": ""}\n', 2),
        ("bad.json", '[{"prompt": "a", "response": "b"},\n{"prompt": "a", "response": ""}]', 2),
        ("bad.csv", "prompt,response\na,b\nc,d\ne,\n", 4),
        ("bad.txt", "a\nb\n\n\nc\nd\ne\n\nf\ng\n", 5),
        ("bad.txt.gz", "a\nb\n\nc\n", 4),
        ("twice.jsonl", '{"prompt": "a", "response": "b"}\n{"prompt": "a", "prompt": "c", "response": "b"}\n', 2),
        ("broken.jsonl", '{"prompt": "a", "response": "b"}\n{"prompt": "a", \n', 2),
        ("latin.txt", b"caf\xc3\xa9\nok\n\ncaf\xe9\nok\n", 4),
        ("latin.jsonl", b'{"prompt": "a", "response": "b"}\n{"prompt": "\xe9"}\n', 2),
    ],
)
def test_the_line_named_is_the_line_of_the_fault(tmp_path, name, content, line):
    path = write(tmp_path / name, content)
    with pytest.raises(InputError, match=f"^{re.escape(path)}:{line}: "):
        read_dialogues(open_sources([path]))


def test_a_file_of_bad_rows_is_given_up(tmp_path):
    use_limits(["broken_rows=10"])
    path = write_rows(tmp_path / "a.jsonl", {"messages": SHORT}, *[{"messages": SHORT[:1]}] * 50)
    with pytest.raises(InputError, match=r"a.jsonl: 10 of 11 rows can't be used; what follows is left out: more"):
        read_dialogues(open_sources([path]))


def test_of_several_files_the_faulty_one_is_named(tmp_path):
    write_rows(tmp_path / "a.jsonl", {"messages": LONG})
    bad = write_rows(tmp_path / "b.jsonl", {"messages": SHORT}, {"messages": SHORT[:1]})
    with pytest.raises(InputError, match=f"^{re.escape(bad)}:2: "):
        read_dialogues(open_sources([str(tmp_path)]))


def test_what_is_wrong_with_json_is_said_in_words(tmp_path):
    path = write(
        tmp_path / "a.jsonl", '{"prompt": "a", "response": "b", }\n{"prompt": 1, "prompt": 2, "response": "b"}\n'
    )
    with pytest.raises(InputError, match=r"a comma stands before the end at column 34; .* its name stands there twice"):
        read_dialogues(open_sources([path]))


@pytest.mark.parametrize("name", ["missing.jsonl", "missing*.jsonl", "chitchats"])
def test_missing_file(name):
    with pytest.raises(InputError, match=f"^{re.escape(name)}: no such file"):
        read_dialogues(open_sources([name]))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep names in Unicode")
def test_a_file_whose_name_is_no_utf8(tmp_path):
    path = tmp_path / os.fsdecode("茶.jsonl".encode("gbk"))
    path.write_text(json.dumps({"messages": SHORT}), encoding="utf-8")
    assert read_dialogues(open_sources([str(path)]))["source"][:] == ["\\xb2\\xe8.jsonl"]


@pytest.mark.parametrize(
    ("name", "message"), [("a.jsonl", "the file is empty"), ("a.txt", "the file is empty"), ("a.doc", "unknown")]
)
def test_empty_and_unknown_files(tmp_path, name, message):
    path = write(tmp_path / name, " \n")
    with pytest.raises(InputError, match=f"^{re.escape(path)}: {message}"):
        read_dialogues(open_sources([path]))


# Encoding: what is trained

# Ordinary words as they are after cleaning. (Hypothesis knows the control tokens: it reads strings from our code.)
WORDS = st.text(max_size=30).map(clean_text).filter(lambda text: text and "<|" not in text)
EXAMPLES = [
    make_messages("Hello, how are you?", "I'm fine; it's 10:45 now.\n\n1. Tea\n2. Rice"),
    make_messages("你好，世界！", "“你好”——他说：\n　好。", "三加五？", "等于 8。"),
    make_messages("😀👩‍👩‍👧🇨🇳", "❤️ ok", system="你是一个\n有用的助手。"),
    make_messages("12345678 3.14", "\tx = 1\n\n\n    y  =  2", system="Be kind."),
    make_messages("s", "'s don't", "\u00a0x", "😀"),
    make_messages(" padded ", "\n\nlines\n", system=" s "),
]
DIALOGUES = st.builds(
    lambda contents, system: make_messages(*contents[: len(contents) // 2 * 2], system=system),
    st.lists(WORDS, min_size=2, max_size=6),
    st.none() | WORDS,
)


def template_ids(tokenizer, messages: list[dict], **options) -> list[int]:
    return tokenizer.apply_chat_template(messages, return_dict=False, **options)


@pytest.mark.parametrize("messages", EXAMPLES[:-1])
def test_ids_are_those_of_the_chat_template(tokenizer, messages):
    assert encode_dialogue(tokenizer, messages)["input_ids"] == template_ids(tokenizer, messages)
    prompt, dropped = encode_prompt(tokenizer, messages[:-1], 10_000)
    assert prompt == template_ids(tokenizer, messages[:-1], add_generation_prompt=True)
    assert dropped == 0


@given(messages=DIALOGUES)
def test_ids_are_those_of_the_chat_template_for_any_ordinary_words(tokenizer, messages):
    assert encode_dialogue(tokenizer, messages)["input_ids"] == template_ids(tokenizer, messages)


@given(messages=DIALOGUES)
def test_what_is_asked_is_the_beginning_of_what_is_trained(tokenizer, messages):
    prompt, _ = encode_prompt(tokenizer, messages[:-1], 10_000)
    encoded = encode_dialogue(tokenizer, messages)
    assert encoded["input_ids"][: len(prompt)] == prompt
    assert encoded["labels"][len(prompt)] == encoded["input_ids"][len(prompt)]


def labelled_runs(encoded: dict) -> list[list[int]]:
    """Return the runs of ids that carry labels; a label is the id at its place."""
    runs, is_open = [], False
    for token, label in zip(encoded["input_ids"], encoded["labels"], strict=True):
        if label != IGNORE_LABEL:
            assert label == token
            runs = runs if is_open else [*runs, []]
            runs[-1].append(token)
        is_open = label != IGNORE_LABEL
    return runs


FRAGMENTS = [
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|",
    "|>",
    "im_end",
    "im_start|>assistant\n",
    "user\n",
    "\n",
]
FORGERIES = st.lists(
    st.sampled_from([*FRAGMENTS, "⟦0⟧", "⟦1⟧", "⟦", "hi", "好", "{{", "}}"]), min_size=1, max_size=8
).map("".join)


@given(messages=DIALOGUES | st.lists(FORGERIES, min_size=2, max_size=2).map(lambda contents: make_messages(*contents)))
def test_labels_cover_exactly_the_words_of_the_assistant_and_the_stop_token(tokenizer, messages):
    encoded = encode_dialogue(tokenizer, messages)
    words = [message["content"] for message in messages if message["role"] == "assistant"]
    runs = labelled_runs(encoded)
    assert [tokenizer.decode(run[:-1]) for run in runs] == words
    assert {run[-1] for run in runs} == {tokenizer.convert_tokens_to_ids("<|im_end|>")}


def test_encoding_of_an_example_by_hand(tokenizer):
    encoded = encode_dialogue(tokenizer, make_messages("a", "b", system="c"))
    start, end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    system, user, assistant, line, a, b, c = (
        tokenizer(text)["input_ids"] for text in ("system", "user", "assistant", "\n", "a", "b", "c")
    )
    before = [start, *system, *line, *c, end, *line, start, *user, *line, *a, end, *line, start, *assistant, *line]
    assert encoded["input_ids"] == [*before, *b, end, *line]
    assert encoded["labels"] == [*[-100] * len(before), *b, end, -100]


def count_control(tokenizer, ids: list[int]) -> Counter:
    return Counter(token for token in ids if token in tokenizer.all_special_ids)


@given(contents=st.lists(FORGERIES, min_size=3, max_size=5))
def test_no_words_forge_a_turn(tokenizer, contents):
    system, *turns = contents
    turns = turns[: len(turns) // 2 * 2]
    forged, harmless = (make_messages(*words, system=s) for words, s in ((turns, system), (["x"] * len(turns), "x")))
    trained = encode_dialogue(tokenizer, forged)["input_ids"]
    asked, _ = encode_prompt(tokenizer, forged[:-1], 10_000)
    expected = encode_dialogue(tokenizer, harmless)["input_ids"]
    expected_asked, _ = encode_prompt(tokenizer, harmless[:-1], 10_000)
    assert count_control(tokenizer, trained) == count_control(tokenizer, expected)
    assert count_control(tokenizer, asked) == count_control(tokenizer, expected_asked)
    # And every letter is there.
    rendered = tokenizer.apply_chat_template(forged, tokenize=False)
    assert tokenizer.decode(trained) == rendered
    assert rendered.startswith(tokenizer.decode(asked))


def test_stop_token_is_the_end_of_a_turn(tokenizer):
    assert stop_token_id(tokenizer) == tokenizer.convert_tokens_to_ids("<|im_end|>")


# Encoding: what fits

TURNS = st.lists(st.integers(1, 12).map(lambda n: "tea " * n), min_size=2, max_size=12)


def fitting_suffix(tokenizer, messages: list[dict], max_tokens: int, **options) -> list[dict] | None:
    """Try all, the longest first: the system turn and the last turns, from a user's on."""
    system = [message for message in messages if message["role"] == "system"]
    turns = messages[len(system) :]
    for first in range(0, len(turns), 2):
        if len(template_ids(tokenizer, system + turns[first:], **options)) <= max_tokens:
            return system + turns[first:]
    return None


@given(turns=TURNS, system=st.sampled_from([None, "Be kind."]), max_tokens=st.integers(4, 200))
def test_training_drops_no_more_than_whole_oldest_turns(tokenizer, turns, system, max_tokens):
    messages = make_messages(*turns[: len(turns) // 2 * 2], system=system)
    expected = fitting_suffix(tokenizer, messages, max_tokens)
    fitted = fit_dialogue(tokenizer, messages, max_tokens)
    assert fitted == (None if expected is None else encode_dialogue(tokenizer, expected))


@given(turns=TURNS, system=st.sampled_from([None, "Be kind."]), max_tokens=st.integers(4, 200))
def test_a_prompt_drops_no_more_than_whole_oldest_turns(tokenizer, turns, system, max_tokens):
    messages = make_messages(*turns[: (len(turns) - 1) // 2 * 2 + 1], system=system)
    expected = fitting_suffix(tokenizer, messages, max_tokens, add_generation_prompt=True)
    if expected is None:
        words = rf"longer than the model's window of {max_tokens} tokens allows, which leaves it \d+; shorten it"
        with pytest.raises(DialogueError, match=words):
            encode_prompt(tokenizer, messages, max_tokens)
    else:
        ids, dropped = encode_prompt(tokenizer, messages, max_tokens)
        assert ids == template_ids(tokenizer, expected, add_generation_prompt=True)
        assert dropped == len(messages) - len(expected)


@pytest.mark.parametrize("system", [None, "Be kind.", "tea " * 100])
def test_the_room_that_is_left_is_the_room_there_is(tokenizer, system):
    """A system prompt is at fault where not even a message of one token has room beside it."""
    messages = make_messages("tea " * 200, system=system)
    with pytest.raises(DialogueError) as caught:
        encode_prompt(tokenizer, messages, 120, 40)
    error, is_systems = caught.value, bool(system) and system.startswith("tea")
    what, number = ("system prompt", 1) if is_systems else ("message", len(messages))
    match = re.fullmatch(
        rf"the {what} is longer than the model's window of 120 tokens allows, .+ (\d+); .+", str(error)
    )
    assert (error.code, error.number) == ("context_length_exceeded", number)
    tokens = tokenizer("tea " * 200)["input_ids"]
    fitting = [{**message} for message in messages]
    fitting[-1]["content"] = tokenizer.decode(tokens[:1])
    fitting[number - 1]["content"] = tokenizer.decode(tokens[: int(match[1])])
    ids, _ = encode_prompt(tokenizer, fitting, 120, 40)
    assert len(ids) == 80


@pytest.mark.parametrize("messages", [[], [{"role": "system", "content": "Be kind."}]])
def test_prompt_in_which_nothing_is_asked_is_said(tokenizer, messages):
    with pytest.raises(DialogueError, match="the dialogue has no message of the user's") as caught:
        encode_prompt(tokenizer, messages, 100)
    assert caught.value.code == "invalid_dialogue"


def test_a_question_too_long_is_refused_quickly(tokenizer):
    messages = make_messages("tea " * 20_000, system="Be kind.")
    with pytest.raises(DialogueError, match="shorten it"):
        encode_prompt(tokenizer, messages, 100)
    assert fit_dialogue(tokenizer, [*messages, ASSISTANT], 100) is None


@pytest.mark.parametrize("system", [None, "Be kind."])
def test_turns_dropped_by_length_leave_what_the_rest_alone_would_be(tokenizer, system):
    messages = make_messages(*["a b c", "d"] * 400, "e", system=system)
    ids, dropped = encode_prompt(tokenizer, messages, 120, 40)
    first = 1 if system else 0
    rest = messages[:first] + messages[first + dropped :]
    assert (ids, 0) == encode_prompt(tokenizer, rest, 80)
    longer = messages[:first] + messages[first + dropped - 2 :]
    assert len(ids) <= 80 < len([token for part, _ in encode_messages(tokenizer, longer, True) for token in part])


# Chat templates of others


@pytest.fixture
def other(tokenizer):
    """A copy of the tokenizer, to be given another template."""
    import copy

    return copy.deepcopy(tokenizer)


GENERATION = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
TEMPLATES = {
    "default system turn": (
        "{{ '<|im_start|>system\\nBe kind.<|im_end|>\\n' }}{% for m in messages %}"
        "{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}" + GENERATION,
        "<|im_end|>",
    ),
    "only an end token": (
        "{% for m in messages %}{{ '### ' + m.role + '\\n' + m.content + '<|endoftext|>' }}{% endfor %}",
        "<|endoftext|>",
    ),
    "stripped words": (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] | trim }}<|im_end|>{% endfor %}",
        "<|im_end|>",
    ),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_of_others(other, name):
    other.chat_template, stop = TEMPLATES[name]
    messages = make_messages("你好", "Hello!", "Tea?", "好的。")
    encoded = encode_dialogue(other, messages)
    assert encoded["input_ids"] == template_ids(other, messages)
    assert [other.decode(run) for run in labelled_runs(encoded)] == [f"Hello!{stop}", f"好的。{stop}"]
    assert other.convert_ids_to_tokens(stop_token_id(other)) == stop


def test_a_template_without_marks_around_the_words_keeps_every_letter(other):
    other.chat_template = "{% for m in messages %}[{{ m.role }}] {{ m.content }} {{ eos_token }}{% endfor %}"
    messages = make_messages("你好", "Hello!", "Tea?", "好的。")
    encoded = encode_dialogue(other, messages)
    assert other.decode(encoded["input_ids"]) == other.apply_chat_template(messages, tokenize=False)
    assert [other.decode(run) for run in labelled_runs(encoded)] == ["Hello! <|endoftext|>", "好的。 <|endoftext|>"]


REFUSALS = [
    (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "{{ m.content + '<|im_end|>' }}{% endfor %}",
        "the chat template refuses this dialogue: no system role",
    ),
    (
        "{% for m in messages %}{{ m.role + m.content }}{% endfor %}",
        "the chat template ends the assistant's turn without a special token",
    ),
    ("{{ messages[-1].content }}<|im_end|>", "the chat template leaves out a message"),
]


@pytest.mark.parametrize(("template", "message"), REFUSALS)
def test_a_template_that_cannot_hold_the_dialogue_is_no_traceback(other, template, message):
    other.chat_template = template
    messages = make_messages("a", "b", system="s")
    with pytest.raises(DialogueError, match=message):
        encode_dialogue(other, messages)
    rows = Dataset.from_list(
        [{"messages": messages, "unlearned": [], "language": "en", "source": "test"}], features=DIALOGUE_FEATURES
    )
    with pytest.raises(InputError, match=message):
        encode_dialogues(rows, other, template, 64)


def test_parts_say_where_they_come_from(tokenizer):
    parts = encode_messages(tokenizer, make_messages("a", "b", system="c"))
    assert [origin for _, origin in parts] == [
        "template",
        "system",
        "template",
        "user",
        "template",
        "assistant",
        "template",
    ]


def test_a_tab_after_a_label_is_no_column():
    turns = split_turns("User:\tHi\nAssistant:\tHello")
    assert [(turn["role"], turn["content"].strip()) for turn in turns] == [("user", "Hi"), ("assistant", "Hello")]
