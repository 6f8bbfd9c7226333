"""One seed's policy as a file, to act with elsewhere. Nothing of training goes along.

FILE.npz         the leaves of the state that `act` reads, by their paths, and `about`, a JSON text:
                 `load` puts them back into the algorithm, which the kit builds anew
FILE.stablehlo   `act` itself by jax.export, its parameters inside, for any number of observations:
                 it needs jax, and not the kit
FOLDER           a language model, as other tools read it (`jaxrl.models`), adapters merged into it

An action is as the environment's space has it: of its type, and clipped to its bounds, since what a
Gaussian draws has none. Nothing that is loaded can run code: arrays, JSON, and no pickle.
"""

import importlib.util
import io
import json
import zipfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export
from jax.interpreters.partial_eval import dce_jaxpr

from envs.spaces import Box, Discrete, MultiDiscrete
from jaxrl.completions import LanguageModel
from jaxrl.errors import InputError, reason
from jaxrl.models import Model, load_checkpoint, merged, save_checkpoint
from jaxrl.run import evaluate, record
from jaxrl.run import job as jobs
from jaxrl.run.checkpoint import as_key, by_path, data, kind, misfit, plain
from jaxrl.run.files import check_folder, replacing
from jaxrl.run.run import Setting, one_state, set_up
from jaxrl.run.train import Say

PLATFORMS = ("cpu", "cuda", "tpu")  # that a program is lowered for


class Actor(NamedTuple):
    """A policy that was loaded: actor(obs, memory=None, key=None) -> (action, memory)."""

    about: dict  # what the file says of it
    memory: Callable[[int], Any]  # (n) -> memory at the start of n episodes
    program: Callable[..., Any]  # jitted: (obs, memory, key) -> (action, memory)

    def __call__(self, obs: Any, memory: Any = None, key: Any = None) -> tuple[Any, Any]:
        """Actions [n, ...] for observations [n, ...], and the memory to pass in with the next.

        Args:
          memory: None at the start of all n episodes.
          key: None acts by the policy's mode.
        """
        if memory is None:
            memory = self.memory(len(jax.tree.leaves(obs)[0]))
        return self.program(obs, memory, key)


def check_form(path: Path, stochastic: bool) -> None:
    """InputError, with the mend, for a file that could not be written."""
    if path.suffix not in (".npz", ".stablehlo", ""):
        raise InputError(f"out: {path} does not end in .npz or .stablehlo, and is no folder's name")
    if path.suffix != ".stablehlo" and stochastic:
        raise InputError("stochastic: an .npz acts either way: give its act a key, or none")
    if path.suffix == ".stablehlo" and importlib.util.find_spec("flatbuffers") is None:
        raise InputError("out: a .stablehlo needs flatbuffers: pip install 'jaxrl[export]'")
    check_folder(path)


class Exported(NamedTuple):
    """What was written."""

    title: str
    paper: str
    env: str
    seed: int
    bytes: int
    inputs: list[str]
    outputs: list[str]


def export(
    run: Path,
    path: Path,
    *,
    seed: int | None = None,
    best: bool = False,
    stochastic: bool = False,
    named: Iterable[str] = (),
    say: Say = lambda line: None,
) -> Exported:
    """Write the policy of a finished run; the form is the path's suffix, .npz or .stablehlo, or
    where it has none a folder with a language model.

    Args:
      seed: whose policy; None: that with the median final return.
      best: of the checkpoint whose evaluation was best, not of the last.
      stochastic: a program that acts as it explores, its last argument a seed.
      named: code of one's own that may be run, as in `train.reopen`.

    Raises:
      InputError: there is no such form, folder, run or seed, or it cannot be made a program.
      RunError: no checkpoint is whole, or the disk fails.
    """
    check_form(path, stochastic)
    s, state, index, title, final_return = evaluate.one_seed(
        run, seed, best, stochastic, named, say
    )
    which = (title, s.job.paper, s.job.env, int(s.seeds[index]))
    if not path.suffix:
        save_checkpoint(path, language_model(s, state, index))
        size = sum(file.stat().st_size for file in path.iterdir())
        return Exported(*which, size, ["text"], ["text"])
    leaves = policy(s, state, index)
    if path.suffix == ".npz":
        content = arrays(leaves, describe(s, index, best, final_return))
    else:
        content = program(s, leaves, stochastic, say)
    with replacing(path, "export") as new:
        new.write_bytes(content)
    return Exported(*which, len(content), *signature(s, stochastic))


def language_model(s: Setting, state: Any, index: int) -> Model:
    """What a row of the state has learned, as its folder's model. InputError where it has none."""
    network = s.job.network
    if not isinstance(network, LanguageModel) or not network.model:
        raise InputError("out: a folder holds a language model, which this run did not begin with")
    params = jax.tree.map(lambda x: x[index], state.inner.params)
    found = load_checkpoint(network.model)
    return found._replace(params=merged(params, network.adapter))


# ---- what acts -------------------------------------------------------------------------------


def bounded(space: Any, action: Any) -> Any:
    """Actions [n, ...] of the type of their space, and within its bounds."""
    match space:
        case Box():
            low, high = (np.asarray(x, np.float32) for x in (space.low, space.high))
            return jnp.clip(action, low, high).astype(space.dtype)
        case Discrete() | MultiDiscrete():
            return action.astype(jnp.int32)
    return action


def leaves_of(s: Setting) -> dict[str, Any]:
    """The shapes of every leaf of one seed's state, by its path; keys are their data."""
    return by_path(jax.eval_shape(partial(jax.tree.map, data), one_state(s)))


def acting(s: Setting) -> Callable:
    """(leaves by path, obs, memory, key, hp) -> (action, memory); a leaf left out is zeros."""
    like, shapes = one_state(s), leaves_of(s)

    def act(leaves, obs, memory, key, hp):
        zeros = {path: jnp.zeros(x.shape, x.dtype) for path, x in shapes.items()}
        full = [jnp.asarray(leaves.get(path, x)) for path, x in zeros.items()]
        state = jax.tree.map(as_key, like, jax.tree.unflatten(jax.tree.structure(like), full))
        action, memory = s.algo.act(state, obs, memory, key, hp)
        return bounded(s.world.action_space, action), memory

    return act


def observations(s: Setting, n: Any) -> Any:
    """The shapes of n observations; n may be a symbol."""
    _, obs = jax.eval_shape(lambda key: s.world.reset(key, 1), jax.random.key(0))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((n, *x.shape[1:]), x.dtype), obs)


def used(s: Setting) -> dict[str, Any]:
    """The shapes of the leaves that `act` reads, by its mode or as it explores."""
    shapes, act, read = leaves_of(s), acting(s), set()
    for key in (None, jax.random.key(0)):
        traced = jax.make_jaxpr(act)(shapes, observations(s, 1), s.algo.memory(1), key, s.hp).jaxpr
        _, live = dce_jaxpr(traced, [True] * len(traced.outvars))
        read |= {path for path, on in zip(sorted(shapes), live) if on}  # a dict's order is sorted
    return {path: x for path, x in shapes.items() if path in read}


def policy(s: Setting, state: Any, index: int) -> dict[str, np.ndarray]:
    """The leaves that the policy of a row of the state consists of."""
    leaves = plain(jax.tree.map(lambda x: x[index], state))
    return {path: leaves[path] for path in used(s)}


def signature(s: Setting, stochastic: bool) -> tuple[list[str], list[str]]:
    """What goes in and what comes out: "obs float32[n, 4]", a line a leaf.

    stochastic: with the seed that a program is given.
    """
    obs, memory = observations(s, 1), jax.eval_shape(lambda: s.algo.memory(1))
    action, after = jax.eval_shape(acting(s), leaves_of(s), obs, memory, None, s.hp)

    def lines(**trees):
        found = [
            (f"{k}{path}", x) for k, tree in trees.items() for path, x in by_path(tree).items()
        ]
        return [f"{k} {x.dtype}[{', '.join(['n', *map(str, x.shape[1:])])}]" for k, x in found]

    inputs = lines(obs=obs, memory=memory) + ["seed uint32[]"] * stochastic
    actions, rest = lines(action=action), lines(memory=after)
    if isinstance(box := s.world.action_space, Box) and np.ndim(box.low) == 0:
        actions = [f"{line} in [{box.low:g}, {box.high:g}]" for line in actions]
    return inputs, actions + rest


# ---- arrays ----------------------------------------------------------------------------------


def described(space: Any) -> Any:
    """A space for the JSON."""
    if isinstance(space, dict):
        return {k: described(x) for k, x in space.items()}
    return dict(space=type(space).__name__, **space._asdict())


def describe(s: Setting, index: int, best: bool, final_return: float | None) -> dict:
    """What an .npz says of the policy of a row."""
    return dict(
        paper=s.job.paper,
        env=s.job.env,
        seed=int(s.seeds[index]),
        checkpoint="best" if best else "last",
        final_return=None if best else final_return,  # it is that of the last
        observation_space=described(s.world.observation_space),
        action_space=described(s.world.action_space),
        tables=jobs.to_tables(s.job),
        versions=record.versions(),
    )


def arrays(leaves: dict[str, np.ndarray], about: dict) -> bytes:
    """The .npz."""
    text = json.dumps(about, default=lambda x: np.asarray(x).tolist())
    np.savez_compressed(file := io.BytesIO(), allow_pickle=False, about=np.array(text), **leaves)
    return file.getvalue()


def load(path: str | Path, named: Iterable[str] = ()) -> Actor:
    """The policy in an .npz: act(obs, memory=None, key=None) -> (action, memory), jitted.

    Args:
      named: code of one's own that may be run: the path of a paper's file, my_module:make.

    Raises:
      InputError: it is no such file, it is spoilt, or it names code that is not `named`.
    """
    try:
        with open(path, "rb") as opened:
            if not zipfile.is_zipfile(opened):  # numpy would take it for a pickle, and says so
                raise ValueError("it is no .npz")
            opened.seek(0)
            with np.load(opened, allow_pickle=False) as file:
                leaves = {name: file[name] for name in file.files}
        about = json.loads(str(leaves.pop("about")))
        tables = {name: dict(about["tables"][name]) for name in jobs.TABLES}
        for name in ("network", "hyper"):
            tables[name] = {k: jobs.from_toml(k, x) for k, x in tables[name].items()}
        s = set_up(jobs.resolve(**jobs.refuse_code(tables, named)))
    except InputError:
        raise
    except Exception as e:  # whatever libraries make of a crafted file
        why = getattr(e, "strerror", None) or reason(e)
        raise InputError(f"policy: {path} is not one that jaxrl exported: {why}") from e
    wanted, found = ({k: kind(x) for k, x in xs.items()} for xs in (used(s), leaves))
    if different := misfit(wanted, found):
        raise InputError(f"policy: {path} is not of its paper and network: {different}")
    leaves, act = jax.tree.map(jnp.asarray, leaves), jax.jit(acting(s))
    return Actor(about, s.algo.memory, lambda obs, memory, key: act(leaves, obs, memory, key, s.hp))


# ---- a program -------------------------------------------------------------------------------


def program(s: Setting, leaves: dict[str, np.ndarray], stochastic: bool, say: Say) -> bytes:
    """The .stablehlo: (obs [, memory] [, seed uint32]) -> action, or (action, memory).

    say: told of a platform that it cannot be lowered for.

    Raises:
      InputError: it can be lowered for none, or its memory does not begin as zeros, which
        whoever has only the program could not know.
    """
    if any(np.any(x) for x in jax.tree.leaves(s.algo.memory(1))):
        raise InputError(f"out: the memory of {s.job.paper} begins as more than zeros; try an .npz")
    act = acting(s)
    (n,) = jax_export.symbolic_shape("n")
    memory = jax.eval_shape(lambda: s.algo.memory(n))
    remembers = bool(jax.tree.leaves(memory))

    def call(obs, *rest):
        key = jax.random.key(rest[-1]) if stochastic else None
        action, after = act(leaves, obs, rest[0] if remembers else memory, key, s.hp)
        return (action, after) if remembers else action

    seed = jax.ShapeDtypeStruct((), jnp.uint32)
    given = (observations(s, n), *[memory] * remembers, *[seed] * stochastic)

    def lowered(*platforms):
        lower = jax_export.export(jax.jit(call), platforms=platforms)
        return bytes(lower(*given).serialize())

    try:
        return lowered(*PLATFORMS)
    except Exception:  # which is it?
        refused = {}
        for platform in PLATFORMS:
            try:
                lowered(platform)
            except Exception as e:
                refused[platform] = reason(e)
    for platform, why in refused.items():
        say(f"not for {platform}: {why}")
    if rest := [p for p in PLATFORMS if p not in refused]:
        return lowered(*rest)
    raise InputError(f"out: {s.job.paper} cannot be made a program: {refused[PLATFORMS[0]]}")
