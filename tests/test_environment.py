"""Where scripts run: consoles that can't show every letter, homes that can't be written, left-over variables."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from environment import forget_launcher, settle_caches
from errors import InputError

ROOT = Path(__file__).parents[1]
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


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="links need a right there")
def test_a_script_runs_where_people_have_it(tmp_path, tiny_checkpoint):
    """Paths with a space and Chinese, another working directory, a home that can't be written, a console of cp936."""
    place = tmp_path / "my 项目"
    (place / "elsewhere").mkdir(parents=True)
    (place / "home").touch()
    (place / "代码 repo").symlink_to(ROOT)
    shutil.copytree(tiny_checkpoint, place / "模型 a")
    kept = {name: value for name, value in os.environ.items() if name not in CACHES}
    kept |= {"HOME": str(place / "home"), "PYTHONIOENCODING": "cp936", "PYTHONUTF8": "0", "TMPDIR": str(tmp_path)}
    command = [sys.executable, str(place / "代码 repo" / "chat.py"), "--model", "../模型 a", "--prompt", "茶 😀"]
    command += ["--max_new_tokens", "4", "--temperature", "0"]
    done = subprocess.run(command, cwd=place / "elsewhere", env=kept, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert done.stdout.decode("cp936").strip()
    assert done.stderr.decode("cp936").splitlines()[0].startswith("note: ~/.cache/huggingface can't be")


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
