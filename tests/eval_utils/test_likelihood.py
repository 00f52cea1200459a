"""Likelihoods of many texts at once are those that each has alone, and those that lm-evaluation-harness finds."""

import json
import math
import random

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from eval_utils.items import READERS, Choice, Continuation, join_texts
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
from eval_utils.likelihood_figures import (
    Reader,
    measure_choices,
    measure_continuations,
    measure_pairs,
    measure_replies,
    measure_text,
)
from eval_utils.minimal_pairs import Pair, make_pairs
from model_utils.text_encoder import encode_text
from model_utils.tokenizer import train_tokenizer

SMALL = {"vocab_size": 300, "initializer_range": 0.2, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
LAYERS = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
MEASURES = {"pairs": measure_pairs, "choices": measure_choices, "continuations": measure_continuations}
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
    sizes = [len(found) * max(len(row.tokens) for row in found) for found in batch_rows(rows, 512)]
    assert 256 < max(sizes) <= 512
    assert Scorer(make_model("qwen3"))._step_tokens == STEP_TOKENS
    assert Scorer(make_model("qwen3", vocab_size=2**17))._step_tokens == 512


def test_answers_share_a_question_that_is_longer_than_a_row():
    question = tuple(range(10, 710))
    texts = [Scored((*question, number), (700,)) for number in range(5)]
    other = Scored((8, *question, 9), (700,))
    assert [len(row.tokens) for row in pack_rows([*texts, other], 2**31)] == [701, 700]
    model = make_model("qwen3", vocab_size=720)
    found = Scorer(model).score([*texts, other])
    assert np.allclose(found.nats, [score_alone(model, text)[0] for text in [*texts, other]], atol=1e-4)


def test_a_text_that_joins_its_context_in_one_token_counts():
    """Chinese is written without spaces: a token may hold a question's end and all of its answer."""
    tokenizer = train_tokenizer(["天是蓝的"] * 9, 300)
    texts = encode_scored(tokenizer, [("天", "是"), ("天是蓝", "的"), ("天是", "黑")], 64)
    assert all(len(text.places) > 0 and text.places[-1] == len(text.ids) - 1 for text in texts)


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


def test_a_dialogue_without_room_keeps_its_place_and_is_told(byte_tokenizer, capsys):
    reader = Reader(Scorer(make_model("qwen3", vocab_size=259, max_position_embeddings=64)), byte_tokenizer)
    said = ["x" * 200, "yes", "no"]
    rows = [{"language": "en", "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": text}]}
            for text in said]  # fmt: skip
    (figure,) = measure_replies(reader, rows)
    assert figure.weights == [0.0, 3.0, 2.0]
    assert "left out: 1 of 3 dialogues; its chat template or window of 64 tokens" in capsys.readouterr().err
    measure_pairs(reader, [Pair("a" * 100, "b", "p", language="en")])
    assert "1 texts fill the model's window of 64 tokens" in capsys.readouterr().err


def test_windows_score_each_token_once():
    windows = split_windows(list(range(1, 12)), 0, 4)
    assert [text.ids[place] for text in windows for place in text.places] == list(range(1, 12))
    assert max(len(text.ids) for text in windows) == 5


def test_a_context_longer_than_the_window_loses_its_beginning(byte_tokenizer):
    (scored,) = encode_scored(byte_tokenizer, [("a" * 50, "bc")], 10)
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


HARNESS_TASKS = {  # as a user of lm-evaluation-harness writes them down for the same files
    "pairs": {
        "output_type": "multiple_choice", "doc_to_text": "", "target_delimiter": "", "doc_to_target": 0,
        "doc_to_choice": "{{[sentence_good, sentence_bad]}}", "metric_list": [{"metric": "acc"}],
    },
    "choices": {
        "output_type": "multiple_choice", "doc_to_text": "{{query}}", "doc_to_target": "{{gold}}",
        "doc_to_choice": "{{choices}}", "metric_list": [{"metric": "acc_bytes"}],
    },
    "continuations": {
        "output_type": "loglikelihood", "doc_to_text": "{{context}}", "doc_to_target": "{{continuation}}",
        "target_delimiter": "", "metric_list": [{"metric": "acc"}],
    },
}  # fmt: skip


def make_rows(reader: Reader) -> dict[str, list[dict]]:
    """Return 200 items of each kind: in both languages, some longer than the window, some that the model would say."""
    pairs = [*make_pairs("en", 3), *make_pairs("zh", 3)][:200]
    goods = [pair.good for pair in pairs]
    choices = [
        {
            "query": " ".join(goods[i % 90 :][: 1 if i % 50 else 40]),
            "choices": [goods[i % 80], "It was not.", "No"],
            "gold": i % 3,
        }
        for i in range(200)
    ]
    continuations = []
    for context in goods:
        ids = encode_text(reader.tokenizer, context)
        with torch.no_grad():
            likeliest = int(reader.scorer.model(torch.tensor([ids])).logits[0, -1].argmax())
        said = reader.tokenizer.decode([likeliest])
        can_follow = said.strip() and join_texts(context, said) == said
        continuations.append({"context": context, "continuation": said if can_follow else " then 然后"})
    return {
        "pairs": [{"sentence_good": pair.good, "sentence_bad": pair.bad} for pair in pairs],
        "choices": choices,
        "continuations": continuations,
    }


def test_equals_lm_evaluation_harness(tiny_checkpoint, tmp_path, monkeypatch):
    """Its own tasks find the same log-likelihoods and shares in the same files."""
    evaluator, tasks = (pytest.importorskip(f"lm_eval.{name}") for name in ("evaluator", "tasks"))
    harness = pytest.importorskip("lm_eval.models.huggingface")
    reference = harness.HFLM(str(tiny_checkpoint), device="cpu", batch_size=8, dtype="float32")
    reader = Reader(Scorer(reference.model), reference.tokenizer)
    for name, rows in make_rows(reader).items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(tmp_path / f"{name}.jsonl")}}}
        task = {"task": name, "test_split": "test"} | data | HARNESS_TASKS[name]
        (tmp_path / f"{name}.yaml").write_text(json.dumps(task), encoding="utf-8")
    manager = tasks.TaskManager(include_path=str(tmp_path), include_defaults=False)
    expected = evaluator.simple_evaluate(reference, tasks=[*MEASURES], task_manager=manager, bootstrap_iters=0)
    seen = []
    score = reader.scorer.score
    monkeypatch.setattr(reader.scorer, "score", lambda *args, **kept: seen.append(score(*args, **kept)) or seen[-1])
    for name, measure in MEASURES.items():
        figures = measure(reader, list(READERS[name]([str(tmp_path / f"{name}.jsonl")])))
        values = [value for figure in figures for value in figure.values]
        theirs = [answer for sample in expected["samples"][name] for answer in sample["filtered_resps"]]
        assert len(values) == 200
        assert np.abs(seen[-1].nats + [likelihood for likelihood, _ in theirs]).max() < 1e-4
        share = next(value for key, value in expected["results"][name].items() if key.endswith(",none"))
        assert np.mean(values) == pytest.approx(share)
    assert 10 < sum(values) < 190  # of continuations: some are what the model would say
    assert seen[-1].is_greedy.tolist() == [is_greedy for _, is_greedy in theirs]
