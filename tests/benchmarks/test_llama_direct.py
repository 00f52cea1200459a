"""The benchmark of llama.cpp runs, and compares like with like."""

import re
import shutil

import pytest

pytest.importorskip("gguf")
pytest.importorskip("llama_cpp")

from benchmarks import llama_direct


def test_both_ways_are_timed(tiny_checkpoint, tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "ckpt")
    monkeypatch.setattr(llama_direct, "ROUNDS", 1)
    llama_direct.main([str(folder), "16"])
    found = re.fullmatch(
        r"16 tokens, \d+ threads, q8_0: engine ([\d,]+) tokens a second, llama.cpp directly ([\d,]+): \d+%\n",
        capsys.readouterr().out,
    )
    assert all(int(number.replace(",", "")) > 50 for number in found.groups())
