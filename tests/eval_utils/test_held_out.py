"""What score.py holds out of the built-in sources."""

from collections import Counter

import pytest

from data_utils.sources.builtin import dialogue_text
from eval_utils.held_out import read_held_out


@pytest.mark.slow
def test_no_dialogue_is_held_out_twice():
    held_out = read_held_out()
    counts = Counter(dialogue_text(row["messages"]) for row in held_out["dialogues"])
    assert {text for text, count in counts.items() if count > 1} == set()
    assert {row["language"] for row in held_out["documents"]} == {"en", "zh"}
