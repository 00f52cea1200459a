"""A way to train of one's own: rows with more columns, its own loss and figures, a callback, lines in the report."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from datasets import Dataset
from transformers import TrainerCallback

from data_utils.dialogue.format import stop_token_id
from model_utils.checkpoint import load_model, load_tokenizer
from train_utils.arguments import RunArguments
from train_utils.objectives import Objective
from train_utils.run import open_run
from train_utils.training import train_and_save


def collate(rows: list[dict]) -> dict:
    """Pairs: a batch whose labels are what the loss needs, the weight of a row beside its ids."""
    ids = torch.tensor(np.stack([row["input_ids"] for row in rows])).long()
    return {"input_ids": ids, "labels": {"ids": ids, "weight": torch.tensor([float(row["weight"]) for row in rows])}}


def weighted_loss(outputs, labels, num_items_in_batch=None) -> torch.Tensor:
    """Rows of weight 0 teach nothing."""
    logits, ids = outputs["logits"][:, :-1].transpose(1, 2), labels["ids"][:, 1:]
    return (F.cross_entropy(logits, ids, reduction="none").mean(1) * labels["weight"]).mean()


class Count(TrainerCallback):
    def __init__(self) -> None:
        self.steps = 0

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self.steps += 1


def train(checkpoint, folder, weight: float) -> tuple[Count, dict[str, torch.Tensor]]:
    """Train two steps on rows of one weight; return what was counted, and the weights."""
    tokenizer, model = load_tokenizer(str(checkpoint)), load_model(str(checkpoint))
    rows = Dataset.from_list([{"input_ids": [*range(n, n + 8)], "weight": weight} for n in range(8)])
    args = RunArguments(
        output_dir=str(folder), use_cpu=True, max_steps=2, per_device_train_batch_size=2, report_to="none",
        optim="adamw", torch_compile=False, bf16=False, logging_steps=1, eval_tokens=16, save_strategy="no",
        learning_rate=1e-3,
    )  # fmt: skip
    args.given = set()
    count = Count()
    objective = Objective(
        train_rows=rows,
        eval_rows={"en": rows},
        row_tokens=8,
        collate=collate,
        sample=lambda model: [("Hi", "you")],
        stop_token_ids=[stop_token_id(tokenizer)],
        speed_up=lambda model, compiled_rows: None,
        compute_loss=weighted_loss,
        compute_metrics=lambda found: {"margin": float(np.asarray(found.predictions).mean())},
        reduce_logits=lambda logits, labels: logits.float().amax(-1),
        is_language=False,
        callbacks=[count],
        assess=lambda model, tokenizer: ["## Score", "", "ten of ten"],
    )
    run = open_run("tune.py", args, (), data_version="1")
    assert train_and_save(run, model, tokenizer, objective) == 0
    return count, load_model(str(folder)).state_dict()


@pytest.mark.slow
@pytest.mark.parametrize(("weight", "learns"), [(1.0, True), (0.0, False)])
def test_new_way_to_train_is_a_new_objective(tiny_checkpoint, tmp_path, weight, learns):
    count, weights = train(tiny_checkpoint, tmp_path / "out", weight)
    before = load_model(str(tiny_checkpoint)).state_dict()
    assert count.steps == 2
    assert any(not torch.equal(before[name], weights[name]) for name in before) is learns
    metrics = yaml.safe_load((tmp_path / "out" / "run.yaml").read_text(encoding="utf-8"))["metrics"]
    assert {"eval_en_loss", "eval_en_margin"} <= metrics.keys()
    report = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "| step | part | loss | margin |" in report
    assert report.endswith("## Score\n\nten of ten")
    assert "bits per byte" not in report
