"""The benchmark of decoding runs, and says whether the tokens are the reference's."""

import pytest

from benchmarks import decode


@pytest.mark.slow
def test_table_of_a_checkpoint(tiny_checkpoint, capfd):
    options = [str(tiny_checkpoint), "--engines", "auto", "--rounds", "1", "--tokens", "8"]
    assert decode.main(options) == 0
    output = capfd.readouterr().out
    names = [line.split(" | ")[0].strip("| ") for line in output.splitlines() if line.startswith("| ")]
    assert [name for name in names if name not in ("engine", "---")] == [
        "generate", "auto", "auto",
    ]  # fmt: skip
    assert output.count("| 8 of 8 |") == 2
    assert output.count(" ms |") == 2
