"""The life of a run's folder: what may be written over, what is whole, what is left."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
import xxhash
import yaml
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

import files
from errors import InputError
from files import find_damage, mark_complete
from model_utils.checkpoint import save_model
from train_utils import run_folder
from train_utils.arguments import RunArguments
from train_utils.run_folder import (
    Start,
    collect_settings,
    continue_record,
    describe_changes,
    find_last_complete,
    prepare_folder,
    read_record,
    start_record,
    write_record,
)

SETTINGS = {"learning_rate": 0.01, "corpus": ["a.txt"], "seed": 42}
FORM = {
    "model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "chat_template.jinja",
}  # fmt: skip


def make_checkpoint(output_dir: Path, step: int, mark: bool = True) -> Path:
    """Write a folder of the form of Trainer's."""
    folder = output_dir / f"checkpoint-{step}"
    (folder / "nested").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights" * 100)
    (folder / "nested" / "optimizer.pt").write_bytes(b"state" * 100)
    if mark:
        mark_complete(folder)
    return folder


def make_run(output_dir: Path, status: str, steps: tuple[int, ...] = (), settings: dict | None = None) -> Path:
    start_record(output_dir, "train.py", settings or SETTINGS, {"documents": 3})
    write_record(output_dir, {**read_record(output_dir), "status": status})
    for step in steps:
        make_checkpoint(output_dir, step)
    return output_dir


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "ckpt"


# May it be written?


@pytest.mark.parametrize("resume", [None, "true", "false"])
def test_new_folder_is_a_new_run(out, resume):
    assert prepare_folder(out, SETTINGS, resume, overwrite=False) == Start()
    out.mkdir()
    assert prepare_folder(out, SETTINGS, resume, overwrite=False) == Start()  # empty


@pytest.mark.parametrize("resume", [None, "true", "false"])
def test_same_finished_run_is_done(out, resume):
    make_run(out, "finished", (5,))
    assert prepare_folder(out, SETTINGS, resume, overwrite=False) == Start(is_finished=True)


@pytest.mark.parametrize("resume", [None, "false"])
def test_same_unfinished_run_is_not_lost(out, resume):
    make_run(out, "training", (5, 10))
    with pytest.raises(InputError) as caught:
        prepare_folder(out, SETTINGS, resume, overwrite=False)
    assert str(caught.value).startswith(f"{out}: holds an unfinished run at step 10; ")
    assert "--resume_from_checkpoint true" in str(caught.value)
    assert "--overwrite" in str(caught.value)


@pytest.mark.parametrize("resume", ["true", "True"])
def test_same_unfinished_run_goes_on_from_its_last_step(out, resume):
    make_run(out, "training", (5, 10))
    assert prepare_folder(out, SETTINGS, resume, overwrite=False) == Start(str(out / "checkpoint-10"))


@pytest.mark.parametrize("resume", [None, "true", "false"])
def test_run_that_saved_nothing_yet_begins_anew(out, resume):
    make_run(out, "training")
    assert prepare_folder(out, SETTINGS, resume, overwrite=False) == Start()


@pytest.mark.parametrize("status", ["training", "finished"])
@pytest.mark.parametrize("resume", [None, "true"])
def test_other_settings_are_named(out, status, resume):
    make_run(out, status, (5,))
    now = SETTINGS | {"learning_rate": 0.02}
    with pytest.raises(InputError) as caught:
        prepare_folder(out, now, resume, overwrite=False)
    assert f"{out}: holds a run with other settings (learning_rate was 0.01, is 0.02)" in str(caught.value)


@pytest.mark.parametrize(("resume", "overwrite"), [(None, False), ("true", False), ("false", False), (None, True)])
def test_foreign_folder_is_not_touched(out, resume, overwrite):
    """`--overwrite` replaces what a run made, and nothing else."""
    out.mkdir()
    (out / "thesis.txt").write_text("my only copy")
    with pytest.raises(InputError, match=r"ckpt: holds thesis\.txt and no run"):
        prepare_folder(out, SETTINGS, resume, overwrite=overwrite)
    assert (out / "thesis.txt").read_text() == "my only copy"


def test_overwrite_begins_anew_over_a_run(out):
    make_run(out, "finished", (5,))
    assert prepare_folder(out, SETTINGS, None, overwrite=True) == Start()
    assert prepare_folder(out, {"seed": 1}, None, overwrite=True) == Start()
    assert (out / "checkpoint-5").exists()  # nothing goes before the new run has begun


def test_named_checkpoint_is_resumed_from(out):
    make_run(out, "training", (5, 10))
    assert prepare_folder(out, SETTINGS, str(out / "checkpoint-5"), overwrite=False) == Start(str(out / "checkpoint-5"))


@pytest.mark.parametrize("spoil", ["missing", "unmarked"])
def test_named_checkpoint_must_be_complete(out, spoil):
    make_run(out, "training", (5,))
    path = out / "checkpoint-7" if spoil == "missing" else make_checkpoint(out, 7, mark=False)
    with pytest.raises(
        InputError,
        match=r"checkpoint-7: not a complete checkpoint \(was cut off.*\); --resume_from_check",
    ):
        prepare_folder(out, SETTINGS, str(path), overwrite=False)


@pytest.mark.parametrize("kind", ["other settings", "foreign"])
def test_named_checkpoint_gives_no_leave_to_write_over_another_run(out, tmp_path, kind):
    """The docstring: an InputError where the folder holds something else that would be lost."""
    checkpoint = make_checkpoint(tmp_path / "elsewhere", 5)
    if kind == "foreign":
        out.mkdir()
        (out / "thesis.txt").write_text("my only copy")
    else:
        make_run(out, "finished", settings={"seed": 1})
    with pytest.raises(InputError):
        prepare_folder(out, SETTINGS, str(checkpoint), overwrite=False)


def test_output_dir_that_is_a_file_is_one_line(out):
    out.write_text("not a folder")
    with pytest.raises(InputError) as caught:
        prepare_folder(out, SETTINGS, None, overwrite=False)
    assert str(caught.value).startswith(f"{out}: ")


@pytest.mark.parametrize(
    "text", ["", "status: [\n", "just words\n", "name: another tool\n", "a: !!int x\n", "[" * 1000]
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_foreign_record_is_no_run_of_ours(out, text, overwrite):
    out.mkdir()
    (out / "run.yaml").write_text(text)
    with pytest.raises(InputError) as caught:
        prepare_folder(out, SETTINGS, None, overwrite=overwrite)
    assert str(caught.value).startswith(f"{out}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [
        ({"a": 1}, {"a": 1}, ""),
        ({"a": 1}, {"a": 2}, "a was 1, is 2"),
        ({"a": 1}, {"b": 2}, "a was 1, is None; b was None, is 2"),
        ({}, {"d": 1, "c": 1, "b": 1, "a": 1}, "a was None, is 1; b was None, is 1; c was None, is 1; and 1 more"),
    ],
)
def test_changes_in_words(before, now, words):
    assert describe_changes(before, now) == words


# The record


def test_record_says_what_ran(out):
    start_record(out, "train.py", SETTINGS, {"documents": 3, "来源": "own"})
    record = yaml.safe_load((out / "run.yaml").read_text(encoding="utf-8"))
    assert (record["status"], record["script"], record["settings"]) == ("training", "train.py", SETTINGS)
    assert record["data"] == {"documents": 3, "来源": "own"}
    assert record["versions"]["torch"] == str(torch.__version__)
    assert set(record["versions"]) >= {
        "python",
        "torch",
        "transformers",
        "tokenizers",
        "datasets",
        "accelerate",
        "peft",
    }
    assert "git_revision" in record
    assert read_record(out) == record
    assert [path.name for path in out.iterdir()] == ["run.yaml"]  # no partial file


def test_new_run_takes_away_what_an_earlier_one_left(out):
    make_run(out, "finished", (5,))
    for name in ("adapter", "runs"):
        (out / name).mkdir()
        (out / name / "file").write_text("old")
    (out / "model.safetensors").write_text("old weights")
    kept = {"notes.txt", "vectors.safetensors", "checkpoint-of-mine"}
    for name in kept:
        (out / name).write_text("mine")
    start_record(out, "train.py", {"seed": 1}, {})
    assert {path.name for path in out.iterdir()} == {"run.yaml", *kept}
    assert read_record(out)["settings"] == {"seed": 1}


def test_a_kill_between_two_runs_leaves_no_record_of_the_other(out, monkeypatch):
    """Weights of the earlier run under the record of the later one, or its checkpoints, would be trained on."""
    make_run(out, "finished", (5,))
    (out / "model.safetensors").write_text("old weights")

    def kill(folder, record):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(run_folder, "write_record", kill)
        start_record(out, "train.py", {"seed": 1}, {})
    assert (read_record(out)["settings"], read_record(out)["status"]) == (SETTINGS, "finished")
    assert (out / "model.safetensors").exists()
    assert not (out / "checkpoint-5").exists()


def test_going_on_takes_away_what_comes_later(out):
    """A later one is cut off, or trained again; Trainer would keep it as the newest and delete a whole one."""
    make_run(out, "training", (5, 10, 15))
    make_checkpoint(out, 20, mark=False)
    (out / ".run.yaml.1.tmp").mkdir()
    before = read_record(out)
    continue_record(out, out / "checkpoint-10")
    assert sorted(path.name for path in out.iterdir()) == ["checkpoint-10", "checkpoint-5", "run.yaml"]
    assert read_record(out) == before


def test_a_record_says_which_versions_went_on(out, monkeypatch):
    make_run(out, "training", (5, 10))
    first = read_record(out)
    monkeypatch.setattr(run_folder, "git_revision", lambda: "later")
    for _ in range(2):
        continue_record(out, out / "checkpoint-10")
    record = read_record(out)
    assert (record["git_revision"], record["settings"]) == ("later", SETTINGS)
    kept = {"versions": first["versions"], "git_revision": first["git_revision"]}
    assert record["went_on"] == [{"until_step": 10, **kept}]


def test_record_of_a_folder_without_one(tmp_path):
    assert read_record(tmp_path) is None
    assert read_record(tmp_path / "nowhere") is None


# When is a checkpoint whole?


def truncate(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"weights" * 50)


def grow(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"weights" * 150)


SPOILS = {
    "truncated": truncate,
    "grown": grow,
    "a file is missing": lambda folder: (folder / "model.safetensors").unlink(),
    "a nested file is missing": lambda folder: (folder / "nested" / "optimizer.pt").unlink(),
    "unmarked": lambda folder: (folder / "complete.json").unlink(),
    "mark cut off": lambda folder: (folder / "complete.json").write_text('{"model.safe'),
    "mark empty": lambda folder: (folder / "complete.json").write_text(""),
    "mark of another kind": lambda folder: (folder / "complete.json").write_text("[]"),
    "one bit": lambda folder: (folder / "model.safetensors").write_bytes(b"weights" * 99 + b"weighus"),
}
WORDS = {
    "a file is missing": "model.safetensors is missing",
    "a nested file is missing": "optimizer.pt is missing",
    "unmarked": "was cut off while being written",
    "mark cut off": "complete.json is damaged",
    "mark empty": "complete.json is damaged",
    "mark of another kind": "complete.json is damaged",
}


@pytest.mark.parametrize("spoil", SPOILS)
def test_spoiled_checkpoint_is_skipped_with_a_note(out, spoil, capsys):
    make_checkpoint(out, 5)
    last = make_checkpoint(out, 10)
    assert find_damage(last) is None
    assert find_last_complete(out) == last
    SPOILS[spoil](last)
    words = WORDS.get(spoil, "model.safetensors is damaged")
    assert find_damage(last) == words
    assert find_last_complete(out) == out / "checkpoint-5"
    assert capsys.readouterr().err == f"note: {last}: {words}; it is skipped\n"


def test_later_step_wins_by_number_not_by_name(out, capsys):
    for step in (9, 100, 20):
        make_checkpoint(out, step)
    (out / "checkpoint-best").mkdir()
    assert find_last_complete(out) == out / "checkpoint-100"
    assert capsys.readouterr().err == ""


def test_no_checkpoint_at_all(out, capsys):
    assert find_last_complete(out) is None
    make_checkpoint(out, 5, mark=False)
    assert find_last_complete(out) is None
    assert "checkpoint-5" in capsys.readouterr().err


def test_mark_lists_every_file_and_may_be_written_again(out):
    folder = make_checkpoint(out, 5)
    sizes = {"model.safetensors": 700, "nested/optimizer.pt": 500}
    listed = json.loads((folder / "complete.json").read_text())
    assert {name: size for name, (size, _) in listed.items()} == sizes
    (folder / "more.bin").write_bytes(b"12")
    mark_complete(folder)
    more = json.loads((folder / "complete.json").read_text())
    assert more == {**listed, "more.bin": [2, xxhash.xxh3_128(b"12").hexdigest()]}
    assert not list(folder.glob(".*"))


def test_a_checkpoint_is_on_the_disk_before_its_mark_is(out, monkeypatch):
    folder, seen = make_checkpoint(out, 5, mark=False), []
    monkeypatch.setattr(files, "sync", lambda path: seen.append(path.name))
    mark_complete(folder)
    assert set(seen[:4]) == {"model.safetensors", "optimizer.pt", "nested", "checkpoint-5"}
    assert seen[4:] == ["complete.json", "checkpoint-5", "ckpt"]


def test_a_checkpoint_of_earlier_versions_is_known_by_its_sizes(out):
    folder = make_checkpoint(out, 5, mark=False)
    sizes = {"model.safetensors": 700, "nested/optimizer.pt": 500}
    (folder / "complete.json").write_text(json.dumps(sizes))
    assert find_damage(folder) is None
    truncate(folder)
    assert find_damage(folder) == "model.safetensors is damaged"


# What is left at the end


@pytest.fixture
def model(tokenizer):
    torch.manual_seed(0)
    shape = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "head_dim": 16,
    }
    special = {"vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    config = AutoConfig.for_model("qwen3", num_key_value_heads=1, max_position_embeddings=64, **shape, **special)
    model = AutoModelForCausalLM.from_config(config)
    model.config.use_cache = False  # as Trainer leaves it
    return model


def test_saved_model_is_the_one_form_that_loads_anywhere(model, tokenizer, out):
    stop = tokenizer.convert_tokens_to_ids("<|im_end|>")
    out.mkdir()
    save_model(model, tokenizer, out, [stop])
    assert {path.name for path in out.iterdir()} == FORM
    loaded, loaded_tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    for name, weight in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight), name
    assert loaded.config.use_cache is True
    generation = GenerationConfig.from_pretrained(out)
    assert generation.eos_token_id == [stop]
    assert generation.pad_token_id == tokenizer.pad_token_id
    assert json.loads((out / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert (
        loaded_tokenizer.chat_template
        == tokenizer.chat_template
        == (out / "chat_template.jinja").read_text(encoding="utf-8")
    )
    assert (loaded_tokenizer.eos_token, loaded_tokenizer.pad_token) == (tokenizer.eos_token, tokenizer.pad_token)
    messages = [{"role": "user", "content": "你好"}]
    for options in ({"add_generation_prompt": True}, {}):
        expected = tokenizer.apply_chat_template(messages, **options)["input_ids"]
        assert loaded_tokenizer.apply_chat_template(messages, **options)["input_ids"] == expected


def test_saving_again_replaces_the_weights_and_keeps_the_rest(model, tokenizer, out):
    make_run(out, "training", (5,))
    save_model(model, tokenizer, out, [2])
    with torch.no_grad():
        model.lm_head.weight.fill_(0.5)
    save_model(model, tokenizer, out, [2])
    assert load_file(out / "model.safetensors")["lm_head.weight"].eq(0.5).all()
    assert {path.name for path in out.iterdir()} == FORM | {"run.yaml", "checkpoint-5"}


def test_save_that_was_cut_off_leaves_no_weights_and_no_trace_later(model, tokenizer, out, monkeypatch):
    out.mkdir()

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(type(tokenizer), "save_pretrained", fail)
        with pytest.raises(OSError, match="No space left"):
            save_model(model, tokenizer, out, [2])
    assert not list(out.glob("*.safetensors"))
    save_model(model, tokenizer, out, [2])
    assert {path.name for path in out.iterdir()} == FORM


def test_weights_are_moved_last(model, tokenizer, out, monkeypatch):
    out.mkdir()
    moved = []
    replace = Path.replace

    def record(self, target):
        moved.append(Path(target).name)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", record)
    save_model(model, tokenizer, out, [2])
    assert moved[-1] == "model.safetensors"
    assert set(moved) == FORM


# What determines a run


@dataclass
class Options:
    corpus: list[str] = field(default_factory=lambda: ["a.txt"])
    base: str | None = None


def settings_of(out: Path, **changes) -> dict:
    return collect_settings(Options(), RunArguments(**{"output_dir": str(out), "use_cpu": True, **changes}))


@pytest.mark.parametrize(
    "changes",
    [
        {"output_dir": "elsewhere"},
        {"resume_from_checkpoint": "true"},
        {"overwrite": True},
        {"report_to": "none"},
        {"logging_steps": 3},
        {"save_steps": 7},
        {"save_total_limit": 5},
        {"disable_tqdm": True},
    ],
    ids=str,
)
def test_settings_leave_out_where_and_how_a_run_is_kept(out, changes):
    assert settings_of(out, **changes) == settings_of(out)


@pytest.mark.parametrize(
    "changes",
    [
        {"learning_rate": 0.5},
        {"matrix_learning_rate": 0.5},
        {"optim": "adamw"},
        {"seed": 7},
        {"max_steps": 3},
        {"torch_compile": True},
        {"lr_scheduler_type": "cosine"},
        {"adam_beta2": 0.5},
        {"bf16": True},
    ],
    ids=str,
)
def test_settings_hold_what_changes_the_result(out, changes):
    before = settings_of(out, bf16=False)
    now = settings_of(out, **{"bf16": False, **changes})
    assert {name for name in {*before, *now} if before.get(name) != now.get(name)} == set(changes)


def test_settings_hold_the_rows_of_a_step_however_they_are_divided(out):
    settings = [
        settings_of(out, per_device_train_batch_size=rows, gradient_accumulation_steps=times)
        for rows, times in ((6, 1), (2, 3), (3, 1))
    ]
    assert settings[0] == settings[1]
    assert settings[0]["step_rows"] == 6
    assert settings[2]["step_rows"] == 3


def test_settings_hold_our_options_and_survive_yaml(out):
    settings = settings_of(out)
    assert settings["corpus"] == ["a.txt"]
    assert settings["base"] is None
    assert "output_dir" not in settings
    assert yaml.safe_load(yaml.safe_dump(settings)) == settings
    assert not any(str(out) in str(value) for value in settings.values())
