"""The run folder: what was asked, what was used, what came out.

config.toml    the resolved job; `jaxrl train SLUG --config` takes it
meta.json      command line, versions, devices
metrics.jsonl  a line per chunk while it runs: means over the chunk, one number a seed
metrics.npz    every metric [seeds, iterations], `steps`, `eval_steps`, `eval_return`
summary.json   the result
curve.png      return against steps
ckpt/N         the state after N iterations
"""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tomli_w

from jaxrl import __version__
from jaxrl.errors import InputError
from jaxrl.run import job as jobs
from jaxrl.run.job import Job
from jaxrl.run.stats import finite

PACKAGES = ("jax", "jaxlib", "flax", "optax", "distrax", "gymnax", "brax", "numpy")


def versions() -> dict[str, str]:
    """What ran: python, the kit and what it stands on."""
    found = {"python": platform.python_version(), "jaxrl": __version__}
    return found | {p: importlib.metadata.version(p) for p in PACKAGES}


def machine() -> str:
    """What it ran on, without its name."""
    return f"{os.cpu_count()} CPU cores, {platform.machine()}, {platform.system()}"


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
        base = folder = Path("runs") / job.env.replace(":", "/") / name / stamp
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
        raise InputError(f"run: {path[:80]}: {e.strerror}") from e
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise InputError(f"run: {path} cannot be made: {above} is not a folder to write to")
    return folder


class Recorder:
    """Writes a run folder while the run goes on."""

    def __init__(self, folder: Path, job: Job):
        self.folder, self.job = folder, job
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / "config.toml").open("x") as file:  # two runs cannot both make it
                file.write(tomli_w.dumps(jobs.to_tables(job)))
        except FileExistsError as e:
            raise InputError(f"run: {folder} is another run's folder") from e
        except OSError as e:
            raise InputError(f"run: {folder}: {e.strerror}") from e
        devices = [str(d) for d in jax.devices()]
        meta = dict(argv=sys.argv, versions=versions(), revision=revision(), devices=devices)
        (folder / "meta.json").write_text(json.dumps(meta | {"started": time.time()}, indent=1))
        self.lines = (folder / "metrics.jsonl").open("a")
        self.metrics: list[dict[str, np.ndarray]] = []
        self.evaluations: list[tuple[int, np.ndarray]] = []
        self.began = time.perf_counter()

    def see(self, chunk) -> None:
        """A chunk's metrics as one line, kept for the arrays."""
        steps = chunk.iteration * self.job.hyper.steps_per_iteration
        seconds = round(time.perf_counter() - self.began, 3)
        line: dict[str, Any] = dict(step=steps, iteration=chunk.iteration, seconds=seconds)
        for name, x in chunk.metrics.items():
            line[name] = finite(mean_of_finite(x))
        if chunk.evaluation is not None:
            line["eval_return"] = finite(chunk.evaluation)
            self.evaluations.append((steps, chunk.evaluation))
        self.metrics.append(chunk.metrics)
        self.lines.write(json.dumps(line) + "\n")
        self.lines.flush()

    def arrays(self) -> dict[str, np.ndarray]:
        """Every metric [seeds, iterations], `steps` [iterations], evaluations [seeds, points]."""
        names = self.metrics[0]
        out = {k: np.concatenate([m[k] for m in self.metrics], 1) for k in names}
        n = next(iter(out.values())).shape[1]
        each = self.job.hyper.steps_per_iteration
        out["steps"] = np.arange(1, n + 1) * each
        out["eval_steps"] = np.array([s for s, _ in self.evaluations])
        out["eval_return"] = np.stack([r for _, r in self.evaluations], 1)
        return out

    def finish(self, summary: dict) -> dict[str, np.ndarray]:
        """Write the arrays and the summary; the arrays."""
        self.lines.close()
        arrays = self.arrays()
        np.savez_compressed(self.folder / "metrics.npz", allow_pickle=False, **arrays)
        (self.folder / "summary.json").write_text(json.dumps(summary, indent=1))
        return arrays


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
