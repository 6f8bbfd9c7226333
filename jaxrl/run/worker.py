"""A worker: takes jobs from a queue (`jaxrl.run.queue`) and does them, one after the other.

A job's file says what is to be done in the kit's own terms and can run no code: its kind is one of
`KINDS`, its paper and environment are the kit's or named by who started the worker.
"""

import contextlib
import json
import math
import os
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxrl.errors import STORAGE, InputError, InUse, Refused, RunError, did_you_mean, reason
from jaxrl.run import arms, compare, job, queue, record, sweep
from jaxrl.run.queue import LEASE, Taken
from jaxrl.run.signals import handled

# (spec, code of one's own that was named, say) -> what JSON can hold
KINDS: dict[str, Callable[[dict, Sequence[str], Callable[[str], Any]], Any]] = {
    "unit": compare.perform,
    "program": sweep.perform,
    "arm": arms.perform,
}


class Stopped(KeyboardInterrupt):
    """A signal, wherever the worker was."""

    def __init__(self, number: int):
        super().__init__()
        self.number = number


def stop(number, frame):
    raise Stopped(number)


HANDLERS = {
    signal.SIGTERM: stop,
    signal.SIGINT: stop,
    # by which submitit announces Slurm's time limit
    signal.SIGUSR2: lambda number, frame: os.kill(os.getpid(), signal.SIGTERM),
}


def work(
    folder: str | Path,
    lease: float = LEASE,
    wait: bool = False,
    named: Sequence[str] = (),
    say: Callable[[str], Any] = print,
) -> int:
    """Do jobs until none is left, nobody does any and nobody waits for one; how many were done.

    Args:
      lease: seconds after which another may do the job of a worker that is gone.
      wait: stay when nothing is left.
      named: code of one's own that jobs may run: the path of a paper's file, my_module:make.

    Raises:
      InputError: it is no queue, or what is left is not for this worker.
      RunError: it was stopped, or a disk failed; its job waits again.
    """
    place, me = queue.opened(folder, make=wait).absolute(), queue.myself()
    later: dict[str, float] = {}  # jobs that are not for now, until when
    refused, count = "", 0
    with handled(HANDLERS):
        try:
            while True:
                for name in queue.restore(place):
                    say(f"{name}: its worker is gone; it waits again")
                now = time.monotonic()
                taken = queue.take(place, me, lease, {n for n, t in later.items() if t > now})
                if taken:
                    try:
                        count += one(place, taken, me, named, say)
                    except InUse:  # by a worker that was given up and lives
                        later[taken.name] = time.monotonic() + lease / 4
                    except Refused as e:
                        later[taken.name], refused = math.inf, str(e)
                        say(f"{taken.name}: {e}")
                    continue
                mine = {n for n, t in later.items() if t == math.inf}
                busy = queue.names(place / "doing") or queue.names(place / "todo") - mine
                if not (wait or busy or (queue.alive(place, "waiting") and not refused)):
                    break
                time.sleep(min(1.0, lease / 4))
        except Stopped as e:
            name, code = signal.Signals(e.number).name, 128 + e.number
            raise RunError(f"stopped by {name}; what it did waits again in {folder}", code) from e
        except OSError as e:
            raise RunError(f"queue: {folder}: {e.strerror or e}", STORAGE) from e
    if refused and queue.names(place / "todo"):
        raise InputError(refused)
    return count


def one(
    place: Path, taken: Taken, me: str, named: Sequence[str], say: Callable[[str], Any]
) -> bool:
    """Do a job that was taken; whether it ended."""
    began = time.monotonic()
    try:
        with queue.kept(taken.path, taken.lease):
            out: dict[str, Any] = dict(result=perform(taken.path.read_text(), named, say))
            json.dumps(out)
    except (InUse, Refused):
        queue.put_back(place, taken)
        raise
    except InputError as e:
        out = dict(error=str(e), code=queue.BAD_INPUT)
    except RunError as e:
        if e.code > 128 or e.code == STORAGE:  # of the worker, not of the job
            queue.put_back(place, taken)
            raise Stopped(e.code - 128) if e.code > 128 else e from e
        out = dict(error=str(e), code=e.code)
    except KeyboardInterrupt:
        queue.put_back(place, taken)
        raise
    except Exception as e:
        traceback.print_exc()
        queue.put_back(place, taken, reason(e))
        return False
    seconds = round(time.monotonic() - began, 1)
    first = queue.finish(place, taken, out | dict(worker=me, tries=taken.tries, seconds=seconds))
    end = f"done in {seconds} s" if "result" in out else out["error"]
    say(f"{taken.name}: {end}" + ("" if first else "; another's result was first"))
    return True


def perform(text: str, named: Sequence[str], say: Callable[[str], Any]) -> Any:
    """The result of a job by what its file says."""
    try:
        spec = dict(json.loads(text))
        kind, cwd = str(spec["kind"]), str(spec["cwd"])
    except (ValueError, TypeError, KeyError) as e:
        raise InputError(f"job: {text[:40]!r} is no job") from e
    if kind not in KINDS:
        raise did_you_mean("job: kind", kind, KINDS, f"it is one of {', '.join(KINDS)}")
    if spec.get("code") != record.code():
        raise Refused("job: it was asked for by other code, or other versions, than this worker's")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(contextlib.chdir(cwd))
        except OSError as e:
            raise Refused(f"job: {cwd}, where it was asked for, is not here: {e.strerror}") from e
        return KINDS[kind](spec, named, say)


def start(
    count: int, params: Sequence[str], folder: str | Path, *how: Any, cluster: str = "slurm"
) -> list[Any]:
    """Start workers by submitit, on Slurm; their jobs.

    Args:
      params: NAME=VALUE of submitit's `update_parameters`, as timeout_min=60, slurm_partition=gpu.
      how: what `work` takes after the folder.

    Raises:
      InputError: there is no submitit or no Slurm, or a parameter that it does not know.
    """
    if count < 1:
        raise InputError(f"slurm: {count} is outside [1, inf)")
    try:
        import submitit
    except ImportError as e:
        raise InputError("slurm: submitit is not installed; pip install 'jaxrl[slurm]'") from e
    if cluster == "slurm" and not shutil.which("srun"):
        raise InputError("slurm: there is no srun on this machine")
    said: dict[str, Any] = dict(name="jaxrl-worker")
    for text in params:
        name, equals, x = text.partition("=")
        if not equals:
            raise InputError(f"slurm_param: {text!r} is not NAME=VALUE")
        said[name] = job.literal(x)
    place = Path(folder).absolute()
    executor = submitit.AutoExecutor(folder=place / "slurm" / "%j", cluster=cluster)
    try:
        executor.update_parameters(**said)
    except (NameError, AssertionError, TypeError) as e:
        raise InputError(f"slurm_param: {reason(e)}") from e
    queue.opened(place)
    with executor.batch():
        return [executor.submit(work, str(place), *how) for _ in range(count)]
