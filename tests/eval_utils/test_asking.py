"""Dialogues asked together are answered in their order, each as it would be alone, and the same by seed."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from eval_utils import asking
from eval_utils.asking import ask_model, continue_together
from eval_utils.scorecard import MAX_TOKENS, as_user
from model_utils.families import family_of, first_ids

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


def test_a_reply_is_the_same_whoever_is_asked_beside(chat):
    """Drawn by chance, as chat.py draws: rows that are done leave the others what they would be."""
    asked = [(as_user(text), seed) for text in QUESTIONS for seed in (1, 2)]
    alone = [ask_model(*chat, [one])[0] for one in asked]
    assert ask_model(*chat, asked) == alone


SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SHAPES = {
    "llama": SMALL,
    "gemma3_text": {**SMALL, "head_dim": 8, "num_key_value_heads": 1, "sliding_window": 4},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2},
    "lfm2": {**SMALL, "layer_types": ["conv", "full_attention"], "num_key_value_heads": 1},  # whose rows can't leave
    "t5": {"d_model": 16, "d_ff": 32, "d_kv": 8, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0},
}


@pytest.mark.parametrize("kind", SHAPES)
def test_greedy_ids_are_those_of_transformers(kind):
    """Of replies that end at unlike places, with a prompt's ids penalised, against `generate` of each alone."""
    torch.manual_seed(3)
    config = AutoConfig.for_model(kind, **SHAPES[kind], vocab_size=32, initializer_range=0.5)
    model = family_of(config).auto.from_config(config).eval()
    prompts, settings = (
        [[5, 6, 7, 8], [9, 6], [7, 7, 7, 5, 3, 9, 11]],
        {"max_new_tokens": 24, "repetition_penalty": 3.0},
    )
    alone = [
        model.generate(
            torch.tensor([ids]), generation_config=GenerationConfig(eos_token_id=[1], pad_token_id=1, **settings)
        )
        for ids in prompts
    ]
    stops = [alone[0][0, -5].item(), 1]  # one that comes amid the first reply
    written = [row[0, len(first_ids(model.config, ids)) :].tolist() for row, ids in zip(alone, prompts, strict=True)]
    ends = [next((i for i, token in enumerate(ids) if token in stops), None) for ids in written]
    expected = [(ids[:end], end is not None) for ids, end in zip(written, ends, strict=True)]
    assert continue_together(model, prompts, stops, seed=1, **settings) == expected
    assert len({len(ids) for ids, _ in expected}) > 1


def test_several_replies_follow_a_prompt(chat):
    """The first of them is the one that would follow alone."""
    model, drawn = chat[0], {"seed": 4, "do_sample": True, "max_new_tokens": 8}
    three = continue_together(model, [[5, 6], [7]], [2], count=3, **drawn)
    assert [three[0], three[3]] == continue_together(model, [[5, 6], [7]], [2], **drawn)
    assert len({tuple(ids) for ids, _ in three}) == 6


@pytest.mark.parametrize("value", [0.0, 1 - 2**-53])
def test_the_least_and_the_largest_draw_are_tokens_that_may_be(chat, monkeypatch, value):
    class Fixed:
        def __init__(self, seed):
            pass

        def random(self):
            return value

    monkeypatch.setattr(asking, "Random", Fixed)
    with torch.no_grad():
        likely = chat[0](torch.tensor([[5, 6]])).logits[0, -1].topk(3).indices.tolist()
    drawn = {"seed": 1, "do_sample": True, "temperature": 1.0, "top_k": 3, "top_p": 1.0, "max_new_tokens": 1}
    ((ids, _),) = continue_together(chat[0], [[5, 6]], [0], repetition_penalty=1.0, **drawn)
    assert ids == [max(likely) if value == 0 else min(likely)]


def test_draws_follow_the_probabilities(chat):
    model = chat[0]
    with torch.no_grad():
        shares = (model(torch.tensor([[5, 6]])).logits[0, -1] / 0.5).softmax(-1)
    drawn = {"seed": 1, "do_sample": True, "temperature": 0.5, "top_k": 0, "top_p": 1.0, "max_new_tokens": 1}
    found = continue_together(model, [[5, 6]], [0], count=4000, **drawn)
    counts = torch.bincount(torch.tensor([(ids or [0])[0] for ids, _ in found]), minlength=len(shares))
    likeliest = shares.topk(5).indices
    expected, seen = 4000 * shares[likeliest], counts[likeliest]
    assert ((seen - expected).abs() < 4 * expected.sqrt() + 1).all()
    assert counts[shares < 1e-7].sum() == 0


def test_the_seed_decides(chat):
    first, again, other = (ask_model(*chat, [(as_user("hi"), seed)])[0] for seed in (1, 1, 2))
    assert first == again != other
    state = torch.get_rng_state()
    ask_model(*chat, [(as_user("hi"), 3)])
    assert torch.equal(torch.get_rng_state(), state)  # a training run's draws stay its own


def test_a_stop_ends_an_answer(chat, monkeypatch):
    model, tokenizer = chat
    stop = tokenizer.convert_tokens_to_ids("<|im_end|>")

    tail = torch.tensor([[100, 101, stop, stop], [100, 101, 102, 103]])
    monkeypatch.setattr(asking, "write_together", lambda *_, **__: tail)
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
