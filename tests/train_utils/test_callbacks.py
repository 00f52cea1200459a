"""What happens beside the steps: samples that must not cost too much."""

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, TrainerControl, TrainerState

from train_utils import stopwatch
from train_utils.callbacks import Samples
from train_utils.samples import continue_prompts
from train_utils.stopwatch import Stopwatch


def test_samples_use_one_thread_and_give_the_others_back(tiny_checkpoint, tokenizer, monkeypatch):
    model, used = AutoModelForCausalLM.from_pretrained(tiny_checkpoint), []
    generate = model.generate
    monkeypatch.setattr(model, "generate", lambda **given: used.append(torch.get_num_threads()) or generate(**given))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = continue_prompts(model, tokenizer, [("Hello", [5, 6]), ("你好", [7])], max_new_tokens=3)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert used == [1, 1]
    assert [shown for shown, _ in found] == ["Hello", "你好"]


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
