"""Several processes that run one program: how they meet, what they agree on, who writes.

Each runs the same host loop on the same arrays, of which each holds its devices' part. Whatever a
process decides alone (a clock, a signal, a file) would part them, so process 0 decides for all.
Alone, a process agrees with itself at no cost.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrl.errors import LOST, InputError, RunError, reason
from jaxrl.run.supervise import COORDINATOR, PROCESS, PROCESSES
from jaxrl.types import is_key

SAID = (COORDINATOR, PROCESSES, PROCESS)
HEARTBEAT = 30  # seconds of silence after which a process is lost; JAX waits for 100


def join() -> None:
    """Meet the other processes: those that `SAID` names, or that Slurm, Open MPI or a TPU pod has
    started, which JAX finds. Before anything is computed.

    Raises:
      InputError: there is no such, or it is not said whole.
      RunError: one of them did not come.
    """
    said = {name: os.environ[name] for name in SAID if os.environ.get(name)}
    if said and len(said) < len(SAID):
        missing = next(name for name in SAID if name not in said)
        raise InputError(f"distributed: {', '.join(said)} without {missing}")
    where: dict[str, Any] = {}
    if said:
        address, count, own = (said[name] for name in SAID)
        if not (count.isdigit() and own.isdigit() and int(own) < int(count)):
            raise InputError(
                f"distributed: {PROCESS}: {own!r} is not one of {PROCESSES} = {count!r}, from 0"
            )
        where = dict(coordinator_address=address, num_processes=int(count), process_id=int(own))
    try:
        jax.config.update("jax_enable_preemption_service", False)  # it would keep SIGTERM from us
        jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT, **where)
        agreed(0.0)
    except ValueError as e:
        hint = f"no cluster of Slurm, Open MPI or TPUs here ({reason(e)}); or say {', '.join(SAID)}"
        raise InputError(f"distributed: {reason(e) if said else hint}") from e
    except RuntimeError as e:
        raise RunError(f"distributed: the processes did not meet ({reason(e)})", LOST) from e


def several() -> bool:
    """Whether there are other processes. (To count them begins jax, which alone can wait.)"""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def first() -> bool:
    """Whether this process writes."""
    return not several() or jax.process_index() == 0


def whole(tree: Any) -> Any:
    """A pytree of arrays on the host, whichever processes have them. All have to call it."""
    if not several():
        return jax.device_get(tree)
    from jax.experimental.multihost_utils import process_allgather

    def one(x):
        spread = isinstance(x, jax.Array) and not x.is_fully_replicated
        spread = spread and not x.is_fully_addressable
        return process_allgather(x, tiled=True) if spread else np.asarray(x)

    return jax.tree.map(one, tree)


def placed(tree: Any, where: Any) -> Any:
    """A pytree of arrays where shardings say, of which every process has the same."""
    if not several():
        return jax.device_put(tree, where)
    agreed(0.0)  # a program waits 30 s for the others to begin it, who may compile for longer

    def one(x, sharding):
        if sharding is None or isinstance(x, jax.Array) and not x.is_fully_addressable:
            return x  # it is not used; or it came from a program of all
        own = x if is_key(x) else np.asarray(x)
        return jax.make_array_from_callback(own.shape, sharding, lambda index: own[index])

    return jax.tree.map(one, tree, where)


def agreed(x: Any) -> Any:
    """The number that process 0 has, an int or a float. All have to call it."""
    if not several():
        return x
    from jax.experimental.multihost_utils import broadcast_one_to_all

    kind = np.int32 if isinstance(x, int) else np.float32
    return type(x)(broadcast_one_to_all(kind(x)))


def most(x: int) -> int:
    """The largest that any process has. All have to call it."""
    if not several():
        return x
    from jax.experimental.multihost_utils import process_allgather

    return int(np.max(process_allgather(np.int32(x))))


@contextlib.contextmanager
def written(folder: Path) -> Iterator[Path]:
    """Where this process writes what only the first is to write: another throws it away."""
    if first():
        yield folder
        return
    with tempfile.TemporaryDirectory() as place:
        yield Path(place)


@contextlib.contextmanager
def together(way_on: Any) -> Iterator[None]:
    """A process that is lost, or an error of the device, ends the others with one line.

    way_on: () -> how the run goes on.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as e:
        if not several():
            raise
        why = f"a process was lost, or this one failed ({reason(e)})"
        raise RunError(f"distributed: {why}; {way_on()}", LOST) from e
