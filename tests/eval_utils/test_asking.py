"""Dialogues asked together are answered in their order, each as it would be alone, and the same by seed."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from eval_utils import asking
from eval_utils.asking import ask_model
from eval_utils.scorecard import MAX_TOKENS, as_user

QUESTIONS = ["hi", "你好，今天天气怎么样？", "What did you do on the weekend, and with whom?", "ok"]


@pytest.fixture(scope="module")
def chat(tiny_checkpoint):
    return AutoModelForCausalLM.from_pretrained(tiny_checkpoint).eval(), AutoTokenizer.from_pretrained(tiny_checkpoint)


def test_together_as_alone(chat, monkeypatch):
    """Greedily, so that no draw depends on who else is asked."""
    monkeypatch.setattr(asking, "DRAWN", {"do_sample": False, "repetition_penalty": 1.1})
    asked = [(as_user(text), 1) for text in QUESTIONS]
    alone = [ask_model(*chat, [one])[0] for one in asked]
    assert ask_model(*chat, asked) == alone
    assert len({answer.text for answer in alone}) == len(QUESTIONS)


def test_the_seed_decides(chat):
    first, again, other = (ask_model(*chat, [(as_user("hi"), seed)])[0] for seed in (1, 1, 2))
    assert first == again != other
    state = torch.get_rng_state()
    ask_model(*chat, [(as_user("hi"), 3)])
    assert torch.equal(torch.get_rng_state(), state)  # a training run's draws stay its own


def test_a_stop_ends_an_answer(chat, monkeypatch):
    model, tokenizer = chat
    stop = tokenizer.convert_tokens_to_ids("<|im_end|>")

    def generate(ids, **_):
        tail = torch.tensor([[100, 101, stop, stop], [100, 101, 102, 103]])
        return torch.cat([ids, tail], dim=1)

    monkeypatch.setattr(model, "generate", generate)
    stopped, cut = ask_model(model, tokenizer, [(as_user("hi"), 1), (as_user("ok"), 1)])
    assert stopped.has_stopped
    assert not cut.has_stopped
    assert stopped.text == tokenizer.decode([100, 101]).strip()
    assert cut.text == tokenizer.decode([100, 101, 102, 103]).strip()


def test_the_bar_hears_of_all(chat):
    class Bar:
        done = 0

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def update(self, count):
            Bar.done += count

    ask_model(*chat, [(as_user(text), seed) for text in QUESTIONS[:2] for seed in (1, 2)], lambda _: Bar())
    assert Bar.done == 4
    assert MAX_TOKENS == 80
