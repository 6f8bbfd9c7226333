"""Twenty preference problems at once, which are small enough to be known exactly."""

import jax
import jax.numpy as jnp

from experiments import preference as study
from jaxrl.completions import task
from jaxrl.families.preference import Said

TWENTY, exact = study.TWENTY, study.exactly


def algorithm(module, cls, worlds):
    """On the first of the worlds: sizes are all that it takes from it."""
    return module.make(jax.tree.map(lambda x: x[0], worlds), cls.network_for("preference"))


def problems(name="preference/gibbs", n=TWENTY, **params):
    """As many worlds in one; sixteen responses to one prompt, if not said."""
    return study.problems(name, n, **dict(length=2) | params)


def train(module, cls, iterations, worlds=None, **changes):
    """Metrics [20, iterations] of exact runs, one a problem; and the last states."""
    worlds = problems() if worlds is None else worlds
    state, metrics = study.train(module, cls, worlds, iterations, **changes)
    return metrics, state


def steps_from(module, cls, log_p, worlds, n=1, **changes):
    """Metrics [20, n] and states of exact iterations that begin at policies [20, X, N]."""
    state, metrics = study.steps_from(module, cls, log_p, worlds, n, **changes)
    return metrics, state


optima = study.optima


def gradient_at_the_optimum(module, cls, worlds=None, **changes):
    """The gradient's norm [20] at the closed form."""
    worlds = problems() if worlds is None else worlds
    best = optima(module, cls, worlds, **changes)
    return steps_from(module, cls, best, worlds, **changes)[0]["grad_norm"][:, 0]


def policy(state):
    """Log-probabilities [20, X, N] of a table."""
    return jax.nn.log_softmax(state.params["params"]["table"])


def tables(worlds):
    """Of twenty worlds: (reference, rewards, P, cover), each [20, X, ...]."""
    game = task(worlds)
    return game.reference, game.rewards.mean(1), game.preferences, game.cover


def said(policy, ref, old=None, each=None):
    """`Said` of log-probabilities [B, K]; of tokens [B, K, L], if `each` has them."""
    of = lambda x: jnp.asarray(x, jnp.float32)
    old = policy if old is None else old
    tokens = Said(*map(of, each)) if each else None
    return Said(of(policy), of(ref), of(old), tokens)
