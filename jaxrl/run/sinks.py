"""Where a run's curves go while it trains: TensorBoard always, wandb and trackio if asked for.

No sink can end a run: one that fails is named, and the run goes on without it.
"""

import contextlib
import contextvars
import dataclasses
import hashlib
import importlib.util
import math
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from jaxrl.errors import InputError, did_you_mean, reason
from jaxrl.run import job as jobs
from jaxrl.run.record import load_json, mean_of_finite
from jaxrl.run.run import Chunk, Setting
from jaxrl.run.stats import iqm


class Sink(Protocol):
    """What takes the points of a curve. Both may raise whatever they like."""

    def write(self, step: int, scalars: dict[str, float]) -> None: ...

    def close(self) -> None: ...


class Curve(NamedTuple):
    """What a sink is opened for."""

    run: str
    part: str  # seed_N, or "" for all seeds
    folder: Path
    config: dict
    done: int | None  # environment steps of one seed before this session; None of a new run

    @property
    def key(self) -> str:
        """Of this run alone; another that begins in the same folder has another."""
        started = load_json(self.folder / "meta.json").get("started")
        text = f"{self.folder.resolve()} {started} {self.part}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def about(self) -> dict[str, Any]:
        """What wandb and trackio are told alike."""
        name, group = (f"{self.run}-{self.part}", self.run) if self.part else (self.run, None)
        return dict(project="jaxrl", name=name, group=group, config=self.config)


class TensorBoard:
    """An event file, whole after every point. tensorboardX's own writer has a thread, which a full
    disk ends without a word; its queue then blocks the run."""

    def __init__(self, curve: Curve):
        from tensorboardX.proto import event_pb2
        from tensorboardX.record_writer import masked_crc32c

        self.events, self.crc = event_pb2, masked_crc32c
        folder = curve.folder / "tensorboard" / curve.part
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads a folder's files in the order of their names
        self.path = folder / f"events.out.tfevents.{time.time():.6f}"
        self.add(file_version="brain.Event:2")
        if curve.done is not None:  # hides what an earlier session wrote at this step or later
            self.add(step=curve.done + 1, session_log=dict(status="START"))

    def write(self, step: int, scalars: dict[str, float]) -> None:
        values = [dict(tag=tag, simple_value=x) for tag, x in scalars.items()]
        self.add(step=step, summary=dict(value=values))

    def add(self, **event: Any) -> None:
        """Append an event as a TFRecord: length, its checksum, bytes, theirs."""
        data = self.events.Event(wall_time=time.time(), **event).SerializeToString()
        size = struct.pack("<Q", len(data))
        sums = [struct.pack("<I", self.crc(x)) for x in (size, data)]
        with self.path.open("ab") as file:
            file.write(size + sums[0] + data + sums[1])

    def close(self) -> None: ...


class Service:
    """A run of wandb or trackio, and the first step that it does not have yet."""

    def __init__(self, run: Any, first: int):
        self.run, self.first = run, first

    def write(self, step: int, scalars: dict[str, float]) -> None:
        if step >= self.first:
            self.run.log(scalars, step=step)

    def close(self) -> None:
        self.run.finish()


def wandb(curve: Curve) -> Sink:
    import wandb

    run = wandb.init(
        **curve.about(),
        dir=str(curve.folder.absolute()),
        id=curve.key,
        resume="allow",
        reinit="create_new",  # others stay open: another seed's, a notebook's
    )
    return Service(run, run.starting_step)


def trackio(curve: Curve) -> Sink:
    import trackio

    resume = "never" if curve.done is None else "allow"
    # in a context of its own, since `init` finishes the run that it finds in its context
    about = curve.about()
    about["name"] += f"-{curve.key[:6]}"  # it knows a run by its name
    run = contextvars.Context().run(trackio.init, **about, resume=resume)
    return Service(run, getattr(run, "_next_step", 0))  # it draws a step that it has twice


EXTRAS: dict[str, Callable[[Curve], Sink]] = dict(wandb=wandb, trackio=trackio)


@dataclasses.dataclass(frozen=True)
class Sinks:
    """The sinks that a person asked for, besides TensorBoard, and of what.

    Raises:
      InputError: there is no such sink, or its package is not installed.
    """

    names: tuple[str, ...] = ()
    per_seed: bool = False  # a curve for each seed, not one of all

    @classmethod
    def of(cls, said: "str | Sinks") -> "Sinks":
        """Sinks as a person says them from Python: a name, or this."""
        return said if isinstance(said, Sinks) else cls((said,) if said else ())

    def __post_init__(self):
        for name in self.names:
            if name not in EXTRAS:
                always = "allowed are wandb and trackio; TensorBoard's is always written"
                raise did_you_mean("sink", name, EXTRAS, always)
            spec = importlib.util.find_spec(name)
            if not (spec and spec.origin):  # wandb's own folder, ./wandb, has none
                raise InputError(f"sink: {name} is not installed; pip install 'jaxrl[{name}]'")


def points(chunk: Chunk, each: int, per_seed: bool) -> list[dict[str, float]]:
    """What is finite of a chunk's scalars: of each seed, or of all as one.

    each: environment steps of one seed in an iteration.
    """
    seeds, size = chunk.metrics["finite"].shape
    found = {k: mean_of_finite(x) for k, x in chunk.metrics.items() if x.ndim == 2}
    if chunk.evaluation is not None:
        found["eval_return"] = chunk.evaluation
    x = np.stack([*found.values()], 1).astype(float)  # [seeds, names]
    ok = np.isfinite(x)
    rate = size * each / chunk.seconds
    if per_seed:
        rows = [dict(zip(found, row), steps_per_second=rate) for row in x.tolist()]
    else:
        middle = np.full(x.shape[1], np.nan)
        for mask in np.unique(ok[:, ok.any(0)], axis=1).T:
            alike = (mask == ok.T).all(1)  # a call for each metric would take milliseconds
            middle[alike] = iqm(x[mask][:, alike])
        rows = [dict(zip(found, middle.tolist()), steps_per_second=rate * seeds)]
        if chunk.evaluation is not None:
            rows[0]["eval_return_worst"] = float(chunk.evaluation.min())
    return [{k: v for k, v in row.items() if math.isfinite(v)} for row in rows]


@contextlib.contextmanager
def open_sinks(
    chosen: Sinks, s: Setting, folder: Path, done: int | None, say: Callable[[str], Any]
) -> Iterator[Callable[[Chunk], None]]:
    """Give what is to be called after each chunk. A sink that fails is named, once, and dropped.

    done: iterations before this session; None of a new run.
    """
    each = s.job.hyper.steps_per_iteration
    run = f"{Path(s.job.paper).stem}-{s.job.env}-{folder.resolve().name}"
    rest = (folder, jobs.to_tables(s.job), None if done is None else done * each)
    parts = [f"seed_{n}" for n in s.seeds] if chosen.per_seed else [""]
    opened: dict[str, list[Sink]] = {}

    @contextlib.contextmanager
    def dropping(name):
        try:
            yield
        except Exception as e:
            say(f"sink {name}: {reason(e)}; the run goes on without it")
            for sink in opened.pop(name):
                with contextlib.suppress(Exception):
                    sink.close()

    def write(chunk: Chunk) -> None:
        for name in [*opened]:
            with dropping(name):
                for sink, scalars in zip(opened[name], points(chunk, each, chosen.per_seed)):
                    sink.write(chunk.iteration * each, scalars)

    try:
        for name, make in {"tensorboard": TensorBoard, **EXTRAS}.items():
            if name in ("tensorboard", *chosen.names):
                opened[name] = []
                with dropping(name):
                    for part in parts:
                        opened[name].append(make(Curve(run, part, *rest)))
        yield write
    finally:
        for name in [*opened]:
            with dropping(name):
                while opened[name]:
                    opened[name].pop().close()
