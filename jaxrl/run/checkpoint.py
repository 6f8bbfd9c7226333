"""Checkpoints: orbax for the arrays, under a manifest of ours that knows every byte.

    ckpt/N/             a run after N iterations, whole by itself
      state/            the leaves of the state (orbax), keys as their data
      metrics.npz       every metric and evaluation up to here
      about.json        iteration, seconds, score, the job's tables, versions, what each leaf is
      manifest.json     the sha256 of each of these files; written last: without it N is unfinished

Orbax returns a flipped bit without a word, so no file is read before its sum is checked. Nothing
that is loaded can run code: arrays, JSON, and no pickle.
"""

import errno
import hashlib
import json
import logging
import math
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.errors import NO_CHECKPOINT, InputError, RunError, reason
from jaxrl.run import ranks
from jaxrl.run.files import write_whole
from jaxrl.types import is_key

MANIFEST, ABOUT, METRICS, STATE = "manifest.json", "about.json", "metrics.npz", "state"

FIELDS: dict[str, Any] = dict(  # of about.json, and what each is
    iteration=int,
    seconds=(int, float),
    score=(int, float, type(None)),
    tables=dict,
    versions=dict,
    leaves=dict,
    state_sha256=str,
)


class CheckpointError(InputError):
    """A checkpoint that is not what was written; the one before it may be."""


class Point(NamedTuple):
    """A run after some iterations, every seed's."""

    iteration: int
    state: Any
    metrics: dict[str, np.ndarray]  # as in a run's metrics.npz
    about: dict[str, Any]


def data(x: Any) -> Any:
    """An array as it is written: keys as their data."""
    return jax.random.key_data(x) if is_key(x) else x


def by_path(tree: Any) -> dict[str, Any]:
    """The leaves of a pytree by their paths."""
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): x for path, x in paths}


def plain(state: Any) -> dict[str, np.ndarray]:
    """The leaves of a state by their paths, as arrays of their own."""
    leaves = by_path(state)
    arrays = ranks.whole([data(x) for x in leaves.values()])
    return dict(zip(leaves, map(np.array, arrays)))


def digest(leaves: dict[str, np.ndarray]) -> str:
    """A sha256 over the path, type, shape and bytes of every leaf."""
    total = hashlib.sha256()
    for path, x in leaves.items():
        total.update(f"{path} {x.dtype} {x.shape}\n".encode())
        total.update(x.tobytes())
    return total.hexdigest()


def kind(x: Any) -> str:
    return f"{x.dtype}{list(x.shape)}"


def sums(folder: Path) -> dict[str, str]:
    """sha256 of every file below a folder, by relative path. A link is not one of our files."""
    files = sorted(p for p in folder.rglob("*") if p.is_symlink() or p.is_file())
    hashed = lambda p: "a link" if p.is_symlink() else hashlib.sha256(p.read_bytes()).hexdigest()
    return {str(p.relative_to(folder)): hashed(p) for p in files if p.name != MANIFEST}


def as_json(x: Any) -> str:
    return json.dumps(x, indent=1, sort_keys=True)


def numbered(leaves: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Leaves as orbax takes them: plain names, none of them empty."""
    return {f"{i:05}": x for i, x in enumerate(leaves.values()) if x.size}


def orbax() -> Any:
    """The library, imported where it is used. What goes wrong in it is ours to say, in one line."""
    import orbax.checkpoint

    logging.getLogger("absl").setLevel(logging.CRITICAL)
    return orbax.checkpoint


def checkpointer() -> Any:
    """Orbax's, of this process alone: it would wait for the others, which write nothing."""
    ocp = orbax()
    if not ranks.several():
        return ocp.StandardCheckpointer()
    own = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(primary_host=own, active_processes={own})
    return ocp.StandardCheckpointer(multiprocessing_options=alone)


def write(
    folder: Path, leaves: dict[str, np.ndarray], metrics: dict[str, np.ndarray], about: dict
) -> None:
    """Write a checkpoint; it is complete once its manifest is there. OSError if it cannot be."""
    shutil.rmtree(folder, ignore_errors=True)  # what a killed process left
    folder.mkdir(parents=True)
    try:
        with checkpointer() as writer:
            writer.save((folder / STATE).absolute(), numbered(leaves))
    except OSError:
        raise
    except Exception as e:  # tensorstore says it in ways of its own
        full = any(word in str(e) for word in ("No space left", "RESOURCE_EXHAUSTED"))
        raise OSError(errno.ENOSPC, "No space left on device" if full else reason(e)) from e
    np.savez_compressed(folder / METRICS, allow_pickle=False, **metrics)
    kinds = {path: kind(x) for path, x in leaves.items()}
    about = about | {"leaves": kinds, "state_sha256": digest(leaves)}
    (folder / ABOUT).write_text(as_json(about))
    write_whole(folder / MANIFEST, as_json(sums(folder)))


def verify(folder: Path) -> dict[str, Any]:
    """What a checkpoint says of itself, if every byte is the one that was written.

    Raises:
      CheckpointError: one line with the file.
    """
    try:
        text = (folder / MANIFEST).read_text()
        written = dict(json.loads(text))
        if as_json(written) != text:
            raise ValueError
    except FileNotFoundError as e:
        raise CheckpointError(f"checkpoint: {folder} was not finished") from e
    except (OSError, ValueError, TypeError, RecursionError) as e:
        raise CheckpointError(f"checkpoint: {folder / MANIFEST} is not as it was written") from e
    try:
        found = sums(folder)
    except OSError as e:  # such as one that its run removes just now
        raise CheckpointError(f"checkpoint: {folder}: {e.strerror}") from e
    for name in sorted(written.keys() | found.keys()):
        if written.get(name) != found.get(name):
            how = "is missing" if name not in found else "is not as it was written"
            raise CheckpointError(f"checkpoint: {folder / name} {how}")
    try:
        about = json.loads((folder / ABOUT).read_text())
        if all(isinstance(about[key], kind) for key, kind in FIELDS.items()):
            return about
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        pass
    raise CheckpointError(f"checkpoint: {folder / ABOUT} does not describe a checkpoint")


def read(folder: Path, like: Any) -> Point:
    """A checkpoint, in the structure of `like` (shapes and types suffice).

    Raises:
      CheckpointError: it is not as it was written, or of another state than `like`.
    """
    return load(folder, verify(folder), like)


def load(folder: Path, about: dict, like: Any) -> Point:
    """`read`, of one that was verified and says `about` of itself."""
    wanted = by_path(jax.eval_shape(partial(jax.tree.map, data), like))
    if different := misfit({k: kind(x) for k, x in wanted.items()}, about["leaves"]):
        raise CheckpointError(f"checkpoint: {folder} is of another state: {different}")
    empty = {k: np.empty(x.shape, x.dtype) for k, x in wanted.items()}
    try:
        with checkpointer() as reader:
            found = reader.restore((folder / STATE).absolute(), numbered(empty))
        with np.load(folder / METRICS, allow_pickle=False) as file:
            metrics = dict(file)
    except Exception as e:  # whatever a library makes of crafted files
        raise CheckpointError(f"checkpoint: {folder} cannot be read: {reason(e)}") from e
    full = (found.get(f"{i:05}", x) for i, x in enumerate(empty.values()))
    leaves = {path: np.asarray(x) for path, x in zip(empty, full)}
    if digest(leaves) != about["state_sha256"]:
        raise CheckpointError(f"checkpoint: {folder}: the state is not the one that was saved")
    arrays = jax.tree.unflatten(jax.tree.structure(like), list(map(jnp.asarray, leaves.values())))
    return Point(about["iteration"], jax.tree.map(as_key, like, arrays), metrics, about)


def as_key(like: Any, x: jax.Array) -> jax.Array:
    """x, as keys where `like` is of keys."""
    return jax.random.wrap_key_data(x) if is_key(like) else x


def misfit(wanted: dict[str, str], found: dict[str, str]) -> str:
    """The first leaf in which two states differ, in a few words; "" if none does."""
    for path in sorted(wanted.keys() | found.keys()):
        if wanted.get(path) != found.get(path):
            return f"{path} is {found.get(path, 'missing')}, expected {wanted.get(path, 'none')}"
    return ""


def points(run: Path) -> list[Path]:
    """The folders of a run's checkpoints, the newest first, whatever is in them."""
    found = [p for p in (run / "ckpt").glob("*") if p.name.isdigit() and not p.is_symlink()]
    return sorted(found, key=lambda p: int(p.name), reverse=True)


def sound(run: Path, say: Callable[[str], Any]) -> Iterator[tuple[Path, dict]]:
    """A run's checkpoints, the newest first, that are as they were written; the others are named,
    and the one that is used instead."""
    refused = ""
    for folder in points(run):
        try:
            about = verify(folder)
        except CheckpointError as e:
            refused = str(e)
            say(refused)
            continue
        if refused:
            say(f"using {folder} instead")
            refused = ""
        yield folder, about


def newest(run: Path, say: Callable[[str], Any] = lambda line: None) -> tuple[Path, dict]:
    """The newest checkpoint of a run that is as it was written, and what it says of itself.

    Raises:
      RunError: there is none.
    """
    for found in sound(run, say):
        return found
    bad = points(run)
    many = f"none of {len(bad)} checkpoints is whole" if bad else "there is no checkpoint"
    anew = f"jaxrl train PAPER --config {run / 'config.toml'} starts anew"
    raise RunError(f"run: {run}: {many}; {anew}", NO_CHECKPOINT)


def best(run: Path, say: Callable[[str], Any] = lambda line: None) -> tuple[Path, dict]:
    """Likewise, the one whose evaluation was best; the newest where none was evaluated."""
    scored = [x for x in sound(run, say) if x[1]["score"] is not None]
    return max(scored, key=lambda x: x[1]["score"]) if scored else newest(run, say)


def set_aside(run: Path, iteration: int) -> None:
    """Rename what is newer than the checkpoint a run goes on from: it was refused."""
    for folder in points(run):
        if int(folder.name) > iteration:
            shutil.rmtree(aside := folder.with_name(folder.name + ".refused"), ignore_errors=True)
            folder.rename(aside)


class Saver:
    """Writes checkpoints in a thread, one at a time, and keeps the last few and the best.

    The state is copied before `save` returns, so that its buffers may be donated. What goes wrong
    in the thread is an OSError of the next call.
    """

    def __init__(self, run: Path, keep: int):
        self.run, self.keep = run, keep
        self.thread = ThreadPoolExecutor(1)
        self.pending: Future | None = None
        self.scores = {a["iteration"]: a["score"] for _, a in sound(run, lambda line: None)}

    def save(self, iteration: int, state: Any, metrics: dict[str, np.ndarray], about: dict) -> None:
        """Begin to write; waits for the one before."""
        self.wait()
        about = about | {"iteration": iteration}
        self.scores[iteration] = about["score"]
        leaves = plain(state)  # by all processes
        if ranks.first():
            self.pending = self.thread.submit(self.work, iteration, leaves, metrics, about)

    def work(self, iteration: int, leaves: dict, metrics: dict, about: dict) -> None:
        write(self.run / "ckpt" / str(iteration), leaves, metrics, about)
        self.prune()

    def prune(self) -> None:
        """Remove all but the last few and the best, manifests first."""
        have = [p for p in points(self.run) if (p / MANIFEST).exists()]
        scored = [(x, p) for p in have if (x := self.scores.get(int(p.name))) is not None]
        stays = {*have[: self.keep], *(p for _, p in sorted(scored)[-1:])}
        for folder in set(have) - stays:
            (folder / MANIFEST).unlink()
            shutil.rmtree(folder)

    def wait(self) -> None:
        """Until what was begun is on the disk."""
        pending, self.pending = self.pending, None
        if pending is not None:
            pending.result()

    @property
    def best(self) -> float:
        """The best score yet; -inf of none."""
        return max((x for x in self.scores.values() if x is not None), default=-math.inf)

    def close(self) -> None:
        """Wait and end the thread."""
        try:
            self.wait()
        finally:
            self.thread.shutdown()
