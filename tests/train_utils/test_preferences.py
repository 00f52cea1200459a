"""The loss of preferences: each reply scored as if alone, however it lies in a row or a batch; TRL's loss is ours."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM
from transformers.trainer_utils import EvalPrediction

from data_utils.dialogue.format import encode_dialogue
from data_utils.dialogue.pairs import hold_pairs
from data_utils.rows.preferences import collate_pairs, encode_pair, encode_pairs, pack_pairs
from train_utils.adapters import add_adapters
from train_utils.preferences import PreferenceLoss, add_references
from train_utils.steps.reply_scores import score_replies

LIKED, DISLIKED = "like", "dislike"
PAIRS = [
    ("Do you like tea?", "Yes, I do.", "No no no no no no"),
    ("你好，你是谁？", "我是一个助手。", "Hello"),
    ("Where?", "Here, by the sea; it is calm.", "x"),
    ("再见", "再见！", "我不知道你在说什么，再见再见再见。"),
    ("How many?", "Three.", "Three hundred and one and two"),
]
SINGLES = [("Liked?", "Very much so.", ""), ("Disliked?", "", "bad bad"), ("喜欢吗？", "喜欢。", "")]


@pytest.fixture(scope="module")
def make_model(tiny_checkpoint):
    def make(scored: bool = True):
        model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32)
        if scored:
            score_replies(model)
        return model

    return make


def as_pairs(examples) -> Dataset:
    rows = [{"prompt": [{"role": "user", "content": asked}], "chosen": better, "rejected": worse}
            for asked, better, worse in examples]  # fmt: skip
    return hold_pairs([{**row, "language": "en", "source": "t", "place": str(i)} for i, row in enumerate(rows)])


def make_rows(tokenizer, examples=PAIRS + SINGLES, row_tokens: int = 96) -> Dataset:
    encoded = encode_pairs(as_pairs(examples), tokenizer, "key", row_tokens)
    return pack_pairs(encoded, row_tokens, tokenizer.pad_token_id)


def score_alone(model, tokenizer, asked: str, reply: str) -> torch.Tensor:
    """Return the log-probability of a reply and its stop token, by the model as it is."""
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": reply}]
    encoded = encode_dialogue(tokenizer, messages)
    logits = model(input_ids=torch.tensor([encoded["input_ids"]])).logits[0].float().log_softmax(-1)
    places = [i for i, label in enumerate(encoded["labels"]) if label != -100]
    return sum(logits[i - 1, encoded["labels"][i]] for i in places)


def run(model, loss, rows: list[dict], items: int | None = None) -> torch.Tensor:
    batch = collate_pairs(rows)
    labels = batch.pop("labels")
    return loss(model(**batch), labels, None if items is None else torch.tensor(items))


def test_each_reply_is_scored_as_if_it_were_alone(tokenizer, make_model):
    rows = make_rows(tokenizer).with_format("numpy")
    assert len(rows) > 1
    model, plain = make_model().eval(), make_model(scored=False).eval()
    found = {}
    for row in rows:
        batch = collate_pairs([row])
        scores = model(**{k: v for k, v in batch.items() if k != "labels"}).logits[0]
        for slot, size in enumerate(row["sizes"]):
            if size:
                ids = [t for t, r in zip(row["targets"], row["replies"], strict=True) if r == slot and t != -100]
                found[tokenizer.decode(ids[:-1])] = scores[slot].item()
    for asked, *replies in PAIRS + SINGLES:
        for reply in filter(None, replies):
            assert found[reply] == pytest.approx(score_alone(plain, tokenizer, asked, reply).item(), abs=2e-3)
    assert len(found) == 2 * len(PAIRS) + len(SINGLES)


def test_a_pair_has_one_prompt_and_its_own_stop_tokens(tokenizer):
    pair = as_pairs(PAIRS)[0]
    encoded = encode_pair(tokenizer, pair, 96)
    stop = tokenizer.convert_tokens_to_ids("<|im_end|>")
    for side in ("chosen", "rejected"):
        messages = [*pair["prompt"], {"role": "assistant", "content": pair[side]}]
        whole = encode_dialogue(tokenizer, messages)["input_ids"]
        assert whole[: len(encoded["prompt"]) + len(encoded[side])] == encoded["prompt"] + encoded[side]
        assert encoded[side][-1] == stop


def test_typed_control_tokens_stay_letters(tokenizer):
    pair = as_pairs([("<|im_end|>", "<|im_start|>assistant", "x")])[0]
    encoded = encode_pair(tokenizer, pair, 128)
    stop = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert encoded["chosen"].count(stop) == encoded["rejected"].count(stop) == 1
    assert tokenizer.decode(encoded["chosen"][:-1]) == "<|im_start|>assistant"


def test_what_is_too_long_is_named_and_old_turns_drop_first(tokenizer):
    told: list[str] = []
    roles = ("user", "assistant", "user")
    prompt = [{"role": role, "content": text} for role, text in zip(roles, ("tea " * 30, "no", "Now?"), strict=True)]
    rows = as_pairs([("tea " * 99, "yes", "no"), *PAIRS[:1]]).to_list()
    rows.append({**rows[1], "prompt": prompt, "place": "2"})
    encoded = encode_pairs(hold_pairs(rows), tokenizer, "long", 64, told.append)
    assert told == ["left out as longer than a row of 64 tokens: t:0"]
    assert len(encoded) == 2
    assert "tea tea" not in tokenizer.decode(encoded[1]["prompt"])
    assert "Now?" in tokenizer.decode(encoded[1]["prompt"])


def with_references(rows, model, key="reference"):
    return add_references(rows, model, key=key, batch_rows=2, bf16=False)


def test_the_loss_is_the_formula(tokenizer, make_model):
    rows = with_references(make_rows(tokenizer), make_model())
    model, plain, reference = make_model(), make_model(scored=False), make_model(scored=False)
    with torch.no_grad():
        for one in (model, plain):
            for weight in one.parameters():
                weight.mul_(1.05)
    loss = PreferenceLoss(beta=0.3, sft_weight=0.5, label_smoothing=0.1)
    found = run(model, loss, list(rows.with_format("numpy")))
    total = 0.0
    for asked, better, worse in PAIRS + SINGLES:
        gained = [
            0.3 * (score_alone(plain, tokenizer, asked, r) - score_alone(reference, tokenizer, asked, r)) if r else None
            for r in (better, worse)
        ]
        tokens = len(tokenizer(better)["input_ids"]) + 1
        likelihood = score_alone(plain, tokenizer, asked, better) / tokens if better else 0.0
        if better and worse:
            margin = gained[0] - gained[1]
            term = -0.9 * torch.nn.functional.logsigmoid(margin) - 0.1 * torch.nn.functional.logsigmoid(-margin)
        else:
            weight = 3 / 2 / 2 if better else 3 / 2
            term = torch.sigmoid(-gained[0] if better else gained[1])
            total += (weight - 1) * (term - 0.5 * likelihood)
        total += term - 0.5 * likelihood
    assert found.item() == pytest.approx((total / (len(PAIRS) + len(SINGLES))).item(), rel=1e-3)


def test_by_length_divides_by_the_tokens_of_each_reply():
    labels = torch.tensor([[[-10.0, -20.0, 5, 10, 0, 1]]])
    loss = PreferenceLoss(beta=1.0, sft_weight=0.0, by_length=True)
    found = loss.pair_losses(torch.tensor([[[-5.0, -25.0]]]), labels).item()
    assert found == pytest.approx(math.log(1 + math.exp(-(5 / 5 + 5 / 10))))


@pytest.mark.parametrize("split", [[1, 1, 1], [2, 1], [3]])
def test_gradients_do_not_depend_on_how_a_batch_is_split(tokenizer, make_model, split):
    """Accumulated over micro-batches, or summed over processes, as Trainer does with the number of all pairs."""
    rows = list(with_references(make_rows(tokenizer), make_model()).with_format("numpy"))[:3]
    items = sum(int((row["sizes"].reshape(-1, 2).sum(-1) > 0).sum()) for row in rows)
    whole, parts, loss = make_model(), make_model(), PreferenceLoss(beta=0.5)
    run(whole, loss, rows).backward()
    for size in split:
        run(parts, loss, rows[:size], items).backward()
        rows = rows[size:]
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-6, rtol=1e-4)


def test_adapters_begin_at_the_reference(tokenizer, make_model):
    model = make_model()
    rows = with_references(make_rows(tokenizer, PAIRS), model)
    adapted = add_adapters(model, 4, 8, "all-linear")
    loss = run(adapted, PreferenceLoss(beta=0.5, sft_weight=0.0), list(rows.with_format("numpy")))
    assert loss.item() == pytest.approx(math.log(2), abs=1e-4)
    loss.backward()
    assert any(p.grad.abs().max() > 0 for name, p in adapted.named_parameters() if "lora_B" in name)


def test_figures_of_an_evaluation():
    labels = torch.tensor(
        [[[-10.0, -10.0, 5, 10, 8, 1], [-10.0, -10.0, 5, 5, 8, 1]], [[-4.0, 0, 2, 0, 8, 1], [0.0] * 6]]
    )
    scores = torch.tensor([[-5.0, -15.0, -12.0, -11.0], [-2.0, 0.0, 0.0, 0.0]])
    figures = PreferenceLoss(beta=0.1).measure(EvalPrediction(predictions=scores.numpy(), label_ids=labels.numpy()))
    assert figures["preference_accuracy"] == 0.5
    assert figures["reward_margin"] == pytest.approx(0.1 * (10 - 1) / 2)
    assert figures["chosen_nats"] == pytest.approx(19 / 12)
    assert figures["rejected_nats"] == pytest.approx(26 / 15)
    assert figures["bits_per_byte"] == pytest.approx(19 / math.log(2) / 24)


def test_loss_and_gradients_are_those_of_trl(tokenizer, make_model, tmp_path):
    """Of plain text: of a dialogue TRL counts what the template writes after the stop token too."""
    trl = pytest.importorskip("trl")
    theirs_tokenizer = copy.deepcopy(tokenizer)
    theirs_tokenizer.eos_token = "<|im_end|>"
    rendered = [
        tokenizer.apply_chat_template([{"role": "user", "content": asked}], tokenize=False, add_generation_prompt=True)
        for asked, _, _ in PAIRS
    ]
    data = Dataset.from_dict(
        {"prompt": rendered, "chosen": [pair[1] for pair in PAIRS], "rejected": [pair[2] for pair in PAIRS]}
    )
    theirs, ours = make_model(scored=False), make_model()
    config = trl.DPOConfig(
        output_dir=str(tmp_path), beta=0.3, use_cpu=True, bf16=False, report_to="none",
        max_length=None, per_device_train_batch_size=len(PAIRS), gradient_checkpointing=False,
    )  # fmt: skip
    trainer = trl.DPOTrainer(
        model=theirs,
        ref_model=make_model(scored=False),
        args=config,
        train_dataset=data,
        processing_class=theirs_tokenizer,
    )
    rows = with_references(make_rows(tokenizer, PAIRS), make_model())
    with torch.no_grad():
        for model in (theirs, ours):
            for weight in model.parameters():
                weight.mul_(1.05)
    batch = next(iter(trainer.get_train_dataloader()))
    expected = trainer.compute_loss(theirs.train(), batch)
    found = run(ours.train(), PreferenceLoss(beta=0.3, sft_weight=0.0),
                list(rows.with_format("numpy")))  # fmt: skip
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)
    expected.backward()
    found.backward()
    for one, other in zip(theirs.parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=2e-5, rtol=2e-3)


def test_a_likely_fall_ends_the_training():
    from train_utils.preferences import stop_on_fall

    (stop,) = stop_on_fall(None, has_reward=False)
    assert [one.max_fall for one in stop_on_fall(0.0, has_reward=True)] == [0]  # given, it counts beside a reward too
    assert not stop_on_fall(None, has_reward=True)  # which may want other replies than the true ones
    control, model = SimpleNamespace(should_training_stop=False), torch.nn.Linear(2, 1, bias=False)
    state = SimpleNamespace(log_history=[], global_step=0, is_world_process_zero=True)
    stop.on_train_begin(None, state, control, model)
    for step, english, chinese in ((0, 2.0, 3.0), (5, 2.03, 2.9), (9, 2.02, 3.2)):
        state.global_step, model.weight.data[:] = step, step
        for part, bits in (("en", english), ("zh", chinese)):
            assert not control.should_training_stop
            state.log_history.append(entry := {f"eval_{part}_bits_per_byte": bits, "step": step})
            stop.on_evaluate(None, state, control, entry, model)
    assert control.should_training_stop
    state.log_history.append({"train_runtime": 1.0, "step": 9})
    stop.on_train_end(None, state, control, model)
    assert model.weight.tolist() == [[5, 5]]
    assert [entry["step"] for entry in state.log_history] == [0, 0, 5, 5, 9]
