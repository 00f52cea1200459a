"""train.py as a user runs it: end to end, killed and resumed, on two processes, and with bad input."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerControl, TrainerState

import train
from errors import InputError, RunError
from eval_utils import short_form
from files import one_writer
from train_utils import clock, pretraining, training
from train_utils.callbacks import Progress
from train_utils.plan import apply as dial
from train_utils.plan.machine import Machine

ROOT = Path(__file__).parents[1]


LAUNCH_TWO = [
    sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_machines", "1", "--mixed_precision", "no",
    "--dynamo_backend", "no", "--num_cpu_threads_per_process", "1", "--num_processes", "2", "train.py",
]  # fmt: skip
CLOCKED = ("--max_steps", "--warmup_steps", "--eval_steps", "--save_steps")  # set by the clock, or by shares


def unevaluated(options: list[str]) -> list[str]:
    """Return options of a run that is not evaluated."""
    return [*without(options, "--eval_steps", "--eval_tokens"), "--eval_strategy", "no"]


def without(options: list[str], *names: str) -> list[str]:
    """Return options without those of the names."""
    kept = [*options]
    for name in names:
        del kept[kept.index(name) : kept.index(name) + 2]
    return kept


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_same_weights(a: Path, b: Path) -> None:
    first, second = weights(a), weights(b)
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different


def run_script(*command: str, **kwargs) -> subprocess.CompletedProcess:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120, **kwargs)


def test_leaves_the_one_checkpoint_form(trained):
    model = AutoModelForCausalLM.from_pretrained(trained)
    tokenizer = AutoTokenizer.from_pretrained(trained)
    assert model.generation_config.eos_token_id == [tokenizer.eos_token_id]
    assert tokenizer.chat_template
    assert not [name for name in weights(trained) if "_orig_mod" in name]
    record = yaml.safe_load((trained / "run.yaml").read_text())
    assert record["status"] == "finished"
    assert record["steps"] == 12
    assert record["settings"]["vocab_size"] == 600
    assert 0 < record["metrics"]["eval_zh_bits_per_byte"] < 8
    assert 0 < record["metrics"]["eval_en_bits_per_byte"] < 8
    report = (trained / "report.md").read_text()
    assert "| 12 | zh |" in report
    assert "![loss over steps](loss.png)" in report
    assert (trained / "loss.png").read_bytes()[:4] == b"\x89PNG"
    assert not (trained / ".saving").exists()


def test_learns(trained):
    log = json.loads((trained / "checkpoint-12" / "trainer_state.json").read_text())["log_history"]
    losses = [entry["loss"] for entry in log if "loss" in entry]
    assert losses[-1] < losses[0] - 0.5


def test_same_command_same_weights(trained, train_options, tmp_path, monkeypatch):
    """And figures of the finished model stand in the report of a run that has time for them."""
    monkeypatch.setattr(short_form, "SHARE", 1000.0)
    monkeypatch.setattr(short_form, "ENOUGH_SECONDS", 60.0)
    assert train.main([*train_options, "--output_dir", str(tmp_path / "again")]) == 0
    assert_same_weights(trained, tmp_path / "again")
    assert "- minimal pairs, en: " in (tmp_path / "again" / "report.md").read_text()


@pytest.mark.parametrize(("steps", "is_said"), [("12", False), ("9000", True)])
def test_a_text_that_is_read_too_often_is_told(
    train_options, corpus_file, tmp_path, capsys, monkeypatch, steps, is_said
):
    monkeypatch.setattr(training, "train_and_save", lambda *_, **__: 0)
    assert train.main([*train_options, "--max_steps", steps, "--output_dir", str(tmp_path / "ckpt")]) == 0
    told = re.search(r"note: .* more than 3 times; that is past --max_steps (\d+): more text", capsys.readouterr().out)
    assert bool(told) == is_said
    if told:
        assert 12 < int(told[1]) < 9000


def test_finished_run_is_not_trained_again(trained, train_options, capsys):
    before = (trained / "model.safetensors").stat().st_mtime_ns
    assert train.main([*train_options, "--output_dir", str(trained)]) == 0
    assert "finished already" in capsys.readouterr().out
    assert (trained / "model.safetensors").stat().st_mtime_ns == before


def test_other_settings_never_overwrite(trained, train_options):
    before = (trained / "model.safetensors").read_bytes()
    with pytest.raises(InputError, match=r"max_steps was 12, is 13.*--overwrite"):
        train.main([*train_options, "--output_dir", str(trained), "--max_steps", "13"])
    assert (trained / "model.safetensors").read_bytes() == before


def test_checkpoint_of_another_run_is_refused(trained, train_options, tmp_path):
    resume = ["--resume_from_checkpoint", str(trained / "checkpoint-8"), "--output_dir", str(tmp_path / "new")]
    with pytest.raises(InputError, match="checkpoint-8: belongs to another run; resume it with --output_dir"):
        train.main([*train_options, *resume])
    assert not (tmp_path / "new").exists()


def test_a_folder_that_another_process_writes_is_left_alone(trained, train_options, tmp_path):
    folder = tmp_path / "out"
    with one_writer(folder):
        with pytest.raises(
            InputError, match=r"out: process \d+ on .* writes in it; wait until it ends, or choose another"
        ):
            train.main([*train_options, "--output_dir", str(folder)])
        assert [path.name for path in folder.iterdir()] == [".lock"]
    assert not (trained / ".lock").exists()  # its run has ended


def test_killed_run_resumes_bit_for_bit(trained, train_options, tmp_path, forked, capsys):
    """SIGKILL in the middle; the half-written checkpoint is skipped; the end is that of a run never stopped."""
    folder = tmp_path / "killed"
    job = forked.start("train", [*train_options, "--output_dir", str(folder)])
    job.wait_for(folder / "checkpoint-4" / "complete.json")
    job.send(signal.SIGKILL)
    assert job.wait() == [-signal.SIGKILL]
    assert not (folder / "model.safetensors").exists()
    half = folder / "checkpoint-11"
    half.mkdir()
    (half / "model.safetensors").write_bytes((folder / "checkpoint-4" / "model.safetensors").read_bytes()[:1000])

    with pytest.raises(InputError, match=r"unfinished run at step \d+; go on with --resume_from_checkpoint true"):
        train.main([*train_options, "--output_dir", str(folder)])
    capsys.readouterr()
    assert train.main([*train_options, "--output_dir", str(folder), "--resume_from_checkpoint", "true"]) == 0
    assert capsys.readouterr().err.count("checkpoint-11: was cut off while being written; it is skipped") == 1
    assert_same_weights(trained, folder)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "adafactor", "rmsprop"])
def test_every_optimizer_resumes_bit_for_bit(train_options, tmp_path, optimizer):
    """Muon is in the test above."""
    options = [*unevaluated(train_options), "--max_steps", "4", "--save_steps", "2", "--optim", optimizer,
               "--learning_rate", "0.01"]  # fmt: skip
    whole, again = tmp_path / "whole", tmp_path / "again"
    assert train.main([*options, "--output_dir", str(whole)]) == 0
    shutil.copytree(whole, again)
    forget_the_end(again, "checkpoint-2")
    assert train.main([*options, "--output_dir", str(again), "--resume_from_checkpoint", "true"]) == 0
    assert_same_weights(whole, again)


def test_run_with_a_head_start_resumes_bit_for_bit(train_options, tmp_path, capsys):
    """What was fitted is in the checkpoint, and is not fitted again; its rates are those of the first part."""
    options = [*without(unevaluated(train_options), "--head_start"), "--max_steps", "4", "--save_steps", "2"]
    whole, again = tmp_path / "whole", tmp_path / "again"
    assert train.main([*options, "--output_dir", str(whole)]) == 0
    assert "head start: embedding and head fitted" in capsys.readouterr().out
    shutil.copytree(whole, again)
    forget_the_end(again, "checkpoint-2")
    assert train.main([*options, "--output_dir", str(again), "--resume_from_checkpoint", "true"]) == 0
    assert "head start" not in capsys.readouterr().out
    assert_same_weights(whole, again)


def test_run_resumes_in_its_second_epoch_bit_for_bit(train_options, corpus_file, tmp_path):
    """In each epoch other passages stand twice."""
    text = tmp_path / "text.txt"
    text.write_text(corpus_file.read_text(encoding="utf-8")[:9000], encoding="utf-8")
    options = [*without(unevaluated(train_options), "--corpus"), "--corpus", str(text), "--repeated", "1",
               "--max_steps", "12", "--save_steps", "11"]  # fmt: skip
    whole, again = tmp_path / "whole", tmp_path / "again"
    assert train.main([*options, "--output_dir", str(whole)]) == 0
    assert 1 < json.loads((whole / "checkpoint-11" / "trainer_state.json").read_text())["epoch"] < 2
    shutil.copytree(whole, again)
    forget_the_end(again, "checkpoint-11")
    assert train.main([*options, "--output_dir", str(again), "--resume_from_checkpoint", "true"]) == 0
    assert_same_weights(whole, again)


@pytest.fixture
def fast_machine(monkeypatch, fake_time) -> list[float]:
    """A machine that needs no measuring; returns its clock."""
    machine = Machine("cpu", "fp32", 1e11, ((128, 0.2), (512, 0.4)), 10**10, 10**11)
    monkeypatch.setattr(dial, "measure_machine", lambda *_: machine)
    return fake_time


def test_plan_is_shown_and_nothing_is_trained(corpus_file, tmp_path, capsys, fast_machine):
    options = ["--corpus", str(corpus_file), "--minutes", "3", "--plan_only", "true", "--use_cpu", "true"]
    assert train.main([*options, "--output_dir", str(tmp_path / "out")]) == 0
    output = capsys.readouterr().out
    for part in ("M parameters, width ", "4,096 tokens", "epochs", "FLOPs", "memory", "disk", "more than 3 times"):
        assert part in output
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="--plan_only has no effect without --minutes or --devices"):
        train.main(["--corpus", str(corpus_file), "--plan_only", "true", "--output_dir", str(tmp_path / "out")])


def test_run_by_the_clock_ends_in_time_and_is_recorded(train_options, tmp_path, fast_machine):
    folder = tmp_path / "out"
    options = [*without(train_options, *CLOCKED), "--minutes", "0.12", "--output_dir", str(folder)]
    assert train.main(options) == 0
    assert 5 < fast_machine[0] <= 7.2
    record = yaml.safe_load((folder / "run.yaml").read_text())
    assert record["settings"]["minutes"] == 0.12
    assert record["data"]["plan"]["shape"]["width"] == 64  # the shape that was given stays
    assert record["steps"] > 0
    speed = record["speed"]
    assert speed["tokens_per_second"] > 0
    assert sum(speed["seconds_of"].values()) == pytest.approx(speed["seconds"], abs=0.1)
    assert {"start", "data", "plan", "steps", "evaluation", "samples", "saving", "report"} <= speed["seconds_of"].keys()
    assert speed["peak_memory_bytes"] > 10**8
    report = (folder / "report.md").read_text()
    assert "GFLOP/s that matrix products reach" in report
    assert "bits per byte at the end" in report
    assert re.search(r"\| time \| \d+ s: .*steps \d+ s \(\d+%\)", report)
    assert re.search(r"\| peak memory \| [\d.]+ GB of the process \|", report)


def forget_the_end(folder: Path, checkpoint: str) -> None:
    """Make a finished run one that was killed after writing a checkpoint."""
    for later in folder.glob("checkpoint-*"):
        if int(later.name.split("-")[1]) > int(checkpoint.split("-")[1]):
            shutil.rmtree(later)
    (folder / "model.safetensors").unlink()
    record = yaml.safe_load((folder / "run.yaml").read_text())
    (folder / "run.yaml").write_text(yaml.safe_dump({**record, "status": "training"}))


def test_run_by_the_clock_goes_on_with_the_time_that_was_left(train_options, tmp_path, fast_machine):
    folder = tmp_path / "out"
    options = [*without(train_options, *CLOCKED), "--minutes", "0.12", "--save_steps", "0.3", "--eval_steps", "0.5"]
    assert train.main([*options, "--output_dir", str(folder)]) == 0
    last = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    spent = json.loads((last / "clock.json").read_text())
    assert spent["progress"] >= 0.85  # at shares of 0.3, 0.6 and 0.9
    forget_the_end(folder, last.name)
    fast_machine[0] = 0.0  # another process
    assert train.main([*options, "--output_dir", str(folder), "--resume_from_checkpoint", "true"]) == 0
    record = yaml.safe_load((folder / "run.yaml").read_text())
    assert record["status"] == "finished"
    since = int(last.name.split("-")[1])
    assert record["steps"] > since == record["speed"]["since_step"]
    assert f" s since step {since}, where this process went on: " in (folder / "report.md").read_text()
    assert 5 < spent["elapsed"] + fast_machine[0] <= 7.2


def test_speed_of_a_run_by_the_clock_leaves_out_its_pauses(
    corpus_file, tiny_shape, tmp_path, fast_machine, monkeypatch
):
    """At a mark of the clock, evaluating and saving follow the step; the bar's time must stop there."""

    class Caught(Exception):
        pass

    def catch(**kwargs):
        raise Caught(kwargs["args"], kwargs["callbacks"])

    monkeypatch.setattr(training, "Trainer", catch)
    with pytest.raises(Caught) as caught:
        train.main([
            "--corpus", str(corpus_file), "--model_shape", str(tiny_shape), "--vocab_size", "600", "--minutes", "3",
            "--block_tokens", "64", "--eval_tokens", "256", "--eval_fraction", "0.05", "--bf16", "false",
            "--head_start", "false", "--use_cpu", "true", "--output_dir", str(tmp_path / "out"),
        ])  # fmt: skip
    args, callbacks = caught.value.args
    progress = next(callback for callback in callbacks if isinstance(callback, Progress))
    next(callback for callback in callbacks if isinstance(callback, clock.Clock)).progress = 0.6  # past its mark
    state, control = TrainerState(global_step=5), TrainerControl()
    for event in ("on_step_begin", "on_step_end"):
        for callback in callbacks:
            getattr(callback, event)(args, state, control)
    assert control.should_evaluate
    assert progress.since is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_saves_and_says_how_to_go_on(trained, train_options, tmp_path, number, forked):
    folder = tmp_path / "stopped"
    job = forked.start("train", [*train_options, "--output_dir", str(folder)])
    job.wait_for(folder / "checkpoint-4")
    job.send(number)
    assert job.wait() == [128 + number], job.text
    step = int(re.search(r"stopped at step (\d+) and saved; to go on, add: --resume_from_checkpoint true", job.text)[1])
    assert (folder / f"checkpoint-{step}" / "complete.json").exists()
    assert train.main([*train_options, "--output_dir", str(folder), "--resume_from_checkpoint", "true"]) == 0
    assert_same_weights(trained, folder)


def test_signal_in_the_last_evaluation_loses_nothing(train_options, tmp_path, fast_machine, monkeypatch, capsys):
    """No step follows it that could save, and a run by the clock writes no checkpoint at its end: it is finished."""
    evaluate, asked, fast_machine[0] = training.Trainer.evaluate, [], 2.5

    def evaluate_and_be_asked(self, *args, **kwargs):
        if self.control.should_training_stop and not asked:
            asked.append(self.state.global_step)
            signal.raise_signal(signal.SIGTERM)
        return evaluate(self, *args, **kwargs)

    monkeypatch.setattr(training.Trainer, "evaluate", evaluate_and_be_asked)
    folder = tmp_path / "out"
    options = [*without(train_options, *CLOCKED), "--minutes", "0.1", "--save_steps", "1"]
    assert train.main([*options, "--output_dir", str(folder)]) == 0
    assert asked
    assert (folder / "model.safetensors").exists()
    assert yaml.safe_load((folder / "run.yaml").read_text())["status"] == "finished"
    output = capsys.readouterr().out
    assert "done: " in output
    assert "stopped at" not in output


def test_two_processes_equal_twice_the_accumulation(train_options, tmp_path, forked):
    """Two gloo processes and one with accumulation 2 see the same rows in a step: the same loss."""
    options = [*without(unevaluated(train_options), "--save_steps"), "--max_steps", "6", "--save_strategy", "no",
               "--logging_steps", "1"]  # fmt: skip
    codes, two = forked.run("tests.watched_train", [*options, "--output_dir", str(tmp_path / "two")], count=2)
    assert codes == [0, 0], two.text
    assert two.out.count("0 DDP modules left\n") == 2
    one = ["--gradient_accumulation_steps", "2", "--output_dir", str(tmp_path / "one")]
    assert train.main([*options, *one]) == 0
    records = [yaml.safe_load((tmp_path / name / "run.yaml").read_text()) for name in ("one", "two")]
    assert records[0]["training_loss"] == pytest.approx(records[1]["training_loss"], abs=1e-4)
    first, second = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=2e-3, rtol=0)


@pytest.mark.skipif(not os.environ.get("SLOW_TESTS"), reason="half a minute: SLOW_TESTS=1 runs it")
def test_two_processes_by_the_clock_make_one_plan_and_end(train_options, tmp_path):
    options = [*without(train_options, *CLOCKED), "--minutes", "0.6"]
    two = run_script(*LAUNCH_TWO, *options, "--output_dir", str(tmp_path))
    assert two.returncode == 0, two.stdout + two.stderr
    assert two.stdout.count("plan:") == 1
    record = yaml.safe_load((tmp_path / "run.yaml").read_text())
    assert record["data"]["plan"]["processes"] == 2
    assert record["steps"] > 1
    assert record["status"] == "finished"


def test_goes_on_from_a_base(trained, train_options, tmp_path):
    given = without(train_options, "--model_shape", "--vocab_size", "--head_start")  # which a base has its own of
    options = [*given, "--base", str(trained), "--max_steps", "2", "--output_dir", str(tmp_path / "on")]
    assert train.main(options) == 0
    log = json.loads((tmp_path / "on" / "checkpoint-2" / "trainer_state.json").read_text())["log_history"]
    base = yaml.safe_load((trained / "run.yaml").read_text())["metrics"]["eval_zh_loss"]
    assert abs(next(entry["eval_zh_loss"] for entry in log if "eval_zh_loss" in entry) - base) < 0.5


def test_rate_falls_from_the_end_of_a_warm_up_that_the_decay_would_overlap(train_options, tmp_path):
    options = [*unevaluated(train_options), "--max_steps", "8", "--warmup_steps", "4", "--decay_share", "1",
               "--logging_steps", "1", "--optim", "adamw", "--learning_rate", "0.008"]  # fmt: skip
    assert train.main([*options, "--output_dir", str(tmp_path / "out")]) == 0
    log = json.loads((tmp_path / "out" / "checkpoint-8" / "trainer_state.json").read_text())["log_history"]
    rates = [entry["learning_rate"] for entry in log if "loss" in entry]
    assert rates == pytest.approx([0, 0.002, 0.004, 0.006, 0.008, 0.006, 0.004, 0.002])


def test_the_recipe_of_gpt2_runs_in_a_small_shape(train_options, tmp_path):
    given = without(unevaluated(train_options), "--warmup_steps", "--per_device_train_batch_size", "--save_steps")
    options = [str(ROOT / "configs" / "gpt2.yaml"), *given, "--max_steps", "4", "--logging_steps", "1"]
    options += ["--per_device_train_batch_size", "2", "--output_dir", str(tmp_path / "out")]
    assert train.main(options) == 0
    log = json.loads((tmp_path / "out" / "checkpoint-4" / "trainer_state.json").read_text())["log_history"]
    rates = [entry["learning_rate"] for entry in log if "loss" in entry]
    assert rates == pytest.approx([6e-4 * share for share in (0, 1, 0.75, 0.25)])  # a step of warm-up, then a cosine
    settings = yaml.safe_load((tmp_path / "out" / "run.yaml").read_text())["settings"]
    assert (settings["weight_decay"], settings["adam_beta2"], settings["step_rows"]) == (0.1, 0.95, 8)


def test_activations_computed_twice_give_the_same_weights(trained, train_options, tmp_path):
    options = [*train_options, "--activation_checkpointing", "true", "--output_dir", str(tmp_path / "out")]
    assert train.main(options) == 0
    assert_same_weights(trained, tmp_path / "out")


def test_compiled_run_resumes_and_leaves_the_plain_model(train_options, corpus_file, tmp_path, monkeypatch):
    """Traced as inductor's would be, but run by torch itself, which takes no time to compile.

    An epoch's third and last batch has fewer rows, which run plain: it comes after the resume, and full ones after it.
    """
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    short = tmp_path / "short.txt"
    short.write_text("\n\n".join(corpus_file.read_text(encoding="utf-8").split("\n\n")[::40]), encoding="utf-8")
    options = [*train_options, "--torch_compile", "true", "--max_steps", "5", "--save_steps", "2", "--eval_steps", "2"]
    whole, again = tmp_path / "whole", tmp_path / "again"
    options += ["--activation_checkpointing", "true", "--corpus", str(short), "--logging_steps", "1",
                "--per_device_train_batch_size", "16"]  # fmt: skip
    assert train.main([*options, "--output_dir", str(whole)]) == 0
    log = json.loads((whole / "checkpoint-5" / "trainer_state.json").read_text())["log_history"]
    assert [entry["epoch"] for entry in log if "loss" in entry][2] == 1
    assert not [name for name in weights(whole) if "_orig_mod" in name]
    shutil.copytree(whole, again)
    forget_the_end(again, "checkpoint-2")
    assert train.main([*options, "--output_dir", str(again), "--resume_from_checkpoint", "true"]) == 0
    assert_same_weights(whole, again)
    _, loading = AutoModelForCausalLM.from_pretrained(whole, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]


def test_missing_reporter_is_one_line(train_options, tmp_path):
    with pytest.raises(InputError, match="wandb"):
        train.main([*train_options, "--report_to", "wandb", "--output_dir", str(tmp_path / "out")])


def test_missing_optimizer_is_one_line_and_leaves_no_record(train_options, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # as where it is not installed
    with pytest.raises(InputError, match="install `bitsandbytes`"):
        train.main([*train_options, "--optim", "lion_32bit", "--output_dir", str(tmp_path / "out")])
    assert {path.name for path in (tmp_path / "out").glob("*")} <= {".lock"}


def test_a_run_that_diverges_is_ended_in_one_line(train_options, tmp_path, monkeypatch):
    """It would go on with a loss of 0, which Trainer shows in place of one that is no number."""

    def build_broken(*given):
        model = build_model(*given)
        model.get_output_embeddings().weight.data[0, 0] = torch.nan
        return model

    build_model = pretraining.build_model
    monkeypatch.setattr(pretraining, "build_model", build_broken)
    with pytest.raises(RunError, match=r"step 4: the loss is nan .*: the training has diverged"):
        train.main([*unevaluated(train_options), "--output_dir", str(tmp_path / "out")])


def test_gpt2_shape(train_options, tmp_path):
    shape = json.loads((ROOT / "configs/models/gpt2.json").read_text())
    shape.update(n_embd=32, n_layer=2, n_head=2, n_positions=64)
    (tmp_path / "gpt2.json").write_text(json.dumps(shape))
    options = [*train_options, "--model_shape", str(tmp_path / "gpt2.json"), "--max_steps", "2"]
    assert train.main([*options, "--output_dir", str(tmp_path / "gpt2")]) == 0
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "gpt2").config.model_type == "gpt2"


def bad_inputs(folder: Path) -> dict[str, tuple[list[str], str]]:
    """Options that are wrong, and what the one line must name."""
    (folder / "empty.txt").write_text("")
    (folder / "latin.txt").write_bytes(b"good line\n\xe9t\xe9\n")
    (folder / "broken.jsonl").write_text('{"text": "fine"}\n{"text": \n')
    (folder / "other.jsonl").write_text('{"body": "fine"}\n')
    (folder / "good.txt").write_text("some text that is long enough to be read. " * 200)
    (folder / "bad.yaml").write_text("corpus: [a\nb: c\n")
    (folder / "typo.yaml").write_text("learning_rat: 3e-4\n")
    (folder / "notes.docx").write_text("x")
    good = str(folder / "good.txt")
    return {
        "missing file": (["--corpus", str(folder / "nothing.txt")], "nothing.txt: no such file"),
        "empty corpus": (["--corpus", str(folder / "empty.txt")], "empty.txt: the file is empty"),
        "bad UTF-8": (["--corpus", str(folder / "latin.txt")], "latin.txt:2: not valid UTF-8"),
        "broken JSON": (["--corpus", str(folder / "broken.jsonl")], "broken.jsonl:2: not valid JSON"),
        "no such column": (["--corpus", str(folder / "other.jsonl")], "no column 'text'; it has: body"),
        "unknown type": (["--corpus", str(folder / "notes.docx")], "unknown file type"),
        "unknown key": (["--learning_rat", "1"], "unknown key 'learning_rat'; did you mean 'learning_rate'?"),
        "unknown key in YAML": ([str(folder / "typo.yaml")], "typo.yaml: unknown key 'learning_rat'"),
        "broken YAML": ([str(folder / "bad.yaml")], "bad.yaml:2: not valid YAML"),
        "wrong value": (["--max_steps", "many"], "--max_steps"),
        "unknown optimizer": (["--optim", "adamm"], "adamm"),
        "no such shape": (["--corpus", good, "--vocab_size", "300", "--model_shape", "x.json"], "no such model shape"),
        "no such base": (["--corpus", good, "--base", str(folder / "none")], "none: no such checkpoint"),
        "vocabulary too small": (["--corpus", good, "--vocab_size", "10"], "--vocab_size 10 is too small"),
        "hub name offline": (["--corpus", "owner/name"], "set HF_HUB_OFFLINE=0"),
    }


BAD_INPUTS = (
    "missing file", "empty corpus", "bad UTF-8", "broken JSON", "no such column", "unknown type", "unknown key",
    "unknown key in YAML", "broken YAML", "wrong value", "unknown optimizer", "no such shape", "no such base",
    "vocabulary too small", "hub name offline",
)  # fmt: skip


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_input_is_one_line(case, tmp_path):
    options, expected = bad_inputs(tmp_path)[case]
    with pytest.raises(InputError) as caught:
        train.main([*options, "--output_dir", str(tmp_path / "out")])
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert {path.name for path in (tmp_path / "out").glob("*")} <= {".lock"}  # which goes with the process


def test_bad_input_in_the_shell(tmp_path, forked):
    codes, done = forked.run("train", ["--corpus", "nowhere.txt", "--output_dir", str(tmp_path / "out")])
    assert codes == [2]
    assert done.err.splitlines()[-1].startswith("error: nowhere.txt: no such file")
    assert "Traceback" not in done.text


def test_full_disk_keeps_what_was_there(train_options, tmp_path, forked):
    """The disk is full while a run saves: exit code 1, one line, no folder that looks finished."""
    options = [*train_options, "--output_dir", str(tmp_path / "full")]
    codes, done = forked.run("train", options, file_bytes=300_000)  # less than the weights have
    assert codes == [1], done.text
    assert "Traceback" not in done.text
    assert done.err.splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "full" / "model.safetensors").exists()


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as left:
        train.main(["--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert "accelerate launch train.py" in text
    assert "--block_tokens (256)" in text
    with pytest.raises(SystemExit) as left:
        train.main(["--help_all"])
    assert left.value.code == 0
    listing = capsys.readouterr().out
    assert "--block_tokens" in listing  # ours, and Trainer's
    assert "--dataloader_num_workers" in listing


# Prepared corpora and mixes


def test_trains_on_a_prepared_corpus_mixed_by_weights(train_options, corpus_folder, corpus_file, tmp_path, capsys):
    config = tmp_path / "mix.yaml"
    sources = f"[{{path: {corpus_folder}, weight: 3}}, {{path: {corpus_file}, weight: 1}}]"
    config.write_text(f"mixture: {sources}\noutput_dir: {tmp_path / 'mix'}\n")
    assert train.main([str(config), *without(train_options, "--corpus")]) == 0
    record = yaml.safe_load((tmp_path / "mix" / "run.yaml").read_text())
    assert {"eval_en_bits_per_byte", "eval_zh_bits_per_byte"} <= record["metrics"].keys()
    epochs = dict(part.rsplit(" ", 1) for part in record["data"]["epochs"].split(", "))
    blocks = {str(corpus_folder): 0, str(corpus_file): 0}
    for part in record["data"]["corpus"].split(", "):
        path, tokens = part.split(" ")[:2]
        blocks[path] = float(tokens) * 1e6 / 64
    # 12 steps of 8 rows: 72 of the one, 24 of the other.
    assert float(epochs[str(corpus_folder)]) == pytest.approx(72 / blocks[str(corpus_folder)], abs=0.02)
    assert float(epochs[str(corpus_file)]) == pytest.approx(24 / blocks[str(corpus_file)], abs=0.02)
    assert f"epochs: {record['data']['epochs']}" in (tmp_path / "mix" / "report.md").read_text()
    assert record["data"]["epochs"] in capsys.readouterr().out


def losses(folder: Path) -> dict[int, float]:
    """Return the training loss of each step, from the last checkpoint."""
    log = json.loads((folder / "checkpoint-12" / "trainer_state.json").read_text())["log_history"]
    return {entry["step"]: entry["loss"] for entry in log if "loss" in entry}


def test_killed_on_two_processes_resumes_on_one(train_options, corpus_folder, tmp_path):
    """The rows of a step are those of one process with accumulation 2, before the kill and after it."""
    options = [*unevaluated(train_options), "--corpus", str(corpus_folder), "--logging_steps", "1"]
    one = [*options, "--gradient_accumulation_steps", "2", "--output_dir"]
    assert train.main([*one, str(tmp_path / "undisturbed")]) == 0
    command = [*LAUNCH_TWO, *options, "--output_dir", str(tmp_path / "two")]
    two = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 90
    while not (tmp_path / "two" / "checkpoint-4" / "complete.json").exists():
        assert two.poll() is None, two.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    launcher = psutil.Process(two.pid)
    for process in (launcher, *launcher.children(recursive=True)):
        process.kill()
    two.communicate()
    assert not (tmp_path / "two" / "model.safetensors").exists()
    assert train.main([*one, str(tmp_path / "two"), "--resume_from_checkpoint", "true"]) == 0
    expected = losses(tmp_path / "undisturbed")
    assert list(expected) == list(range(1, 13))
    assert losses(tmp_path / "two") == pytest.approx(expected, abs=1e-3)
    with pytest.raises(InputError, match="step_rows was 16, is 8"):
        train.main([*options, "--output_dir", str(tmp_path / "two")])


def test_a_base_gets_tokens_for_a_language_that_it_lacks(tmp_path, train_options, corpus_file):
    """The vocabulary of an English base extended: fewer tokens of Chinese, English ids as before, and it exports."""
    english = tmp_path / "english.txt"
    texts = corpus_file.read_text(encoding="utf-8").split("\n\n")
    english.write_text("\n\n".join(text for text in texts if text.isascii()), encoding="utf-8")
    given = dict(zip(train_options[::2], train_options[1::2], strict=True))
    base, more = tmp_path / "base", tmp_path / "more"
    small = [word for pair in {**given, "--max_steps": "3", "--corpus": str(english)}.items() for word in pair]
    assert train.main([*small, "--output_dir", str(base)]) == 0
    kept = {name: given[name] for name in given if name not in ("--model_shape", "--vocab_size", "--head_start")}
    extended = [word for pair in {**kept, "--max_steps": "3"}.items() for word in pair]
    command = [*extended, "--base", str(base), "--extend_vocabulary", "300", "--output_dir", str(more)]
    assert train.main(command) == 0
    old, new = (AutoTokenizer.from_pretrained(folder) for folder in (base, more))
    assert len(new) == len(old) + 300
    assert new("Hello, how are you?")["input_ids"] == old("Hello, how are you?")["input_ids"]
    assert len(new("今天天气真好")["input_ids"]) < len(old("今天天气真好")["input_ids"])
    weights = load_file(more / "model.safetensors")
    assert len(weights["model.embed_tokens.weight"]) == len(weights["lm_head.weight"]) == len(new)
    with pytest.raises(InputError, match="--repeated has no effect on rows of less than 20 tokens"):
        train.main([*train_options, "--repeated", "0.5", "--block_tokens", "19", "--output_dir", str(tmp_path / "x")])
    with pytest.raises(InputError, match="--extend_vocabulary adds to the tokenizer of a --base"):
        train.main([*train_options, "--extend_vocabulary", "9", "--output_dir", str(tmp_path / "x")])
