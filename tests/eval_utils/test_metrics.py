"""Held-out figures against values worked out by hand, the way Trainer asks for them."""

import math
import os

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, EvalPrediction, Trainer, TrainingArguments

from data_utils.rows.repeats import RepeatedRows
from eval_utils.metrics import (
    TokenFigures,
    bytes_per_label,
    make_compute_metrics,
    token_losses,
)

# Ids 0 and 1 are special and stand for no text, 2 for one byte, 3 for three (a Chinese character), 4 for six.
BYTE_COUNTS = [0, 0, 1, 3, 6]
V = len(BYTE_COUNTS)


def logits_for(probabilities: list[list[float]]) -> torch.Tensor:
    """Return logits (1, T, V) of a model that gives these probabilities."""
    return torch.tensor([probabilities], dtype=torch.float64).log().float()


def evaluate(logits: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Return the metrics as Trainer computes them: losses kept on the device, the rest in numpy."""
    kept = token_losses(logits, labels)
    compute_metrics = make_compute_metrics(BYTE_COUNTS)
    return compute_metrics(EvalPrediction(predictions=kept.numpy(), label_ids=labels.numpy()))


UNSURE = [1 / 8, 1 / 8, 5 / 16, 3 / 16, 1 / 4]
SURE_OF_3 = [1 / 16, 1 / 16, 1 / 8, 1 / 2, 1 / 4]
SURE_OF_1 = [1 / 16, 1 / 2, 1 / 8, 1 / 16, 1 / 4]


def test_figures_by_hand():
    labels = torch.tensor([[2, 3, 2, 4, 1]])
    logits = logits_for([SURE_OF_3, SURE_OF_3, UNSURE, SURE_OF_1, UNSURE])
    # Targets 3, 2, 4, 1 at 1/2, 1/8, 1/4, 1/2: 1 + 3 + 2 + 1 bits. The 3 and the 1 are guessed right.
    found = evaluate(logits, labels)
    assert found["perplexity"] == pytest.approx(2 ** (7 / 4), rel=1e-5)
    assert found["bits_per_byte"] == pytest.approx((1 + 3 + 2) / (3 + 1 + 6), rel=1e-5)
    assert found["accuracy"] == pytest.approx(2 / 4)
    assert found["loss"] == pytest.approx(math.log(2) * 7 / 4, rel=1e-5)
    assert set(found) == {"loss", "perplexity", "bits_per_byte", "accuracy"}


def test_special_tokens_have_no_bytes_but_count_as_tokens():
    labels = torch.tensor([[2, 3, 1]])
    with_stop = evaluate(logits_for([SURE_OF_3, SURE_OF_3, UNSURE]), labels)
    without = evaluate(logits_for([SURE_OF_3, SURE_OF_3, UNSURE])[:, :2], labels[:, :2])
    assert with_stop["bits_per_byte"] == without["bits_per_byte"] == pytest.approx(1 / 3, rel=1e-5)
    assert without["perplexity"] == pytest.approx(2, rel=1e-5)
    assert with_stop["perplexity"] == pytest.approx(2 ** ((1 + 4) / 2), rel=1e-5)
    assert with_stop["accuracy"] == 0.5


@pytest.mark.parametrize("ignored", [1, 2, 3])
def test_ignored_labels_count_nowhere(ignored):
    bits = {1: 1, 2: 3, 3: 2}  # of the targets 3, 2, 4 as above
    sizes = {1: 3, 2: 1, 3: 6}
    labels = torch.tensor([[2, 3, 2, 4]])
    labels[0, ignored] = -100
    found = evaluate(logits_for([SURE_OF_3, SURE_OF_3, UNSURE, UNSURE]), labels)
    rest = [position for position in bits if position != ignored]
    assert found["perplexity"] == pytest.approx(2 ** (sum(bits[i] for i in rest) / 2), rel=1e-5)
    assert found["bits_per_byte"] == pytest.approx(sum(bits[i] for i in rest) / sum(sizes[i] for i in rest), rel=1e-5)


def test_batches_that_trainer_padded_count_their_tokens_only():
    """Trainer pads gathered batches of other lengths with -100, predictions and labels alike."""
    labels = torch.tensor([[2, 3, 2, 4]])
    kept = token_losses(logits_for([SURE_OF_3, SURE_OF_3, UNSURE, UNSURE]), labels).numpy()
    compute_metrics = make_compute_metrics(BYTE_COUNTS)
    expected = compute_metrics(EvalPrediction(predictions=kept, label_ids=labels.numpy()))
    padded = EvalPrediction(
        predictions=np.pad(kept, ((0, 0), (0, 2), (0, 0)), constant_values=-100),
        label_ids=np.pad(labels.numpy(), ((0, 0), (0, 2)), constant_values=-100),
    )
    assert compute_metrics(padded) == expected


def test_many_rows_give_the_mean_over_tokens_not_over_rows():
    logits = torch.cat(
        [logits_for([SURE_OF_3, SURE_OF_3, UNSURE, UNSURE]), logits_for([SURE_OF_3, UNSURE, UNSURE, UNSURE])]
    )
    labels = torch.tensor([[2, 3, 2, 4], [2, 3, -100, -100]])
    found = evaluate(logits, labels)
    assert found["perplexity"] == pytest.approx(2 ** ((1 + 3 + 2 + 1) / 4), rel=1e-5)
    assert found["accuracy"] == pytest.approx(2 / 4)  # the first of each row


def test_trainer_shows_the_mean_over_tokens_not_over_batches(tiny_checkpoint, tmp_path):
    """Rows with 15, 3 and 1 labels, in batches of two and of one."""
    ids = torch.randint(1200, (3, 16), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[1, 4:], labels[2, 2:] = -100, -100
    rows = [{"input_ids": ids[i], "labels": labels[i]} for i in range(3)]
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint)
    with torch.no_grad():
        nats = model(input_ids=ids, labels=labels, num_items_in_batch=1).loss.item()
    args = TrainingArguments(str(tmp_path), per_device_eval_batch_size=2, use_cpu=True, report_to="none")
    compute_metrics = make_compute_metrics([1] * 1200)
    reduce: dict = {"compute_metrics": compute_metrics, "preprocess_logits_for_metrics": token_losses}
    trainer = Trainer(model, args, eval_dataset={"en": rows}, **reduce)
    found = trainer.evaluate()
    assert found["eval_en_loss"] == pytest.approx(nats / 19, rel=1e-5)
    assert found["eval_en_loss"] == pytest.approx(math.log(found["eval_en_perplexity"]))


def test_bytes_of_a_token_are_counted_over_all_sources():
    """Half of the tokens stand for one byte and half for three, one source after the other."""
    rows = [{"input_ids": [2] * 4}] * 500 + [{"input_ids": [3] * 4}] * 500
    assert bytes_per_label(Dataset.from_list(rows), BYTE_COUNTS) == pytest.approx(2)
    assert bytes_per_label(Dataset.from_list(rows[:3]), BYTE_COUNTS) == pytest.approx(1)
    assert bytes_per_label(rows[499:501], BYTE_COUNTS) == pytest.approx(2)  # a mixture
    repeated = RepeatedRows(Dataset.from_list(rows), 0.1)  # of which none is long enough to hold a passage twice
    assert bytes_per_label(repeated, BYTE_COUNTS) == pytest.approx(2)


def test_bytes_of_a_token_are_of_those_that_are_trained():
    rows = [{"input_ids": [3, 3, 2, 4], "labels": [-100, 3, -100, 4]}, {"input_ids": [4] * 4, "labels": [-100] * 4}]
    assert bytes_per_label(Dataset.from_list(rows), BYTE_COUNTS) == pytest.approx((3 + 6) / 2)
    assert bytes_per_label([], BYTE_COUNTS) == 1


def test_kept_losses_have_two_numbers_a_token():
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(2, 7, V, generator=generator), torch.randint(0, V, (2, 7), generator=generator)
    kept = token_losses(logits, labels)
    assert kept.shape == (2, 6, 2)
    expected = -torch.log_softmax(logits, -1)[:, :-1].gather(2, labels[:, 1:, None])[..., 0]
    torch.testing.assert_close(kept[..., 0], expected)
    assert torch.equal(kept[..., 1].bool(), logits[:, :-1].argmax(-1) == labels[:, 1:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kept_losses_are_float32(dtype):
    logits, labels = torch.zeros(1, 3, V, dtype=dtype), torch.tensor([[1, 2, 3]], dtype=torch.int32)
    kept = token_losses(logits, labels)
    assert kept.dtype == torch.float32
    assert kept[0, :, 0].tolist() == pytest.approx([math.log(V)] * 2, rel=1e-6)


def figures_of(nats, right, sizes):
    return TokenFigures().compute(nats=nats, right=right, bytes=sizes)


def test_hopeless_model_has_a_finite_perplexity():
    assert math.isfinite(figures_of([1e6], [0.0], [1.0])["perplexity"])


@pytest.mark.parametrize(
    ("nats", "sizes", "expected"),
    [
        ([0.0] * 4, [1] * 4, {"accuracy": 0.5}),
        ([math.log(2), math.log(8)] * 2, [1] * 4, {"loss": math.log(4), "perplexity": 4.0}),
        ([math.log(2), math.log(8), math.log(4), math.log(4)], [1, 3, 0, 0], {"bits_per_byte": 1.0}),
        ([math.log(2)] * 4, [0] * 4, {"bits_per_byte": 0.0}),
    ],
)
def test_each_figure_alone(nats, sizes, expected):
    found = figures_of(nats, [1.0, 0.0, 0.0, 1.0], sizes)
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_text_of_a_real_tokenizer_is_counted_in_its_bytes(tokenizer):
    """A model that gives every token 1/V needs log2(V) bits for each, over the bytes of the text."""
    from model_utils.tokenizer import token_byte_counts

    text = "Hello 你好，世界 🌍\n"
    ids = [tokenizer.eos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    labels = torch.tensor([ids])
    kept = token_losses(torch.zeros(1, len(ids), len(tokenizer)), labels)
    compute_metrics = make_compute_metrics(token_byte_counts(tokenizer))
    found = compute_metrics(EvalPrediction(predictions=kept.numpy(), label_ids=labels.numpy()))
    bits = (len(ids) - 2) * math.log2(len(tokenizer))
    assert found["bits_per_byte"] == pytest.approx(bits / len(text.encode()), rel=1e-5)
    assert found["perplexity"] == pytest.approx(len(tokenizer), rel=1e-4)


def test_metrics_need_no_network(monkeypatch):
    import socket

    def refuse(*_, **__):
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert figures_of([math.log(2)], [1.0], [1])["bits_per_byte"] == 1.0
