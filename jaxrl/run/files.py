"""What a file system can do to a run: half-written files, and a second writer."""

import contextlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from jaxrl.errors import STORAGE, InputError, InUse, RunError, brief


def write_whole(path: Path, text: str) -> None:
    """Write a file so that whoever is killed leaves the old one or the new one."""
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    new.replace(path)


def check_folder(path: Path) -> None:
    """InputError where there is no folder to write a file into."""
    try:
        fine = path.parent.is_dir() and os.access(path.parent, os.W_OK)
        path.exists()  # a name that is too long is said here
    except OSError as e:
        raise InputError(f"out: {brief(path)}: {e.strerror}") from e
    if not fine:
        raise InputError(f"out: {path.parent} is not a folder to write to")


@contextlib.contextmanager
def replacing(path: Path, kind: str) -> Iterator[Path]:
    """Give the path to write a file of some `kind` at, which takes its place once it is whole.

    Raises:
      RunError: the disk fails.
    """
    new = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")  # nobody's own
    try:
        yield new
        new.replace(path)
    except OSError as e:
        raise RunError(f"{kind}: {path}: {e.strerror or e}", STORAGE) from e
    finally:
        new.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run's folder, made if it is not there, against a second writer: InUse for that.

    The system lets go of the lock when a process dies, however it dies, so none is ever stale.
    """
    import fcntl

    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("a+")
    except OSError as e:
        raise InputError(f"run: {folder}: {e.strerror}") from e
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            file.seek(0)
            raise InUse(f"run: {folder} is being written by {file.read() or 'another'}") from e
        except OSError as e:
            raise InputError(f"run: {folder} cannot be locked: {e.strerror}") from e
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        yield
