"""Does an environment keep the protocol? `jaxrl check-env ENV` prints what `check` finds."""

import collections
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from envs import registry
from envs.adapters.common import cast
from envs.base import AutoReset, Step, Transition
from envs.spaces import Box, Discrete, MultiDiscrete, Space

COPIES = 4
CHANCE = 1e-5  # a coincidence rarer than this is a fault

# to compile: check runs each program once or twice
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


class Problem(NamedTuple):
    """`about`: the property that fails. `what`: the value found and the one expected."""

    about: str
    what: str

    def __str__(self) -> str:
        return f"{self.about}: {self.what}"


def check(world: Any, steps: int = 1001, seed: int = 0) -> list[Problem]:
    """What is wrong with a world, an env or an env of that name, from random steps of four copies.

    Finds nothing about a time limit of `steps` or more, nor about ends that random play misses.
    """
    problems = []
    if isinstance(world, str):
        name, world = world, registry.make(world)
        if jax.tree.structure(registry.make(name)) != jax.tree.structure(world):
            problems.append(
                Problem("names", "two makes have unequal static fields: each would compile anew")
            )
    if not registry.is_world(world):
        world = AutoReset(world)
    return problems + list(_check(world, steps, jax.random.key(seed)))


class Played(NamedTuple):
    first: Any  # the first observations [N, ...]
    trs: Transition  # [T, N, ...]
    bare: Any  # what the environments' own steps gave, [T, N, ...], under each of some keys; or ()


def _bare(world: Any, key: jax.Array, state: Any, action: Any) -> Any:
    """One step of the copies themselves, without any reset."""
    keys = world.draw(key, 1, COPIES)[0][0]  # AutoReset's own
    return jax.vmap(world.env.step)(keys, state, action)


def _play(world: Any, key: jax.Array, keys: jax.Array, bare: bool) -> Played:
    """Random play, one step for each of `keys`, and the bare steps along the way if asked."""

    def one(state, key):
        ka, ks = jax.random.split(key)
        action = _sample(world, ka)
        # another world's key is unknown, and a second one tells whether it matters
        under = [ks] + [ka] * (type(world) is not AutoReset)
        steps = [_bare(world, k, state, action).obs for k in under if bare]
        after, tr = world.step(ks, state, action)
        return jax.tree.map(lambda x, y: cast(x, y.dtype), after, state), (tr, steps)

    state, first = world.reset(key, COPIES)
    state = jax.tree.map(lambda x: cast(x, x.dtype), state)  # a scan cannot carry weak types
    return Played(first, *jax.lax.scan(one, state, keys)[1])


def _program(world: Any, *args: Any) -> str:
    """Reset and step as traced, constants included."""
    parts = [jax.make_jaxpr(lambda w, *a: w.step(*a))(world, *args)]
    if type(world) is not AutoReset:  # whose step holds the reset
        parts.append(jax.make_jaxpr(lambda w, k: w.reset(k, COPIES))(world, args[0]))
    return "".join(f"{p}{[np.asarray(c).tobytes() for c in p.consts]}" for p in parts)


def _rows_of(world: Any) -> int:
    """The N of a world's arrays: copies, or of several agents as many rows each."""
    return COPIES * getattr(world, "agents", 1)


def _sample(world: Any, key: jax.Array) -> Any:
    return jax.vmap(world.action_space.sample)(jax.random.split(key, _rows_of(world)))


def _check(world: Any, steps: int, key: jax.Array) -> Iterator[Problem]:
    if not isinstance(world.name, str):
        yield Problem("name", f"{world.name!r}, expected a string")
    limit = world.max_steps
    if not isinstance(limit, int) or limit < 0:
        yield Problem("max_steps", f"{limit!r}, expected a whole number from 0")
        limit = 0
    if not isinstance(world.action_space, Discrete | MultiDiscrete | Box):
        yield Problem(
            "action space", f"{world.action_space}, expected Discrete, MultiDiscrete or Box"
        )
        return

    def traced(about, f, *args):
        """Shapes of f(*args), or the problem that it raises."""
        try:
            return jax.eval_shape(f, *args), None
        except Exception as e:
            return None, Problem(
                about, f"raises {type(e).__name__}: {' '.join(str(e).split())[:200]}"
            )

    reset, failed = traced("reset", lambda w, k: w.reset(k, COPIES), world, key)
    if failed:
        yield failed
        return
    if not isinstance(reset, tuple) or len(reset) != 2:
        yield Problem("reset", f"gives {type(reset).__name__}, expected (state, observation)")
        return
    state, obs = reset
    shapes = list(_shapes("observation after reset", obs, world.observation_space))
    yield from shapes

    action = jax.eval_shape(lambda k: _sample(world, k), key)
    names = getattr(world, "objectives", ())
    if type(world) is AutoReset:
        # its env first: AutoReset would hide some faults and choke on others
        bare, failed = traced("step", _bare, world, key, state, action)
        if not failed and not isinstance(bare, Step):
            failed = Problem("step", f"gives {type(bare).__name__}, expected Step")
        if failed:
            yield failed
            return
        assert bare is not None
        faults = [*_types(bare.state, state), *_flags(bare, names, COPIES)]
        yield from faults
        if any(p.about != "state type" for p in faults):
            return
    stepped, failed = traced("step", lambda w, *a: w.step(*a), world, key, state, action)
    if failed:
        yield failed
        return
    if not (
        isinstance(stepped, tuple) and len(stepped) == 2 and isinstance(stepped[1], Transition)
    ):
        yield Problem("step", f"gives {type(stepped).__name__}, expected (state, Transition)")
        return
    after, tr = stepped
    faults = (
        []
        if type(world) is AutoReset
        else [*_types(after, state), *_flags(tr, names, _rows_of(world))]
    )
    yield from faults
    if any(p.about != "state type" for p in faults):
        return
    more = list(_shapes("final observation", tr.final_obs, world.observation_space))
    if not shapes:
        more += _shapes("observation after step", tr.obs, world.observation_space)
    yield from more
    if shapes or more:
        return

    keys = jax.random.split(jax.random.fold_in(key, 1), steps)
    # where there is no env inside, there is no bare step to compare with
    bare, failed = traced("step", _bare, world, key, state, action)
    bare = not failed and isinstance(bare, Step)
    play = jax.jit(_play, static_argnums=3, compiler_options=QUICK)
    played = play(world, key, keys, bare)
    # Python state shows in the trace
    program = [_program(world, key, state, action) for _ in range(2)]
    if program[0] != program[1] or not _equal(played, play(world, key, keys, bare)):
        yield Problem("determinism", "the same key gave another trajectory; expected the same")
    yield from _values(played.first, played.trs, world.observation_space, limit)
    yield from _starts(world, played.first, played.trs, key)
    yield from _final(played)
    yield from _vmapped(world, key, keys, played)


def _shapes(about: str, obs: Any, space: Space) -> Iterator[Problem]:
    """Structure, shape and dtype of an observation [N, ...]."""
    if isinstance(space, dict):
        if not isinstance(obs, dict) or obs.keys() != space.keys():
            found = sorted(obs) if isinstance(obs, dict) else type(obs).__name__
            yield Problem(about, f"is {found}, expected a dictionary of {sorted(space)}")
            return
        for k in space:
            yield from _shapes(f"{about} {k!r}", obs[k], space[k])
        return
    if not hasattr(obs, "shape"):
        yield Problem(about, f"is a {type(obs).__name__}, expected an array in {space}")
        return
    if obs.shape[1:] != space.shape:
        yield Problem(about, f"has shape {obs.shape[1:]}, expected {space.shape}")
    dtype = space.dtype if isinstance(space, Box) else "int32"
    if str(obs.dtype) != dtype:
        yield Problem(about, f"has dtype {obs.dtype}, expected {dtype}")


def _types(after: Any, before: Any) -> Iterator[Problem]:
    if jax.tree.structure(after) != jax.tree.structure(before):
        yield Problem(
            "state", "has another structure after a step than after a reset: a scan cannot carry it"
        )
        return
    pairs = zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True)
    for (path, x), y in pairs:
        leaf = f"state{jax.tree_util.keystr(path)}"
        if x.shape != y.shape:
            yield Problem(
                "state shape", f"{leaf} is {x.shape} after a reset and {y.shape} after a step"
            )
        elif (x.dtype, x.weak_type) != (y.dtype, y.weak_type):
            yield Problem(
                "state type", f"{leaf} is {_type(x)} after a reset and {_type(y)} after a step"
            )


def _type(x: Any) -> str:
    return f"{'weak ' * x.weak_type}{x.dtype}"


def _flags(tr: Any, names: tuple[str, ...], n: int) -> Iterator[Problem]:
    """Shapes and dtypes of reward and flags."""
    shape = tr.reward.shape
    K = len(names)
    if shape != ((n, K) if K else (n,)):
        expected = f"({K},), its objectives being {names}" if K else "(), as it names no objectives"
        yield Problem("reward", f"has shape {shape[1:]}, expected {expected}")
    if K and (names[0] != "return" or K == 1):
        yield Problem("objectives", f"are {names}, expected 'return' and others")
    if not jnp.issubdtype(tr.reward.dtype, jnp.floating):
        yield Problem("reward", f"has dtype {tr.reward.dtype}, expected float32")
    for flag in ("terminated", "truncated"):
        x = getattr(tr, flag)
        if x.dtype != jnp.bool_:
            yield Problem(flag, f"has dtype {x.dtype}, expected bool")
        if x.shape != (n,):
            yield Problem(flag, f"has shape {x.shape[1:]}, expected ()")


def _values(first: Any, trs: Any, space: Space, limit: int) -> Iterator[Problem]:
    """Bounds, finiteness, flags and lengths."""
    for about, obs in (
        ("observation after reset", first),
        ("observation", trs.obs),
        ("final observation", trs.final_obs),
    ):
        bad = list(_bounds(about, obs, space))
        yield from bad
        if bad:
            break
    reward = np.asarray(trs.reward)
    if not np.isfinite(reward).all():
        t, i = np.argwhere(~np.isfinite(reward))[0][:2]
        yield Problem(
            "reward", f"is {reward[t, i]} at step {t} of copy {i}, expected a finite number"
        )
    terminated, truncated = np.asarray(trs.terminated), np.asarray(trs.truncated)
    both = np.argwhere(terminated & truncated)
    if len(both):
        t, i = both[0]
        yield Problem(
            "flags",
            f"terminated and truncated are both set at step {t} of copy {i}: terminated wins",
        )
    done = terminated | truncated
    if not limit and truncated.any():
        yield Problem(
            "max_steps", f"is 0 (never cut), but step {np.argwhere(truncated)[0][0]} was truncated"
        )
    if limit:
        for i in range(done.shape[1]):
            ends = np.concatenate([[-1], np.flatnonzero(done[:, i]), [len(done)]])
            length = max(np.diff(ends[:-1]).max(initial=0), ends[-1] - ends[-2] - 1)
            if length > limit:
                yield Problem(
                    "max_steps", f"an episode went on for {length} steps, expected at most {limit}"
                )
                break


def _bounds(about: str, obs: Any, space: Space) -> Iterator[Problem]:
    if isinstance(space, dict):
        for k in space:
            yield from _bounds(f"{about} {k!r}", obs[k], space[k])
        return
    x = np.asarray(obs)
    if np.issubdtype(x.dtype, np.floating) and np.isnan(x).any():
        yield Problem(about, "holds NaN, expected numbers")
    elif not space.contains(x):
        if isinstance(space, Box):
            low, high = (
                np.broadcast_to(space.low, space.shape),
                np.broadcast_to(space.high, space.shape),
            )
        else:
            low, high = 0, np.asarray(space.n) - 1
        over = np.maximum(x - high, low - x)
        at = np.unravel_index(np.argmax(over), over.shape)
        inside = at[x.ndim - np.ndim(low) :]
        entry = f"[{', '.join(map(str, inside))}]" if inside else ""
        lo, hi = np.asarray(low)[inside], np.asarray(high)[inside]
        yield Problem(about, f"{entry or 'it'} is {x[at]:.6g}, expected {lo:.6g} to {hi:.6g}")


def _rows(obs: Any, lead: int) -> np.ndarray:
    """Each observation as one row of bytes, so that equal ones can be counted: [..., width]."""
    parts = []
    for x in jax.tree.leaves(obs):
        x = np.asarray(x)
        parts.append(np.ascontiguousarray(x.reshape(*x.shape[:lead], -1)).view(np.uint8))
    return np.concatenate(parts, -1)


def _starts(world: Any, first: Any, trs: Any, key: jax.Array) -> Iterator[Problem]:
    """Where resets are random, successive episodes and the copies of one reset differ."""
    keys = jax.random.split(jax.random.fold_in(key, 1), 64)
    draws = jax.jit(
        jax.vmap(lambda w, k: jax.tree.map(lambda x: x[0], w.reset(k, COPIES)[1]), (None, 0)),
        compiler_options=QUICK,
    )
    starts = [row.tobytes() for row in _rows(draws(world, keys), 1)]
    common = max(collections.Counter(starts).values()) / len(
        starts
    )  # how often two starts may agree
    rows = {row.tobytes() for row in _rows(first, 1)}
    if len(rows) == 1 and common ** (COPIES - 1) < CHANCE:
        yield Problem("starts", f"all {COPIES} copies begin in the same state, expected one each")
    done = np.asarray(trs.terminated | trs.truncated)
    obs, opening = _rows(trs.obs, 2), _rows(first, 1)
    same = cut = 0
    for i in range(done.shape[1]):
        for t in np.flatnonzero(done[:, i]):
            cut += 1
            same += obs[t, i].tobytes() == opening[i].tobytes()
    if cut and same == cut and common**cut < CHANCE:
        yield Problem(
            "starts", f"all {cut} later episodes began as the first, expected fresh starts"
        )
    final = _rows(trs.final_obs, 2)
    lost = int((done & (final == obs).all(-1)).sum())
    if cut and lost == cut and common**cut < CHANCE:
        yield Problem(
            "final observation",
            f"is the next episode's first in all {cut} cuts, expected the last one",
        )


def _final(played: Played) -> Iterator[Problem]:
    """`final_obs` is what the bare step gave, and `obs` too where nothing was cut."""
    trs = played.trs
    done = np.asarray(trs.terminated | trs.truncated)
    # close, not equal: a program may compute it twice
    differ = np.argwhere(~done & ~_close(trs.obs, trs.final_obs))
    if len(differ):
        t, i = differ[0]
        yield Problem(
            "final observation",
            f"differs from the observation at step {t} of copy {i}, expected equal: no cut",
        )
    if not played.bare:
        return
    raw = played.bare[0]
    if len(played.bare) == 2 and not _equal(*played.bare):  # a random step, whose key we don't know
        return
    off = done & ~_close(raw, played.trs.final_obs)
    if off.any():
        t, i = np.argwhere(off)[0]
        yield Problem(
            "final observation", f"at the cut of step {t}, copy {i}, is not what the bare step gave"
        )


def _vmapped(world: Any, key: jax.Array, keys: jax.Array, played: Played) -> Iterator[Problem]:
    """A stack of worlds can be vmapped over, and each begins as it does alone."""
    few = 5  # chaos later
    if not jax.tree.leaves(world):
        return
    try:
        stack = jax.tree.map(lambda x: jnp.stack([jnp.asarray(x)] * 2), world)
        many = jax.jit(
            jax.vmap(lambda w: _play(w, key, keys[:few], False)), compiler_options=QUICK
        )(stack)
    except Exception as e:
        yield Problem(
            "vmap", f"over the world raises {type(e).__name__}: {' '.join(str(e).split())[:200]}"
        )
        return
    found = (many.first, many.trs.final_obs, many.trs.reward)
    alone = (
        played.first,
        *jax.tree.map(lambda x: x[:few], (played.trs.final_obs, played.trs.reward)),
    )
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(alone), strict=True):
        if not np.allclose(x, np.stack([y, y]), rtol=1e-2, atol=1e-2):
            yield Problem(
                "vmap",
                f"over the world is off by {np.abs(x - np.asarray(y)).max():.3g} after {few} steps",
            )
            return


def _close(a: Any, b: Any) -> np.ndarray:
    """[T, N]: which observations agree."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    near = [np.isclose(x, y, rtol=1e-3, atol=1e-3) for x, y in pairs]
    return np.all([x.reshape(*x.shape[:2], -1).all(-1) for x in near], axis=0)


def _equal(a: Any, b: Any) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in pairs)
