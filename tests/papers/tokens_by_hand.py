"""What tests of token papers share: a step by plain gradient descent, and gradients from loops.

A step is from completions that another policy sampled, so that ratios are not 1; prompts are tiny,
rewards and ends such that chance gets some.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import envs
from envs.tokens.base import END
from jaxrl.completions import judge, model, task
from jaxrl.families import tokens as family
from jaxrl.families.tokens import Tokens
from jaxrl.hyper import cast
from tests.papers.by_hand import quick
from tests.programs import at_once

NETWORK = Tokens.network_for("").replace(hidden=(8,))
SMALL = dict(prompts=6, group=4, accumulate=2, stale=2, temperature=0.8, lr=1.0)
WORLD = envs.make("tokens/add", digits=1)


class Step(NamedTuple):
    """Before, what was learned from, what is said of it, and how the parameters moved."""

    net: Any
    params: Any
    b: Any  # as NumPy
    log_prob: np.ndarray
    value: np.ndarray
    moved: np.ndarray
    metrics: dict


def easy(game, state):
    """A reward that chance gets now and then: the first digit is right, or nearly."""
    off = jnp.abs(state.tokens[game.P] - state.data[0])
    return jnp.where(off == 0, 1.0, jnp.where(off == 1, 0.25, 0.0))


def ends(game, state, token):
    """Many tokens end a completion, so that chance writes short ones."""
    return token % 3 == END


def stepped(module, hp, monkeypatch) -> Step:
    """A step of a paper's method."""
    hp = cast(hp)
    monkeypatch.setattr(family, "adam", lambda hp, t=0: optax.sgd(1.0))
    monkeypatch.setattr(type(task(WORLD)), "score", easy)
    monkeypatch.setattr(type(task(WORLD)), "ends", ends)
    net = model(WORLD, NETWORK)
    algo = module.make(WORLD, NETWORK)
    s = quick(algo.init)(jax.random.key(0), hp, WORLD)

    @quick
    def moved(tree, size, key):
        noise = lambda x: x + size * jax.random.normal(jax.random.fold_in(key, x.size), x.shape)
        return jax.tree.map(noise, tree)

    s = s.replace(params=moved(s.params, 0.1, jax.random.key(1)))
    s = s.replace(
        sampler=moved(s.params, 0.1, jax.random.key(2)),
        ref=moved(s.params, 0.1, jax.random.key(3)),
    )
    k_sample = jax.random.split(s.key, 3)[1]
    b = quick(algo.trace)(s.replace(params=s.sampler), k_sample, hp, WORLD)
    after, metrics = quick(algo.step)(s, jnp.int32(1), hp, WORLD)
    delta = jax.tree.map(jnp.subtract, s.params, after.params)
    log_prob, value, _ = (np.asarray(x, float) for x in said(net, s.params, b, hp.temperature))
    b = jax.tree.map(lambda x: np.asarray(x, float), b)
    return Step(net, s.params, b, log_prob, value, flat(delta), metrics)


@at_once
def said(net, params, b, temperature):
    """Of each token: its log-probability, its value, and how much the policy leaves open."""
    w = judge(net, params, b, temperature)
    return w.log_prob, w.value, w.entropy()


def flat(tree):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


def gradient(x: Step, hp, by_log_prob, by_value):
    """Of the parameters, from the derivatives by what the network says of each token."""
    b = jax.tree.map(jnp.asarray, x.b).replace(tokens=jnp.asarray(x.b.tokens, jnp.int32))

    entropy = -hp.ent_coef * by_log_prob[1]
    of = lambda params: said(x.net, params, b, hp.temperature)
    pull = quick(lambda params, parts: jax.vjp(of, params)[1](parts)[0])
    parts = (by_log_prob[0], by_value, entropy)
    return flat(pull(x.params, tuple(jnp.asarray(p, jnp.float32) for p in parts)))


def pessimistic(ratio, A, low, high):
    """The derivative of min(r A, clip(r) A) by log r."""
    inside = min(max(ratio, 1 - low), 1 + high)
    return ratio * A if ratio * A <= inside * A else 0.0


def groups(R, G=4):
    return R.reshape(-1, G)


def rewards_of_tokens(x, hp):
    """The reward at the last token, and at each what its log-probability is above the other's."""
    out = np.zeros_like(x.b.mask)
    for i, mask in enumerate(x.b.mask):
        n = int(mask.sum())
        for t in range(n):
            out[i, t] = -hp.beta * (x.b.old[i, t] - x.b.ref[i, t])
        out[i, n - 1] += x.b.reward[i]
    return out


def whitened(A, mask):
    """By the mean and the standard deviation of the tokens that count."""
    own = A[mask > 0]
    return (A - own.mean()) / np.sqrt(own.var() + 1e-8)
