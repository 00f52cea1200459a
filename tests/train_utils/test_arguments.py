"""Options: where each value comes from, what is refused, and how it is said."""

import subprocess
import sys
from dataclasses import asdict, dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from transformers import TrainingArguments
from transformers.training_args import OptimizerNames

import finetune_dialogue
import prepare_corpus as prepare
import score
import train
from data_utils.preparation.arguments import CleaningArguments
from data_utils.readers.arguments import ReadArguments
from errors import InputError
from options import parse_arguments
from train_utils import arguments
from train_utils.arguments import RunArguments, add_trainer_options, dtype_name, has_fast_bf16
from train_utils.parsing import trainer_names
from train_utils.run_options import LoraOptions, RunOptions, TuneOptions

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(path for path in ROOT.glob("configs/**/*.yaml") if path.parent.name != "accelerate")
LAUNCH_FILES = sorted(ROOT.glob("configs/accelerate/*.yaml"))
CPU = ["--use_cpu", "true"]


@dataclass
class Choices:
    rate: float = field(default=0.5, metadata={"help": "How fast"})
    files: list[str] = field(default_factory=lambda: ["a", "b"], metadata={"help": "What is read"})
    quiet: bool = field(default=False, metadata={"help": "Say nothing"})
    loud: bool = field(default=True, metadata={"help": "Say all"})
    name: str | None = field(default=None, metadata={"help": "Who"})
    count: int = 3


@pytest.fixture
def parse(tmp_path):
    """Parse Choices from the text of the default YAML and a command line."""

    def parse(text: str = "", *argv: str) -> Choices:
        config = tmp_path / "default.yaml"
        config.write_text(text, encoding="utf-8")
        return parse_arguments((Choices,), list(argv), config, "Test.")[0]

    return parse


def run_arguments(tmp_path: Path, *argv: str, text: str = "") -> RunArguments:
    config = tmp_path / "default.yaml"
    config.write_text(text, encoding="utf-8")
    return parse_arguments((RunArguments,), [*CPU, "--output_dir", str(tmp_path / "out"), *argv], config, "Test.")[0]


# Where values come from


def test_dataclass_then_yaml_then_command_line(parse):
    assert parse() == Choices()
    assert parse("rate: 0.25\ncount: 7\n") == Choices(rate=0.25, count=7)
    assert parse("rate: 0.25\ncount: 7\n", "--count", "9") == Choices(rate=0.25, count=9)


def test_named_yaml_replaces_the_default_one(parse, tmp_path):
    other = tmp_path / "other.yml"
    other.write_text("rate: 0.125\n")
    assert parse("count: 7\n", str(other), "--name", "Momo") == Choices(rate=0.125, name="Momo")


def test_arguments_come_from_the_shell_where_none_are_given(monkeypatch, tmp_path):
    (tmp_path / "default.yaml").write_text("count: 7\n")
    monkeypatch.setattr("sys.argv", ["train.py", "--rate", "2"])
    assert parse_arguments((Choices,), None, tmp_path / "default.yaml", "Test.")[0] == Choices(rate=2.0, count=7)


@pytest.mark.parametrize(
    ("text", "argv", "expected"),
    [
        ("rate: 3e-4", [], {"rate": 0.0003}),  # PyYAML alone reads this as a string
        ("rate: 1", [], {"rate": 1.0}),
        ("rate: -2.5", [], {"rate": -2.5}),
        ("", ["--rate", "3e-4"], {"rate": 0.0003}),
        ("", ["--rate=3e-4"], {"rate": 0.0003}),
        ("files: [x.txt, 'two words.txt']", [], {"files": ["x.txt", "two words.txt"]}),
        ("files: x.txt", [], {"files": ["x.txt"]}),
        ("files: [x.txt]", ["--files", "y", "z"], {"files": ["y", "z"]}),
        ("quiet: true\nloud: false", [], {"quiet": True, "loud": False}),
        ("quiet: yes\nloud: no", [], {"quiet": True, "loud": False}),
        ("", ["--quiet"], {"quiet": True}),
        ("quiet: true", ["--quiet", "false"], {"quiet": False}),
        ("name: null\ncount:", [], {}),
        ("name: 小红", [], {"name": "小红"}),
        ("name: '12'", [], {"name": "12"}),
    ],
)
def test_values_get_the_type_of_their_option(parse, text, argv, expected):
    found = parse(text, *argv)
    assert found == Choices(**expected)
    assert [type(value) for value in asdict(found).values()] == [type(v) for v in asdict(Choices(**expected)).values()]


def test_dict_in_yaml_reaches_the_trainer(tmp_path):
    args = run_arguments(
        tmp_path, text="lr_scheduler_type: cosine_with_min_lr\nlr_scheduler_kwargs: {min_lr_rate: 0.1}\n"
    )
    assert args.lr_scheduler_kwargs == {"min_lr_rate": 0.1}


def test_no_in_yaml_means_the_word_where_an_option_takes_words(tmp_path):
    """YAML reads a bare `no` as false; --help offers it for the option."""
    args = run_arguments(tmp_path, text="eval_strategy: no\nsave_strategy: no\n")
    assert (args.eval_strategy, args.save_strategy) == ("no", "no")


# What is refused


@pytest.mark.parametrize(
    ("text", "argv", "parts"),
    [
        ("raet: 1", [], ["default.yaml: unknown key 'raet'", "did you mean 'rate'?"]),
        ("zzzzzz: 1", [], ["default.yaml: unknown key 'zzzzzz'", "see --help"]),
        ("7: 1", [], ["default.yaml: unknown key '7'"]),
        ("", ["--raet", "1"], ["command line: unknown key 'raet'", "did you mean 'rate'?"]),
        ("", ["--raet=1"], ["command line: unknown key 'raet'"]),
        ("", ["--rat", "1"], ["unknown key 'rat'"]),  # no abbreviations
        ("", ["--no_rate"], ["no_rate"]),  # not a switch
        ("", ["file.txt"], ["command line: 'file.txt' is neither a .yaml file nor an option"]),
        ("", ["--rate", "1", "stray"], ["stray"]),
        ("rate: fast", [], ["default.yaml: rate", "'fast'"]),
        ("count: 1.5", [], ["default.yaml: count", "'1.5'"]),
        ("", ["--count", "many"], ["--count", "'many'"]),
        ("", ["--quiet", "perhaps"], ["--quiet", "perhaps"]),
        ("rate: [1, 2]", [], ["default.yaml"]),
        ("files: []", [], ["default.yaml: files"]),
        ("", ["--name"], ["--name"]),
        ("- rate", [], ["default.yaml: 'key: value' lines are expected"]),
        ("just words", [], ["default.yaml: 'key: value' lines are expected"]),
        ("rate: 1\nfiles: [a\ncount: 2", [], ["default.yaml:3: not valid YAML"]),
        ("rate: 1\n\tcount: 2", [], ["default.yaml:2: not valid YAML"]),
        ("rate: 1\nname: \x07", [], ["default.yaml", "not valid YAML"]),
        ("name: !!bool x", [], ["default.yaml", "not valid YAML"]),
        ("name: 2026-99-99", [], ["default.yaml", "not valid YAML: month must be in 1..12"]),
        ("name: !!timestamp x", [], ["default.yaml", "not valid YAML"]),
        ("files: &a [*a]", [], ["default.yaml", "not valid YAML"]),
        ("files: " + "[" * 1000, [], ["default.yaml", "not valid YAML"]),
        ("files: [[a]]", [], ["default.yaml: files: a value or a list of values is expected"]),
    ],
)
def test_bad_options_are_one_line_that_says_where(parse, text, argv, parts):
    with pytest.raises(InputError) as caught:
        parse(text, *argv)
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def test_missing_yaml_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.yaml: no such file"):
        parse_arguments((Choices,), [str(tmp_path / "nowhere.yaml")], tmp_path / "default.yaml", "Test.")


def test_yaml_that_is_not_utf8_is_named(tmp_path):
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe9t\xe9\n")
    with pytest.raises(InputError, match=r"latin\.yaml.*not valid YAML") as caught:
        parse_arguments((Choices,), [str(tmp_path / "latin.yaml")], tmp_path / "default.yaml", "Test.")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_steps", "10"),
        ("num_train_epochs", "2"),
        ("warmup_steps", "5"),
        ("lr_scheduler_type", "cosine"),
        ("eval_strategy", "epoch"),
        ("save_strategy", "epoch"),
    ],
)
def test_what_minutes_replaces_is_refused_on_the_command_line_but_not_in_a_recipe(tmp_path, name, value):
    with pytest.raises(InputError, match=f"command line: --{name} has no effect with --minutes") as caught:
        run_arguments(tmp_path, "--minutes", "3", f"--{name}", value)
    assert "\n" not in str(caught.value)
    assert run_arguments(tmp_path, "--minutes", "3", text=f"{name}: {value}\n").minutes == 3
    named = tmp_path / "named.yaml"
    named.write_text(f"{name}: {value}\noutput_dir: {tmp_path / 'out'}\n")
    args = parse_arguments((RunArguments,), [str(named), *CPU, "--minutes", "3"], named, "Test.")[0]
    assert name in args.given
    assert run_arguments(tmp_path, f"--{name}", value).minutes is None  # without the clock it is taken


# What a run is given


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("muon", "muon"),
        ("adamw", "adamw_torch_fused"),
        ("sgd", "sgd"),
        ("adafactor", "adafactor"),
        ("adamw_torch", "adamw_torch"),
    ],
)
def test_optimizer_names(tmp_path, name, expected):
    optim = run_arguments(tmp_path, "--optim", name).optim
    assert getattr(optim, "value", optim) == expected
    assert name == "muon" or OptimizerNames(optim)  # muon is ours, Trainer knows the others


def test_muon_is_the_default_optimizer(tmp_path):
    assert run_arguments(tmp_path).optim == "muon"


@pytest.mark.parametrize("limit", ["2", "5"])
def test_two_checkpoints_or_more_are_kept(tmp_path, limit):
    assert run_arguments(tmp_path).save_total_limit == 2
    assert run_arguments(tmp_path, "--save_total_limit", limit).save_total_limit == int(limit)


@pytest.mark.parametrize(
    ("capabilities", "bf16_flops", "fast"),
    [
        ({"avx2": True, "avx512_bf16": False}, 3e11, False),  # emulated, whatever is measured
        ({"avx512_bf16": True}, 3e11, True),
        ({"avx512_bf16": True}, 5e10, False),
        ({"amx_bf16": True}, 3e11, True),
        ({}, 3e11, False),
    ],
)
def test_bf16_is_chosen_where_its_products_are_faster(tmp_path, monkeypatch, capabilities, bf16_flops, fast):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    peaks = {"bf16": bf16_flops, "fp32": 1e11}
    monkeypatch.setattr(arguments, "measure_peak", lambda device, dtype, seconds: peaks[dtype])
    assert has_fast_bf16(use_cpu=True) is fast
    assert run_arguments(tmp_path).bf16 is fast
    assert run_arguments(tmp_path, "--bf16", str(not fast)).bf16 is not fast


def test_cpu_is_used_where_there_is_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(arguments, "has_accelerator", lambda: False)
    config = tmp_path / "default.yaml"
    config.write_text("")
    args = parse_arguments((RunArguments,), ["--output_dir", str(tmp_path)], config, "Test.")[0]
    assert args.use_cpu
    assert args.device == torch.device("cpu")


def test_no_step_waits_unless_asked_to(tmp_path, monkeypatch):
    args = run_arguments(tmp_path)
    monkeypatch.setattr(RunArguments, "device", torch.device("cuda"))
    changed = arguments.avoid_waiting(args)
    assert changed.accelerator_config.non_blocking is True
    assert (changed.logging_nan_inf_filter, changed.ddp_find_unused_parameters) == (False, False)
    assert args.accelerator_config.non_blocking is False  # what was parsed stays
    assert args.ddp_find_unused_parameters is None
    asked = ["--logging_nan_inf_filter", "true", "--ddp_find_unused_parameters", "true"]
    args = run_arguments(tmp_path, *asked, "--accelerator_config", '{"non_blocking": false}')
    args = arguments.avoid_waiting(args)
    assert args.accelerator_config.non_blocking is False
    assert (args.logging_nan_inf_filter, args.ddp_find_unused_parameters) == (True, True)


def test_numbers_have_a_name(tmp_path):
    names = [dtype_name(run_arguments(tmp_path, *argv)) for argv in (["--bf16", "true"], ["--bf16", "false"])]
    assert names == ["bf16", "fp32"]
    assert dtype_name(SimpleNamespace(bf16=False, fp16=True)) == "fp16"


@pytest.mark.parametrize(
    ("argv", "wanted"), [([], None), (["--torch_compile", "true"], True), (["--torch_compile", "no"], False)]
)
def test_layers_are_compiled_by_us_and_not_by_trainer(tmp_path, argv, wanted):
    args = run_arguments(tmp_path, *argv)
    assert args.compile_layers is wanted
    assert args.torch_compile is False


# Help


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_shows_our_options_with_the_values_of_the_default_recipe(capsys, tmp_path, option):
    config = tmp_path / "recipe.yaml"
    config.write_text("count: 12\nlearning_rate: 5e-2\n")
    with pytest.raises(SystemExit) as left:
        kinds, about = (Choices, RunOptions), "What it does.\n\n    python x.py"
        parse_arguments(kinds, [option], config, about, other_names=trainer_names())
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("What it does.")
    assert "recipe.yaml" in text
    for line in (
        "--rate (0.5)\n        How fast", "--files (a b)", "--quiet (false)", "--name (unset)", "--count (12)",
        "--output_dir (ckpt)", "--max_steps (-1)", "--learning_rate (5e-2)", "--optim (muon)", "--overwrite (false)",
    ):  # fmt: skip
        assert line in text
    assert len(text.splitlines()) < 85  # not the 130 options of TrainingArguments


def test_help_says_what_goes_together_and_is_cut_between_words(capsys, tmp_path):
    @dataclass
    class Wordy:
        long: int = field(default=1, metadata={"help": "many " * 40})

    (tmp_path / "recipe.yaml").write_text("seed: 1\n")
    with pytest.raises(SystemExit):
        parse_arguments((Wordy, RunOptions), ["--help"], tmp_path / "recipe.yaml", "What it does.")
    lines = capsys.readouterr().out.splitlines()
    texts = {line.split()[0]: text.strip() for line, text in pairwise(lines) if line.startswith("  --")}
    assert texts["--long"] == "many " * 31 + "..."
    assert texts["--plan_only"] == "Print the plan and leave"
    assert texts["--resume_from_checkpoint"].startswith("true: go on from the last checkpoint")
    assert max(map(len, texts.values())) <= 160


def test_help_all_shows_every_option(capsys, tmp_path):
    (tmp_path / "recipe.yaml").write_text("")
    with pytest.raises(SystemExit) as left:
        parse_arguments((Choices, RunArguments), ["--help_all"], tmp_path / "recipe.yaml", "What it does.")
    assert left.value.code == 0
    text = capsys.readouterr().out
    for name in ("--rate", "--matrix_learning_rate", "--dataloader_num_workers", "--adam_beta2"):
        assert name in text


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["--save_total_limit", "1"], "--save_total_limit must be 2 or more"),
        (["--optim", "adamm"], "adamm"),
        (["--lr_scheduler_type", "lineer"], "lineer"),
        (["--eval_strategy", "sometimes"], "sometimes"),
        (["--bf16", "true", "--fp16", "true"], "fp16"),
        (["--max_steps", "9", "--num_train_epochs", "2"], "--num_train_epochs has no effect with --max_steps"),
        (["--optim", "adamw", "--matrix_learning_rate", "0.1"], "--matrix_learning_rate is Muon's"),
        (["--lr_scheduler_type", "cosine", "--decay_share", "0.5"], "--decay_share has no effect with"),
        (["--overwrite", "true", "--resume_from_checkpoint", "true"], "--overwrite true begins anew"),
        (["--minutes", "3", "--logging_steps", "0.1"], "--logging_steps 0.1 is below 1"),
        (["--use_liger_kernel", "true", "--torch_compile", "true"], "leave out one"),
        (["--use_liger_kernel", "true"], "--use_liger_kernel needs"),
        (["--label_smoothing_factor", "0.1"], "--label_smoothing_factor changes what a loss means"),
        (["--eval_steps", "0"], "--eval_steps 0.0 is outside"),
        (["--auto_find_batch_size", "true"], "--auto_find_batch_size changes the batch"),
        (["--accelerator_config", '{"split_batches": true}'], "split_batches divides the batch"),
        (["--eval_strategy", "no", "--eval_tokens", "1000"], "--eval_tokens has no effect with --eval_strategy no"),
        (["--lr_scheduler_type", "constant", "--warmup_steps", "20"], "--warmup_steps has no effect with --lr_sched"),
        (["--save_strategy", "no", "--save_steps", "5"], "--save_steps has no effect with --save_strategy no"),
        (["--optim", "sgd", "--adam_beta2", "0.9"], "--adam_beta2 has no effect with --optim sgd"),
        (["--minutes", "3", "--optim", "sgd", "--adam_beta2", "0.9"], "--adam_beta2 has no effect with --optim sgd"),
        (["--eval_strategy", "epoch", "--eval_steps", "0.1"], "--eval_steps has no effect with --eval_strategy epoch"),
    ],
)
def test_wrong_options_and_those_without_effect_are_refused_in_one_line(tmp_path, argv, part):
    with pytest.raises(InputError) as caught:
        run_arguments(tmp_path, *argv)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_process_takes_one_gpu_of_several(tmp_path, monkeypatch):
    def see_two(args: TrainingArguments) -> torch.device:
        args._n_gpu = 2
        return torch.device("cpu")

    monkeypatch.setattr(TrainingArguments, "_setup_devices", property(see_two))
    args = run_arguments(tmp_path, "--per_device_train_batch_size", "3")
    assert (args.n_gpu, args.train_batch_size) == (1, 3)


def test_epochs_of_the_command_line_replace_the_steps_of_a_recipe(tmp_path):
    assert run_arguments(tmp_path, "--num_train_epochs", "2", text="max_steps: 800").max_steps == -1
    assert run_arguments(tmp_path, text="max_steps: 800\nnum_train_epochs: 2").max_steps == 800


@pytest.mark.parametrize(
    ("script", "argv", "part"),
    [
        (train, ["--base", "x", "--model_shape", "y"], "--model_shape has no effect with --base"),
        (train, ["--base", "x", "--vocab_size", "900"], "--vocab_size has no effect with --base"),
        (train, ["--base", "x", "--head_start", "true"], "--head_start has no effect with --base"),
        (train, ["--tokenizer", "x", "--vocab_size", "900"], "--vocab_size has no effect with --tokenizer"),
        (train, ["--mixture", "x", "--corpus", "y"], "--corpus has no effect with --mixture"),
        (train, ["--sources", "x"], "'sources' is now --mixture"),
        (finetune_dialogue, ["--lora_rank", "4"], "--lora_rank has no effect without --lora true"),
        (finetune_dialogue, ["--lora", "false", "--lora_targets", "a"], "--lora_targets has no effect without --lora"),
    ],
)
def test_options_without_effect_in_a_script_are_refused(script, argv, part):
    with pytest.raises(InputError, match=part):
        script.main(argv)


@pytest.mark.parametrize(("name", "value", "strategy"), [("eval", "0.1", "no"), ("eval", "50", "steps"),
                                                         ("save", "0.1", "no"), ("save", "50", "steps")])  # fmt: skip
def test_minutes_heed_when_to_evaluate_and_save(tmp_path, name, value, strategy):
    """A share of the run is the clock's, steps are Trainer's."""
    args = run_arguments(tmp_path, "--minutes", "3", f"--{name}_steps", value)
    assert getattr(args, f"{name}_strategy") == strategy
    assert getattr(args, f"{name}_steps") == float(value)


def test_evaluations_cost_at_most_three_percent_of_the_training(tmp_path):
    args = run_arguments(tmp_path)
    assert args.count_eval_tokens(2, 3_276_800) == 32768
    assert args.count_eval_tokens(2, 1_000_000) == 11_250  # of two languages, four times: 30,000 trained tokens' worth
    assert args.count_eval_tokens(2, 1000) == 2048
    each_epoch = run_arguments(tmp_path, "--eval_strategy", "epoch", text="eval_steps: 0.01\n")
    assert each_epoch.count_eval_tokens(2, 1_000_000) == 11_250
    assert run_arguments(tmp_path, "--eval_tokens", "50000").count_eval_tokens(2, 1000) == 50000


def test_names_of_all_options_are_known_without_importing_them():
    assert trainer_names() == {option.name for option in fields(TrainingArguments)}


@pytest.mark.parametrize("script", ["train.py", "finetune_dialogue.py"])
@pytest.mark.parametrize(
    ("argv", "code"), [(["--help"], 0), (["--learning_rat", "1"], 2), (["configs/gpt2.yaml", "--decay_share", "2"], 2)]
)
def test_help_and_mistakes_need_no_torch(script, argv, code):
    command = [sys.executable, "-X", "importtime", script, *argv]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == code, done.stderr
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if "|" in line}
    assert "yaml" in imported
    assert not {"torch", "datasets", "peft"} & imported


@pytest.mark.parametrize("script", [train, finetune_dialogue])
def test_every_option_of_a_script_has_help(script):
    ours = [
        option for option in vars(script).values() if isinstance(option, type) and option.__module__ == script.__name__
    ]
    assert ours
    for type_ in ours:
        names = set(vars(type_).get("__annotations__", ()))
        assert all(option.metadata.get("help") for option in fields(type_) if option.name in names), type_


# The shipped recipes


def recipe_classes(path: Path) -> tuple[type, ...]:
    """Return the argument classes of the script that a recipe is for, by its folder, its name or its keys."""
    if path.parent.name == "corpus":
        return (prepare.PrepareArguments, ReadArguments, CleaningArguments)
    if path.name.startswith("score"):
        return (score.ScoreOptions,)
    keys = set(yaml.safe_load(path.read_text(encoding="utf-8")))
    of_dialogues = {option.name for option in fields(finetune_dialogue.DialogueArguments)}
    of_corpus = {o.name for type_ in (train.CorpusArguments, train.ModelArguments) for o in fields(type_)}
    if path.name.startswith("finetune") or keys & (of_dialogues - of_corpus):
        return (finetune_dialogue.DialogueArguments, LoraOptions, add_trainer_options(TuneOptions))
    return (train.CorpusArguments, train.ModelArguments, RunArguments)


def test_there_are_recipes_for_both_scripts():
    assert {"train.yaml", "finetune_dialogue.yaml"} <= {path.name for path in CONFIGS}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_shipped_recipe_parses_and_every_value_arrives(path):
    classes = recipe_classes(path)
    groups = parse_arguments(classes, [str(path), *(CPU if RunArguments in classes[-1].__mro__ else [])], path, "Test.")
    found = {name: value for group in groups for name, value in vars(group).items()}
    for key, value in yaml.safe_load(path.read_text(encoding="utf-8")).items():
        if key == "torch_compile":
            assert found["compile_layers"] == value
        elif isinstance(found[key], float):
            assert found[key] == float(value), key
        elif key != "optim":
            assert found[key] == value, key
    assert (ROOT / found.get("model_shape", "train.py")).is_file()
    assert (found.get("save_total_limit") or 2) >= 2


@pytest.mark.parametrize("path", LAUNCH_FILES, ids=lambda path: path.name)
def test_shipped_launch_file_is_one_of_accelerate(path):
    config = load_config_from_file(str(path))
    for key, value in yaml.safe_load(path.read_text(encoding="utf-8")).items():
        found = getattr(config, key)
        assert getattr(found, "value", found) == value, key
