"""Bad steps: skipped and counted, five in a row go back to a checkpoint; what watchers of a run read."""

import json
import math
import re
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import TrainerState

import train
from errors import RunError
from train_utils.guard import MAX_RETURNS, Guard, Monitor
from train_utils.steps import fast_model


def break_losses(monkeypatch, steps: set[int]) -> None:
    """Let the loss of some steps of training be no number."""
    count, head_loss = [0], fast_model.head_loss

    def broken(hidden, *args):
        loss = head_loss(hidden, *args)
        count[0] += hidden.requires_grad
        return loss * math.nan if hidden.requires_grad and count[0] in steps else loss

    monkeypatch.setattr(fast_model, "head_loss", broken)


def unevaluated(options: list[str]) -> list[str]:
    given = dict(zip(options[::2], options[1::2], strict=True))
    del given["--eval_steps"], given["--eval_tokens"]
    return [word for pair in given.items() for word in pair] + ["--eval_strategy", "no"]


@pytest.mark.slow
def test_bad_steps_are_skipped_and_five_in_a_row_go_back(train_options, tmp_path, monkeypatch, capsys):
    bad = [2, 6, 7, 8, 9, 10]
    break_losses(monkeypatch, set(bad))
    assert train.main([*unevaluated(train_options), "--output_dir", str(tmp_path / "out")]) == 0
    record = yaml.safe_load((tmp_path / "out" / "run.yaml").read_text(encoding="utf-8"))
    assert (record["skipped_steps"], record["went_back"]) == (bad, [[10, 8]])
    words = "the run went back to the weights of step 8, and on with other text"
    assert f"step 10: 5 bad steps in a row; {words}" in capsys.readouterr().out
    report = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert (
        f"| skipped steps | 6 (steps 2, 6, 7, 8, 9, 10), whose loss or gradient was no number, or a spike; {words}"
        in (report.replace("at step 10 ", ""))
    )
    assert math.isfinite(record["training_loss"])
    weights = {step: checkpoint_weights(tmp_path / "out" / f"checkpoint-{step}") for step in (8, 12)}
    assert not torch.equal(weights[8], weights[12])
    assert weights[12].isfinite().all()
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert [line["step"] for line in lines if line.get("skipped")] == bad
    assert [line["step"] for line in lines if line["loss"] is None] == bad
    assert lines[0]["loss"] == pytest.approx(math.log(600), abs=0.1)
    assert lines[-1]["tokens_per_second"] > 0
    beat = json.loads((tmp_path / "out" / "heartbeat.json").read_text(encoding="utf-8"))
    assert (beat["step"], beat["of_steps"], beat["status"]) == (12, 12, "ended")


def checkpoint_weights(folder) -> torch.Tensor:
    return load_file(folder / "model.safetensors")["lm_head.weight"]


def test_without_a_checkpoint_five_bad_steps_end_the_run(train_options, tmp_path, monkeypatch):
    break_losses(monkeypatch, {3, 4, 5, 6, 7})
    options = [*unevaluated(train_options), "--save_strategy", "no", "--output_dir", str(tmp_path / "out")]
    del options[options.index("--save_steps") : options.index("--save_steps") + 2]
    with pytest.raises(RunError, match=r"step 7: 5 steps in a row .* \(the loss was finite until step 2\)"):
        train.main(options)


def step(guard: Guard, loss: float, gradient: float = 1.0, fp16: bool = False) -> bool:
    """Tell whether a step is skipped, and has no gradient then."""
    model = torch.nn.Linear(2, 2, bias=False)
    model.weight.grad = torch.full((2, 2), gradient)
    guard.parts = [torch.tensor(loss / 2), torch.tensor(loss / 2)]
    args = SimpleNamespace(world_size=1, fp16=fp16)
    guard.on_pre_optimizer_step(args, TrainerState(global_step=len(guard.losses)), None, model=model)
    assert (model.weight.grad is None) == guard.is_skipped
    return guard.is_skipped


def test_a_spike_stands_out_from_what_was_before():
    guard = Guard()
    assert not step(guard, 9.0)  # nothing is known yet
    for number in range(80):
        assert not step(guard, 3.0 + 0.01 * (-1) ** number)
    assert step(guard, 9.0)
    assert not step(guard, 3.2)
    assert not step(guard, 2.0)  # a fall is none
    assert step(guard, 3.0, gradient=math.inf)
    assert step(guard, math.nan)
    assert not step(guard, 3.0, gradient=math.inf, fp16=True)  # the scaler's business
    assert len(guard.skipped) == 3


def test_what_fails_again_and_again_has_diverged(tmp_path):
    guard = Guard()
    guard.in_a_row, guard.returns = 5, [(10, 8)] * MAX_RETURNS
    with pytest.raises(RunError, match="the training has diverged"):
        args = SimpleNamespace(output_dir=str(tmp_path), world_size=1, process_index=0)
        guard.on_step_end(args, TrainerState(global_step=20), None)


def test_lines_of_steps_that_are_done_again_go(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    monitor = Monitor(Guard(), 100)
    args, state = SimpleNamespace(output_dir=str(tmp_path)), TrainerState(global_step=2, is_world_process_zero=True)
    optimizer = SimpleNamespace(param_groups=[{"lr": 0.5}])
    monitor.on_train_begin(args, state, None)
    monitor.on_pre_optimizer_step(args, state, None, optimizer=optimizer)
    state.global_step = 3
    monitor.on_step_end(args, state, None)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert lines[-1]["learning_rate"] == 0.5
    assert re.fullmatch(r"training", json.loads((tmp_path / "heartbeat.json").read_text(encoding="utf-8"))["status"])
