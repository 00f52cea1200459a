"""Where scripts run: consoles that can't show every letter, homes that can't be written, left-over variables."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import warnings
from importlib.util import find_spec
from pathlib import Path

import pytest

from environment import forget_launcher, settle_caches
from errors import InputError
from model_utils.llama_library import has_library
from tests.conftest import ROOT, TINY_SHAPE, own_texts

CACHES = ("HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "MPLCONFIGDIR")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoding", "shown"), [("cp936", "茶?é"), ("cp1252", "??é"), ("ascii", "???"), ("utf-8", "茶😀é")]
)
def test_what_a_console_cannot_show_ends_nothing(encoding, shown):
    code = "from environment import begin_script; begin_script(); print('茶😀é')"
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, check=True)
    assert done.stdout.decode(encoding).strip() == shown


@pytest.fixture
def abroad(tmp_path, request):
    """Where people have it: a path with a space and Chinese, a home that can't be written, a console of cp936.

    Returns the process from which scripts are forked, a folder of that path, and one on another file system.
    """
    if not hasattr(os, "fork"):
        pytest.skip("no fork here")
    from tests.forked import Forked

    place = tmp_path / "my 项目"
    for name in ("elsewhere", "临时 files", "jobs"):
        (place / name).mkdir(parents=True)
    (place / "home").touch()
    (place / "代码 repo").symlink_to(ROOT)
    env = {name: value for name, value in os.environ.items() if name not in CACHES}
    env |= {"HOME": str(place / "home"), "PYTHONIOENCODING": "cp936", "PYTHONUTF8": "0"}
    env |= {"TMPDIR": str(place / "临时 files")}
    server = Forked(place / "jobs", root=place / "代码 repo", cwd=place / "elsewhere", env=env)
    request.addfinalizer(server.close)
    shared = Path("/dev/shm")
    is_other = os.access(shared, os.W_OK) and shared.stat().st_dev != tmp_path.stat().st_dev
    output = Path(tempfile.mkdtemp(prefix="输出 of ", dir=shared if is_other else tmp_path))
    request.addfinalizer(lambda: shutil.rmtree(output))
    if not is_other:
        warnings.warn("no other file system here: output is written on the same one", stacklevel=1)
    return server, place, output


@pytest.mark.slow
def test_every_script_runs_where_people_have_it(abroad):
    """Each ends well, writes where it was told alone, and names the next command so that it can be pasted."""
    server, place, output = abroad

    def run(script: str, *options: str, typed: str = "") -> tuple[str, list[str]]:
        codes, job = server.run(script, list(options), typed=typed.encode("cp936"))
        assert codes == [0], job.text
        _, found, command = job.out.rpartition("next: ")
        return job.out, shlex.split(command)[1:] if found else []

    texts = own_texts()[::40]
    questions = [{"role": "user", "content": f"茶 {n} 😀?"} for n in range(20)]
    rows = [{"messages": [asked, {"role": "assistant", "content": "Tea 茶 😀."}]} for asked in questions]
    pairs = [{"prompt": [asked], "chosen": "Yes, 好 😀.", "rejected": "no no no"} for asked in questions]
    (place / "茶 notes.txt").write_text("\n\n".join(texts), encoding="utf-8")
    for name, lines in (("对话.jsonl", rows), ("好 坏.jsonl", pairs)):
        (place / name).write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    common = ["--per_device_train_batch_size", "2", "--max_steps", "2", "--eval_steps", "2", "--save_steps", "2"]
    common += ["--report_to", "none", "--bf16", "false", "--torch_compile", "false", "--use_cpu", "true"]
    common += ["--warmup_steps", "1", "--eval_tokens", "256", "--eval_fraction", "0.1"]

    (place / "形状.json").write_text(json.dumps(TINY_SHAPE | {"max_position_embeddings": 96}), encoding="utf-8")
    corpus, shape = ["--corpus", "../茶 notes.txt"], ["--model_shape", "../形状.json", "--vocab_size", "600"]
    if find_spec("datatrove"):
        options = ["--sources", "../茶 notes.txt", "--sample_by", "paragraph", "--clean", "unicode", "--workers", "1"]
        options += ["--eval_fraction", "0.1", "--output_dir", str(output / "语料 a")]
        _, (script, *corpus) = run("prepare_corpus", *options)
        assert script == "train.py"
    else:
        warnings.warn("prepare_corpus.py was not tried: its packages are not here", stacklevel=1)
    more = [*shape, "--block_tokens", "64", "--head_start", "false", "--output_dir", str(output / "ckpt a")]
    _, (script, *base) = run("train", *corpus, *common, *more)
    assert (script, base) == ("finetune_dialogue.py", ["--base", str(output / "ckpt a")])
    more = ["--dialogues", "../对话.jsonl", "--row_tokens", "96", "--output_dir", str(output / "聊天 b")]
    said, (script, *chat) = run("finetune_dialogue", *base, *common, *more)
    assert "Tea 茶 ?." in said
    assert (script, chat) == ("chat.py", ["--model", str(output / "聊天 b")])
    model = chat[-1]
    more = ["--preferences", "../好 坏.jsonl", "--row_tokens", "96", "--output_dir", str(output / "更好 c")]
    _, tuned = run("tune_preferences", "--base", model, *common, *more)
    assert tuned == ["chat.py", "--model", str(output / "更好 c")]
    scored = ["--parts", "text", "dialogues", "--text", "../茶 notes.txt", "--dialogues", "../对话.jsonl"]
    said, _ = run("score", model, tuned[-1], *scored, "--limit", "4", "--output_dir", str(output / "分数 d"))
    assert "聊天 b" in said
    run("chat", *chat, "--max_new_tokens", "4", typed="茶\n好\n")
    if find_spec("gguf") and has_library():
        _, command = run("export", model, "--to", "gguf", "--output_dir", str(output / "文件 e"))
        assert command == ["create", "聊天 b", "-f", str(output / "文件 e" / "Modelfile")]
    else:
        warnings.warn("export.py was not tried: its packages are not here", stacklevel=1)
    assert "茶" in (output / "聊天 b" / "report.md").read_text(encoding="utf-8")
    assert list((place / "elsewhere").iterdir()) == []
    assert (place / "home").read_bytes() == b""


@pytest.fixture
def launch(monkeypatch):
    """Sets the variables of a launch, and no others."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)

    def set_all(given: str) -> dict[str, str]:
        values = dict(word.split("=") for word in given.split())
        for name, value in values.items():
            monkeypatch.setenv(name, value)
        return values

    return set_all


@pytest.mark.parametrize("left", ["RANK=1", "WORLD_SIZE=2 RANK=0", "LOCAL_RANK=3", "RANK=0 WORLD_SIZE=2 MASTER_ADDR=a"])
def test_variables_of_an_earlier_launch_are_passed_over(left, launch, capsys):
    names = launch(left)
    forget_launcher()
    assert not names.keys() & os.environ.keys()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"note: {', '.join(sorted(names))} of an earlier launch")


@pytest.mark.parametrize(
    "given", ["", "MASTER_ADDR=127.0.0.1 MASTER_PORT=1", "RANK=0 WORLD_SIZE=2 MASTER_ADDR=a MASTER_PORT=1 LOCAL_RANK=0"]
)
def test_a_launch_stays(given, launch, capsys):
    """The second is accelerate's for CPU processes, which it leaves to others."""
    values = launch(given)
    forget_launcher()
    assert values.items() <= os.environ.items()
    assert capsys.readouterr().err == ""


@pytest.fixture
def caches(tmp_path, monkeypatch):
    """An environment that names no cache; its home is a file, its temporary files go to tmp_path/temporary."""
    for name in CACHES:
        monkeypatch.setenv(name, "")  # given back afterwards
        monkeypatch.delenv(name)
    (tmp_path / "home").touch()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "temporary"))
    return tmp_path


def test_a_home_that_can_be_written_holds_the_caches(caches, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(caches / "cache"))
    settle_caches()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(caches / "cache" / "torchinductor")
    assert "HF_HOME" not in os.environ
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", [None, "HF_HOME"])
def test_a_home_that_cannot_be_written_is_replaced_and_said(name, caches, monkeypatch, capsys):
    if name:
        monkeypatch.setenv(name, str(caches / "home" / "hf"))
    settle_caches()
    (folder,) = (caches / "temporary").iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700 or os.name == "nt"
    assert os.environ["HF_HOME"] == str(folder / "huggingface")
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(folder / "torchinductor")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"can't be written; caches are in {folder}, and HF_HOME names another place")
    monkeypatch.delenv("HF_HOME")
    settle_caches()  # the next run finds them again
    assert os.environ["HF_HOME"] == str(folder / "huggingface")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_a_cache_that_others_can_write_is_not_used(caches):
    folder = caches / "temporary" / f"language-model-cache-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(InputError, match="belongs to another user; set HF_HOME"):
        settle_caches()
    folder.rmdir()
    folder.symlink_to(caches)
    with pytest.raises(InputError, match="belongs to another user; set HF_HOME"):
        settle_caches()
