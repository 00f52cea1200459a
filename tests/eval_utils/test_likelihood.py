"""Likelihoods of many texts at once are those that each has alone, and those that lm-evaluation-harness finds."""

import math
import random

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from eval_utils.items import Choice, Continuation
from eval_utils.likelihood import (
    STEP_TOKENS,
    Scored,
    Scorer,
    batch_rows,
    encode_scored,
    is_chain,
    pack_rows,
    split_windows,
)
from eval_utils.likelihood_figures import Reader, measure_choices, measure_continuations, measure_pairs, measure_text
from eval_utils.minimal_pairs import Pair, make_pairs
from model_utils.tokenizer import train_tokenizer

SMALL = {"vocab_size": 300, "initializer_range": 0.2, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
LAYERS = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
KINDS = {
    "qwen3": LAYERS | {"num_key_value_heads": 1, "head_dim": 16},
    "llama": LAYERS,
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2},
    "gpt_neox": LAYERS,
    "gemma3_text": LAYERS | {"num_key_value_heads": 1, "head_dim": 16, "sliding_window": 12},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 2},
}


def make_model(kind: str, **settings):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SMALL | KINDS[kind] | settings)).eval()


def make_texts(count: int, longest: int = 40) -> list[Scored]:
    """Return texts of few different tokens, so that many share beginnings."""
    draw = random.Random(0)
    texts = []
    for number in range(count):
        ids = (7, *(draw.randrange(2) for _ in range(draw.randrange(2, longest))), 50 + number)
        texts.append(Scored(ids, range(draw.randrange(1, len(ids)), len(ids))))
    return texts


@torch.no_grad()
def score_alone(model, text: Scored) -> tuple[float, bool]:
    """Return what transformers itself says of one text."""
    logits = model(torch.tensor([text.ids])).logits[0].double().log_softmax(-1)
    nats = -sum(float(logits[place - 1, text.ids[place]]) for place in text.places)
    return nats, all(int(logits[place - 1].argmax()) == text.ids[place] for place in text.places)


@pytest.mark.parametrize("kind", KINDS)
def test_together_as_alone(kind):
    model, texts = make_model(kind), make_texts(60)
    found = Scorer(model).score(texts)
    expected = [score_alone(model, text) for text in texts]
    assert np.allclose(found.nats, [nats for nats, _ in expected], atol=1e-4)
    assert found.is_greedy.tolist() == [greedy for _, greedy in expected]


def test_greedy_texts_are_known():
    model = make_model("qwen3")
    ids = [7]
    for _ in range(5):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    wrong = [*ids[:-1], (ids[-1] + 1) % 300]
    texts = [Scored(tuple(found), range(1, len(found))) for found in (ids, wrong)]
    assert Scorer(model).score(texts).is_greedy.tolist() == [True, False]


def test_what_is_shared_is_computed_once():
    rows = list(pack_rows([Scored((1, 2, 3, token, 9), (4,)) for token in range(10, 40)], 2**31))
    assert len(rows) == 1
    assert len(rows[0].tokens) == 3 + 30
    assert not is_chain(rows[0])
    assert len(list(pack_rows([Scored((1, 2, 3, token, 9), (4,)) for token in range(10, 40)], 0))) == 30


def test_steps_have_a_size():
    rows = pack_rows(make_texts(500), 2**31)
    sizes = [len(found) * max(len(row.tokens) for row in found) for found in batch_rows(rows)]
    assert max(sizes) <= STEP_TOKENS


def test_models_without_positions_score_one_by_one():
    assert not Scorer(make_model("bloom"))._shares
    assert Scorer(make_model("qwen3"))._shares


@pytest.fixture(scope="module")
def byte_tokenizer():
    """A tokenizer of single bytes, which cuts every Chinese character in three."""
    return train_tokenizer(["a"], 259)


@pytest.fixture(scope="module")
def even_reader(byte_tokenizer):
    """A model to which every token is as likely as any other."""
    model = make_model("qwen3", vocab_size=259)
    for weight in model.parameters():
        torch.nn.init.zeros_(weight)
    return Reader(Scorer(model), byte_tokenizer)


@pytest.mark.parametrize("text", ["plain", "汉字", "mixed 汉字 😀", "x" * 5000, "<|im_end|>"])
def test_bits_per_byte_where_characters_are_cut(even_reader, text):
    """A byte is a token, and each costs log2 of the vocabulary, whatever the window."""
    (figure,) = measure_text(even_reader, [{"text": text, "language": "en"}])
    assert figure.value == pytest.approx(math.log2(259), abs=1e-4)
    assert figure.weights == [len(text.encode())]


def test_windows_score_each_token_once():
    windows = split_windows(list(range(1, 12)), 0, 4)
    assert [text.ids[place] for text in windows for place in text.places] == list(range(1, 12))
    assert max(len(text.ids) for text in windows) == 5


def test_a_context_longer_than_the_window_loses_its_beginning(byte_tokenizer):
    scored = encode_scored(byte_tokenizer, "a" * 50, "bc", 10)
    assert len(scored.ids) == 11
    assert byte_tokenizer.decode([scored.ids[place] for place in scored.places]) == "bc"


def test_which_is_preferred(even_reader):
    """Of sentences that cost the same a token the shorter one is likelier; a choice is judged by the byte."""
    pairs = [Pair("ab", "abc", "p", language="en"), Pair("abcd", "ab", "p", language="en")]
    (figure,) = measure_pairs(even_reader, pairs)
    assert figure.values == [1.0, 0.0]
    assert figure.groups == ["p", "p"]
    assert measure_choices(even_reader, [Choice("q", (" a", " bcd"), 0)])[0].value in (0.0, 1.0)
    assert measure_continuations(even_reader, [Continuation("a", " b")])[0].value == 0.0


def test_equals_lm_evaluation_harness(tiny_checkpoint):
    """200 texts without a context and 200 with one, by its own class for transformers' models."""
    harness = pytest.importorskip("lm_eval.models.huggingface")
    instances = pytest.importorskip("lm_eval.api.instance")
    reference = harness.HFLM(pretrained=str(tiny_checkpoint), device="cpu", batch_size=8, dtype="float32")
    pairs = [*make_pairs("en", 2), *make_pairs("zh", 3)]
    arguments = [("", pair.good) for pair in pairs][:200]
    arguments += [(pair.good[: len(pair.good) // 2] + " ", pair.good[len(pair.good) // 2 :]) for pair in pairs][:200]
    requests = [instances.Instance("loglikelihood", {}, argument, number) for number, argument in enumerate(arguments)]
    expected = reference.loglikelihood(requests, disable_tqdm=True)
    texts = [encode_scored(reference.tokenizer, *argument, 256) for argument in arguments]
    found = Scorer(reference.model.float()).score(texts)
    assert len(texts) == 400
    assert np.abs(found.nats + [nats for nats, _ in expected]).max() < 1e-4
    assert found.is_greedy.tolist() == [greedy for _, greedy in expected]
