"""What happens beside the steps: samples that must not cost too much."""

from types import SimpleNamespace

import pytest
import torch
from transformers import TrainerControl, TrainerState

from train_utils import stopwatch
from train_utils.callbacks import Samples
from train_utils.stopwatch import Stopwatch


@pytest.mark.parametrize(
    ("cost", "shown"),
    [(0.5, [0, 25, 50, 75, 100]), (3, [0, 100])],
    ids=["cheap", "a slow machine"],
)
def test_samples_that_cost_too_much_are_shown_first_and_last_alone(monkeypatch, cost, shown):
    now, found = [60.0], []
    monkeypatch.setattr(stopwatch, "process_seconds", lambda: now[0])
    state, model = TrainerState(is_world_process_zero=True, max_steps=100), torch.nn.Linear(1, 1)

    def generate(_):
        now[0] += cost
        found.append(state.global_step)
        return [("Hello", str(state.global_step))]

    watch = Stopwatch()
    samples = Samples(generate, "eval_zh", watch)
    for step in range(0, 101, 25):
        state.global_step = step
        now[0] += 30
        watch.lap("steps")
        for name in ("en", "zh"):  # after the last part alone
            metrics = {f"eval_{name}_loss": 1.0}
            samples.on_evaluate(SimpleNamespace(seed=0), state, TrainerControl(), metrics=metrics, model=model)
    assert found == shown
    assert samples.last == [("Hello", "100")]
    assert watch.seconds["samples"] == pytest.approx(cost * len(shown))
