"""Twenty preference problems at once, which are small enough to be known exactly."""

import jax
import jax.numpy as jnp
import numpy as np

import envs
from jaxrl import core, hyper
from jaxrl.completions import task

TWENTY = 20


def problems(name="preference/gibbs", n=TWENTY, **params):
    """As many worlds, each of another seed, in one."""
    own = dict(prompts=1, length=2) | params
    worlds = [envs.make(name, seed=i, **own) for i in range(n)]
    return jax.tree.map(lambda *x: jnp.stack(x), *worlds)


def first(worlds):
    return jax.tree.map(lambda x: x[0], worlds)


def exact(cls, **changes):
    """Hyperparameters of the expected loss, a gradient step an iteration unless said."""
    hp = cls.for_env("preference").replace(sets=0, updates=1).replace(**changes)
    return hyper.cast(hyper.check(hp))


def algorithm(module, cls, worlds):
    return module.make(first(worlds), cls.network_for("preference"))


def train(module, cls, iterations, worlds=None, **changes):
    """Metrics [20, iterations] of exact runs, one a problem; and the last states."""
    worlds = problems() if worlds is None else worlds
    algo, hp = algorithm(module, cls, worlds), exact(cls, **changes)
    keys = jax.random.split(jax.random.key(0), len(jax.tree.leaves(worlds)[0]))
    run = lambda key, world: core.train(algo, key, hp, world, iterations)
    state, metrics = jax.jit(jax.vmap(run))(keys, worlds)
    return {k: np.asarray(v) for k, v in metrics.items()}, state


def steps_from(module, cls, log_p, worlds, n=1, **changes):
    """Metrics [20, n] and states of exact iterations that begin at policies [20, X, N]."""
    algo, hp = algorithm(module, cls, worlds), exact(cls, **changes)

    def run(key, world, log_p):
        s = algo.init(key, hp, world)
        s = s.replace(params=dict(params={**s.params["params"], "table": log_p}))
        return core.resume(algo, s, 0, hp, world, n)

    keys = jax.random.split(jax.random.key(0), len(log_p))
    state, metrics = jax.jit(jax.vmap(run))(keys, worlds, log_p)
    return {k: np.asarray(v) for k, v in metrics.items()}, state


def optima(module, cls, worlds, **changes):
    """What the method says that it comes to [20, X, N]."""
    algo, hp = algorithm(module, cls, worlds), exact(cls, **changes)
    keys = jax.random.split(jax.random.key(0), len(jax.tree.leaves(worlds)[0]))
    return jax.jit(jax.vmap(lambda k, w: algo.init(k, hp, w).optimum))(keys, worlds)


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
    from jaxrl.families.preference import Said

    of = lambda x: jnp.asarray(x, jnp.float32)
    old = policy if old is None else old
    tokens = Said(*map(of, each)) if each else None
    return Said(of(policy), of(ref), of(old), tokens)
