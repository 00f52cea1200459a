"""The load test of benchmarks/serve.py in its short form: eight clients for three seconds lose nothing."""

import re

import pytest

from benchmarks import serve


def test_clients_at_once_lose_nothing(tiny_checkpoint, capsys):
    pytest.importorskip("starlette")
    pytest.importorskip("uvicorn")
    code = serve.main([str(tiny_checkpoint), "--clients", "8", "--seconds", "3", "--slots", "4"])
    output = capsys.readouterr().out
    assert " 0 lost or broken" in output, output
    assert "stopped with code 0" in output
    assert int(re.search(r"(\d+) replies whole", output)[1]) >= 8
    assert code == 0, output
