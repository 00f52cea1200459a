"""The memory of a fine-tuning is said before its base is loaded; what can't fit is refused with what would."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from errors import InputError
from model_utils.shapes import count_parameters
from train_utils.adapters import add_adapters
from train_utils.plan import memory
from train_utils.plan.devices import measure_model

ADAPT = partial(add_adapters, rank=4, alpha=8, targets="all-linear")


@pytest.fixture
def told(tiny_checkpoint, monkeypatch):
    """Returns what is said of the tiny checkpoint in so much free memory."""

    def tell(free: float, adapt=None, rows: int = 8) -> str:
        lines = []
        monkeypatch.setattr(memory, "free_bytes", lambda device: free)
        monkeypatch.setattr(memory, "held_bytes", lambda device: memory.PROGRAM_BYTES)
        args = SimpleNamespace(
            per_device_train_batch_size=rows, given=["per_device_train_batch_size"], minutes=None, optim="adamw",
            activation_checkpointing=None, bf16=False, device=torch.device("cpu"),
        )  # fmt: skip
        run = SimpleNamespace(args=args, is_first=True, say=lines.append)
        memory.tell_memory(run, str(tiny_checkpoint), 256, adapt=adapt, in_4bit=False)
        return lines[0]

    return tell


def test_all_weights_take_four_floats_each(tiny_checkpoint):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tiny_checkpoint))
    sizes, n = measure_model(model, 256, muon=False, compute_bytes=4), count_parameters(model)
    parts = memory.sum_parts(sizes, 1, None, 0)
    assert (parts["weights"], parts["gradients"], parts["optimizer"]) == (4 * n, 4 * n, 8 * n)
    adapted = memory.sum_parts(sizes, 1, 1000, 0)
    assert (adapted["weights"], adapted["gradients"], adapted["optimizer"]) == (4 * (n + 1000), 4000, 8000)
    held = memory.sum_parts(sizes, 1, 1000, n // 2)
    assert held["weights"] == pytest.approx(4 * (n / 2 + 1000) + 0.53 * n / 2, rel=1e-6)
    assert parts["activations"] == adapted["activations"] > 0


def test_it_is_said_with_what_is_trained(told):
    assert told(1e9).startswith("memory: 0.24 M parameters; at the peak about 1.2 GB (")
    assert "0.24 M parameters, of which 0.0087 M are trained; at the peak" in told(1e9, ADAPT)


def test_what_does_not_fit_is_refused_with_what_would(told):
    with pytest.raises(
        InputError, match=r"training it takes about 1.2 GB, and 1.1 GB are free; what would fit: "
    ) as error:
        told(3e7)
    assert "--per_device_train_batch_size 1 (" in str(error.value)
    assert "--lora true (" not in str(error.value)  # its activations are as large
    with pytest.raises(InputError, match="choose a smaller base"):
        told(1e5)
