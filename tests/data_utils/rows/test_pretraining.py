"""What is still to be tokenized before a run can begin."""

import pytest

from data_utils.rows import pretraining
from data_utils.rows.pretraining import ShardedCorpus, SmallCorpus, count_unprepared, prepare_tokenizer
from data_utils.sources.source import Source, open_source
from errors import InputError

TEXT = "".join(f"This is paragraph {n}, which is about the number {n * n}.\n\n" for n in range(300))


@pytest.fixture
def sources(tmp_path, monkeypatch) -> list[Source]:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(pretraining, "MAX_SAMPLE_BYTES", 1000)
    (tmp_path / "text.txt").write_text(TEXT)
    return [open_source(str(tmp_path / "text.txt"))]


def test_what_the_cache_holds_takes_no_time(sources):
    corpus = ShardedCorpus(sources, 0.1)
    assert count_unprepared(corpus, None, 300) == len(TEXT) + 3 * 1000  # with a new tokenizer's training
    tokenizer, key = prepare_tokenizer(corpus, None, 300)
    assert count_unprepared(corpus, None, 300) == len(TEXT)  # the tokenizer is there
    corpus.pack(tokenizer, key, 16, 0, 1)
    assert count_unprepared(corpus, None, 300) == 0
    assert count_unprepared(corpus, None, 301) > len(TEXT)  # another vocabulary
    assert count_unprepared(ShardedCorpus(sources, 0.2), None, 300) > 0  # other documents


def test_given_tokenizer_leaves_the_text_to_tokenize(sources, tmp_path):
    corpus = ShardedCorpus(sources, 0.1)
    tokenizer, _ = prepare_tokenizer(corpus, None, 300)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    assert count_unprepared(corpus, str(tmp_path / "tokenizer"), 300) == len(TEXT)


@pytest.mark.parametrize("content", ["", '{"version": "1.0", "tru', None])
def test_a_damaged_tokenizer_of_the_cache_is_made_anew(sources, tmp_path, capsys, content):
    corpus = SmallCorpus(sources, 0.1)
    _, key = prepare_tokenizer(corpus, None, 300)
    [file] = (tmp_path / "cache").rglob("tokenizer.json")
    file.write_text(file.read_text().replace('"e"', '"x"', 1) if content is None else content)
    assert prepare_tokenizer(corpus, None, 300)[1] == key
    assert f"{file.parent}: tokenizer.json is damaged; it is made anew" in capsys.readouterr().err


def test_small_text_counts_whole(sources):
    small = SmallCorpus(sources, 0.1)
    prepare_tokenizer(small, None, 300)
    assert count_unprepared(small, None, 300) == small.text_bytes() > 0


def test_a_text_shorter_than_a_row_says_what_to_do(sources):
    for corpus in (SmallCorpus(sources, 0.1), ShardedCorpus(sources, 0.1)):
        tokenizer, key = prepare_tokenizer(corpus, None, 300)
        with pytest.raises(InputError, match=r"text\.txt: the text is shorter than a row of 65536 tokens; .*--block_"):
            corpus.pack(tokenizer, key, 2**16, 0, 1)
