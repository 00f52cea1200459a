"""Measures what the machine can do in a few seconds: the peak of its matrix products, memory and disk."""

import ctypes
import shutil
import sys
import time
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from model_utils.shapes import flops_per_token, model_config
from train_utils.device_options import DeviceOptions
from train_utils.steps.fast_model import make_fast

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class Machine:
    """What a plan needs to know of a machine; FLOP/s are of one process.

    `peak_flops` is of plain matrix products in the dtype in use; `shares` holds for two widths of a model what share of
    it real training steps reached, not compiled. `memory_bytes` is what a run may have, with the `held_bytes` that its
    process has already.
    """

    device: str
    dtype: str
    peak_flops: float
    shares: tuple[tuple[int, float], ...]
    memory_bytes: int
    disk_bytes: int
    held_bytes: int = 0

    def training_flops(self, width: int) -> float:
        """Return the FLOP/s of training a model of this width: the share grows with the logarithm of the width.

        >>> m = Machine("cpu", "bf16", 400e9, ((128, 0.2), (512, 0.4)), 0, 0)
        >>> round(m.training_flops(256) / 1e9), round(m.training_flops(64) / 1e9)
        (120, 80)
        """
        (low, low_share), (high, high_share) = self.shares
        place = torch.tensor(width / low).log() / torch.tensor(high / low).log()
        place = min(1.0, max(0.0, place.item()))
        return self.peak_flops * (low_share + (high_share - low_share) * place)


@cache
def measure_peak(device: str, dtype: str, seconds: float = 0.6) -> float:
    """Return the FLOP/s of square matrix products on a device in bf16, fp16 or fp32, the best of some sizes.

    Trials of a few milliseconds each, of which the quickest counts: what else runs here can only slow them.
    """
    best = 0.0
    for size in (1024, 2048) if device == "cpu" else (4096, 8192):
        generator = torch.Generator(device)  # its own: measuring must not move the run's random state
        a, b = (torch.randn(size, size, device=device, dtype=DTYPES[dtype], generator=generator) for _ in range(2))
        torch.mm(a, b)
        end = time.perf_counter() + seconds / 2
        while time.perf_counter() < end:
            synchronize(device)
            start = time.perf_counter()
            torch.mm(a, b)
            synchronize(device)
            best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best


def synchronize(device: str) -> None:
    """Wait until an accelerator has done what it was given; a CPU has."""
    if device != "cpu":
        torch.accelerator.synchronize()


def find_devices(options: DeviceOptions, device: str, dtype: str) -> DeviceOptions:
    """Return options of a plan for the devices of this machine: its GPUs, or its processor as one.

    The peak is measured, unless it was given; nothing here tells links and watts.
    """
    count, memory = 1, psutil.virtual_memory().total
    if device == "cuda":
        count, memory = torch.cuda.device_count(), torch.cuda.get_device_properties(0).total_memory
    is_given = "device_tflops" in getattr(options, "given", ())
    peak = options.device_tflops if is_given else measure_peak(device, dtype) / 1e12
    return replace(options, devices=f"{count}x{memory / 1e9:.1f}GB", device_tflops=peak)


def keep_freed_memory(device: str) -> None:
    """Let the allocator keep what a training step frees for the next step, for the rest of the process.

    A step frees as much as it takes, gigabytes that glibc would hand back to the system and get again a page at a time:
    a fifth of a step at 117 M parameters (benchmarks/LOG.md). Source: mallopt(3). No effect with another C library.
    """
    libc = ctypes.CDLL(None) if device == "cpu" and sys.platform == "linux" else None
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def free_bytes(device: str) -> int:
    """Return the memory that is free: of the accelerator, else what this machine has available."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    return psutil.virtual_memory().available


def held_bytes(device: str) -> int:
    """Return the memory that this process has already: torch, other libraries and the text; on a GPU nothing yet."""
    return 0 if device == "cuda" else psutil.Process().memory_info().rss


def disk_bytes(folder: Path) -> int:
    """Return the free disk where a folder is or will be."""
    place = folder.resolve()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def measure_machine(device: str, dtype: str, output_dir: Path) -> Machine:
    """Measure a machine for some seconds: matrix products, then real training steps at two widths."""
    held = held_bytes(device)  # before what follows, whose memory the training uses again
    memory = free_bytes(device) + held
    keep_freed_memory(device)
    peak = measure_peak(device, dtype)
    widths = (128, 512) if device == "cpu" else (512, 2048)
    shares = tuple((width, measure_training(device, dtype, width) / peak) for width in widths)
    return Machine(device, dtype, peak, shares, memory, disk_bytes(output_dir), held)


def measure_training(device: str, dtype: str, width: int, seconds: float = 1.0) -> float:
    """Return the FLOP/s of forward and backward passes of two layers of a width in a dtype, not compiled."""
    shape: dict[str, Any] = {**model_config(width), "num_hidden_layers": 2}
    config = AutoConfig.for_model(**shape, vocab_size=8 * width, pad_token_id=0)
    with torch.random.fork_rng(), torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).train()
        ids = torch.randint(config.vocab_size, (8, 256))
    make_fast(model)
    flops, best = ids.numel() * flops_per_token(model, 256), 0.0
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or not best:
        start = time.perf_counter()
        with torch.autocast(device, dtype=DTYPES[dtype], enabled=dtype != "fp32"):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        model.zero_grad()
        synchronize(device)
        best = max(best, flops / (time.perf_counter() - start))
    return best
