"""Shards: every document once, killed at any moment the same to the byte, opened by the index alone."""

import hashlib
import json
import os
import random
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from data_utils.caching import progress
from data_utils.rows import shards
from data_utils.rows.shards import map_ahead, tokenize_source
from data_utils.rows.streams import TokenStream
from data_utils.sources.source import Source, open_source
from data_utils.text.splitting import hash_share
from errors import InputError
from model_utils.text_encoder import encode_texts


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache, in which tokenizing begins anew."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(shards, "BATCH_CHARACTERS", 3000)
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def own_documents(own_documents) -> list[str]:
    """Half of them, still tens of thousands of tokens."""
    return own_documents[::2]


@pytest.fixture
def source(tmp_path, make_corpus, own_documents) -> Source:
    return open_source(str(make_corpus(tmp_path / "corpus", own_documents, shards=3)))


def digests(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def trained_texts(own_documents) -> list[str]:
    return [text for text in own_documents if hash_share(text) >= 0.1]


@pytest.mark.parametrize("shard_tokens", [500, 2**25])
def test_every_training_document_once_in_order(tokenizer, cache, source, trained_texts, shard_tokens):
    stream = TokenStream(tokenize_source(source, tokenizer, "key", 0.1, shard_tokens))
    expected = np.concatenate(encode_texts(tokenizer, trained_texts))
    assert len(stream) == len(expected)
    assert (len(stream.shards) > 20) == (shard_tokens == 500)
    assert np.array_equal(stream.read(0, len(stream)), expected)
    assert stream.read(0, 1).dtype == np.uint16
    for start in random.Random(0).sample(range(len(expected)), 50):
        assert np.array_equal(stream.read(start, 700), expected[start : start + 700])


def test_offsets_are_where_the_documents_begin(tokenizer, cache, source, trained_texts):
    folder = tokenize_source(source, tokenizer, "key", 0.1, 500)
    starts, first = [], 0
    for number, shard in enumerate(TokenStream(folder).shards):
        starts += (np.load(folder / f"{number:05d}.npy") + first).tolist()
        first += shard["tokens"]
    assert starts == np.cumsum([0, *map(len, encode_texts(tokenizer, trained_texts))])[:-1].tolist()


def test_counts_and_held_out_documents(tokenizer, cache, source, trained_texts, own_documents):
    stream = TokenStream(tokenize_source(source, tokenizer, "key", 0.1, 2000))
    counts = stream.count_languages()
    assert set(counts) == {"en", "zh"}
    assert sum(count["documents"] for count in counts.values()) == len(trained_texts)
    assert sum(count["bytes"] for count in counts.values()) == sum(len(text.encode()) for text in trained_texts)
    assert sum(count["tokens"] for count in counts.values()) == len(stream)
    held_out = [row["text"] for row in stream.read_held_out(10**9)]
    assert sorted(held_out) == sorted(text for text in own_documents if hash_share(text) < 0.1)
    some = list(stream.read_held_out(2000))
    for language in ("en", "zh"):
        texts = [row["text"] for row in some if row["language"] == language]
        assert 2000 <= sum(len(text.encode()) for text in texts) < 3000


def test_a_large_vocabulary_takes_four_bytes(tokenizer, cache, source, trained_texts, monkeypatch):
    monkeypatch.setattr(type(tokenizer), "__len__", lambda _: 2**16 + 1)
    stream = TokenStream(tokenize_source(source, tokenizer, "large", 0.1))
    assert stream.read(0, 1).dtype == np.uint32
    assert np.array_equal(stream.read(0, 10), np.concatenate(encode_texts(tokenizer, trained_texts))[:10])


def test_tokenized_once_until_something_changes(tokenizer, cache, source, monkeypatch):
    folder = tokenize_source(source, tokenizer, "key", 0.1)
    assert (folder / "index.json").stat().st_mtime_ns
    assert tokenize_source(source, None, "key", 0.1) == folder
    assert tokenize_source(source, tokenizer, "other", 0.1) != folder
    assert tokenize_source(source, tokenizer, "key", 0.2) != folder
    manifest = Path(source.path) / "corpus.json"
    content = json.loads(manifest.read_text())
    content["shards"][1]["sha256"] = "0"
    manifest.write_text(json.dumps(content))
    assert tokenize_source(open_source(source.path), tokenizer, "key", 0.1) != folder


def test_opening_reads_the_index_alone(tokenizer, cache, source, trained_texts):
    folder = tokenize_source(source, tokenizer, "key", 0.1, 500)
    for file in folder.iterdir():
        if file.name != "index.json":
            file.unlink()
    assert len(TokenStream(folder)) == sum(map(len, encode_texts(tokenizer, trained_texts)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_random_moments_the_shards_are_the_same_to_the_byte(tokenizer, cache, source, tmp_path):
    import datasets

    start = time.perf_counter()
    undisturbed = digests(tokenize_source(source, tokenizer, "key", 0.1, 500))
    seconds = time.perf_counter() - start
    datasets.config.HF_DATASETS_CACHE = tmp_path / "killed"  # as the fixture does, put back by it
    moments = random.Random(time.time_ns())
    kills = 0
    while kills < 10:
        child = os.fork()
        if not child:
            progress.tqdm.set_lock(threading.RLock())  # killed with the one that is shared, it would never be freed
            tokenize_source(source, tokenizer, "key", 0.1, 500)
            os._exit(0)
        time.sleep(moments.uniform(0, seconds / 4))
        os.kill(child, signal.SIGKILL)
        kills += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        for index in (tmp_path / "killed").glob("prepared/*/index.json"):  # done in spite of it: once more
            assert digests(index.parent) == undisturbed
            shutil.rmtree(index.parent)
    assert digests(tokenize_source(source, tokenizer, "key", 0.1, 500)) == undisturbed


@pytest.mark.parametrize("next_place", [(0, 1), (0, 137), (1, 0), (2, 50), (2, 10**6)])
def test_reading_goes_on_at_any_document(own_documents, source, next_place):
    part, start = next_place
    texts = [row["text"] for file in source.parts() for row in source.read(file)]
    assert texts == own_documents
    rest = list(source.read(source.parts()[part], start))
    assert rest == list(source.read(source.parts()[part]))[start:]


@pytest.mark.slow
def test_files_and_built_in_sources_go_on_too(own_documents, tokenizer, cache, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("\n\n".join(own_documents[:60]) + "\n\n \x00 \n\n", encoding="utf-8")
    for source, tokens in ((open_source(str(path)), 400), (open_source("chatterbot"), 4000)):
        whole = tokenize_source(source, tokenizer, "key", 0.1, tokens)
        before = digests(whole)
        (whole / "index.json").unlink()
        shards_written = sorted(whole.glob("*.json"))
        assert len(shards_written) > 4
        for file in shards_written[3:]:
            file.unlink()
        assert digests(tokenize_source(source, tokenizer, "key", 0.1, tokens)) == before


def test_map_ahead_keeps_the_order_and_passes_faults_on():
    assert list(map_ahead(lambda n: n * n, range(50))) == [n * n for n in range(50)]
    with pytest.raises(ZeroDivisionError):
        list(map_ahead(lambda n: 1 // (n - 3), range(50)))


@pytest.mark.parametrize("damage", ["truncated", "empty", "gone", "one byte"])
@pytest.mark.parametrize("name", ["00001.bin", "00001.npy", "00001.eval.jsonl", "00001.json", "index.json"])
def test_damaged_shards_are_made_anew(tokenizer, cache, source, capsys, name, damage):
    folder = tokenize_source(source, tokenizer, "key", 0.1, 2000)
    before = digests(folder)
    content = bytearray((folder / name).read_bytes())
    (folder / name).unlink()
    if damage == "one byte":
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)
    elif damage != "gone":
        (folder / name).write_bytes(content[: len(content) // 2 if damage == "truncated" else 0])
    assert tokenize_source(source, tokenizer, "key", 0.1, 2000) == folder
    if name != "00001.json":  # which nothing reads once the index is there
        assert digests(folder) == before
        if damage == "one byte":
            [note] = [line for line in capsys.readouterr().err.splitlines() if "note: " in line]
            assert f"note: {folder / name} is damaged" in note


def test_one_process_of_a_launch_compares_the_hashes(tokenizer, cache, source, monkeypatch):
    folder = tokenize_source(source, tokenizer, "key", 0.1, 2000)
    compared, compare = [], shards.hash_file
    monkeypatch.setattr(shards, "hash_file", lambda path: compared.append(path) or compare(path))
    monkeypatch.setattr(shards, "CHECKED_BYTES", 0)  # with its bar
    monkeypatch.setenv("LOCAL_RANK", "1")
    tokenize_source(source, tokenizer, "key", 0.1, 2000)
    assert len(compared) == len(list(folder.glob("*.bin"))) * 3
    tokenize_source(source, tokenizer, "key", 0.1, 2000)
    assert len(compared) == len(list(folder.glob("*.bin"))) * 3
    monkeypatch.setattr(os, "getppid", os.getpid)  # another launch
    tokenize_source(source, tokenizer, "key", 0.1, 2000)
    assert len(compared) == len(list(folder.glob("*.bin"))) * 6


@pytest.mark.parametrize("content", [b'{"text": "te', b'{"a": 1}\n', b"\xff\xfe", None])
def test_damaged_held_out_documents_are_named(tokenizer, cache, source, content):
    folder = tokenize_source(source, tokenizer, "key", 0.1)
    path = folder / "00000.eval.jsonl"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(InputError, match=rf"00000.eval.jsonl: is damaged; delete {folder}, and it is made anew"):
        list(TokenStream(folder).read_held_out(1000))
