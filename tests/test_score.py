"""score.py as a user runs it: figures of several checkpoints, files of one's own, the cache, and mistakes."""

import json
import shutil
from pathlib import Path

import pytest

import score
from errors import InputError
from eval_utils import parts, topic
from eval_utils.items import Choice
from eval_utils.minimal_pairs import Pair
from eval_utils.score_cache import find_scores
from eval_utils.topic import TopicIndex

PAIR = {"sentence_good": "The cats sleep.", "sentence_bad": "The cats sleeps.", "UID": "agreement"}
DIALOGUE = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Hello, how are you?"}]}
FIGURES = {
    "text": ["held-out text, en"],
    "dialogues": ["held-out replies, en"],
    "pairs": ["minimal pairs, en", "minimal pairs, zh", "pairs of files, en"],
    "choices": ["choices"],
    "continuations": ["continuations"],
    "replies": [
        "stops within 80 tokens", "in the asker's language", "without loops", "on the topic", "returns a greeting",
        "remembers the turn before", "admits not to know",
    ],
    "speed": ["tokens a second", "time to the first token", "memory to decode"],
}  # fmt: skip


@pytest.fixture(scope="module")
def other_checkpoint(tiny_checkpoint, tmp_path_factory):
    """The same model in another folder."""
    return shutil.copytree(tiny_checkpoint, tmp_path_factory.mktemp("other") / "other")


@pytest.fixture(autouse=True)
def small_index(monkeypatch):
    monkeypatch.setattr(topic, "load_index", lambda: TopicIndex([(["a"], ["b"])]))


@pytest.fixture
def options(tmp_path):
    """Options by which each part is measured on an item or two."""
    files = {
        "text": ["Plain text that nobody trained on."],
        "dialogues": [json.dumps(DIALOGUE)],
        "pairs": [json.dumps(PAIR), json.dumps(PAIR | {"sentence_bad": "The cat sleep."})],
        "choices": [json.dumps({"query": "The sky is", "choices": ["blue", "loud"], "gold": 0})],
        "continuations": [json.dumps({"context": "She opened the", "continuation": "door"})],
    }
    found = ["--limit", "1", "--output_dir", str(tmp_path / "out")]
    for name, lines in files.items():
        path = tmp_path / f"{name}.{'txt' if name == 'text' else 'jsonl'}"
        path.write_text("\n".join(lines), encoding="utf-8")
        found += [f"--{name}", str(path)]
    return found


def test_every_part_that_is_there_can_be_named():
    assert set(score.PARTS) == set(parts.PARTS)


@pytest.mark.slow
def test_all_parts_of_two_checkpoints(tiny_checkpoint, other_checkpoint, options, tmp_path, capsys):
    assert score.main([str(tiny_checkpoint), str(other_checkpoint), *options]) == 0
    record = json.loads((tmp_path / "out" / "score.json").read_text(encoding="utf-8"))
    assert list(record) == [tiny_checkpoint.name, "other"]
    order = ("text", "dialogues", "pairs", "replies", "speed", "choices", "continuations")
    for found in record.values():
        assert [figure["name"] for figure in found["figures"]] == [name for part in order for name in FIGURES[part]]
    kept = [[f for f in found["figures"] if f["part"] != "speed"] for found in record.values()]
    one, other = ({figure["name"]: figure["value"] for figure in figures} for figures in kept)
    assert one == other
    assert 2 < one["held-out text, en"] < 20
    page = (tmp_path / "out" / "score.md").read_text(encoding="utf-8")
    assert "| held-out text, en | bits/byte | " in page
    assert "![figures](score.png)" in page
    assert (tmp_path / "out" / "score.png").read_bytes()[:4] == b"\x89PNG"
    assert "minimal pairs, zh" in capsys.readouterr().out


@pytest.mark.slow
def test_nothing_is_computed_twice(tiny_checkpoint, options, tmp_path, monkeypatch):
    command = [str(tiny_checkpoint), *options, "--parts", "pairs", "dialogues"]
    command = [*command[: command.index("--text")], *command[command.index("--text") + 2 :]]
    assert score.main(command) == 0
    first = (tmp_path / "out" / "score.json").read_text(encoding="utf-8")
    loaded = []
    load = score.load_subject
    monkeypatch.setattr(score, "load_subject", lambda path: loaded.append(path) or load(path))
    assert score.main(command) == 0
    assert loaded == []
    assert (tmp_path / "out" / "score.json").read_text(encoding="utf-8") == first
    assert score.main([*command, "--overwrite"]) == 0
    assert len(loaded) == 1
    pairs = command[command.index("--pairs") + 1]
    with Path(pairs).open("a", encoding="utf-8") as file:
        file.write("\n" + json.dumps(PAIR | {"sentence_good": "Many cats sleep."}))
    assert score.main(command) == 0  # another file: measured anew
    assert len(loaded) == 2


@pytest.mark.slow
def test_compare_says_a_sentence(tiny_checkpoint, other_checkpoint, options, capsys):
    assert score.main(["--compare", str(tiny_checkpoint), str(other_checkpoint), *options]) == 0
    assert f"{tiny_checkpoint.name} and other differ in no figure by more than chance." in capsys.readouterr().out


@pytest.mark.slow
def test_brief_is_ten_lines_with_meanings(tiny_checkpoint, options, capsys):
    assert score.main([str(tiny_checkpoint), *options, "--brief"]) == 0
    *lines, _ = capsys.readouterr().out.strip().splitlines()
    assert len(lines) <= 10
    assert lines[0].startswith("held-out text, en")
    assert "bits that a byte of unseen text costs" in lines[0]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nowhere"], "nowhere: no such checkpoint"),
        (["--parts", "texts"], "--parts texts: use one of text, dialogues"),
        (["--parts", "choices"], "--parts choices needs --choices FILES"),
        (["--limit", "0"], "--limit 0 is outside 1 to"),
        (["--compare", "a"], "--compare takes two checkpoints, not 1"),
        (["--compare", "a", "a"], "is the same checkpoint twice"),
        (["--compare", "a", "b", "--parts", "speed"], "--compare leaves speed out"),
        (["--compare", "a", "b", "--parts", "speed", "--choices", "c"], "no such"),
        ([__file__], "test_score.py: is no GGUF file"),
        (["a", "--compare", "b", "c"], "--models has no effect with --compare"),
        (["--compare", "b", "c", "--brief"], "--brief has no effect with --compare"),
        (["a", "--parts", "pairs", "--text", "b.txt"], "--text has no effect without text among --parts"),
        (["--part", "text"], "unknown key 'part'; did you mean"),
    ],
)
def test_mistakes(argv, message):
    with pytest.raises(InputError, match=message):
        score.main(argv)


def test_a_fault_in_a_file_is_told_before_a_model_is_loaded(tiny_checkpoint, tmp_path, monkeypatch):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"sentence_good": "a"}', encoding="utf-8")
    monkeypatch.setattr(score, "load_subject", lambda _: pytest.fail("was loaded"))
    with pytest.raises(InputError, match=r"bad.jsonl:1: 'sentence_bad' is missing"):
        score.main([str(tiny_checkpoint), "--pairs", str(path)])


def test_a_folder_that_cannot_be_is_told_before_a_model_is_loaded(tiny_checkpoint, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(score, "load_subject", lambda _: pytest.fail("was loaded"))
    with pytest.raises((OSError, InputError), match="file"):
        score.main([str(tiny_checkpoint), "--output_dir", str(tmp_path / "file")])
    assert (tmp_path / "file").read_text() == "mine"


def test_scores_beside_a_model_change_nothing_in_its_cache(tiny_checkpoint, tmp_path):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    before = find_scores(str(folder), "pairs", [], None)
    (folder / "score.json").write_text("{}")
    assert find_scores(str(folder), "pairs", [], None) == before
    (folder / "tokenizer.json").write_text("{}")
    assert find_scores(str(folder), "pairs", [], None) != before


def test_checkpoints_may_stand_without_their_option(tmp_path):
    (tmp_path / "my.yaml").write_text("limit: 3\n")
    assert score.parse_score(["a", "b", "--limit", "2"]).models == ["a", "b"]
    assert score.parse_score([str(tmp_path / "my.yaml"), "a", "--brief"]).models == ["a"]
    assert score.parse_score(["--brief", "a"]).models == ["a"]
    assert score.parse_score(["--limit", "2"]).models == ["ckpt_chat"]


def test_a_limit_is_of_each_phenomenon_and_file():
    pairs = [Pair("a", "b", phenomenon) for phenomenon in "xxxyyz"]
    assert [pair.phenomenon for pair in parts.limit_groups(pairs, 2)] == ["x", "x", "y", "y", "z"]
    choices = [Choice("q", ("a", "b"), 0, group) for group in ("one", "one", "two")]
    assert [choice.group for choice in parts.limit_groups(choices, 1)] == ["one", "two"]
    assert parts.limit_groups(pairs, None) == pairs
