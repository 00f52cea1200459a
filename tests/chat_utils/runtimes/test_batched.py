"""Continuous batching: each reply is what it would be alone, whoever joins, leaves, fails or waits beside it."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from chat_utils.engine import Engine, load_engine
from chat_utils.reply import Reply
from chat_utils.runtimes.batched import BLOCK_TOKENS, load_batched_decoder
from chat_utils.sampling import Sampler, Sampling
from data_utils.dialogue.checking import DialogueError
from data_utils.dialogue.window import encode_prompt
from errors import InputError
from tests.chat_utils.runtimes.test_numpy_decoder import KNOWN, WINDOW, make_model

GREEDY = {"temperature": 0, "repetition_penalty": 1.0}
OTHERS = {
    "gemma": {"model_type": "gemma"},
    "gemma 2, every other layer slides, its own softcap": {"model_type": "gemma2", "sliding_window": 16},
}
LEFT_OUT = {
    "angles by length": {
        "model_type": "llama", "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
    },
    "a state without places": {"model_type": "mamba", "state_size": 8},
}  # fmt: skip


def load_model(**settings):
    """Return a small model, with the mask-taking attention where its class has a choice."""
    model = make_model(**settings)
    if settings["model_type"] == "gemma2":
        model.set_attn_implementation("eager")  # the other leaves its softcap out
    return model


# The logits


@pytest.mark.parametrize("kind", [*KNOWN, *OTHERS])
def test_logits_equal_those_of_transformers(kind):
    model = load_model(**{**KNOWN, **OTHERS}[kind])
    batched = load_batched_decoder(model, 4).model
    ids = torch.randint(0, 500, (100,)).tolist()
    with torch.inference_mode():
        expected = model(torch.tensor([ids]), attention_mask=torch.ones(1, 100)).logits[0].numpy()
    steps = [[(2, 0, 40), (0, 0, 10)], [(2, 40, 1), (0, 10, 1)], [(2, 41, 49), (0, 11, 1)], [(2, 90, 1), (0, 12, 1)]]
    for parts in steps:  # prompts, a token of each, more of a prompt beside a token, a token of each
        found = batched.decode([(slot, start, ids[start : start + count]) for slot, start, count in parts])
        for row, (_, start, count) in zip(found, parts, strict=True):
            assert row.dtype == np.float32
            np.testing.assert_allclose(row, expected[start + count - 1], atol=1e-4)


@pytest.mark.parametrize("kind", LEFT_OUT)
def test_what_cannot_be_batched_is_left_to_fair_turns(kind):
    assert load_batched_decoder(make_model(**LEFT_OUT[kind]), 4) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["qwen3", "mistral", "gpt2"])
def test_company_does_not_change_a_single_bit(kind, dtype):
    """Neither who shares a step, nor how long their dialogues are, nor the slot: so a seed gives the same reply."""
    settings = {"n_positions": 1024} if kind == "gpt2" else {"max_position_embeddings": 1024}
    batched = load_batched_decoder(make_model(**{**KNOWN[kind], **settings}).to(dtype), 4).model
    random = np.random.default_rng(0)
    ids = random.integers(0, 500, 50).tolist()

    def compute(slot: int, others: dict[int, int]) -> np.ndarray:
        for other, length in others.items():
            batched.decode([(other, 0, random.integers(0, 500, length).tolist())])
        rows = [batched.decode([(slot, 0, ids[:40])])[0]]
        for place in range(40, 50):
            parts = [(other, length + place, [7]) for other, length in others.items()]
            rows.append(batched.decode([*parts, (slot, place, [ids[place]])])[-1])
        return np.stack(rows)

    alone = compute(0, {})
    assert len(np.unique(alone[:, 0])) > 5  # the rows differ from each other
    for slot, others in ((3, {}), (1, {0: 5, 3: 90}), (2, {0: 900, 1: 2})):
        assert np.array_equal(compute(slot, others), alone)


def test_slots_grow_with_the_longest_dialogue_and_keep_what_they_hold():
    model = make_model(model_type="qwen3", max_position_embeddings=1000)
    batched = load_batched_decoder(model, 3).model
    ids = torch.randint(0, 500, (1000,)).tolist()
    batched.decode([(0, 0, ids[:20])])
    assert batched._cache.layers[0].keys.shape[2] == BLOCK_TOKENS + 1
    batched.decode([(1, 0, ids[:999])])
    assert batched._cache.layers[0].keys.shape[2] == 1024 + 1
    found = batched.decode([(0, 20, ids[20:21]), (1, 999, ids[999:])])
    with torch.inference_mode():
        expected = model(torch.tensor([ids])).logits[0].numpy()
    np.testing.assert_allclose(found, expected[[20, 999]], atol=1e-4)


def test_a_dialogue_set_aside_comes_back_whole():
    batched = load_batched_decoder(make_model(model_type="qwen3"), 2).model
    ids = torch.randint(0, 500, (41,)).tolist()
    batched.decode([(0, 0, ids[:40])])
    (expected,) = batched.decode([(0, 40, ids[40:])])
    batched.cut(0, 40)
    saved = batched.save(0)
    assert saved[0][0].shape == (2, 40, 32)
    batched.decode([(0, 0, ids[5:35])])
    batched.restore(1, saved)
    assert np.array_equal(batched.decode([(1, 40, ids[40:])])[0], expected)


# Replies


@pytest.fixture
def engine(tiny_checkpoint) -> Engine:
    engine = load_engine(str(tiny_checkpoint), "batched", slots=4)
    engine.stop_ids = set()
    return engine


@pytest.fixture
def sizes(engine, monkeypatch) -> list[int]:
    """How many replies each step computed."""
    found: list[int] = []
    decode = engine.decoder.model.decode

    def record(parts):
        found.append(len(parts))
        return decode(parts)

    monkeypatch.setattr(engine.decoder.model, "decode", record)
    return found


@pytest.fixture
def drawn(monkeypatch) -> dict[int, list[int]]:
    """The tokens drawn, by the sampler that drew them."""
    tokens: dict[int, list[int]] = {}
    draw = Sampler.draw

    def record(sampler: Sampler, logits) -> int:
        token = draw(sampler, logits)
        tokens.setdefault(id(sampler), []).append(token)
        return token

    monkeypatch.setattr(Sampler, "draw", record)
    return tokens


def say(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


QUESTIONS = [
    "Hello",
    "你好，世界！今天天气怎么样？",
    " ".join(["Tell me a story about a cat and a dog."] * 4),
    "再见",
    "1 + 1 = ?",
    "w " * 59 + "w",
]
SETTINGS = [
    Sampling(**GREEDY, max_new_tokens=30),
    Sampling(temperature=0, repetition_penalty=1.2, max_new_tokens=12),
    Sampling(temperature=1.0, top_p=0.9, seed=5, max_new_tokens=25),
    Sampling(**GREEDY, max_new_tokens=40),
    Sampling(temperature=1.5, top_k=20, seed=6, max_new_tokens=7),
    Sampling(temperature=0.7, max_new_tokens=20),
]


def read(reply: Reply) -> str:
    return "".join(reply)


def answer_together(engine: Engine, asked: list[tuple[str, Sampling]]) -> list[Reply]:
    """Return the replies, each read in a thread of its own, with their texts."""
    replies = [engine.reply(say(question), sampling) for question, sampling in asked]
    with ThreadPoolExecutor(len(asked)) as threads:
        for reply, text in zip(replies, threads.map(read, replies), strict=True):
            reply.text = text
    return replies


@pytest.mark.slow
def test_replies_with_settings_of_their_own_share_steps_and_are_those_of_each_alone(engine, tiny_checkpoint, sizes):
    asked = list(zip(QUESTIONS, SETTINGS, strict=True))
    alone = [read(load_engine(str(tiny_checkpoint), "batched", slots=4).reply(say(q), s)) for q, s in asked]
    sizes.clear()
    together = answer_together(engine, asked)  # six replies, four slots
    for reply, text, (_, sampling) in zip(together, alone, asked, strict=True):
        if sampling.seed is not None or sampling.temperature == 0:
            assert reply.text == text
        assert (reply.finish_reason, reply.stats.reply_tokens) == ("length", sampling.max_new_tokens)
    assert sum(sizes) >= sum(sampling.max_new_tokens for _, sampling in asked)
    assert max(sizes) == 4
    assert len(sizes) < 0.7 * sum(sizes)  # they did share


@pytest.mark.parametrize("penalty", [1.0, 1.2])
def test_greedy_tokens_of_many_at_once_equal_those_of_generate_for_each_alone(engine, drawn, penalty):
    sampling = Sampling(temperature=0, repetition_penalty=penalty, max_new_tokens=30)
    replies = answer_together(engine, [(question, sampling) for question in QUESTIONS])
    for question, reply in zip(QUESTIONS, replies, strict=True):
        ids, _ = encode_prompt(engine.tokenizer, say(question), WINDOW - 30)
        output = engine.decoder.model.model.generate(
            torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), max_new_tokens=30, do_sample=False,
            repetition_penalty=penalty, eos_token_id=None, temperature=None, top_p=None,
        )  # fmt: skip
        expected = output[0, len(ids) :].tolist()
        found = drawn[id(reply._session.sampler)]
        end = len(found) if reply.finish_reason == "loop" else 30
        assert found == expected[:end]


def test_late_ones_join_the_batch_and_a_cancelled_one_leaves_it(engine, sizes, tiny_checkpoint):
    reference = load_engine(str(tiny_checkpoint), "transformers")
    reference.stop_ids = set()
    expected = read(reference.reply(say("Hello"), Sampling(**GREEDY, max_new_tokens=40)))
    first = engine.reply(say("Hello"), Sampling(**GREEDY, max_new_tokens=40))
    endless = engine.reply(say("endless"), Sampling(temperature=1.5, max_new_tokens=128, repetition_penalty=1.5))
    text = next(first) + next(first)
    next(endless)
    late = [engine.reply(say(question), Sampling(**GREEDY, max_new_tokens=5)) for question in QUESTIONS[:2]]
    sizes.clear()
    with ThreadPoolExecutor(4) as threads:
        reading = [threads.submit(read, reply) for reply in (endless, *late)]
        text += read(first)
        endless.close()
        for future in reading:
            future.result(timeout=30)
    assert text == expected
    assert endless.finish_reason == "cancelled"
    assert [reply.stats.reply_tokens for reply in late] == [5, 5]
    assert max(sizes) > 1
    # All four slots can be had by new replies, though nobody waited for the old ones to be forgotten.
    sizes.clear()
    settings = Sampling(temperature=1.0, max_new_tokens=20, repetition_penalty=1.5)
    answer_together(engine, [(f"new {number}", settings) for number in range(4)])
    assert max(sizes) == 4


def test_the_slot_of_a_cancelled_reply_is_found_again_by_its_dialogue(engine):
    reply = engine.reply(say("Hello there"), Sampling(**GREEDY, max_new_tokens=50))
    text = next(reply) + next(reply)
    reply.close()
    (entry,) = engine.decoder.prefix_cache._entries
    assert entry.state.slot is not None
    dialogue = [*say("Hello there"), {"role": "assistant", "content": text.strip() or "…"}, *say("go on")]
    again = engine.reply(dialogue, Sampling(**GREEDY, max_new_tokens=3))
    read(again)
    assert again.stats.cached_tokens >= reply.stats.prompt_tokens


def test_one_too_long_is_refused_alone(engine):
    others = [engine.reply(say(question), Sampling(**GREEDY, max_new_tokens=5)) for question in QUESTIONS[:3]]
    pieces = [next(reply) for reply in others]
    with pytest.raises(DialogueError, match="longer than the model's window"):
        engine.reply(say("long " * 1000), Sampling(**GREEDY))
    assert all(piece + read(reply) for piece, reply in zip(pieces, others, strict=True))
    assert [reply.stats.reply_tokens for reply in others] == [5, 5, 5]


def test_one_that_fails_fails_alone(engine, monkeypatch):
    """For instance where the memory does not suffice for its length."""
    decode = engine.decoder.model.decode

    def fail(parts):
        if any(start + len(ids) > 100 for _, start, ids in parts):
            raise torch.OutOfMemoryError("no memory for this one")
        return decode(parts)

    monkeypatch.setattr(engine.decoder.model, "decode", fail)
    results: dict[str, object] = {}
    start = threading.Barrier(4)

    def answer(question: str) -> None:
        reply = engine.reply(say(question), Sampling(temperature=1.0, max_new_tokens=30))
        start.wait()
        try:
            results[question] = len(read(reply)) > 0
        except torch.OutOfMemoryError:
            results[question] = "no memory"

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(answer, ["a", "b", "c", "w " * 100]))
    assert results == {"a": True, "b": True, "c": True, "w " * 100: "no memory"}


def test_a_model_that_cannot_be_batched_is_one_line(tiny_checkpoint, monkeypatch):
    monkeypatch.setattr("chat_utils.engine.load_batched_decoder", lambda *_: None)
    with pytest.raises(InputError, match="--engine batched: qwen3 models are not batched"):
        load_engine(str(tiny_checkpoint), "batched")
