"""Encoders and decoders in training: packed pairs are what they are alone; no split of a batch changes gradients."""

import gc

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    BertConfig,
    EncoderDecoderConfig,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
)

from data_utils.rows.encoder_decoder import collate_halves, join_sides, pad_row
from eval_utils.metrics import token_losses
from model_utils.shapes import flops_per_token
from train_utils.row_formats import PairFormat
from train_utils.steps.encoder_decoder import join_halves, keeps_pairs_apart, part_mask
from train_utils.steps.fast_model import logits_loss

V, D = 60, 32
HALF = {
    "hidden_size": D, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "query_pre_attn_scalar": 16, "max_position_embeddings": 64,
    "sliding_window": 64, "layer_types": ["full_attention"] * 2, "vocab_size": V, "bos_token_id": 1, "pad_token_id": 0,
}  # fmt: skip
T5 = {"d_model": D, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 2, "dropout_rate": 0.0, "vocab_size": V}
BERT = {"hidden_size": D, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48, "vocab_size": V}
BERT |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
START = {"decoder_start_token_id": 1, "pad_token_id": 0}
KINDS = ("t5", "umt5", "bart", "encoder-decoder", "t5gemma")


@pytest.fixture(scope="module", autouse=True)
def loaded_once():
    """Trainer collects garbage at its end, among all that other tests have loaded: seconds each time."""
    gc.freeze()
    yield
    gc.unfreeze()


def build(kind: str) -> PreTrainedModel:
    if kind == "t5gemma":
        config = AutoConfig.for_model(kind, encoder=dict(HALF), decoder=dict(HALF), vocab_size=V)
    elif kind == "encoder-decoder":
        config = EncoderDecoderConfig.from_encoder_decoder_configs(BertConfig(**BERT), BertConfig(**BERT), **START)
    elif kind == "bart":
        layers = {f"{half}_{name}": number for half in ("encoder", "decoder")
                  for name, number in (("layers", 1), ("attention_heads", 2), ("ffn_dim", 48))}  # fmt: skip
        config = AutoConfig.for_model(kind, d_model=D, vocab_size=V, dropout=0.0, max_position_embeddings=64, **layers)
    else:
        config = AutoConfig.for_model(kind, **T5, **START)
    torch.manual_seed(0)
    model = AutoModelForSeq2SeqLM.from_config(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


def make_pairs(count: int, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [(rng.integers(2, V, rng.integers(2, 9)), rng.integers(2, V, rng.integers(1, 7))) for _ in range(count)]


@pytest.mark.parametrize(("kind", "apart"), list(zip(KINDS, (True, True, False, False, True), strict=True)))
def test_packed_pairs_are_what_they_are_alone(kind, apart):
    model = build(kind)
    assert keeps_pairs_apart(model) is apart
    pairs = make_pairs(3) if apart else make_pairs(1)
    batch = collate_halves([pad_row(join_sides(pairs, 1), (40, 30))])
    expected = [
        model.eval()(
            input_ids=torch.tensor(source)[None],
            decoder_input_ids=torch.tensor([1, *target[:-1]])[None],
            decoder_attention_mask=torch.ones(1, len(target)),
            use_cache=False,
        ).logits[0]
        for source, target in pairs
    ]
    join_halves(model)
    labels = batch.pop("labels")
    found = model(**batch).logits
    total = sum(len(target) for _, target in pairs)
    torch.testing.assert_close(found[0, :total], torch.cat(expected), atol=2e-4, rtol=1e-3)
    losses = token_losses(found, labels)[..., 0][labels[:, 1:] != -100]
    nats = [-x.log_softmax(-1)[range(len(t)), t] for x, (_, t) in zip(expected, pairs, strict=True)]
    torch.testing.assert_close(losses, torch.cat(nats), atol=2e-4, rtol=1e-3)
    assert model(**batch, labels=labels).loss.item() == pytest.approx(torch.cat(nats).mean().item(), abs=1e-4)
    assert model.train()(**batch, labels=labels).loss.item() == pytest.approx(torch.cat(nats).mean().item(), abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_do_not_depend_on_accumulation(kind, tmp_path):
    """A step of SGD, whose size is that of the gradient: four rows at once, and one by one."""
    rows = Dataset.from_list([join_sides([pair], 1) for pair in make_pairs(4)]).with_format("numpy")
    moved = []
    for size in (4, 1):
        model = build(kind)
        join_halves(model)
        args = TrainingArguments(
            str(tmp_path), per_device_train_batch_size=size, gradient_accumulation_steps=4 // size, max_steps=1,
            optim="sgd", learning_rate=1.0, max_grad_norm=0, report_to="none", save_strategy="no", use_cpu=True,
            lr_scheduler_type="constant", remove_unused_columns=False, disable_tqdm=True,
        )  # fmt: skip
        before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        Trainer(model=model, args=args, train_dataset=rows, data_collator=collate_halves).train()
        moved.append({name: weight.detach() - before[name] for name, weight in model.named_parameters()})
    assert max(change.abs().max() for change in moved[0].values()) > 1e-3
    for name in moved[0]:
        torch.testing.assert_close(moved[0][name], moved[1][name], atol=1e-5, rtol=1e-3)


def test_a_mask_parts_pairs_and_what_is_to_come():
    seen = part_mask(torch.tensor([[1, 1, 2, 0]]), torch.tensor([[1, 2, 2, 0]]))[0, 0] == 0
    assert seen.int().tolist() == [[1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]]
    causal = part_mask(*[torch.tensor([[1, 1, 2, 2]])] * 2, is_causal=True)[0, 0] == 0
    assert causal.int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]


def test_compiled_steps_learn_the_same(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function: function)  # what is compiled, not how
    model, plain = build("t5gemma"), build("t5gemma")
    batch = collate_halves([pad_row(join_sides(make_pairs(3), 1), (40, 30))] * 2)
    losses = []
    for each, rows in ((model, 2), (plain, None)):
        join_halves(each, rows)
        losses.append(each.train()(**batch).loss)
        losses[-1].backward()
    torch.testing.assert_close(*losses)
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_flops_are_those_of_each_half():
    """A weight sees half of the tokens; of half a row on half a row 12 / 4 for the encoder and the view of it."""
    model = build("t5gemma")
    multiplied = sum(p.numel() for p in model.parameters()) - V * D  # the decoder's table is its head
    assert flops_per_token(model, 32) == 3 * multiplied + (3 + 1.5 + 3) * 2 * 32 * 32


def test_the_loss_counts_all_labels_of_a_step():
    logits, labels = torch.randn(2, 3, V), torch.tensor([[1, 2, -100], [3, -100, -100]])
    whole = logits_loss(logits, labels, None)
    parts = [logits_loss(logits[i : i + 1], labels[i : i + 1], torch.tensor(3)) for i in range(2)]
    torch.testing.assert_close(parts[0] + parts[1], whole)


def test_replayed_text_fits_the_rows_of_dialogues(tokenizer):
    form = PairFormat(build("t5gemma"), tokenizer, "prefix")
    blocks = Dataset.from_dict({"input_ids": [[*range(2, 42)]] * 2})
    beside = Dataset.from_dict({"input_ids": [[1] * 30], "decoder_input_ids": [[1] * 10]})
    rows = form.hide_once(blocks, beside)
    assert [(len(row["input_ids"]), len(row["decoder_input_ids"])) for row in rows] == [(30, 10)] * 2
    assert len(form.hide_once(blocks)[0]["decoder_input_ids"]) == 20
