"""A Python function that judges text, in processes of its own with limits of time and memory.

    verify = Verifier("my_module:verify")       (row, completion) -> a number, mostly 0 or 1
    verify(rows, completions)                   -> float32 [n]

What takes too long, raises, needs too much memory or ends its process is worth 0, and counted. The
function sees no array and no device: only what JSON can hold. A limit is no sandbox: it is a
person's own code, run as that person.
"""

import json
import os
import selectors
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from selectors import EVENT_READ
from typing import Any

import numpy as np

from jaxrl.errors import InputError

SERVE = "import sys; from envs.verifier import serve; serve(*sys.argv[1:])"
GRACE = 1.0  # seconds beyond a limit until a process is killed


class Verifier:
    """The function `spec`, "module:name", in `workers` processes.

    Args:
      seconds: of one call.
      megabytes: of memory that a process may take.

    Raises:
      InputError: there is no such function.
    """

    def __init__(self, spec: str, seconds: float = 2.0, megabytes: int = 1024, workers: int = 2):
        self.spec, self.seconds, self.megabytes = spec, seconds, megabytes
        self.failed: Counter[str] = Counter()  # why: how often
        self.idle: list[subprocess.Popen] = []
        self.count = workers
        self.idle.append(self.begin())

    def begin(self) -> subprocess.Popen:
        """A process that has found the function."""
        path = os.pathsep.join([p for p in sys.path if p] + [os.getcwd()])
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, self.spec, str(self.seconds), str(self.megabytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": path},
        )
        assert process.stdout
        said = process.stdout.readline()
        if said != "ready\n":
            process.kill()
            process.wait()
            reason = said.strip() or "its process ended"
            raise InputError(f"verifier: {self.spec}: {reason}")
        return process

    def __call__(self, rows: Sequence[Any], completions: Sequence[str]) -> np.ndarray:
        """What each completion is worth [n]: a process judges one at a time."""
        out = np.zeros(len(completions), np.float32)
        todo = iter(range(len(out)))
        with selectors.DefaultSelector() as asked:  # file: (process, which, until when)

            def ask(process: subprocess.Popen) -> None:
                if (i := next(todo, None)) is None:
                    self.idle.append(process)
                    return
                with suppress(BrokenPipeError):  # it has ended: that shows when it is read
                    process.stdin.write(json.dumps([rows[i], completions[i]]) + "\n")  # type: ignore
                    process.stdin.flush()  # type: ignore
                until = time.monotonic() + self.seconds + GRACE
                asked.register(process.stdout, EVENT_READ, (process, i, until))  # type: ignore

            for _ in range(min(self.count, len(out))):
                ask(self.idle.pop() if self.idle else self.begin())
            while waiting := asked.get_map():
                left = min(key.data[2] for key in waiting.values()) - time.monotonic()
                ready = {key.fileobj for key, _ in asked.select(max(left, 0.0))}
                for key in list(waiting.values()):
                    process, i, until = key.data
                    line = process.stdout.readline() if key.fileobj in ready else ""
                    if not line and key.fileobj not in ready and time.monotonic() < until:
                        continue
                    asked.unregister(key.fileobj)
                    if line:
                        out[i], why = json.loads(line)
                    else:  # it hangs, or its process has ended
                        why = "killed"
                        process.kill()
                        process.wait()
                        process = self.begin()
                    self.failed.update([why] if why else [])
                    ask(process)
        return out

    def close(self) -> None:
        """End its processes."""
        while self.idle:
            process = self.idle.pop()
            process.kill()
            process.wait()

    def __del__(self):
        with suppress(Exception):
            self.close()


def serve(spec: str, seconds: str, megabytes: str) -> None:
    """What a process does: find the function, then judge line by line."""
    import importlib
    import resource
    import signal

    said, sys.stdout = sys.stdout, sys.stderr  # what the function prints is no answer
    module, _, name = spec.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except Exception as e:
        said.write(f"{type(e).__name__}: {e}\n".replace("\n", " ") + "\n")
        said.flush()
        return
    size = int(megabytes) * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (size, size))

    def late(*_):
        raise TimeoutError

    signal.signal(signal.SIGALRM, late)
    said.write("ready\n")
    said.flush()
    for line in sys.stdin:
        row, completion = json.loads(line)
        value, why = 0.0, ""
        signal.setitimer(signal.ITIMER_REAL, float(seconds))
        try:
            value = float(function(row, completion))
            if value != value or abs(value) == float("inf"):
                value, why = 0.0, "not finite"
        except TimeoutError:
            why = "too slow"
        except MemoryError:
            why = "too much memory"
        except Exception as e:
            why = type(e).__name__
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        said.write(json.dumps([value, why]) + "\n")
        said.flush()
