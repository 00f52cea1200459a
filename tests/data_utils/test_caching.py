"""What was prepared once is found again, and what changed is prepared anew."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import pytest

from data_utils import caching
from data_utils.caching import find_json, keep_json
from data_utils.dialogue import reading
from data_utils.dialogue.reading import name_assistant, read_dialogues
from data_utils.rows.packing import encode_dialogues, pack_dialogues, pack_documents, tokenize_documents
from data_utils.sources import builtin as sources
from data_utils.sources import inputs, source
from data_utils.sources.corpus import read_corpus, split_train_eval
from data_utils.sources.source import open_sources

ROOT = Path(__file__).parents[2]


@pytest.fixture
def count_calls(monkeypatch):
    """Return a function that replaces one of a module by itself with a counter of its calls."""

    def install(module, name):
        original, calls = getattr(module, name), []

        def counted(*args, **kwargs):
            calls.append(args)
            return original(*args, **kwargs)

        monkeypatch.setattr(module, name, counted)
        return calls

    return install


# Keys


def test_key_is_the_same_for_the_same_parts_and_in_another_process():
    key = caching.cache_key("step", 512, 0.5, "茶")
    assert re.fullmatch("[0-9a-f]{16}", key)
    assert caching.cache_key("step", 512, 0.5, "茶") == key
    code = "from data_utils.caching import cache_key; print(cache_key('step', 512, 0.5, '茶'))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == key


def test_key_changes_with_each_part():
    parts = [("step", 512), ("step", 513), ("steps", 512), ("step", "51", "2"), ("step", 512, ""), (512, "step"), ()]
    assert len({caching.cache_key(*part) for part in parts}) == len(parts)


@pytest.mark.parametrize("change", ["nothing", "a line", "a line of the other room", "a module"])
def test_key_changes_with_the_code(monkeypatch, tmp_path, change):
    for room in ("data_utils", "model_utils"):
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("*.jsonl"))
    before = caching.cache_key("step")
    if change.startswith("a line"):
        with (tmp_path / ("model_utils/tokenizer.py" if "room" in change else "data_utils/caching.py")).open(
            "a"
        ) as file:
            file.write("# changed\n")
    elif change == "a module":
        (tmp_path / "data_utils" / "text" / "more.py").write_text("x = 1\n")
    monkeypatch.setattr(caching, "__file__", str(tmp_path / "data_utils" / "caching.py"))
    caching.hash_code.cache_clear()
    try:
        assert (caching.cache_key("step") == before) == (change == "nothing")
    finally:
        monkeypatch.undo()
        caching.hash_code.cache_clear()
    assert caching.cache_key("step") == before


def test_folder_is_made_beside_the_datasets(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "deep" / "cache")
    folder = caching.cache_folder()
    assert folder.is_dir()
    assert folder.is_relative_to(tmp_path / "deep" / "cache")
    assert caching.cache_folder() == folder


def test_one_process_prepares_at_a_time():
    with caching.preparation_lock():
        code = (
            "from filelock import Timeout; from data_utils.caching import preparation_lock\n"
            "try: preparation_lock().acquire(timeout=0.1); print('free')\n"
            "except Timeout: print('held')"
        )
        held = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    free = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (held.stdout.strip(), free.stdout.strip()) == ("held", "free")


def test_the_others_wait_without_end():
    assert caching.preparation_lock().timeout == -1


# Prepared once


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_a_corpus_file_is_read_once_until_it_changes(tmp_path, count_calls, name):
    path = tmp_path / name
    path.write_text('{"text": "tea"}\n')
    calls = count_calls(inputs, "detect_language")
    first, second = (read_corpus(open_sources([str(path)]))[0] for _ in range(2))
    assert len(calls) == 1
    assert second.to_list() == first.to_list()
    assert second._fingerprint == first._fingerprint
    path.write_text('{"text": "another tea"}\n')
    assert read_corpus(open_sources([str(path)]))[0].to_list() != first.to_list()
    assert len(calls) == 2


@pytest.fixture
def small_source(monkeypatch):
    """Make 'small' a built-in source of two dialogues; return its version, to be set."""
    version = ["1"]
    rows = [sources.make_dialogue(["hi", "hello"], "en", "small"), sources.make_dialogue(["茶？", "好"], "zh", "small")]
    monkeypatch.setitem(sources.DIALOGUE_SOURCES, "small", lambda: iter(rows))
    monkeypatch.setattr(sources, "source_version", lambda _: version[0])
    return version


@pytest.mark.parametrize(
    ("read", "module", "reader"),
    [
        (lambda: read_corpus(open_sources(["small"]))[0], sources, "read_documents"),
        (lambda: read_dialogues(open_sources(["small"])), reading, "read_part"),
    ],
)
def test_a_built_in_source_is_read_once_for_each_version(small_source, count_calls, read, module, reader):
    calls = count_calls(module, reader)
    first = read()
    assert len(first) == 2
    assert read().to_list() == first.to_list()
    assert len(calls) == 1
    small_source[0] = "2"
    assert read().to_list() == first.to_list()
    assert len(calls) == 2


def test_a_dialogue_file_is_read_once_and_named_each_time(tmp_path, count_calls):
    path = tmp_path / "a.txt"
    path.write_text("Your name?\n{assistant_name}\n")
    calls = count_calls(reading, "read_part")
    for name in ("Momo", "Momo", "Zora"):
        assert name_assistant(read_dialogues(open_sources([str(path)])), name)[0]["messages"][1]["content"] == name
    assert len(calls) == 1
    path.write_text("Who are you?\n{assistant_name}\n")
    assert read_dialogues(open_sources([str(path)]))[0]["messages"][0]["content"] == "Who are you?"
    assert len(calls) == 2


@pytest.mark.slow
def test_the_whole_way_of_a_corpus_is_prepared_once(tmp_path, count_calls, tokenizer):
    """The second time, no tokenizer is even needed."""
    path = tmp_path / "a.txt"
    path.write_text("\n\n".join(f"document {i} about tea" for i in range(60)))
    cleanings, reports = count_calls(source, "clean_text"), []
    for words in (tokenizer, None):
        cleaned, counts = read_corpus(open_sources([str(path)]))
        train, held_out = split_train_eval(cleaned, 0.1)
        blocks = pack_documents(tokenize_documents(train, words, "key"), 16)
        reports.append((counts, train.to_list(), held_out.to_list(), blocks.to_list()))
    assert len(cleanings) == 60
    assert reports[0] == reports[1]
    assert len(reports[0][3]) > 10


@pytest.mark.slow
def test_the_whole_way_of_dialogues_is_prepared_once(tmp_path, tokenizer):
    path = tmp_path / "a.txt"
    path.write_text("\n\n".join(f"question {i}\nanswer {i}" for i in range(60)))
    reports = []
    for words in (tokenizer, None):
        encoded = encode_dialogues(read_dialogues(open_sources([str(path)])), words, "key", 64)
        reports.append(pack_dialogues(encoded, 64, 0).to_list())
    assert reports[0] == reports[1]
    assert sum(row["position_ids"].count(0) for row in reports[0]) >= 60


def test_another_tokenizer_or_length_is_no_hit(tmp_path, tokenizer):
    path = tmp_path / "a.txt"
    path.write_text("question\nanswer\n")
    documents, dialogues = read_corpus(open_sources([str(path)]))[0], read_dialogues(open_sources([str(path)]))
    keys = {tokenize_documents(documents, tokenizer, key)._fingerprint for key in ("a", "b")}
    keys |= {
        encode_dialogues(dialogues, tokenizer, key, n)._fingerprint for key, n in (("a", 64), ("b", 64), ("a", 32))
    }
    assert len(keys) == 5


@pytest.mark.parametrize("repeat", ["", "@3", "@0.5"])
def test_repeated_sources_have_keys_of_their_own(tmp_path, repeat):
    path = tmp_path / "a.txt"
    path.write_text("\n\n".join(f"document {i}" for i in range(10)))
    plain, repeated, again = (read_corpus(open_sources([f"{path}{times}"]))[0] for times in ("", repeat, repeat))
    assert (plain._fingerprint == repeated._fingerprint) == (repeat == "")
    assert repeated._fingerprint == again._fingerprint


# Damage


def test_rows_are_for_their_owners_eyes(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "cache" / "prepared").mkdir(parents=True)
    (tmp_path / "cache" / "prepared").chmod(0o755)  # as an older version left it
    path = tmp_path / "a.txt"
    path.write_text("\n\n".join(f"secret {i}" for i in range(40)))
    read_corpus(open_sources([str(path)]))
    held = [file for file in (tmp_path / "cache").rglob("*") if file.is_file() and b"secret" in file.read_bytes()]
    assert held != []
    assert all(file.is_relative_to(tmp_path / "cache" / "prepared") for file in held)
    assert (tmp_path / "cache" / "prepared").stat().st_mode & 0o077 == 0 or os.name == "nt"


@pytest.mark.parametrize("damage", ["truncated", "empty", "overwritten", "one byte"])
def test_a_damaged_entry_is_made_anew_with_one_line(tmp_path, monkeypatch, capsys, tokenizer, damage):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    path = tmp_path / "a.txt"
    path.write_text("\n\n".join(f"document {i} about tea" for i in range(60)))

    def prepare() -> list[dict]:
        documents, _ = read_corpus(open_sources([str(path)]))
        return pack_documents(tokenize_documents(documents, tokenizer, "key"), 16).to_list()

    first = prepare()
    assert prepare() == first
    assert capsys.readouterr().err == ""
    entries = sorted((tmp_path / "cache" / "prepared").glob("*.arrow"))
    assert len(entries) == 3
    for entry in entries:
        content = entry.read_bytes()
        changed = bytearray(content)
        changed[len(content) // 2] ^= 1
        entry.unlink()  # a mapped file that shrinks ends the process
        entry.write_bytes(
            {
                "truncated": content[: len(content) // 2],
                "empty": b"",
                "overwritten": b"x" * len(content),
                "one byte": bytes(changed),
            }[damage]
        )
    assert prepare() == first
    notes = capsys.readouterr().err.splitlines()
    assert sorted(notes) == [f"note: {entry} is damaged, and is made anew" for entry in entries]
    assert prepare() == first
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("damage", [b"", b"[1, 2]", b"\xff", None])
def test_damaged_json_of_the_cache_is_made_anew_with_one_line(tmp_path, capsys, damage):
    path = tmp_path / "a.json"
    assert find_json(path) is None
    keep_json(path, {"figure": 0.5, "text": "茶 \ud800"})
    assert find_json(path) == {"figure": 0.5, "text": "茶 \ud800"}
    assert capsys.readouterr().err == ""
    path.write_bytes(path.read_bytes().replace(b"0.5", b"0.7") if damage is None else damage)
    assert find_json(path) is None
    assert capsys.readouterr().err == f"note: {path} is damaged, and is made anew\n"
