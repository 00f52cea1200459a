"""The page and the picture that a run leaves, and the words for what is weak."""

import struct

import pytest

from train_utils.callbacks import describe_metrics
from train_utils.report import find_weakness, one_line, plot_loss, write_report


def evaluation(step: int, part: str, *values: float) -> dict:
    """Return an entry of Trainer's log with loss, perplexity, bits per byte and accuracy."""
    names = ("loss", "perplexity", "bits_per_byte", "accuracy")
    return {**{f"eval_{part}_{name}": value for name, value in zip(names, values, strict=True)}, "step": step}


HISTORY = [
    {"loss": 5.0, "learning_rate": 1e-3, "step": 10},
    evaluation(10, "en", 4.5, 90.0, 2.5, 0.2),
    evaluation(10, "zh", 4.9, 134.0, 1.9, 0.25),
    {"loss": 4.0, "learning_rate": 5e-4, "step": 20},
    evaluation(20, "en", 4.0, 54.6, 2.2, 0.3),
    evaluation(20, "zh", 4.96, 142.6, 1.95, 0.24),
    {"train_runtime": 12.0, "train_loss": 4.5, "step": 20},
]
EVALUATIONS = [entry for entry in HISTORY if "eval_en_loss" in entry or "eval_zh_loss" in entry]


def figures(*losses: float, part: str = "en", bits: float = 2.0, accuracy: float = 0.3) -> list:
    others = {"perplexity": 10.0, "bits per byte": bits, "accuracy": accuracy}
    return [(step, part, {"loss": loss, **others}) for step, loss in enumerate(losses)]


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ((3.0, 2.5, 2.8), "en: the held-out loss rose from 2.500 to 2.800: fewer steps would lower it"),
        ((3.0, 2.5), "en: the held-out loss still fell at the end: more steps would help"),
        ((3.0, 2.5, 2.49), None),
        ((3.0,), None),
    ],
)
def test_course_of_the_loss_is_judged(losses, words):
    found = [line for line in find_weakness(figures(*losses), []) if "held-out loss" in line]
    assert found == ([words] if words else [])


def test_weakness_names_accuracy_and_the_weakest_language():
    found = find_weakness(figures(3.0, bits=2.2, accuracy=0.314) + figures(3.0, part="zh", bits=1.9, accuracy=0.25), [])
    assert found == [
        "en: the next token is guessed right 31% of the time",
        "zh: the next token is guessed right 25% of the time",
        "bits per byte: best in zh, worst in en",
    ]


def test_one_language_is_not_ranked():
    assert not [line for line in find_weakness(figures(3.0), []) if "best in" in line]


@pytest.mark.parametrize(
    ("text", "expected"), [("很好，很好，很好，很好，很好。", ["a sample repeats itself"]), ("很好。", [])]
)
def test_looping_samples_are_named(text, expected):
    assert find_weakness([], [("你好", "你好！"), ("怎么样？", text)]) == expected


def test_report_holds_facts_figures_samples_and_weakness(tmp_path):
    path = tmp_path / "report.md"
    facts = {"model": "qwen3, 7.6 M parameters", "time": "12 s", "nothing": ""}
    samples = [("你好", "你好！\n我是*小明*"), ("Hi", "a | b")]
    more = ["## Score", "", "ten of ten"]
    write_report(path, "A run of train.py", facts, evaluations=EVALUATIONS, samples=samples, more=more)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "# A run of train.py"
    assert "| model | qwen3, 7.6 M parameters |" in lines
    assert "![loss over steps](loss.png)" in lines
    header = lines.index("| step | part | loss | perplexity | bits per byte | accuracy |")
    assert lines[header + 1 : header + 7] == [
        "| --- | --- | --- | --- | --- | --- |",
        "| 10 | en | 4.500 | 90.000 | 2.500 | 0.200 |",
        "| 10 | zh | 4.900 | 134.000 | 1.900 | 0.250 |",
        "| 20 | en | 4.000 | 54.600 | 2.200 | 0.300 |",
        "| 20 | zh | 4.960 | 142.600 | 1.950 | 0.240 |",
        "",
    ]
    assert lines[-3:] == more
    assert not any("nothing" in line for line in lines)
    assert lines[header - 1] == ""  # a table needs a blank line before it
    assert r"- **你好** 你好！ 我是\*小明\*" in lines
    assert r"- **Hi** a \| b" in lines
    assert "- en: the held-out loss still fell at the end: more steps would help" in lines
    assert "- zh: the held-out loss rose from 4.900 to 4.960: fewer steps would lower it" in lines


def test_report_of_another_way_to_train_has_its_own_figures(tmp_path):
    """The loss stands first; a figure that no list names is shown, while it trains and in the report."""
    entry = {"eval_en_runtime": 1.0, "eval_en_margin": 0.25, "eval_en_loss": 0.6, "step": 5, "epoch": 1.0}
    write_report(tmp_path / "report.md", "A run", {}, evaluations=[entry], samples=[])
    lines = (tmp_path / "report.md").read_text(encoding="utf-8").splitlines()
    header = lines.index("| step | part | loss | margin |")
    assert lines[header + 1 : header + 3] == ["| --- | --- | --- | --- |", "| 5 | en | 0.600 | 0.250 |"]
    assert describe_metrics(entry) == "held-out en: loss 0.600, margin 0.250"


def test_report_without_evaluations_is_still_a_page(tmp_path):
    write_report(tmp_path / "report.md", "A run", {}, evaluations=[], samples=[])
    assert "## What is weak" in (tmp_path / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a\n b\t c", "a b c"), ("[x](y)", r"\[x\](y)"), ("<b> `c` _d_", r"\<b\> \`c\` \_d\_"), ("你好\n", "你好")],
)
def test_one_line_is_safe_in_markdown(text, expected):
    assert one_line(text) == expected


@pytest.mark.parametrize("history", [HISTORY, HISTORY[:1], [], [{"eval_loss": 3.0, "step": 5}]])
def test_picture_is_a_png_of_its_size(history, tmp_path):
    plot_loss(history, tmp_path / "loss.png")
    data = (tmp_path / "loss.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", data[16:24]) == (960, 540)
    assert data.endswith(b"IEND\xaeB`\x82")


def test_picture_shows_each_curve(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "matplotlib.axes.Axes.plot",
        lambda self, *xy, label, **_: drawn.append((label, [list(v) for v in xy])),
        raising=True,
    )
    monkeypatch.setattr("matplotlib.axes.Axes.legend", lambda self: None)
    plot_loss(HISTORY, tmp_path / "loss.png")
    assert dict(drawn) == {
        "training": [[10, 20], [5.0, 4.0]],
        "held-out en": [[10, 20], [4.5, 4.0]],
        "held-out zh": [[10, 20], [4.9, 4.96]],
    }


def test_pictures_of_preferences_have_panels_of_their_own(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr("matplotlib.axes.Axes.set", lambda self, **names: shown.append(names["ylabel"]))
    figures = {"loss": 0.7, "reward_margin": 0.1, "preference_accuracy": 0.5, "chosen_nats": 2.0, "rejected_nats": 3.0}
    plot_loss([{**{f"eval_en_{name}": value for name, value in figures.items()}, "step": 4}], tmp_path / "loss.png")
    assert shown == ["loss (nats)", "reward margin", "preference accuracy", "nats a token of replies"]
