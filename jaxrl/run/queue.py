"""Jobs in a folder that processes on one file system take from: no server, no database.

DIR/todo/NAME@TRIES.json                 waits; it was begun so often
DIR/doing/NAME@TRIES@LEASE@WORKER.json   begun; its worker touches it more often than LEASE seconds
DIR/done/NAME.json                       what came out, {result} or {error, code}, and who did it
DIR/waiting/WHO@0@LEASE@WHO.json         who waits for results

A job is begun by renaming its file, which one process alone can do. Where a worker is killed nobody
touches the file, and anybody may rename it back. What came out is linked into `done` whole, which
fails where there is one: the first result stands, however often a job was done. NAME says by a
digest what is asked, so that a job which is asked for twice is one.
"""

import contextlib
import hashlib
import json
import os
import platform
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxrl.errors import InputError, RunError, brief
from jaxrl.run import record

FOLDERS = ("todo", "doing", "done", "waiting")
LEASE = 60.0  # seconds
TRIES = 10  # a job that so many workers did not survive is not begun again
IDLE = 15.0  # seconds without a worker, after which one is asked for
FILE = re.compile(r"[\w.=,+-]+@\d+(@\d+(\.\d+)?@[\w.=,+-]+)?")  # the stem of a job's
DEFECT, BAD_INPUT = 1, 2  # codes of an error, as the command's exit codes


class Task(NamedTuple):
    """What is asked for."""

    kind: str  # of `jaxrl.run.worker.KINDS`
    label: str  # for people
    spec: dict[str, Any]  # what JSON can hold

    @property
    def text(self) -> str:
        """The job as its file holds it: relative paths in it are from where it was asked."""
        about = dict(kind=self.kind, cwd=os.getcwd(), code=record.code())
        return json.dumps(about | self.spec)  # in their order: that of a grid's names matters

    @property
    def name(self) -> str:
        digest = hashlib.sha256(self.text.encode()).hexdigest()[:16]
        return f"{plain(self.label)[:80]}-{digest}"


class Taken(NamedTuple):
    """A job that was begun."""

    name: str
    tries: int  # this one too
    path: Path  # in `doing`

    @classmethod
    def of(cls, path: Path) -> "Taken":
        name, tries, *_ = path.stem.split("@")
        return cls(name, int(tries), path)

    @property
    def lease(self) -> float:
        return float(self.path.stem.split("@")[2])


def plain(text: str) -> str:
    """A text as a part of a file's name."""
    return re.sub(r"[^\w.=,+-]", "_", text)


def myself() -> str:
    """A name for who asks: the machine, the process, and a word for one that is alike."""
    return f"{plain(platform.node())[:60]}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def opened(folder: str | Path, make: bool = True) -> Path:
    """A queue's folder, made if it is not there.

    Raises:
      InputError: it is none and not to be made, holds something else, or cannot hold a queue.
    """
    queue = Path(folder)
    try:
        if not all((queue / name).is_dir() for name in FOLDERS):
            if not make:
                raise InputError(f"queue: {folder} is no queue; jaxrl compare --queue makes one")
            if queue.is_dir() and (others := {p.name for p in queue.iterdir()} - {*FOLDERS}):
                raise InputError(f"queue: {folder} is no queue, and holds {min(others)}")
            for name in FOLDERS:
                (queue / name).mkdir(parents=True, exist_ok=True)
        (queue / "clock").touch()
    except OSError as e:
        raise InputError(f"queue: {brief(folder)}: {e.strerror}") from e
    try:
        whole(queue / "todo", f"probe-{uuid.uuid4().hex}", "").unlink()
    except OSError as e:
        raise InputError(f"queue: {folder}: its file system has no links: {e.strerror}") from e
    return queue


def whole(folder: Path, name: str, text: str) -> Path:
    """Write a file that was not there, whole or not at all. FileExistsError where there is one."""
    new, path = folder / f"{uuid.uuid4().hex}.new", folder / name
    try:
        with new.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.link(new, path)
    finally:
        new.unlink(missing_ok=True)
    return path


def listed(folder: Path) -> list[Path]:
    """The jobs in a folder of a queue."""
    return sorted(p for p in folder.glob("*.json") if FILE.fullmatch(p.stem))


def names(folder: Path) -> set[str]:
    return {Taken.of(path).name for path in listed(folder)}


def outcome(queue: Path, name: str) -> dict | None:
    """What came out of a job; None if nothing has yet."""
    try:
        return json.loads((queue / "done" / f"{name}.json").read_text())
    except FileNotFoundError:
        return None


def forget(queue: Path, task: Task) -> None:
    """Drop what came out of a job, so that it can be done again."""
    (queue / "done" / f"{task.name}.json").unlink(missing_ok=True)


def submit(queue: Path, tasks: Sequence[Task], again: bool = True) -> None:
    """Put jobs into a queue that are neither there nor done.

    again: those that ended in an error too, as a person who asks once more wants to know.
    """
    there = {n for place in ("todo", "doing", "todo") for n in names(queue / place)}
    for task in tasks:
        found = outcome(queue, task.name)
        if found and again and "error" in found:
            forget(queue, task)
        elif found:
            continue
        if task.name not in there:
            with contextlib.suppress(FileExistsError):
                whole(queue / "todo", f"{task.name}@0.json", task.text)


def take(queue: Path, me: str, lease: float, but: Sequence[str] | set[str] = ()) -> Taken | None:
    """Begin a job that waits, but none of those names; None if there is none."""
    for path in listed(queue / "todo"):
        name, tries, _ = Taken.of(path)
        if name in but:
            continue
        mine = queue / "doing" / f"{name}@{tries + 1}@{lease:g}@{me}.json"
        try:
            os.utime(path)  # a lease begins when the job does, not when it was asked for
            path.rename(mine)
        except FileNotFoundError:  # another was first
            continue
        if (queue / "done" / f"{name}.json").exists():  # by one that had been given up
            mine.unlink(missing_ok=True)
            continue
        return Taken.of(mine)
    return None


@contextlib.contextmanager
def kept(path: Path, lease: float) -> Iterator[None]:
    """Touch a file while something goes on, four times a lease, from a thread."""
    over = threading.Event()

    def touch() -> None:
        while not over.wait(lease / 4):
            try:
                os.utime(path)
            except FileNotFoundError:  # given to another; what comes out is as good
                return
            except OSError:  # a file system may be away for a moment
                continue

    thread = threading.Thread(target=touch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def put_back(queue: Path, taken: Taken, why: str = "") -> None:
    """Let a job wait again. With a reason the try counts, and the last one is the job's end."""
    if why and taken.tries >= TRIES:
        error = f"{taken.name}: begun {taken.tries} times; the last time {why}"
        finish(queue, taken, dict(error=error, code=DEFECT, tries=taken.tries))
        return
    tries = taken.tries if why else taken.tries - 1
    with contextlib.suppress(FileNotFoundError):  # another did
        taken.path.rename(queue / "todo" / f"{taken.name}@{tries}.json")


def finish(queue: Path, taken: Taken, out: dict) -> bool:
    """Record what came out of a job; False if something had already, which stands."""
    text, first = json.dumps(out, indent=1), True
    try:
        whole(queue / "done", f"{taken.name}.json", text)
    except FileExistsError:
        first = False
    taken.path.unlink(missing_ok=True)  # last: one that is killed before is seen to be done
    return first


def alive(queue: Path, folder: str) -> list[Path]:
    """The files of a folder that somebody keeps. The time is the file system's: machines' clocks
    differ."""
    clock = queue / "clock"
    clock.touch()
    now, out = clock.stat().st_mtime, []
    for path in listed(queue / folder):
        with contextlib.suppress(FileNotFoundError), path.open() as file:
            # of an open file: on NFS the time of a path may be an old one
            if now - os.fstat(file.fileno()).st_mtime <= Taken.of(path).lease:
                out.append(path)
    return out


def restore(queue: Path) -> list[str]:
    """Put back every job whose worker is gone; their names."""
    lost = []
    before = {folder: listed(queue / folder) for folder in ("doing", "waiting")}
    for path in set(before["waiting"]) - set(alive(queue, "waiting")):
        path.unlink(missing_ok=True)
    for path in sorted(set(before["doing"]) - set(alive(queue, "doing"))):
        taken = Taken.of(path)
        if path.exists():
            put_back(queue, taken, "its worker was killed or lost")
            lost.append(taken.name)
    return lost


def gather(
    queue: Path, tasks: Sequence[Task], say: Callable[[str], Any], poll: float = 1.0
) -> list[dict]:
    """Wait until workers have done jobs that were submitted, and give what came out of each."""
    asked, done, told = [task.name for task in tasks], {}, ""
    call = f"jaxrl worker --queue {queue}"
    with waiting(queue):
        begun = seen = time.monotonic()
        while True:
            there = {name.removesuffix(".json") for name in os.listdir(queue / "done")}
            done |= {n: outcome(queue, n) for n in asked if n in there and n not in done}
            left = len({*asked} - {*done})
            if not left:
                return [done[n] for n in asked]
            line, now = f"{len(asked) - left} of {len(asked)} jobs are done", time.monotonic()
            if alive(queue, "doing"):
                seen = now
            elif seen == begun:
                line += f"; {call} does the others"
            elif now - seen > IDLE:
                line += f"; nobody does the others: {call}"
            if line != told:
                say(told := line)
            time.sleep(poll)


@contextlib.contextmanager
def waiting(queue: Path) -> Iterator[None]:
    """Let workers know that somebody waits, so that they stay for what may be asked yet."""
    me = myself()
    mine = whole(queue / "waiting", f"{me}@0@{LEASE:g}@{me}.json", "")
    try:
        with kept(mine, LEASE):
            yield
    finally:
        mine.unlink(missing_ok=True)


def value(out: dict) -> Any:
    """The result of a job.

    Raises:
      InputError, RunError: as the job ended.
    """
    if "error" not in out:
        return out["result"]
    if out.get("code") == BAD_INPUT:
        raise InputError(out["error"])
    raise RunError(out["error"], out.get("code", DEFECT))
