"""The load test of benchmarks/serve.py: four clients for a second lose nothing, or 32 for a minute."""

import os
import re

import pytest

from benchmarks import serve


@pytest.mark.parametrize(
    ("clients", "seconds"),
    [
        (4, 1),
        pytest.param(
            32, 60, marks=pytest.mark.skipif(not os.environ.get("SLOW_TESTS"), reason="a minute: SLOW_TESTS=1 runs it")
        ),
    ],
)
def test_clients_at_once_lose_nothing(tiny_checkpoint, capsys, clients, seconds):
    """In the long form the server's memory is judged too: exit code 1 where it grows."""
    pytest.importorskip("starlette")
    pytest.importorskip("uvicorn")
    options = ["--clients", str(clients), "--seconds", str(seconds), "--slots", "4"]
    code = serve.main([str(tiny_checkpoint), *options])
    output = capsys.readouterr().out
    assert " 0 lost or broken" in output, output
    assert "stopped with code 0" in output
    assert int(re.search(r"(\d+) replies whole", output)[1]) >= clients
    assert code == 0, output
