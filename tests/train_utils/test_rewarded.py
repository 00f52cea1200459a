"""Replies are judged as a reader would, weighed against each other, and learned by their weights alone."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from eval_utils.scorecard import Answer
from train_utils import own_replies
from train_utils.own_replies import TEMPERATURE, Asked, judge_replies, pick_prompts
from train_utils.rewarded import AskedRows, RewardLoss, collate_asked, settle_round, weigh_replies
from train_utils.steps.reply_scores import score_replies


def ask(question: str, truth: str = "yes", name: str | None = None) -> Asked:
    language = "en" if question.isascii() else "zh"
    return Asked([{"role": "user", "content": question}], [5, 6], truth, language, name)


def test_a_reply_is_judged_by_its_faults_and_by_what_suits_no_other_question(monkeypatch):
    monkeypatch.setattr(own_replies, "is_on_topic", lambda question, reply: question in reply)
    prompts = [ask("tea"), ask("rain"), ask("boat", "I am Momo", "Momo"), ask("茶", "好")]
    replies = [
        [Answer("some tea", True), Answer("tea rain boat", True), Answer("no", True), Answer("tea", False)],
        [Answer("雨 rain", True), Answer("so so so so so", True), Answer("", True)],
        [Answer("a boat", True), Answer("I am Momo of the boat", True)],
        [Answer("喝茶", True), Answer("tea", True)],
    ]
    rewards = judge_replies(prompts, replies)
    assert rewards[0] == [1, 0, 0, -1]  # one that suits all three questions suits none
    assert rewards[1] == [-1, -1, -1]  # another language, a loop, nothing
    assert rewards[2] == [-1, 1]  # the name is missing
    assert rewards[3] == [1, -1]  # no other question is Chinese


def test_weights_of_a_prompt_have_no_sum_and_no_unit():
    rewards = [[3.0, 1.0, 2.0], [5.0, 5.0, 5.0], [0.0, 0.0, 9.0]]
    weights = weigh_replies(rewards)
    assert [sum(row) for row in weights] == pytest.approx([0, 0, 0])
    assert weights[1] == [0, 0, 0]
    assert weights[2][2] > weights[0][0] > 0 > weights[0][1]
    scaled = weigh_replies([[100 * value + 7 for value in row] for row in rewards])
    assert [value for row in scaled for value in row] == pytest.approx([value for row in weights for value in row])
    assert weigh_replies([[2.0, 2.0]]) == [[0, 0]]


@pytest.mark.parametrize(
    ("draws", "given", "batch", "steps"),
    [(True, {}, 4, 16), (True, {}, 100, 1), (True, {"gradient_accumulation_steps"}, 4, 3), (False, {}, 4, 3),
     (True, {"per_device_train_batch_size"}, 8, 8)],
)  # fmt: skip
def test_a_step_is_of_a_round_unless_the_user_says_how_many_passes_it_has(draws, given, batch, steps):
    args = SimpleNamespace(
        given=set(given), per_device_train_batch_size=batch, world_size=1, gradient_accumulation_steps=3,
        compile_layers=None,
    )  # fmt: skip
    assert settle_round(args, draws=draws).gradient_accumulation_steps == steps
    assert args.gradient_accumulation_steps == 3  # what was parsed stays


@pytest.fixture
def rows(tiny_checkpoint, tmp_path):
    model, tokenizer = (kind.from_pretrained(tiny_checkpoint) for kind in (AutoModelForCausalLM, AutoTokenizer))
    judge = lambda prompts, replies: [[float(len(answer.text)) for answer in answers] for answers in replies]  # noqa: E731
    prompts = [Asked([{"role": "user", "content": "hi"}], [5, 6, 7 + number], "good day", "en") for number in range(5)]
    how = {"samples": 3, "truth_weight": 0.5, "seed": 1, "folder": tmp_path, "say": lambda _: None}
    return AskedRows(model, tokenizer, judge, lambda: 0.0, prompts, **how)


def test_the_loss_is_of_each_reply_by_its_weight(rows, monkeypatch):
    """Against plain forwards of each reply alone, at the temperature that it was drawn with, and gradients too."""
    monkeypatch.setattr(own_replies, "MAX_TOKENS", 12)
    model, items = rows.model, [rows[number] for number in range(5)]
    names = ("replies", "weights", "heats")
    parts = [part for item in items for part in zip(*(item[name] for name in names), strict=True)]
    assert all(item["heats"] == [*[TEMPERATURE] * (len(item["heats"]) - 1), 1] for item in items)  # 1 is the true one's
    expected = 0.0
    for reply, weight, heat in parts:
        ids = torch.tensor([[*reply["prompt"], *reply["chosen"]]])
        logits = model(ids).logits[0, len(reply["prompt"]) - 1 : -1] / heat
        expected = expected + weight * F.cross_entropy(logits, torch.tensor(reply["chosen"]), reduction="sum")
    (expected / len(items)).backward()
    wanted = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    score_replies(model)
    loss, total = RewardLoss(), 0.0
    for part in (items[:2], items[2:]):  # as two passes of a step
        batch = collate_asked(part, row_tokens=64, pad_token_id=0)
        labels, counted = batch.pop("labels"), batch.pop("shift_labels")
        assert counted.tolist() == [1] * len(part)  # what Trainer divides by
        value = loss(model(**batch), labels, len(items))
        value.backward()
        total += value.item()
    assert total == pytest.approx((expected / len(items)).item(), rel=1e-5)
    for name, weight in model.named_parameters():
        assert torch.allclose(weight.grad, wanted[name], rtol=1e-4, atol=1e-5), name


def test_the_true_reply_counts_by_the_token_beside_the_drawn_ones(rows, monkeypatch):
    monkeypatch.setattr(own_replies, "MAX_TOKENS", 12)
    item = rows[0]
    *drawn, truth = item["replies"]
    assert truth["chosen"][-1] == 2
    assert item["weights"][-1] == 0.5 / len(truth["chosen"])
    assert sum(item["weights"][:-1]) == pytest.approx(0)
    assert 2 <= len(drawn) <= 3  # one of the mean length has no weight


def test_replies_that_are_alike_are_learned_once_and_those_without_a_weight_not_at_all(rows):
    answers = [
        Answer("", stopped, 1, ids=ids) for ids, stopped in [((7,), True), ((8,), True), ((7,), True), ((7,), False)]
    ]
    item = rows.make_item(rows.prompts[0], answers, [1.5, 0.0, 0.5, -2.0])
    assert [reply["chosen"] for reply in item["replies"][:-1]] == [[7, 2], [7]]  # a stop is part of a reply
    assert item["weights"][:-1] == pytest.approx([2 / 5, -2 / 5])
    assert item["heats"] == [TEMPERATURE, TEMPERATURE, 1.0]
    same = rows.make_item(rows.prompts[0], answers, weigh_replies([[0.1, 0.1, 0.1, 0.1]])[0])
    assert len(same["replies"]) == 1  # the true one


def test_replies_of_a_round_are_drawn_once_and_anew_in_each_epoch(rows, monkeypatch):
    monkeypatch.setattr(own_replies, "MAX_TOKENS", 12)
    first = rows[0]
    assert rows[4]["replies"][0]["prompt"] == [5, 6, 11]
    assert [path.name for path in rows.folder.iterdir()] == ["round-0.json"]
    rows.set_epoch(1)
    assert rows[0]["replies"][0] != first["replies"][0]
    assert len([*rows.folder.iterdir()]) == 2
    rows.set_epoch(0)
    assert rows[0] == first  # read, not drawn


def test_prompts_are_of_the_languages_in_turn_and_of_replies_that_are_learned(tiny_checkpoint):
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    turns = [("user", "hi"), ("assistant", "good"), ("user", "and?"), ("assistant", "bad")]
    messages = [{"role": role, "content": text} for role, text in turns]
    few = [{"messages": messages, "unlearned": [-1], "language": "en", "source": ""}] * 3
    many = [{"messages": messages, "unlearned": [], "language": "zh", "source": ""}] * 30
    lost = [{"messages": messages, "unlearned": [-1, -3], "language": "en", "source": ""}] * 9
    dialogues = Dataset.from_list(few + many + lost)
    asked = pick_prompts(dialogues, tokenizer, count=20, window=200, seed=1, name=None)
    assert [one.language for one in asked[:6]] == ["en", "zh"] * 3
    assert len(asked) == 20
    assert {one.truth for one in asked if one.language == "en"} == {"good"}
    assert {(len(one.messages), one.truth) for one in asked if one.language == "zh"} == {(1, "good"), (3, "bad")}
    assert not pick_prompts(dialogues, tokenizer, count=20, window=40, seed=1, name=None)  # no reply has room
