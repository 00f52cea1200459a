"""What stands in --corpus and --sources, and which way it goes."""

import json

import pytest

from data_utils.rows.pretraining import ShardedCorpus, open_corpus
from data_utils.sources import source as documents
from data_utils.sources.corpus import CORPUS_SOURCES, data_version
from data_utils.sources.source import Source, check_held_out, find_sources, needs_shards
from errors import InputError


def test_corpus_and_sources_are_read_alike():
    reading = ("line", "body", True)
    assert find_sources(["own@3", "a.txt"], None, *reading) == [
        Source("own", None, 3.0, *reading),
        Source("a.txt", None, 1.0, *reading),
    ]
    sources = ['{"path": "wiki", "weight": "2"}', "{path: 我的文, weight: 0.5}", "{path: own}"]
    assert find_sources(["own@3"], sources, *reading) == [
        Source("wiki", 2.0, 1.0, *reading),
        Source("我的文", 0.5, 1.0, *reading),
        Source("own", 1.0, 1.0, *reading),
    ]


@pytest.mark.parametrize(
    "text",
    ["wiki", "{weight: 2}", "{path: a, weight: 0}", "{path: a, weight: -1}", "{path: a, wieght: 2}", "{path: a",
     "{path: a, weight: much}", "{path: a, weight: .inf}", "[a, 2]", "{path: a, weight: .nan}"],
)  # fmt: skip
def test_a_wrong_source_is_one_line(text):
    with pytest.raises(InputError, match=r"^--sources ") as error:
        find_sources([], [text])
    assert "\n" not in str(error.value).replace(text, "")


def test_what_goes_to_shards(make_corpus, tmp_path, monkeypatch):
    folder = str(make_corpus(tmp_path / "corpus", ["tea", "茶"]))
    (tmp_path / "a.txt").write_text("x" * 100)
    small, large = Source(str(tmp_path / "a.txt")), Source(folder)
    assert not needs_shards([small, Source("own")])
    assert needs_shards([small, large])
    assert needs_shards([Source("own", weight=1.0)])
    monkeypatch.setattr(documents, "LARGE_BYTES", 99)
    assert needs_shards([small])


@pytest.mark.parametrize("streaming", [False, True])
def test_no_more_is_held_out_than_was_checked_for_leaks(make_corpus, tmp_path, streaming):
    folder = make_corpus(tmp_path / "corpus", ["tea", "茶"])
    manifest = json.loads((folder / "corpus.json").read_text())
    manifest["settings"] = {"eval_fraction": 0.02, "duplicates": "near"}
    (folder / "corpus.json").write_text(json.dumps(manifest))
    sources = [Source("own"), Source(str(folder))]
    with pytest.raises(InputError, match=r"corpus: prepared with --eval_fraction 0\.02; of 0\.1 the rest was never"):
        open_corpus(sources, 0.1, streaming)
    assert isinstance(open_corpus(sources, 0.02, False), ShardedCorpus)
    manifest["settings"]["duplicates"] = "exact"  # never checked, as was asked for
    (folder / "corpus.json").write_text(json.dumps(manifest))
    check_held_out(sources, 0.1)


def test_an_unfinished_corpus_is_refused(make_corpus, tmp_path):
    folder = make_corpus(tmp_path / "corpus", ["tea", "茶"])
    (folder / "corpus.json").rename(folder / "gone.json")
    with pytest.raises(InputError, match=r"corpus: an unfinished corpus.*run prepare_corpus again"):
        needs_shards([Source(str(folder))])
    with pytest.raises(InputError, match="unfinished corpus"):
        data_version([str(folder)], CORPUS_SOURCES)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"shards": 3}', '{"format": 1}'])
def test_a_broken_manifest_is_one_line(make_corpus, tmp_path, content):
    folder = make_corpus(tmp_path / "corpus", ["tea", "茶"])
    (folder / "corpus.json").write_text(content)
    with pytest.raises(InputError, match=r"corpus\.json: not a manifest; prepare the corpus again$"):
        data_version([str(folder)], CORPUS_SOURCES)


def test_a_missing_shard_is_named(make_corpus, tmp_path):
    folder = make_corpus(tmp_path / "corpus", ["tea", "茶"])
    (folder / "data" / "00001.parquet").unlink()
    with pytest.raises(InputError, match=r"corpus: 00001.parquet of its corpus.json is missing"):
        Source(str(folder)).parts()


def test_the_version_is_that_of_the_documents(make_corpus, tmp_path):
    folder = make_corpus(tmp_path / "corpus", ["tea", "茶"])
    before = data_version([str(folder)], CORPUS_SOURCES)
    manifest = json.loads((folder / "corpus.json").read_text())
    (folder / "corpus.json").write_text(json.dumps({**manifest, "settings": {"workers": 3}}))
    (folder / "report.json").write_text("{}")
    assert data_version([str(folder)], CORPUS_SOURCES) == before
    assert data_version([str(make_corpus(tmp_path / "b", ["tea", "水"]))], CORPUS_SOURCES) != before


def test_a_hub_name_cannot_be_sharded():
    with pytest.raises(InputError, match=r"prepare it with prepare_corpus first, or use --streaming true"):
        Source("owner/name", weight=1.0).parts()
