"""Bad inputs of every kind are read or named; benchmarks/faults_inputs.py tries a thousand of them."""

import os
from pathlib import Path

import pytest

from benchmarks.faults_inputs import try_input


@pytest.fixture(autouse=True)
def _here():
    before = Path.cwd()
    yield
    os.chdir(before)


@pytest.mark.parametrize(("kind", "count"), [("reader", 60), ("dialogues", 12), ("preferences", 8)])
def test_bad_files_are_read_or_named(tmp_path, kind, count):
    ends = [try_input(kind, number, tmp_path / "base") for number in range(count)]
    assert [end for end in ends if end[0] not in ("read", "named")] == []
    assert kind != "reader" or {end[0] for end in ends} == {"read", "named"}
