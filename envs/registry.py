"""Environments by name. The table is plain data: checking a name imports no jax and no library."""

import importlib
import os
import sys
from typing import Any

from jaxrl.errors import InputError, did_you_mean

GYMNAX = {
    "CartPole-v1": "classic",
    "Pendulum-v1": "control",
    "Acrobot-v1": "classic",
    "MountainCar-v0": "classic",
    "MountainCarContinuous-v0": "control",
    "Asterix-MinAtar": "minatar",
    "Breakout-MinAtar": "minatar",
    "Freeway-MinAtar": "minatar",
    "Seaquest-MinAtar": "minatar",
    "SpaceInvaders-MinAtar": "minatar",
    "Catch-bsuite": "bsuite",
    "DeepSea-bsuite": "bsuite",
    "DiscountingChain-bsuite": "bsuite",
    "MemoryChain-bsuite": "bsuite",
    "UmbrellaChain-bsuite": "bsuite",
    "SimpleBandit-bsuite": "bsuite",
    "BernoulliBandit-misc": "misc",
    "GaussianBandit-misc": "misc",
    "FourRooms-misc": "misc",
    "FrozenLake-misc": "misc",
    "MetaMaze-misc": "misc",
    "PointRobot-misc": "misc",
    "Pong-misc": "misc",
    "Reacher-misc": "misc",
    "Swimmer-misc": "misc",
}

# the first that a model has is its default
BACKENDS = ("spring", "generalized", "positional", "mjx")
BRAX = {
    "ant": BACKENDS,
    "fast": (),
    "halfcheetah": BACKENDS,
    "hopper": BACKENDS,
    "humanoid": BACKENDS,
    "humanoidstandup": BACKENDS,
    "inverted_double_pendulum": BACKENDS,
    "inverted_pendulum": BACKENDS,
    "pusher": BACKENDS,
    "reacher": BACKENDS,
    "walker2d": BACKENDS,
}

# MuJoCo Playground's DeepMind Control suite; its robots download their models when they are made.
PLAYGROUND = (
    "AcrobotSwingup",
    "AcrobotSwingupSparse",
    "BallInCup",
    "CartpoleBalance",
    "CartpoleBalanceSparse",
    "CartpoleSwingup",
    "CartpoleSwingupSparse",
    "CheetahRun",
    "FingerSpin",
    "FingerTurnEasy",
    "FingerTurnHard",
    "FishSwim",
    "HopperHop",
    "HopperStand",
    "HumanoidRun",
    "HumanoidStand",
    "HumanoidWalk",
    "PendulumSwingup",
    "PointMass",
    "ReacherEasy",
    "ReacherHard",
    "SwimmerSwimmer6",
    "WalkerRun",
    "WalkerStand",
    "WalkerWalk",
)

JAXMARL = ("MPE_simple_spread_v3", "overcooked")  # of teams whose agents are alike

PROBES = ("one", "sign", "delay", "action", "match", "constant")  # each with `-continuous` too
OWN = {  # module of this package: its environments, "<module>/<name>"
    "probe": tuple(f"{p}{tail}" for p in PROBES for tail in ("", "-continuous")),
    "grid": ("fetch", "fetch-onehot"),
    "tabular": (
        *("chain", "cliff", "maze", "queues", "inventory", "random", "tolls", "forbidden"),
        *("stopping", "riverswim", "steady", "switching"),
    ),
    "cover": ("biodiversity", "coverage"),
    "rooms": ("four",),
    "factory": ("lot-sizing", "lot-sizing-certain"),
    "robust": ("pendulum", "pendulum-walk", "pendulum-still", "cartpole-walk", "cartpole-still"),
    "multi": (
        "deep-sea-treasure",
        "deep-sea-treasure-concave",
        "resource-gathering",
        "lqr",
        "halfcheetah",
    ),
    "safe": (
        "navigation",
        "circle",
        *(f"{m}-velocity" for m in ("ant", "halfcheetah", "hopper", "walker2d")),
    ),
    "levels": ("grid",),
    "distract": ("pendulum", "cartpole"),
    "agents": ("spread", "foraging", "climbing", "penalty"),
    "goals": ("hidden",),
    "combinatorial": ("tsp", "knapsack"),
    "tokens": (
        *("add", "mul", "chain", "wish", "countdown", "sort", "parity", "brackets", "maze"),
        *("turns", "tiny"),
    ),
    "preference": ("gibbs", "game", "crowd", "gold", "cycle", "sure", "gap"),
    "segments": ("maze", "pendulum"),
}

# What upstream offers and we do not, and why.
EXCEPTIONS = {
    "MNISTBandit-bsuite": "gymnax downloads its data when it is made",
    "brax/swimmer": "brax 0.14.2 calls clip(a_min=...), which jax 0.10 no longer has",
}


def _table() -> dict[str, str]:
    table = dict(GYMNAX)
    table |= {f"brax/{m}": "brax" for m in BRAX}
    table |= {f"brax/{m}/{b}": "brax" for m, bs in BRAX.items() for b in bs[1:]}
    table |= {f"playground/{m}": "playground" for m in PLAYGROUND}
    table |= {f"jaxmarl/{m}": "jaxmarl" for m in JAXMARL}
    return table | {f"{module}/{name}": module for module in OWN for name in OWN[module]}


def names() -> list[str]:
    """Every environment that `make` knows."""
    return list(_table())


def _default_backend(name: str) -> str:
    """`brax/hopper` for `brax/hopper/spring`."""
    model, _, backend = name.removeprefix("brax/").partition("/")
    return f"brax/{model}" if backend and BRAX.get(model, ("",))[:1] == (backend,) else name


def kind(name: str) -> str:
    """classic, control (its continuous actions), bsuite, minatar, misc, brax, playground, jaxmarl,
    a module of our own (`OWN`) or custom: for defaults that go by class. Of a dataset its
    environment's."""
    if _dataset(name):
        return kind(environment(name))
    table, name = _table(), _default_backend(name)
    if name in table:
        return table[name]
    if ":" in name:
        return "custom"
    if name in EXCEPTIONS:
        raise InputError(f"env: {name} is not offered: {EXCEPTIONS[name]}")
    parent = name.rpartition("/")[0]
    if parent in EXCEPTIONS:
        raise InputError(f"env: {name} is not offered: {EXCEPTIONS[parent]}")
    raise did_you_mean("env", name, table, "`jaxrl envs` lists them; my_module:make loads your own")


def _dataset(name: str) -> Any:
    """The module of datasets, where a name is one's: it needs NumPy, which names do not."""
    if not name.endswith(".npz") and not name.startswith("random/"):
        return None
    return importlib.import_module("envs.dataset")


def environment(name: str) -> str:
    """The environment that a dataset was recorded in; the name itself of what is no dataset."""
    dataset = _dataset(name)
    return dataset.environment(name) if dataset else name


def check_name(name: str) -> str:
    """The name, or an `InputError` that says which it might have meant."""
    kind(name)
    return name


# Where a reset costs as much as a step, those cut beyond so many at once share; and what a step of
# 2,048 hoppers makes overflows a CPU's cache: in blocks it takes 0.7 of the time (not so with mjx).
DEAR = {"brax": dict(resets=128, block=256), "playground": dict(resets=128)}
DEAR |= {f"safe/{m}": DEAR["brax"] for m in OWN["safe"] if m.endswith("-velocity")}
DEAR["multi/halfcheetah"] = DEAR["brax"]


def make(name: str, **params: Any) -> Any:
    """A world of the environment: it begins again by itself, and a box of actions is [-1, 1]."""
    from envs.base import AutoReset

    env = make_env(name, **params)
    return env if is_world(env) else AutoReset(env, **DEAR.get(name, DEAR.get(kind(name), {})))


def make_env(name: str, **params: Any) -> Any:
    """The environment, one episode at a time, actions as in `make`. A custom one may be a world; a
    dataset is."""
    if _dataset(name):
        return importlib.import_module("envs.recorded").make(name, **params)
    match kind(name):
        case "custom":
            env = _load(name, params)
        case "brax":
            from envs.adapters import brax_env

            name = _default_backend(name)
            model, _, backend = name.removeprefix("brax/").partition("/")
            env = brax_env.make(name, model, backend or (*BRAX[model], "")[0], **params)
        case "playground":
            from envs.adapters import playground_env

            env = playground_env.make(name, **params)
        case "jaxmarl":
            from envs.adapters import jaxmarl_env

            env = jaxmarl_env.make(name, **params)
        case own if own in OWN:
            env = importlib.import_module(f"envs.{own}").make(name, **params)
        case _:
            from envs.adapters import gymnax_env

            env = gymnax_env.make(name, **params)
    return env if is_world(env) else _unit_actions(env)


def _unit_actions(env: Any) -> Any:
    import numpy as np

    from envs.base import RescaleAction
    from envs.spaces import Box

    space = env.action_space
    if not isinstance(space, Box):
        return env
    low, high = np.asarray(space.low), np.asarray(space.high)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise InputError(
            f"{env.name}: actions in {space} have no bounds; they must be a bounded Box"
        )
    return RescaleAction(env)  # it clips, too: what a Gaussian draws has no bounds


def is_world(env: Any) -> bool:
    """Whether its reset takes a number of copies: `reset(key, n)`."""
    import inspect

    return len(inspect.signature(env.reset).parameters) >= 2


MEMBERS = ("name", "observation_space", "action_space", "max_steps", "reset", "step")


def _load(name: str, params: dict) -> Any:
    """A person's own environment: `my_module:make` is called with the parameters."""
    module, _, attribute = name.partition(":")
    if not module or not attribute.isidentifier():
        raise InputError(f"env: {name!r} is not of the form my_module:make")
    sys.path.insert(0, os.getcwd())
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as e:
        if not (e.name and (module == e.name or module.startswith(e.name + "."))):
            raise InputError(
                f"env: {module!r} needs a module {e.name!r} that is not installed"
            ) from e
        raise InputError(f"env: no module {module!r} in {os.getcwd()} or on the path") from e
    except Exception as e:
        raise InputError(f"env: importing {module!r} failed: {type(e).__name__}: {e}") from e
    finally:
        sys.path.remove(os.getcwd())
    if not callable(build := getattr(loaded, attribute, None)):
        known = [k for k, v in vars(loaded).items() if callable(v) and not k.startswith("_")]
        raise did_you_mean(
            f"env: {module!r}", attribute, known, f"it has {', '.join(known) or 'nothing to call'}"
        )
    try:
        env = build(**params)
    except InputError:
        raise
    except Exception as e:
        raise InputError(
            f"env: {name}({_arguments(params)}) failed: {type(e).__name__}: {e}"
        ) from e
    if missing := [m for m in MEMBERS if not hasattr(env, m)]:
        lacks = ", ".join(missing)
        raise InputError(
            f"env: {name} gave a {type(env).__name__} without {lacks}: not an Env (envs/base.py)"
        )
    return env


def _arguments(params: dict) -> str:
    return ", ".join(f"{k}={v!r}" for k, v in params.items())
