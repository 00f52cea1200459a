"""The short form keeps to its share of a run's time, and leaves the model as it was."""

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from eval_utils import short_form, topic
from eval_utils.short_form import assess_briefly
from eval_utils.topic import TopicIndex


@pytest.fixture(scope="module")
def chat(tiny_checkpoint):
    return AutoModelForCausalLM.from_pretrained(tiny_checkpoint), AutoTokenizer.from_pretrained(tiny_checkpoint)


@pytest.fixture
def clock(monkeypatch):
    """A clock of its own, which each text that is scored moves by a hundredth of a second."""
    now = [0.0]
    monkeypatch.setattr(short_form.time, "perf_counter", lambda: now[0])
    measure, ask = short_form.measure_pairs, short_form.ask_model

    def measure_slowly(reader, pairs):
        now[0] += 0.01 * 2 * len(pairs)
        return measure(reader, pairs)

    def ask_slowly(model, tokenizer, asked):
        now[0] += 0.5
        return ask(model, tokenizer, asked)

    monkeypatch.setattr(short_form, "measure_pairs", measure_slowly)
    monkeypatch.setattr(short_form, "ask_model", ask_slowly)
    monkeypatch.setattr(topic, "load_index", lambda: TopicIndex([(["a"], ["b"])]))
    return now


@pytest.mark.parametrize("seconds", [60, 150, 300, 1000, pytest.param(3000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [None, "Momo"])
def test_it_keeps_to_its_share(chat, clock, seconds, name):
    chat[0].train()
    lines = assess_briefly(*chat, elapsed=lambda: seconds, assistant_name=name)
    assert clock[0] < 0.03 * seconds
    assert chat[0].training
    if seconds >= 1000:
        assert any(line.startswith("- minimal pairs, zh: ") for line in lines)
        assert any("returns a greeting" in line for line in lines) == (name is not None)


def test_no_time_no_figures(chat, clock):
    assert assess_briefly(*chat, elapsed=lambda: 20) == []
    assert clock[0] == 0


@pytest.mark.slow
def test_more_time_more_pairs(chat, clock):
    """The interval grows narrower."""
    widths = []
    for seconds in (400, 4000):
        line = next(
            x for x in assess_briefly(*chat, elapsed=lambda s=seconds: s) if x.startswith("- minimal pairs, en")
        )
        low, high = line.split("[")[1].split("]")[0].replace("%", "").split(", ")
        widths.append(float(high) - float(low))
    assert widths[1] < widths[0] / 1.5
