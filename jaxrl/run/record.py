"""The run folder: what was asked, what was used, what came out.

config.toml    the resolved job; `jaxrl train SLUG --config` takes it
meta.json      command line, versions, devices
lock           who writes
metrics.jsonl  a line per chunk while it runs: means over the chunk, one number a seed
metrics.npz    every metric [seeds, iterations], `steps`, `eval_steps`, `eval_return`
summary.json   the result
curve.png      return against steps
tensorboard/   the curves as TensorBoard's events (`jaxrl.run.sinks`)
ckpt/N         a checkpoint after N iterations (`jaxrl.run.checkpoint`)
"""

import errno
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tomli_w

from jaxrl import __version__
from jaxrl.errors import InputError, brief
from jaxrl.run import catalogue
from jaxrl.run import job as jobs
from jaxrl.run.checkpoint import Point
from jaxrl.run.files import write_whole
from jaxrl.run.job import Job
from jaxrl.run.stats import finite

POINTS = ("steps", "eval_steps", "eval_return")  # of metrics.npz; the rest are metrics
PACKAGES = ("jax", "jaxlib", "flax", "optax", "distrax", "gymnax", "brax", "flashbax", "numpy")


def versions() -> dict[str, str]:
    """What ran: python, the kit and what it stands on."""
    found = {"python": platform.python_version(), "jaxrl": __version__}
    return found | {p: importlib.metadata.version(p) for p in PACKAGES}


@functools.cache
def code(*apart: str) -> str:
    """A digest of what results come from: the kit's sources but the command's and those in folders
    `apart`, and the versions that they run with."""
    files = [p for top in ("jaxrl", "envs") for p in (catalogue.ROOT / top).rglob("*.py")]
    names = {p.relative_to(catalogue.ROOT).as_posix(): p for p in files}
    total = hashlib.sha256(json.dumps(versions(), sort_keys=True).encode())
    for name in sorted(name for name in names if not name.startswith(("jaxrl/cli/", *apart))):
        total.update(names[name].read_bytes())
    return total.hexdigest()[:16]


def machine() -> str:
    """What it ran on, without its name."""
    return f"{os.cpu_count()} CPU cores, {platform.machine()}, {platform.system()}"


def devices() -> list[str]:
    """What jax sees: how many of each kind."""
    kinds = Counter(f"{d.platform}: {d.device_kind}" for d in jax.devices())
    return [f"{n} x {kind}" if n > 1 else kind for kind, n in kinds.items()]


def revision() -> str:
    """The commit of the checkout the kit runs from, with + where it was changed; "" if none."""
    if "site-packages" in Path(__file__).parts:
        return ""  # a checkout around an installation says nothing of it
    try:
        git = [
            "git",
            "-C",
            str(Path(__file__).parent),
            "describe",
            "--always",
            "--abbrev=12",
            "--dirty=+",
        ]
        return subprocess.run(git, capture_output=True, text=True, timeout=5).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def new_folder(path: str | None, job: Job) -> Path:
    """Where this run will be written; refused if something is there. Nothing is made yet."""
    if path is None:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        name = Path(job.paper).stem
        env = Path(job.env)  # of a file its name alone: it may lie anywhere
        env = env.name if env.is_absolute() or ".." in env.parts else job.env
        base = folder = Path("runs") / env.replace(":", "/") / name / stamp
        count = 1
        while folder.exists():
            count += 1
            folder = base.with_name(f"{stamp}-{count}")
        return folder
    folder = Path(path)
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"run: {path} exists and is not an empty folder")
        above = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    except OSError as e:
        raise InputError(f"run: {brief(path)}: {e.strerror}") from e
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise InputError(f"run: {path} cannot be made: {above} is not a folder to write to")
    return folder


class Recorder:
    """Writes a run folder while the run goes on; of a resumed run (`point`), goes on writing it."""

    def __init__(self, folder: Path, job: Job, point: Point | None = None):
        self.folder, self.job = folder, job
        now = dict(argv=sys.argv, versions=versions(), revision=revision(), started=time.time())
        now |= dict(devices=devices())
        meta, lines = now, ""
        self.pieces: list[dict[str, np.ndarray]] = []
        self.evaluations: list[tuple[int, np.ndarray]] = []
        if point:
            kept = point.metrics
            self.evaluations = list(zip(kept["eval_steps"].tolist(), kept["eval_return"].T))
            self.pieces = [{k: v for k, v in kept.items() if k not in POINTS}]
            meta = load_json(folder / "meta.json")
            before = meta.get("resumed")
            resumed = before if isinstance(before, list) else []
            meta["resumed"] = [*resumed, now | dict(iteration=point.iteration)]
            lines = lines_until(folder / "metrics.jsonl", point.iteration)
        elif (folder / "config.toml").exists():
            raise InputError(f"run: {folder} is another run's folder")
        write_whole(folder / "config.toml", tomli_w.dumps(jobs.to_tables(job)))
        write_whole(folder / "meta.json", json.dumps(meta, indent=1))
        write_whole(folder / "metrics.jsonl", lines)
        self.lines = (folder / "metrics.jsonl").open("a")
        self.seconds = point.about["seconds"] if point else 0.0  # of computing, over all sessions

    def see(self, chunk) -> None:
        """A chunk's metrics as one line, kept for the arrays. OSError if they cannot be written."""
        if not (self.folder / "config.toml").exists():
            raise FileNotFoundError(errno.ENOENT, "the folder is gone")
        self.seconds += chunk.seconds
        steps = chunk.iteration * self.job.hyper.steps_per_iteration
        seconds = round(self.seconds, 3)
        line: dict[str, Any] = dict(step=steps, iteration=chunk.iteration, seconds=seconds)
        for name, x in chunk.metrics.items():
            line[name] = finite(mean_of_finite(x))
        if chunk.evaluation is not None:
            line["eval_return"] = finite(chunk.evaluation)
            self.evaluations.append((steps, chunk.evaluation))
        self.pieces.append(chunk.metrics)
        self.lines.write(json.dumps(line) + "\n")
        self.lines.flush()

    def arrays(self) -> dict[str, np.ndarray]:
        """Every metric [seeds, iterations], `steps` [iterations], evaluations [seeds, points]."""
        names = self.pieces[0] if self.pieces else ()
        out = {k: np.concatenate([m[k] for m in self.pieces], 1) for k in names}
        self.pieces = [out] if out else []
        n = next(iter(out.values())).shape[1] if out else 0
        none = np.zeros((0, self.job.seeds))
        return out | dict(
            steps=np.arange(1, n + 1) * self.job.hyper.steps_per_iteration,
            eval_steps=np.array([s for s, _ in self.evaluations], int),
            eval_return=np.array([r for _, r in self.evaluations] or none).T,
        )

    def finish(self) -> dict[str, np.ndarray]:
        """Write the arrays; the arrays."""
        arrays = self.arrays()
        new = self.folder / "metrics.new.npz"
        np.savez_compressed(new, allow_pickle=False, **arrays)
        new.replace(self.folder / "metrics.npz")
        return arrays


def whole(point: Point) -> bool:
    """Whether the metrics of a checkpoint are those of its iterations."""
    metrics = point.metrics
    if any(name not in metrics for name in POINTS):
        return False
    lengths = {x.shape[1:2] for k, x in metrics.items() if k not in POINTS}
    evaluated = metrics["eval_return"].shape[1:] == metrics["eval_steps"].shape
    return evaluated and lengths <= {(point.iteration,)}


def load_json(path: Path) -> dict:
    """A file of ours; {} for one that is lost."""
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return {}


def lines_until(path: Path, iteration: int) -> str:
    """The lines of a metrics.jsonl up to an iteration, without a last one in pieces."""
    kept = []
    try:
        for line in path.read_text().splitlines(keepends=True):
            if json.loads(line)["iteration"] <= iteration:
                kept.append(line)
    except (OSError, ValueError, TypeError, KeyError):
        pass  # the last one is in pieces, or there is none
    return "".join(kept)


def mean_of_finite(x: np.ndarray) -> np.ndarray:
    """The mean over axis 1 of what is finite there; NaN where nothing is."""
    ok = np.isfinite(x)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(ok, x, 0.0).sum(1) / ok.sum(1)


def load_arrays(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of a finished run."""
    try:
        with np.load(folder / "metrics.npz", allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError) as e:
        raise InputError(f"run: {folder} has no readable metrics.npz") from e


def load_summary(folder: Path) -> dict:
    """The summary of a finished run."""
    try:
        summary = json.loads((folder / "summary.json").read_text())
        if {"final_return", "final_return_stochastic"} <= set(summary):
            return summary
    except (OSError, ValueError, TypeError):
        pass
    raise InputError(f"run: {folder} is not the folder of a finished run")
