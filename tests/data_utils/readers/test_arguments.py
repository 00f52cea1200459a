"""Limits of readers are typed by name and amount, reach every process that reads, and are named where one is passed."""

import gzip
import pickle
import re
from dataclasses import fields, replace
from pathlib import Path

import pyarrow as pa
import pytest

from data_utils.readers import arguments
from data_utils.readers.arguments import Limits, ReadArguments, current_limits, parse_limits, use_limits
from data_utils.readers.limits import limit_document
from data_utils.rows.shards import shards_folder
from data_utils.sources.inputs import read_documents_of
from data_utils.sources.source import open_source, open_sources
from errors import InputError
from finetune_dialogue import DialogueArguments
from options import parse_arguments
from prepare_corpus import PrepareArguments
from train import CorpusArguments
from tune_preferences import PreferenceArguments

ROOT = Path(__file__).parents[3]


def test_amounts_have_units():
    found = parse_limits(["line=64MiB packed=1.5GB", "seconds=0.5", "broken_fraction=0.4", "dictionary=2_000_000_000"])
    assert found == replace(
        Limits(), line=64 << 20, packed=1_500_000_000, seconds=0.5, broken_fraction=0.4, dictionary=2 * 10**9
    )
    assert parse_limits(found.words()) == found
    assert parse_limits(["line=32MiB"]).words() == []  # the default one changes no key


@pytest.mark.parametrize(
    ("word", "what"),
    [
        ("lines=3", "names: seconds, line, value"),
        ("line", "write NAME=AMOUNT"),
        ("line=3kg", "'3kg' is no number of bytes; write 64MiB"),
        ("line=-3", "no number of bytes"),
        ("line=0", "outside 1000 to"),
        ("line=99999999999TiB", "outside"),
        ("seconds=3MiB", "no number of seconds"),
        ("broken_fraction=2", "outside 0 to 1"),
        ("value=١٢٣kg", "no number of characters"),
    ],
)
def test_what_says_no_limit_is_refused(word, what):
    with pytest.raises(InputError, match=f"^--reader_limits {re.escape(word)}: .*{re.escape(what)}"):
        use_limits([word])


@pytest.mark.parametrize("kind", [CorpusArguments, DialogueArguments, PreferenceArguments, ReadArguments])
def test_the_scripts_that_read_files_have_one_option(tmp_path, kind):
    recipe = tmp_path / "a.yaml"
    recipe.write_text("reader_limits: [line=64MiB, broken_rows=50000]\n")
    [options] = parse_arguments((kind,), [str(recipe)], None, "")
    assert options.reader_limits == ["line=64MiB", "broken_rows=50000"]
    [options] = parse_arguments((kind,), [str(recipe), "--reader_limits", "packed=1GiB"], None, "")
    assert options.reader_limits == ["packed=1GiB"]
    with pytest.raises(InputError, match="names: seconds, line"):
        parse_arguments((kind,), ["--reader_limits", "a=1"], None, "")


def test_a_source_carries_the_limits_to_another_process_and_into_the_keys_of_caches():
    plain = open_sources(["own"])[0]
    use_limits(["line=1MB"])
    source = open_sources(["own"])[0]
    assert source.reading.reader_limits == ["line=1MB"]
    assert shards_folder(source, "", 0.1) != shards_folder(plain, "", 0.1)
    use_limits(["line=32MiB"])
    assert shards_folder(open_sources(["own"])[0], "", 0.1) == shards_folder(plain, "", 0.1)
    reading = pickle.loads(pickle.dumps(source.reading))
    list(read_documents_of(str(ROOT / "README.md"), reading))
    assert current_limits().line == 10**6


def test_what_is_broken_is_named_with_the_option_that_reads_it(tmp_path):
    """A page, a sheet in its second coat, a dictionary of zstd: each limit has its name in the fault."""
    (tmp_path / "a.html").write_bytes(b"<p>" + b"tea " * 600)
    (tmp_path / "a.xml").write_text("<page>" + "tea " * 600)
    (tmp_path / "a.txt.zst").write_bytes(pa.Codec("zstd").compress(bytes(range(32, 96)) * 60_000, asbytes=True))
    names = {"a.html": "page", "a.parquet.gz": "sheet", "a.xml": "wiki_page", "a.txt.zst": "dictionary"}
    (tmp_path / "a.parquet.gz").write_bytes(gzip.compress(b"PAR1" * 600))
    for file, name in names.items():
        faults = []
        reading = ReadArguments(reader_limits=[f"{name}=1000"])
        list(read_documents_of(str(tmp_path / file), reading, faults.append))
        assert f"--reader_limits {name}=2kB allows more" in faults[0].reason, file


def test_every_limit_stands_in_both_pages_of_trust():
    for page in ("trust.md", "trust.zh.md"):
        rows = re.findall(
            r"^\| `(\w+)` \| ([^|]*) \|", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.MULTILINE
        )
        assert rows == [(one.name, arguments.show_amount(Limits(), one.name)) for one in fields(Limits)], page


def test_a_dialogue_that_takes_too_long_is_a_fault_of_its_row(tmp_path, monkeypatch):
    from data_utils.dialogue import reading
    from data_utils.readers.limits import OutOfTime

    check = reading.check_dialogue

    def check_dialogue(messages):
        if "slow" in messages[0]["content"]:
            re.match(r"(a|a)*b", "a" * 60)
        return check(messages)

    monkeypatch.setattr(reading, "check_dialogue", check_dialogue)
    use_limits(["seconds=0.1"])
    row = '{{"messages": [{{"role": "user", "content": "{}"}}, {{"role": "assistant", "content": "b"}}]}}\n'
    path = tmp_path / "a.jsonl"
    path.write_text("".join(row.format(word) for word in ("one", "slow", "two", "3", "4", "5")))
    found = reading.read_checked(open_sources([str(path)]), skip_bad=True)
    assert len(found.dialogues) == 5
    assert "a.jsonl:2: it took more than 0.1 seconds (--reader_limits seconds=0.2 allows more)" in found.facts["rows"]
    with limit_document(), pytest.raises(OutOfTime):
        re.match(r"(a|a)*b", "a" * 60)


def test_a_text_that_takes_too_long_to_clean_is_named(tmp_path, monkeypatch):
    from data_utils.sources import source
    from data_utils.sources.corpus import read_corpus

    monkeypatch.setattr(source, "clean_text", lambda text: re.match(r"(a|a)*b", "a" * 60) or text)
    use_limits(["seconds=0.1"])
    (tmp_path / "a.txt").write_text("tea")
    with pytest.raises(InputError, match=r"a.txt:1: it took more than 0.1 seconds"):
        read_corpus([open_source(str(tmp_path / "a.txt"))])


def test_prepare_corpus_takes_the_options_of_reading():
    [_, reading] = parse_arguments((PrepareArguments, ReadArguments), ["--reader_limits", "seconds=5"], None, "")
    assert reading.reader_limits == ["seconds=5"]
