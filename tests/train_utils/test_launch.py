"""How many threads a script takes."""

import pytest
import torch

from train_utils import run as launch


@pytest.fixture
def host(monkeypatch, tmp_path):
    """A host with 64 cores, a container whose limit is in the file that is returned, and torch's threads, kept."""
    monkeypatch.setattr(launch.psutil, "cpu_count", lambda logical: 64)
    monkeypatch.setattr(launch.os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr(launch, "CPU_LIMIT", tmp_path / "cpu.max")
    for name in ("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID", "LOCAL_WORLD_SIZE", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    threads = [48]
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads[-1])
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    return tmp_path / "cpu.max", threads


@pytest.mark.parametrize(
    ("limit", "cores"),
    [("max 100000\n", 64), ("200000 100000\n", 2), ("350000 100000\n", 3), ("50000 100000\n", 1), (None, 64)],
)
def test_container_has_the_cores_that_it_may_use(host, limit, cores):
    if limit:
        host[0].write_text(limit)
    assert launch.count_cores() == cores


def test_plain_start_takes_no_more_threads_than_its_container_has(host, monkeypatch):
    file, threads = host
    launch.use_all_cores()
    assert threads[-1] == 48  # torch's own
    file.write_text("200000 100000")
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    launch.use_all_cores()
    assert threads[-1] == 48  # the user's
    monkeypatch.delenv("OMP_NUM_THREADS")
    launch.use_all_cores()
    assert threads[-1] == 2


def test_launched_processes_share_the_cores_of_the_container(host, monkeypatch):
    file, threads = host
    file.write_text("800000 100000")
    for name, value in (("TORCHELASTIC_RUN_ID", "1"), ("LOCAL_WORLD_SIZE", "2"), ("OMP_NUM_THREADS", "1")):
        monkeypatch.setenv(name, value)
    launch.use_all_cores()
    assert threads[-1] == 4
