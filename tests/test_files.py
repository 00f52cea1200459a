"""Files that are written whole or not at all, and folders that one process writes in."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import files
from errors import InputError
from files import hold, move_whole, one_writer, release, remove_cut_off, sync, whole, write_whole

ROOT = Path(__file__).parents[1]
HOLD = (
    "import files, pathlib, sys\nwith files.one_writer(pathlib.Path(sys.argv[1])): print('held', flush=True); input()"
)


@pytest.fixture
def calls(monkeypatch):
    """What the disk is asked for, in order: ("sync", name) and ("rename", name)."""
    seen = []
    replace = Path.replace
    monkeypatch.setattr(files, "sync", lambda path: (seen.append(("sync", path.name)), sync(path)))
    monkeypatch.setattr(Path, "replace", lambda self, to: (seen.append(("rename", to.name)), replace(self, to))[1])
    return seen


def test_a_file_is_synced_before_it_is_seen_and_its_folder_after(tmp_path, calls):
    write_whole(tmp_path / "very" / "new" / "a.txt", "one\r\n两\n")
    assert (tmp_path / "very" / "new" / "a.txt").read_bytes() == "one\r\n两\n".encode()
    above = [("sync", tmp_path.name), ("sync", "very")]  # or the new folders would go
    assert calls == [*above, ("sync", "a.txt"), ("rename", "a.txt"), ("sync", "new")]
    write_whole(tmp_path / "very" / "new" / "a.txt", b"\xff")
    assert [path.name for path in (tmp_path / "very" / "new").iterdir()] == ["a.txt"]


def test_a_folder_is_synced_with_all_that_is_in_it(tmp_path, calls):
    with whole(tmp_path / "out") as aside:
        (aside / "deep").mkdir(parents=True)
        (aside / "deep" / "b.txt").write_text("b")
        (aside / "gone").symlink_to("nowhere")
    assert calls == [("sync", "out"), ("sync", "b.txt"), ("sync", "deep"), ("rename", "out"), ("sync", tmp_path.name)]


def test_an_error_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), whole(path) as aside:
        aside.write_text("ne")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_takes_the_place_of_another(tmp_path):
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.txt").touch()
    move_whole(tmp_path / "new", tmp_path / "old")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["new.txt", "old"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_permissions_are_those_of_any_new_file_or_as_asked(tmp_path):
    (tmp_path / "plain").touch()
    write_whole(tmp_path / "a", "")
    write_whole(tmp_path / "b", "", mode=0o600)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "a", "b")]
    assert modes[0] == modes[1]
    assert modes[2] == 0o600


def test_what_a_kill_left_is_removed(tmp_path):
    (tmp_path / ".a.txt.1.tmp").mkdir()
    (tmp_path / ".a.txt.1.tmp" / "a.txt").touch()
    (tmp_path / ".b.parquet.1.tmp").touch()
    (tmp_path / "a.tmp").touch()
    remove_cut_off(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tmp"]


def test_a_disk_that_fails_is_not_passed_over(tmp_path, monkeypatch):
    def fail(handle):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        write_whole(tmp_path / "a.txt", "a")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there")
def test_a_folder_whose_name_is_no_utf8_is_refused(tmp_path):
    folder = tmp_path / os.fsdecode("笔记".encode("gbk"))
    for path in (folder / "a.txt", folder / "new" / "a.txt"):
        with pytest.raises(InputError, match="the name is no UTF-8; choose another folder"):
            write_whole(path, "tea")
        with pytest.raises(InputError, match="the name is no UTF-8"), one_writer(path.parent):
            pass
    assert not list(tmp_path.iterdir())
    folder.mkdir()
    with pytest.raises(InputError, match="the name is no UTF-8"):
        write_whole(folder / "a.txt", "tea")


def test_a_folder_that_a_file_has_the_place_of_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("tea", encoding="utf-8")
    for path in (tmp_path / "notes.txt" / "a.txt", tmp_path / "notes.txt" / "new" / "a.txt"):
        with pytest.raises(InputError, match=r"notes\.txt: is a file, not a folder; choose another folder"):
            write_whole(path, "tea")


# One writer


def test_a_folder_is_as_it_was_where_nothing_was_written(tmp_path):
    with one_writer(tmp_path / "new"):
        assert (tmp_path / "new").is_dir()
    assert not list(tmp_path.iterdir())
    (tmp_path / "old").mkdir()
    with one_writer(tmp_path / "old"), pytest.raises(InputError, match=f"process {os.getpid()} on .* writes in it"):  # noqa: SIM117
        with one_writer(tmp_path / "old"):
            pass
    assert not list((tmp_path / "old").iterdir())


def test_a_folder_is_held_until_it_is_let_go(tmp_path):
    for _ in range(2):
        hold(tmp_path)
    with pytest.raises(InputError, match="writes in it"), one_writer(tmp_path):
        pass
    release(tmp_path)
    with one_writer(tmp_path):
        release(tmp_path)  # of what is not held here
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows knows no SIGKILL")
def test_a_killed_process_holds_nothing(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        (tmp_path / "link").symlink_to(tmp_path)
        with pytest.raises(InputError, match=f"process {holder.pid} on"), one_writer(tmp_path / "link"):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with one_writer(tmp_path):
            pass


def test_a_link_to_nothing_is_said(tmp_path):
    (tmp_path / "out").symlink_to(tmp_path / "disk2" / "runs")
    with pytest.raises(InputError, match=r"out: is a link to .*runs, which is not there"), one_writer(tmp_path / "out"):
        pass
