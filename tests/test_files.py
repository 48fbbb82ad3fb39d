"""plumbing/files.py: complete or absent, whoever is killed when; locks."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import plumbing.files
from configurable import UsageError
from conftest import ROOT, mistake
from plumbing.dataset import load_dataset
from plumbing.files import atomic_folder, is_locked, locked, put_back, write_atomic, write_json, write_text
from prepare import prepare

unix = pytest.mark.skipif(os.name == "nt", reason="links and signals of Unix")


def test_a_file_appears_whole_or_not_at_all():
    path = Path("file")
    write_text(path, "old")

    def half(file):
        file.write(b"ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, half)
    assert path.read_text() == "old" and [p.name for p in Path().iterdir()] == ["file"]


@unix
def test_a_link_in_its_place_is_replaced_and_not_followed():
    Path("elsewhere").write_text("mine")
    Path(".file.part").symlink_to("elsewhere")
    Path("file").symlink_to("elsewhere")
    write_text(Path("file"), "new")
    assert Path("elsewhere").read_text() == "mine" and Path("file").read_text() == "new"


def test_json_has_null_for_what_is_no_number():
    write_json(Path("a.json"), {"a": [math.nan, 1.5, (math.inf, -math.inf)], "b": "nan", "c": True})
    assert json.loads(Path("a.json").read_text()) == {"a": [None, 1.5, [None, None]], "b": "nan", "c": True}


# ---------------------------------------------------------------------------- folders


@pytest.fixture
def text():
    """A text to prepare; its dataset is data/a."""
    Path("a.txt").write_text("some words " * 2000)
    return "a.txt"


def files_in(folder):
    return sorted(path.name for path in Path(folder).iterdir())


MOMENTS = ("mkdir", "write", "first rename", "second rename", "rmtree")


@unix
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("made_before", [True, False])
def test_a_killed_prepare_leaves_the_old_dataset_and_nothing_in_the_way(moment, made_before, text):
    if made_before:
        prepare(text)
    killed = f"""
import os, pathlib, shutil, signal, sys
sys.path.insert(0, {str(ROOT)!r})
import prepare
def die(*args, **options):
    os.kill(os.getpid(), signal.SIGKILL)
moment, rename, renames = {moment!r}, pathlib.Path.rename, []
def dying_rename(path, target):
    renames.append(path)
    if moment.endswith("rename") and len(renames) == (2 if {made_before} and moment[0] == "s" else 1):
        die()
    return rename(path, target)
pathlib.Path.rename = dying_rename
if moment == "mkdir":
    prepare.write = die
if moment == "write":
    prepare.write_json = die
if moment == "rmtree":
    original = shutil.rmtree
    shutil.rmtree = lambda path, **options: die() if len(renames) > 1 else original(path, **options)
prepare.prepare("a.txt")
"""
    code = subprocess.run([sys.executable, "-c", killed], capture_output=True).returncode
    assert code in ((-signal.SIGKILL, 0) if not made_before else (-signal.SIGKILL,))
    if made_before:
        assert load_dataset("a", "cpu").name == "a"
    prepare(text)
    assert files_in("data") == ["a"] and load_dataset("a", "cpu").name == "a"


def test_what_a_killed_replacement_left_is_put_back_where_it_is_read(text):
    prepare(text).rename("data/.a.old")
    Path("data/.a.part").mkdir()
    put_back(Path("data/b"))
    assert load_dataset("a", "cpu").name == "a" and files_in("data") == ["a"]


@unix
def test_a_dataset_behind_a_link_is_replaced_there(text):
    Path("disk").mkdir()
    prepare(text).rename("disk/a")
    Path("data/a").symlink_to("../disk/a")
    meta = Path("disk/a/meta.json")
    before = meta.stat().st_ino
    prepare(text)
    assert Path("data/a").is_symlink() and meta.stat().st_ino != before and files_in("disk") == ["a"]


def test_two_who_fill_one_folder_take_turns(capsys):
    order, inside = [], threading.Event()

    def second():
        inside.wait()
        with atomic_folder(Path("data/a")) as building:
            order.append("second")
            (building / "second").touch()

    thread = threading.Thread(target=second)
    thread.start()
    with atomic_folder(Path("data/a")) as building:
        inside.set()
        while "waiting for another process, which is making" not in capsys.readouterr().out:
            time.sleep(0.01)
        order.append("first")
        (building / "first").touch()
    thread.join()
    assert order == ["first", "second"] and files_in("data/a") == ["second"] and files_in("data") == ["a"]


# ---------------------------------------------------------------------------- locks


def test_a_lock_refuses_others_and_leaves_nothing():
    lock = Path("run/.lock")
    with locked(lock, "training in run"):
        assert mistake(locked(lock, "training in run").__enter__).startswith("another process is training in run: wait")
        assert is_locked(lock)
    assert not Path("run").exists() and not is_locked(lock) and not Path("run").exists()
    Path("run").mkdir()
    Path("run/file").touch()
    with locked(lock, "training in run"):
        pass
    assert files_in("run") == ["file"]


@unix
def test_a_lock_that_was_removed_while_one_waited_for_it_is_none(monkeypatch):
    """Else two would be in: one with the file that was removed, one with the new one."""
    original, removed = plumbing.files.lock, []

    def lock(file):
        original(file)
        if not removed:
            removed.append(os.unlink("run/.lock"))

    monkeypatch.setattr(plumbing.files, "lock", lock)
    with locked(Path("run/.lock"), "training in run"):
        assert removed and is_locked(Path("run/.lock"))


@unix
def test_a_stranger_s_lock_is_neither_followed_nor_waited_for():
    Path("run").mkdir()
    Path("run/.lock").symlink_to("/nowhere/at/all")
    with locked(Path("run/.lock"), "training in run"):
        pass
    Path("run").mkdir(exist_ok=True)
    os.mkfifo("run/.lock")
    with pytest.raises(OSError), locked(Path("run/.lock"), "training in run"):
        pass


def test_without_locks_it_is_said(monkeypatch, capsys):
    def lock(file):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(plumbing.files, "lock", lock)
    with locked(Path("run/.lock"), "training in run"):
        pass
    assert "run is on a file system without locks" in capsys.readouterr().out


def test_another_error_is_not_swallowed():
    with pytest.raises(UsageError), locked(Path("run/.lock"), "training in run"):
        raise UsageError("else")
    assert not Path("run").exists()
