"""Gymnasium's own environments on the host: does a policy trained here play there?"""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from envs.spaces import Box, Discrete, Space
from jaxrl.errors import InputError


def _make(name: str) -> Any:
    try:
        import gymnasium
    except ModuleNotFoundError:
        raise InputError("gymnasium is not installed: pip install gymnasium") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it calls old versions out of date
            return gymnasium.make(name, disable_env_checker=True)
    except Exception as e:
        reason = " ".join(str(e).split())
        raise InputError(f"gymnasium makes no {name!r}: {reason}") from None


def _spaces(env: Any, name: str) -> tuple[Box, Box | Discrete]:
    """Observation and action space in our convention: one-hot states, actions in [-1, 1]."""
    import gymnasium

    match env.observation_space:
        case gymnasium.spaces.Discrete(n=n):
            observation = Box(0.0, 1.0, (int(n),))
        case gymnasium.spaces.Box(shape=shape):
            observation = Box(-np.inf, np.inf, shape)
        case other:
            raise InputError(
                f"gymnasium's {name} has observations in {other}; play needs Box or Discrete"
            )
    match env.action_space:
        case gymnasium.spaces.Discrete(n=n):
            action = Discrete(int(n))
        case gymnasium.spaces.Box(shape=shape, low=low, high=high) if np.isfinite(
            [low, high]
        ).all():
            action = Box(-1.0, 1.0, shape)
        case other:
            raise InputError(
                f"gymnasium's {name} has actions in {other}; play needs a bounded Box or Discrete"
            )
    return observation, action


def _agree(what: str, name: str, ours: Space | None, theirs: Space) -> None:
    """Of a box only the shape can be compared: bounds differ harmlessly."""
    if ours is not None and str(ours) != str(theirs):
        raise InputError(
            f"gymnasium's {name} has {what} {theirs}; the policy was trained on {ours}"
        )


def play(
    name: str,
    act: Callable[[np.ndarray], np.ndarray],
    episodes: int,
    seed: int,
    observation_space: Space | None = None,
    action_space: Space | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """One episode in each of `episodes` copies: returns [episodes] and lengths [episodes].

    `act`: observations [episodes, ...] float32 -> actions [episodes, ...] in our convention. Copies
    that have ended keep showing their last observation and are no longer stepped. The spaces, where
    given, are those of the policy, and must be the same.
    """
    if episodes < 1:
        raise InputError(f"episodes: {episodes} is outside [1, inf)")
    envs = [_make(name)]
    observation, action = _spaces(envs[0], name)
    _agree("observations", name, observation_space, observation)
    _agree("actions", name, action_space, action)
    envs += [_make(name) for _ in range(episodes - 1)]

    def see(x):
        if np.ndim(x) == 0 and observation.shape:
            return np.eye(observation.shape[0], dtype=np.float32)[x]
        return np.asarray(x, np.float32)

    def native(a):
        if isinstance(action, Discrete):
            return envs[0].action_space.start + int(a)
        low, high = envs[0].action_space.low, envs[0].action_space.high
        a = np.clip(np.asarray(a, np.float32), -1.0, 1.0)
        return (low + (a + 1.0) * 0.5 * (high - low)).astype(envs[0].action_space.dtype)

    try:
        obs = np.stack([see(env.reset(seed=seed + i)[0]) for i, env in enumerate(envs)])
        returns, lengths = np.zeros(episodes), np.zeros(episodes, int)
        playing = np.ones(episodes, bool)
        while playing.any():
            actions = np.asarray(act(obs.copy()))
            for i in np.flatnonzero(playing):
                x, reward, terminated, truncated, _ = envs[i].step(native(actions[i]))
                obs[i], playing[i] = see(x), not (terminated or truncated)
                returns[i] += reward
                lengths[i] += 1
    finally:
        for env in envs:
            env.close()
    return returns, lengths
