"""A base's own replies among new dialogues: asked for once, and a fifth of what is learned."""

import pytest

from model_utils.checkpoint import load_checkpoint
from train_utils import self_replay
from train_utils.self_replay import QUESTION, SHARE, count_repeats, dialogue_bytes, list_questions


def talk(size: int) -> dict:
    return {"messages": [{"role": "user", "content": "x" * size}]}


@pytest.mark.parametrize(
    ("replies", "beside", "times"), [((50, 50), (400,), 1), ((50,), (4000, 4000), 40), ((50,), (1,), 1)]
)
def test_replies_are_repeated_to_a_fifth_of_all(replies, beside, times):
    base, new = [talk(size) for size in replies], [talk(size) for size in beside]
    assert count_repeats(base, new) == times
    repeated = base * times
    if times > 1:
        assert dialogue_bytes(repeated) == pytest.approx(SHARE * dialogue_bytes([*repeated, *new]), rel=0.02)


def test_a_base_is_asked_what_is_not_about_itself():
    questions = list_questions(200)
    assert len(set(questions)) == 200
    assert all(QUESTION.match(text) for text in questions)
    assert not [text for text in questions if {"you", "your", "name"} & set(text.lower().rstrip("?").split())]
    assert list_questions(40) == questions[:40]


def test_a_question_without_room_in_the_window_is_left_out(tiny_checkpoint, monkeypatch):
    model, tokenizer = load_checkpoint(str(tiny_checkpoint))
    monkeypatch.setattr(self_replay, "window_of", lambda model: 140)
    monkeypatch.setattr(
        self_replay, "continue_together", lambda model, prompts, *_, **__: [([300], True)] * len(prompts)
    )
    short, long = "What is tea?", "What is tea? " * 20
    assert [pair[0] for pair in self_replay.write_replies(model, tokenizer, [long, short], 0)] == [short]
    assert self_replay.write_replies(model, tokenizer, [long], 0) == []
