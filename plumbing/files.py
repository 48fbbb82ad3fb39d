"""Files and folders that are complete or absent, even after a power cut; locks that no crash leaves behind."""

import contextlib
import json
import math
import os
import shutil
import time
from pathlib import Path

from configurable import UsageError


def read_bytes(path):
    """The content of a file. Raises UsageError."""
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {path}: {getattr(error, 'strerror', error)}") from None


def real(path):
    """`path` without links, absolute; a link that leads back to itself stays."""
    return Path(os.path.realpath(path))


def at_once(path, flags):
    """An `opener` for `open` that waits for nobody at the other end of a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)


def write_atomic(path, write):
    """Let write(file) fill the file `path`: it is complete or absent, even after a power cut."""
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)  # what a killed process has left, or a link to somewhere else
    try:
        with open(part, "x+b") as file:
            write(file)
            sync(file)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path, text):
    """Write a text file, complete or absent, in UTF-8; what UTF-8 cannot say is escaped."""
    write_atomic(path, lambda file: file.write(text.encode("utf-8", "backslashreplace")))


def write_json(path, value):
    """Write `value` as JSON, complete or absent; it has null where a number is nan or inf."""

    def known(value):
        if isinstance(value, dict):
            return {name: known(part) for name, part in value.items()}
        if isinstance(value, list | tuple):
            return [known(part) for part in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    write_text(path, json.dumps(known(value), indent=1, allow_nan=False) + "\n")


def sync(file):
    """Have all that was written to an open file on the disk, where it survives a power cut."""
    file.flush()
    os.fsync(file.fileno())


@contextlib.contextmanager
def atomic_folder(folder):
    """A folder to fill: it replaces `folder` when all has gone well, and is removed when not. Two who fill the same
    folder do it one after the other."""
    folder = real(folder)  # a link to the folder stays a link
    building, old = beside(folder, "part"), beside(folder, "old")
    with locked(beside(folder, "lock"), f"making {folder}", wait=True):
        try:
            clear(folder)  # of what a killed process has left
            building.mkdir()
            yield building
            if folder.exists():
                folder.rename(old)
            building.rename(folder)
        finally:
            clear(folder)


def put_back(folder):
    """Give `folder` back what it was, where its replacement was killed halfway."""
    if not folder.exists() and beside(folder, "old").exists():
        with locked(beside(folder, "lock"), f"making {folder}", wait=True):
            clear(folder)


def clear(folder):
    """Remove what is left of a replacement of `folder`; where it came halfway, `folder` is again what it was."""
    with contextlib.suppress(OSError):
        if not folder.exists():
            beside(folder, "old").rename(folder)
    for end in ("part", "old"):
        shutil.rmtree(beside(folder, end), ignore_errors=True)


def beside(folder, end):
    """The path .NAME.end beside the folder NAME."""
    return folder.with_name(f".{folder.name}.{end}")


# ---------------------------------------------------------------------------- locks


@contextlib.contextmanager
def locked(path, doing, wait=False):
    """Locks the file `path`, and removes it in the end, with the folders made for it if they are empty.

    Where another living process has it locked it raises UsageError, or waits for that one; `doing` says for what.
    """
    made = [folder for folder in path.parents if not folder.exists()]
    with open_locked(path, doing, wait):
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # Windows removes no open file
                path.unlink()
                for folder in made:
                    folder.rmdir()


def is_locked(path):
    """Whether another living process has the file `path` locked."""
    try:
        with locked(path, "") if path.exists() else contextlib.nullcontext():
            return False
    except UsageError:
        return True


def open_locked(path, doing, wait):
    """The file `path`, open and locked, as something for `with`; its folder is made where it is missing."""
    waiting = False
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink():
            path.unlink()
        with contextlib.ExitStack() as stack, contextlib.suppress(FileNotFoundError):  # removed by its owner just now
            file = stack.enter_context(open(path, "ab", opener=at_once))
            try:
                lock(file)
            except (BlockingIOError, PermissionError):
                if not wait:
                    raise UsageError(f"another process is {doing}: wait, or choose another --out_dir") from None
                if not waiting:
                    print(f"waiting for another process, which is {doing}")
                waiting = True
                time.sleep(0.1)
                continue
            except OSError:
                print(f"{path.parent} is on a file system without locks: see to it that nobody else is {doing}")
                return stack.pop_all()
            if os.path.samestat(os.stat(path), os.fstat(file.fileno())):
                return stack.pop_all()


def lock(file):
    """Lock an open file until it is closed or its process ends, however that comes. Raises OSError at once."""
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
