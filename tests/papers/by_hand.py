"""What the tests of off-policy papers share: networks by NumPy, their gradients by differences."""

import functools
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from envs.spaces import Box, Discrete
from jaxrl.run.battery import QUICK
from jaxrl.types import Transitions

KEY = jax.random.key(0)
quick = functools.partial(jax.jit, compiler_options=QUICK)  # compiled without XLA's slow passes


def box(d: int) -> Any:
    """All that a learner asks of a world with continuous actions."""
    return SimpleNamespace(name="box", action_space=Box(-1.0, 1.0, (d,)))


def discrete(n: int) -> Any:
    return SimpleNamespace(name="discrete", action_space=Discrete(n))


def transitions(rng: np.random.Generator, M: int, width: int, action: Any) -> Transitions:
    """Random rows; a third of them are terminals, the others one or two steps long."""
    float32 = lambda x: jnp.asarray(x, jnp.float32)
    obs, ahead = rng.normal(size=(2, M, width))
    discount = 0.9 ** np.array([1.0, 2.0, np.inf])[np.arange(M) % 3]
    reward = 2.0 * rng.normal(size=M)
    return Transitions(float32(obs), action, float32(reward), float32(discount), float32(ahead))


def shaken(rng: np.random.Generator, tree: Any, size: float = 0.7) -> Any:
    """The same with other numbers: targets that are not what they follow, biases that are not 0."""
    return jax.tree.map(lambda x: jnp.asarray(x + size * rng.normal(size=x.shape), x.dtype), tree)


def forward(entry: Any, x: Any) -> np.ndarray:
    """A network with tanh between its layers, [M, in] -> [M, out]."""
    x, layers = np.asarray(x, float), entry["params"]
    for layer in layers.get("MLP_0", {}).values():
        x = np.tanh(x @ np.asarray(layer["kernel"], float) + np.asarray(layer["bias"], float))
    last = layers["Dense_0"]
    return x @ np.asarray(last["kernel"], float) + np.asarray(last["bias"], float)


def pair(entry: Any, obs: Any, action: Any) -> np.ndarray:
    """Two critics' values, [2, M]."""
    x = np.concatenate([np.asarray(obs, float), np.asarray(action, float)], 1)
    return np.stack([forward(jax.tree.map(lambda y, i=i: y[i], entry), x)[:, 0] for i in (0, 1)])


def differences(f: Any, entry: Any, h: float = 1e-5) -> Any:
    """The gradient of a function of a pytree of arrays, by central differences."""
    leaves, tree = jax.tree.flatten(jax.tree.map(lambda x: np.array(x, float), entry))
    out = [np.zeros_like(x) for x in leaves]
    for x, g in zip(leaves, out):
        for i in np.ndindex(x.shape):
            kept, x[i] = x[i], x[i] + h
            above = f(jax.tree.unflatten(tree, leaves))
            x[i] = kept - h
            g[i] = (above - f(jax.tree.unflatten(tree, leaves))) / (2 * h)
            x[i] = kept
    return jax.tree.unflatten(tree, out)


def gradient(opt: Any, entry: Any) -> Any:
    """The gradient that Adam saw at its first step: a tenth of it is the first moment.

    opt, entry: of one update or of several, [..., *] each.
    """
    flat, at = np.asarray(optax.tree.get(opt, "mu")) / 0.1, 0
    out, (leaves, tree) = [], jax.tree.flatten(entry)
    for x in leaves:
        shape = np.shape(x)
        out.append(flat[..., at : at + np.size(x)].reshape(*flat.shape[:-1], *shape))
        at += np.size(x)
    assert at == flat.shape[-1]
    return jax.tree.unflatten(tree, out)


def close(a: Any, b: Any, rtol: float = 1e-4, atol: float = 1e-6) -> None:
    """Two trees, number by number."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


def same(a: Any, b: Any) -> bool:
    """Whether two trees are equal to the last bit."""
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)))


def adam_step(grads: Any, lr: float) -> Any:
    """Adam's first step: both moments, without their bias, are those of the gradient itself."""
    return jax.tree.map(lambda g: -lr * g / (np.abs(g) + 1e-5), grads)


def moved(target: Any, entry: Any, tau: float) -> Any:
    """τ θ + (1 - τ) θ'."""
    return jax.tree.map(lambda old, new: tau * new + (1 - tau) * old, target, entry)
