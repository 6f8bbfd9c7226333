"""Keep a command going: a process that is lost ends all of them, and all are started again.

Needs no jax: what was saved is seen by the names of files, so that nothing of a run's own can take
its supervisor with it.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

from jaxrl.errors import DIVERGED, NO_CHECKPOINT, STORAGE, InputError, RunError
from jaxrl.run.signals import handled

GRACE = 15.0  # seconds between SIGTERM and SIGKILL for those that a lost one leaves behind
TAIL = 20  # lines of a lost process's standard error that are shown
BAD_INPUT = 2
HOPELESS = {  # codes that would come again
    NO_CHECKPOINT: "no checkpoint is whole",
    DIVERGED: "the same NaN would come again",
    STORAGE: "the disk failed",
}
COORDINATOR, PROCESSES, PROCESS = "JAXRL_COORDINATOR", "JAXRL_PROCESSES", "JAXRL_PROCESS"
LOCAL = "JAX_LOCAL_DEVICE_IDS"  # of accelerators: a process has one, unless they are said
# which of a cluster's processes this is: ours, Slurm's, Open MPI's, a TPU pod's
RANKS = (PROCESS, "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "TPU_WORKER_ID")
RECORDS = ("sweep.json", "tune.json")  # which grow by each part that is finished
CALL = "import sys; from jaxrl.cli import main; sys.argv[0] = 'jaxrl'; main()"
Launch = Callable[[list[str]], list[str]]


class Task(NamedTuple):
    """A command that may be started again, as words after `jaxrl`."""

    begin: list[str]
    again: list[str]  # how it goes on once there is a checkpoint
    folder: Path


class Event(NamedTuple):
    """A process ended with a code (-9 is SIGKILL); or, of no process, a signal came to us."""

    process: int | None
    code: int


def option(words: Sequence[str], name: str) -> str | None:
    """The value that words give an option last, as --name VALUE or --name=VALUE."""
    said = None
    for word, after in zip(words, [*words[1:], ""]):
        key, equals, value = word.partition("=")
        if key == name:
            said = value if equals else after
    return said


def task(words: Sequence[str]) -> Task:
    """What a command is, and how it goes on. InputError where it is none that can go on."""
    known = ("train", "resume", "compare", "sweep", "tune")
    if list(words[:1]) != ["jaxrl"] or words[1:2] and words[1] not in known or len(words) < 2:
        said = " ".join(words[:2]) or "nothing"
        raise InputError(f"command: {said!r} is not jaxrl {', jaxrl '.join(known)}")
    name, *rest = begin = list(words[1:])
    if name == "resume":
        from jaxrl.cli.resume import command

        return Task(begin, begin, Path(command.make_context(name, list(rest)).params["run"]))
    if not (folder := option(rest, "--run")):
        raise InputError(f"run: jaxrl {name} names no folder to go on in; add --run DIR")
    return Task(begin, resumed(rest, folder) if name == "train" else begin, Path(folder))


def resumed(rest: Sequence[str], folder: str) -> list[str]:
    """The `resume` of a `train` with these words: its code of one's own is allowed once more, and
    what `resume` does not remember is said again."""
    out = ["resume", folder]
    if rest[0].endswith(".py"):
        out += ["--paper", rest[0]]
    if ":" in (env := option(rest, "--env") or ""):
        out += ["--env", env]
    sinks = [option(rest[i : i + 2], "--sink") for i in range(len(rest))]
    out += [x for sink in dict.fromkeys(filter(None, sinks)) for x in ("--sink", str(sink))]
    return out + [w for w in ("--distributed", "--per-seed", "--json", "--quiet") if w in rest]


def check(task: Task, processes: int, restarts: int) -> None:
    """InputError for numbers that are not allowed."""
    for name, x, low in (("processes", processes, 1), ("restarts", restarts, 0)):
        if x < low:
            raise InputError(f"{name}: {x} is outside [{low}, inf)")
    if processes > 1 and "--distributed" not in task.begin:
        raise InputError(f"processes: {processes} need a command with --distributed")


def reached(folder: Path) -> tuple[int, int]:
    """How far a folder's runs have got: iterations of their newest finished checkpoints, all
    together, and bytes of a record that grows. What is in a checkpoint is not looked at."""
    newest: dict[Path, int] = {}
    for path, _, files in os.walk(folder):  # which minds no file that is removed meanwhile
        point = Path(path)
        if "manifest.json" in files and point.parent.name == "ckpt" and point.name.isdigit():
            newest[point.parent] = max(newest.get(point.parent, 0), int(point.name))
    sizes = [(folder / name).stat().st_size for name in RECORDS if (folder / name).exists()]
    return sum(newest.values()), sum(sizes)


def saved(folder: Path) -> bool:
    """Whether a run's folder has a finished checkpoint."""
    return any(p.parent.name.isdigit() for p in folder.glob("ckpt/*/manifest.json"))


def empty(folder: Path) -> bool:
    return not folder.exists() or folder.is_dir() and not any(folder.iterdir())


def clear(folder: Path) -> None:
    """Remove what is in a folder."""
    try:
        for path in folder.iterdir() if folder.exists() else ():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    except OSError as e:
        raise RunError(f"supervise: {folder} cannot be emptied: {e.strerror}", STORAGE) from e


def writes() -> bool:
    """Whether this is the process of a cluster that writes: the first, or the only one."""
    return next((os.environ[name] for name in RANKS if name in os.environ), "0") == "0"


def launched(words: list[str]) -> list[str]:
    """The arguments that start a command of this very installation."""
    return [sys.executable, "-c", CALL, *words]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def named(code: int) -> str:
    """How a process ended, in words."""
    return f"ended with code {code}" if code > 0 else f"was lost to {signal.Signals(-code).name}"


def exit_code(code: int) -> int:
    """A process's code as a shell says it."""
    return code if code >= 0 else 128 - code


class Group:
    """The processes of one start, each in a session of its own; their ends come as events."""

    def __init__(self, argv: list[str], count: int, events: SimpleQueue):
        shared = {COORDINATOR: f"127.0.0.1:{free_port()}", PROCESSES: str(count)}
        self.alive, self.tails, self.readers = {}, {}, []
        for i in range(count):
            own = shared | {PROCESS: str(i), LOCAL: os.environ.get(LOCAL, str(i))}
            env = os.environ | (own if count > 1 else {})
            # what the first says is the command's; of the others it is shown if they are lost
            out = dict(stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) if i else {}
            new: dict[str, Any] = dict(env=env, start_new_session=True, **out)
            process = subprocess.Popen(argv, text=True, errors="replace", **new)
            self.alive[i], self.tails[i] = process, deque(maxlen=TAIL)
            if process.stderr:
                self.readers.append(self.thread(self.tails[i].extend, process.stderr))
            self.thread(lambda i=i, p=process: events.put(Event(i, p.wait())))

    def thread(self, work: Callable, *args: Any) -> threading.Thread:
        out = threading.Thread(target=work, args=args, daemon=True)
        out.start()
        return out

    def send(self, number: int) -> None:
        """Send a signal to all that are left, with whatever they started."""
        for process in self.alive.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)

    def said(self, i: int) -> list[str]:
        """The last lines that a process other than the first said."""
        for reader in self.readers:
            reader.join(1.0)
        return [f"[{i}] {line.rstrip()}" for line in self.tails[i]]


def through(group: Group, events: SimpleQueue, grace: float) -> tuple[Event | None, int]:
    """Wait until all have ended: the first that was lost, and the last signal that came to us.

    A signal is passed on, and waited for without limit: a run saves itself first. Once one is
    lost, the others are told to end and after `grace` seconds are killed: they may wait for it.
    """
    lost, stopped, deadline = None, 0, None
    while group.alive:
        try:
            wait = None if deadline is None else max(0.0, deadline - time.monotonic())
            event = events.get(timeout=wait)
        except Empty:
            group.send(signal.SIGKILL)
            deadline = None
            continue
        if event.process is None:
            stopped = event.code
            group.send(stopped)
            continue
        del group.alive[event.process]
        if event.code and lost is None:
            lost, deadline = event, time.monotonic() + grace
            group.send(signal.SIGTERM)
    return lost, stopped


def supervise(
    task: Task,
    processes: int = 1,
    restarts: int = 3,
    say: Callable[[str], Any] = print,
    launch: Launch = launched,
    grace: float = GRACE,
) -> int:
    """Run a command until it ends well; start it again as often as that gets it further.

    Returns 0, or 2 where the command said that its input is bad.

    Args:
      processes: on this machine; with more than one, each finds in its environment where they
        meet (`COORDINATOR`), how many they are and which it is.
      restarts: so many in a row that save no newer checkpoint.
      launch: what starts words after `jaxrl`.

    Raises:
      InputError: numbers that are not allowed.
      RunError: it was stopped, or cannot go on; with the code of the process that was lost first.
    """
    check(task, processes, restarts)
    ours = empty(task.folder) and writes()
    before, count, words = reached(task.folder), 0, task.begin
    events: SimpleQueue[Event] = SimpleQueue()
    told = lambda number, frame: events.put(Event(None, number))
    with handled({signal.SIGTERM: told, signal.SIGINT: told}):
        while True:
            group = Group(launch(words), processes, events)
            lost, stopped = through(group, events, grace)
            if lost is None:
                return 0
            words = task.again if saved(task.folder) else task.begin
            on = "jaxrl supervise -- jaxrl " + " ".join(words)
            if stopped:
                how = f"stopped by {signal.Signals(stopped).name}"
                raise RunError(f"supervise: {how}; {on} goes on", 128 + stopped)
            for line in group.said(lost.process or 0):
                say(line)
            if lost.code == BAD_INPUT:  # it has said so in its line
                return BAD_INPUT
            what = f"process {lost.process}" if processes > 1 else "the process"
            what = f"supervise: {what} {named(lost.code)}"
            if lost.code in HOPELESS:
                raise RunError(f"{what}: {HOPELESS[lost.code]}; not started again", lost.code)
            now = reached(task.folder)
            count, before = (1, now) if now > before else (count + 1, before)
            if count > restarts:
                got = f"{restarts} restarts got no further" if restarts else "no restarts"
                raise RunError(f"{what}: {got}; {on} goes on", exit_code(lost.code))
            if words == task.begin != task.again and ours:
                clear(task.folder)
            say(f"{what}; {way_on(task, words)}; restart {count} of {restarts}")


def way_on(task: Task, words: list[str]) -> str:
    """From where a restart goes on."""
    if saved(task.folder):
        return f"it goes on from {reached(task.folder)[0]} iterations"
    return "it goes on" if words == task.again else "no checkpoint is finished: it begins anew"
