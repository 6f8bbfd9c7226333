"""From the start of a process to the end of its first update, and its peak resident memory.

Ours is `jaxrl train`, as a person starts it, until the first line of its metrics.jsonl; it then
runs on to its picture. The peer's is a process that imports rejax and makes one update. Each has
compilation caches of its own: empty (cold), and as the cold one left it (warm).
"""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from jaxrl.errors import RunError
from jaxrl.run import bench_peers
from jaxrl.run import job as jobs
from jaxrl.run.bench import ITEMS, has_rejax
from jaxrl.run.train import Say

COMMAND = "import sys; from jaxrl.cli import main; main(sys.argv[1:])"


def training(job: jobs.Job, folder: Path) -> tuple[list[str], Path]:
    """The command that trains a job as a process of its own, and its run's folder."""
    config, run = folder / "config.toml", folder / "run"
    config.write_text(tomli_w.dumps(jobs.to_tables(job)))
    words = ["train", job.paper, "--config", str(config), "--run", str(run), "--quiet"]
    return [sys.executable, "-c", COMMAND, *words], run


def ours(name: str, folder: Path) -> tuple[list[str], Path]:
    """Two updates, so that what comes after the first is no part of it."""
    job = ITEMS[name].job(1)
    words, run = training(dataclasses.replace(job, steps=2 * job.hyper.steps_per_iteration), folder)
    return words, run / "metrics.jsonl"


def rejax(name: str, folder: Path) -> tuple[list[str], Path]:
    item, done = folder / "item.json", folder / "done"
    item.write_text(json.dumps(ITEMS[name]._replace(updates=1)._asdict()))
    return [sys.executable, "-m", bench_peers.__name__, str(item), str(done)], done


def watched(words: Sequence[str], file: Path, cache: Path) -> tuple[float, float]:
    """Seconds until a process has written to a file, and its peak memory in MiB at its end."""
    began, seconds = time.perf_counter(), 0.0
    env = os.environ | dict(JAX_COMPILATION_CACHE_DIR=str(cache))
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=said, env=env)
        ended, peak = 0, 0.0
        while not ended:
            time.sleep(0.01)
            peak = max(peak, memory_of(process.pid))
            if not seconds and file.exists() and file.stat().st_size:
                seconds = time.perf_counter() - began
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode or not seconds:
            said.seek(0)
            last = (said.read().splitlines() or ["nothing"])[-1]
            raise RunError(f"bench: a process ended with {process.returncode}: {last}", 1)
    return seconds, peak or usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def memory_of(pid: int, what: str = "VmHWM") -> float:
    """MiB that a process has had at most (VmHWM) or has (VmRSS); 0 where /proc does not say. (On
    Linux `ru_maxrss` counts what its parent had when it was forked.)"""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(x.split()[1]) / 1024 for x in lines if x.startswith(what)), 0.0)


def startup(name: str, rounds: int, peers: bool, say: Say = lambda line: None) -> dict[str, Any]:
    """{jaxrl, rejax: {cold, warm, peak_mib}}: medians over rounds, in turns."""
    makers: dict[str, Any] = dict(jaxrl=ours)
    if peers and has_rejax(ITEMS[name]):
        makers["rejax"] = rejax
    took: dict[str, dict[str, list]] = {k: dict(cold=[], warm=[], peak_mib=[]) for k in makers}
    for _ in range(rounds):
        for kind, make in makers.items():
            with tempfile.TemporaryDirectory() as root:
                for state in ("cold", "warm"):
                    (folder := Path(root) / state).mkdir()
                    seconds, peak = watched(*make(name, folder), Path(root) / "cache")
                    took[kind][state].append(seconds)
                    took[kind]["peak_mib"].append(peak)
                    say(f"  {name}: {kind}, {state}: first update after {seconds:.1f} s")
    return {k: {n: round(float(np.median(x)), 2) for n, x in v.items()} for k, v in took.items()}
