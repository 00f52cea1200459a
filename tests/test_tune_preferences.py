"""tune_preferences.py as a user runs it: own pairs and the model's, full and LoRA, resumed, and with bad input."""

import json
import re
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import tune_preferences
from errors import InputError
from eval_utils import asking
from train_utils import own_replies, preference_data, reply_report, rewarded

WORDS = ["tea", "rain", "boat", "door", "茶", "雨", "船", "门"]


@pytest.fixture(scope="module")
def pair_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    rows = [
        {"prompt": f"{word} {n}?", "chosen": f"yes, {word}" if word.isascii() else f"好，{word}", "rejected": "no " * 6}
        for word in WORDS
        for n in range(6)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture(scope="module", autouse=True)
def short_replies_to_few_questions():
    """Most of a run here is replies of the tiny model, which never stops by itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reply_report, "QUESTIONS", 1)
        for module in (asking, own_replies):
            patch.setattr(module, "MAX_TOKENS", 24)
        yield


@pytest.fixture(scope="module")
def options(tiny_checkpoint) -> list[str]:
    return [
        "--base", str(tiny_checkpoint), "--row_tokens", "160", "--max_steps", "8", "--per_device_train_batch_size", "2",
        "--eval_fraction", "0.2", "--logging_steps", "4", "--eval_steps", "4", "--save_steps", "4", "--warmup_steps",
        "1", "--report_to", "none", "--bf16", "false", "--torch_compile", "false", "--use_cpu", "true",
        "--learning_rate", "1e-3", "--max_fall", "9",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def unevaluated(options) -> list[str]:
    """Options of a run that is not evaluated: four fifths of its time here."""
    at = options.index("--eval_steps")
    return [*options[:at], *options[at + 2 :], "--eval_strategy", "no", "--eval_on_start", "false"]


@pytest.fixture(scope="module")
def tuned(options, pair_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned") / "ckpt_tuned"
    assert tune_preferences.main([*options, "--preferences", str(pair_file), "--output_dir", str(folder)]) == 0
    return folder


def evaluations(folder, name: str, step: int = 8) -> list[float]:
    log = json.loads((folder / f"checkpoint-{step}" / "trainer_state.json").read_text())["log_history"]
    return [entry[name] for entry in log if name in entry]


def test_what_is_chosen_is_preferred_on_held_out_prompts(tuned):
    AutoModelForCausalLM.from_pretrained(tuned)
    for part in ("en", "zh", "training"):
        margins = evaluations(tuned, f"eval_{part}_reward_margin")
        assert margins[0] == pytest.approx(0, abs=1e-4)  # it begins as the reference
        assert margins[-1] > margins[1] > 0.1
        assert evaluations(tuned, f"eval_{part}_preference_accuracy")[-1] == 1
        assert (
            evaluations(tuned, f"eval_{part}_rejected_nats")[-1] > evaluations(tuned, f"eval_{part}_rejected_nats")[0]
        )
    held_out, questions, side_by_side = (tuned / "report.md").read_text().split("\n## ")[-3:]
    nats = float(re.search(r"KL of the base to this model: (-?[\d.]+) nats a reply, by \d+ replies", held_out)[1])
    assert nats > 0.1  # every weight has moved
    assert "\n| on the topic | " in held_out
    assert "\n| returns a greeting | " in questions
    assert 0 < side_by_side.count("\n| ") - 2 <= 10
    assert any(f"\n| {word} " in side_by_side for word in WORDS)


def test_a_run_that_makes_replies_dearer_goes_back(options, tiny_checkpoint, pair_file, tmp_path, capsys):
    given = [{"1e-3": "0.3", "9": "0.02"}.get(word, word) for word in options]
    assert tune_preferences.main([*given, "--preferences", str(pair_file), "--output_dir", str(tmp_path / "o")]) == 0
    said = capsys.readouterr().out
    assert "went back to the weights of step 0" in said
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny_checkpoint, tmp_path / "o"))
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    figures = yaml.safe_load((tmp_path / "o" / "run.yaml").read_text())["metrics"]
    assert figures["eval_en_reward_margin"] == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("weights", ["full", "lora"])
def test_resumes_bit_for_bit(options, unevaluated, pair_file, tuned, tmp_path, weights):
    given = [*(options if weights == "full" else [*unevaluated, "--lora", "true"]), "--preferences", str(pair_file)]
    whole, again = tuned if weights == "full" else tmp_path / "whole", tmp_path / "again"
    if weights == "lora":
        assert tune_preferences.main([*given, "--output_dir", str(whole)]) == 0
        assert (whole / "adapter" / "adapter_model.safetensors").exists()
    shutil.copytree(whole, again)
    shutil.rmtree(again / "checkpoint-8")
    (again / "model.safetensors").unlink()
    record = yaml.safe_load((again / "run.yaml").read_text())
    (again / "run.yaml").write_text(yaml.safe_dump({**record, "status": "training"}))
    assert tune_preferences.main([*given, "--output_dir", str(again), "--resume_from_checkpoint", "true"]) == 0
    expected, found = load_file(whole / "model.safetensors"), load_file(again / "model.safetensors")
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--preferences", "PAIRS", "--prompts", "9"], "--prompts has no effect with --preferences"),
        (["--beta", "0.2"], "--beta has no effect without --preferences"),
        (["--lora_rank", "4"], "--lora_rank has no effect without --lora true"),
        (["--preferences", "PAIRS", "--beta", "-1"], "--beta -1.0 is outside 0 to 100"),
        (["--preferences", "BAD"], "bad.jsonl:2: 'rejected' is missing or empty"),
    ],
)
def test_bad_input_is_one_line(options, pair_file, tmp_path, given, message):
    (tmp_path / "bad.jsonl").write_text(pair_file.read_text().splitlines()[0] + '\n{"prompt": "a", "chosen": "b"}\n')
    paths = {"PAIRS": str(pair_file), "BAD": str(tmp_path / "bad.jsonl")}
    with pytest.raises(InputError, match=message):
        tune_preferences.main(
            [*options, *(paths.get(word, word) for word in given), "--output_dir", str(tmp_path / "o")]
        )


REWARD = "def shorter(prompt, reply):\n    return -len(reply)\n\ndef broken(prompt, reply):\n    return 1 / 0\n"


@pytest.fixture(scope="module")
def drawn(unevaluated, tmp_path_factory) -> list[str]:
    """Options of a run of four rounds on short prompts, of which 16 are trained on."""
    folder = tmp_path_factory.mktemp("drawn")
    (folder / "my.py").write_text(REWARD)
    short = [json.dumps({"prompt": f"{word} {n}?", "response": word}) for word in WORDS for n in range(6)]
    (folder / "short.jsonl").write_text("\n".join(short))
    given = dict(zip(unevaluated[::2], unevaluated[1::2], strict=True))
    given |= {"--dialogues": f"{folder}/short.jsonl", "--prompts": "16", "--samples": "3", "--row_tokens": "250"}
    given |= {"--max_steps": "4", "--save_steps": "2", "--warmup_steps": "0", "--per_device_train_batch_size": "4"}
    return [word for pair in given.items() for word in pair]


@pytest.fixture
def rounds_of_four(monkeypatch):
    monkeypatch.setattr(rewarded, "ROUND_PROMPTS", 4)


def test_a_reward_is_learned_in_rounds_and_a_resumed_run_keeps_its_replies(drawn, rounds_of_four, tmp_path, capsys):
    given = [*drawn, "--reward", f"{drawn[drawn.index('--dialogues') + 1][:-11]}my.py:shorter"]
    whole, again = tmp_path / "whole", tmp_path / "again"
    assert tune_preferences.main([*given, "--output_dir", str(whole)]) == 0
    output = capsys.readouterr().out
    assert "prompts: 16 to train on, " in output
    assert output.count("\n        + ") == output.count("\n        - ") == 4  # of the first round
    nats = list(map(float, re.findall(r"round \d: .* KL of the base to it (-?[\d.]+) nats a reply", output)))
    assert abs(nats[0]) < 0.01 < abs(nats[-1]), output
    row = re.search(r"\n\| mean reward \| (-[\d.]+) .*?\| (-[\d.]+) ", (whole / "report.md").read_text())
    assert min(map(float, row.groups())) < -5
    kept = [json.loads((whole / "rounds" / f"round-{n}.json").read_text()) for n in range(4)]
    assert sorted(one["question"] for part in kept for one in part) != [
        one["question"] for part in kept for one in part
    ]
    for one in kept[0]:
        assert one["rewards"] == [-len(reply["text"]) for reply in one["replies"]]
    shutil.copytree(whole, again)
    shutil.rmtree(again / "checkpoint-4")
    (again / "rounds" / "round-3.json").unlink()  # drawn after step 2, where the run goes on
    record = yaml.safe_load((again / "run.yaml").read_text())
    (again / "run.yaml").write_text(yaml.safe_dump({**record, "status": "training"}))
    assert tune_preferences.main([*given, "--output_dir", str(again), "--resume_from_checkpoint", "true"]) == 0
    expected, found = (load_file(folder / "model.safetensors") for folder in (whole, again))
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


def test_a_sharded_model_is_not_asked(drawn, monkeypatch, tmp_path):
    monkeypatch.setattr(preference_data, "is_sharded", lambda args: True)
    with pytest.raises(InputError, match="give --preferences, or leave sharding out"):
        tune_preferences.main([*drawn, "--output_dir", str(tmp_path / "o")])


def test_without_preferences_the_model_learns_from_its_own_replies(drawn, rounds_of_four, tmp_path, capsys):
    """As score.py judges them; twice the same weights for a seed."""
    given = [*drawn, "--max_steps", "2"]
    for name in "ab":
        assert tune_preferences.main([*given, "--output_dir", str(tmp_path / name)]) == 0
    assert "round 1: mean reward -" in capsys.readouterr().out
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("name", "message"),
    [("nowhere.py:f", "FILE.py:FUNCTION is expected"), ("my.py:other", "has no function other"),
     ("my.py:broken", "failed on .*: division by zero")],
)  # fmt: skip
def test_a_reward_that_is_none_is_one_line(options, tmp_path, name, message):
    (tmp_path / "my.py").write_text(REWARD)
    (tmp_path / "short.jsonl").write_text(json.dumps({"prompt": "tea?", "response": "tea"}) + "\n")
    given = [*options[:-2], "--reward", f"{tmp_path}/{name}", "--prompts", "4", "--samples", "2"]
    given += ["--dialogues", f"{tmp_path}/short.jsonl@9"]
    with pytest.raises(InputError, match=message):
        tune_preferences.main([*given, "--output_dir", str(tmp_path / "o")])
