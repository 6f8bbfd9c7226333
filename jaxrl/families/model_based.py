"""The model-based family: an off-policy learner that also learns a model, and learns from it.

    learner = imagining(world, sac.learner(world, network), likelihood)
    algo = off_policy(learner)

Real transitions go into the replay buffer. A gradient step fits the model to a batch of them,
imagines what would come of its states under the present policy, and gives that to the learner
inside, which knows nothing of it. So any `Learner` will do, and whatever runs one runs this.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl import dynamics
from jaxrl.core import Learner
from jaxrl.dynamics import Model
from jaxrl.families.off_policy import actions, fit, optimisers
from jaxrl.hyper import arg, hyper
from jaxrl.rollout import choose
from jaxrl.types import Transitions


@hyper
class Imagination(Model):
    """A model's hyperparameters; mixed into those of the learner that it feeds, before them."""

    depth: int = arg(1, "steps that are imagined from a real state, at most", "[1, inf)")
    real: float = arg(0.05, "share of real transitions in what is learned from", "[0, 1]")

    @classmethod
    def smallest(cls) -> dict[str, dict]:
        small = super().smallest()  # type: ignore[misc]
        model = dict(members=2, units=8, layers=1, depth=2, real=0.3, model_lr=0.03, n_step=1)
        return small | dict(hyper=small["hyper"] | model)

    def problem(self) -> str:
        n = self.n_step  # type: ignore[attr-defined]
        if n > 1:
            return f"n_step: {n}; a model is of single steps"
        return super().problem()  # type: ignore[misc]


def likelihood(g, error, b, params, t, i, hp) -> jax.Array:
    """Maximum likelihood: of all numbers alike, [members, M]."""
    return dynamics.likelihood(g, error).mean(-1)


def fit_model(params: dict, opt: dict, loss: Callable, b: Transitions, key, t, i, hp) -> tuple:
    """A step of Adam on the model: (params, opt, stats). Each member weighs the rows anew."""
    params = params | dict(scale=dynamics.seen(params["scale"], b))
    weight = jax.random.exponential(key, (hp.members, b.reward.shape[0]))

    def of_model(net):
        g = dynamics.guess(net, params["scale"], b.obs, b.action, hp)
        error = dynamics.errors(g, params["scale"], b)
        L = loss(g, error, b, params, t, i, hp) + dynamics.terminal(g, b)
        return (weight * L).mean(1).sum(), dict(model_loss=L.mean(), model_error=(error**2).mean())

    return fit(params, opt, "model", of_model, hp.replace(lr=hp.model_lr), t)


def step(params: dict, obs, action, key, hp, noisy: bool) -> tuple:
    """(s', r, over) of a member drawn for each row; noisy: a draw from it, not its mean."""
    k_member, k_noise = jax.random.split(key)
    g = dynamics.guess(params["model"], params["scale"], obs, action, hp)
    rows = jnp.arange(obs.shape[0])
    g = jax.tree.map(lambda x: x[jax.random.randint(k_member, rows.shape, 0, len(x)), rows], g)
    noise = jax.random.normal(k_noise, g.mean.shape) if noisy else 0.0
    said = g.mean + jnp.exp(g.log_std) * noise
    return *dynamics.read(said, params["scale"], obs), g.over > 0


def expect(params: dict, obs, action, hp) -> tuple:
    """(s', r, the probability that it goes on) by the members' mean."""
    g = dynamics.guess(params["model"], params["scale"], obs, action, hp)
    return *dynamics.read(g.mean.mean(0), params["scale"], obs), jax.nn.sigmoid(-g.over.mean(0))


def worth(params: dict, obs, plans, hp) -> jax.Array:
    """Σ r of plans [C, H, d] from an observation [D], each as likely as the episode lasts: [C]."""

    def one(carry, action):
        s, alive, total = carry
        s, r, goes_on = expect(params, s, action, hp)
        return (s, alive * goes_on, total + alive * r), None

    C = plans.shape[0]
    carry = jnp.broadcast_to(obs, (C, *obs.shape)), jnp.ones(C), jnp.zeros(C)
    return jax.lax.scan(one, carry, plans.swapaxes(0, 1))[0][2]


def imagine(act: Callable, params: dict, b: Transitions, key, hp, noisy: bool) -> Transitions:
    """A row for each of b's: the d-th step from its state, d drawn from 1 .. depth, or the last
    before a terminal; but real rows in a share of them.

    act: (obs, key) -> actions.
    """
    k_depth, k_real, k_steps = jax.random.split(key, 3)
    depth = jax.random.randint(k_depth, b.reward.shape, 0, hp.depth)

    def one(carry, x):
        row, obs, going = carry
        j, key = x
        k_act, k_step = jax.random.split(key)
        action = act(obs, k_act)
        ahead, reward, over = step(params, obs, action, k_step, hp, noisy)
        new = Transitions(obs, action, reward, jnp.where(over, 0.0, hp.gamma), ahead)
        going = going & (j <= depth)
        return (choose(going, new, row), ahead, going & ~over), None

    each = jnp.arange(hp.depth), jax.random.split(k_steps, hp.depth)
    carry = b, b.obs, jnp.ones(depth.shape, bool)
    (row, *_), _ = jax.lax.scan(one, carry, each)
    return choose(jax.random.uniform(k_real, depth.shape) < hp.real, b, row)


def modelling(world: Any, learner: Learner) -> Learner:
    """A learner whose parameters have a model and its scale, too, with an optimiser."""
    dynamics.vector(world)
    d = actions(world)

    def init(key, obs, hp):
        key, k_model = jax.random.split(key)
        net, scale = dynamics.begin(k_model, obs, jnp.zeros((obs.shape[0], d)), hp)
        return learner.init(key, obs, hp) | dict(model=net, scale=scale)

    def opt(params, hp):
        return learner.opt(params, hp) | optimisers("model")(params, hp)

    return learner._replace(init=init, opt=opt)


def imagining(
    world: Any, learner: Learner, loss: Callable = likelihood, noisy: bool = True
) -> Learner:
    """A learner that learns from what a model imagines, a real state each time, of its own policy.

    MBPO's branched rollouts, but made anew for each gradient step instead of kept in a buffer.
    loss: as `likelihood`, of a `Guess` and its errors in deviations. noisy: see `step`.
    """

    def update(params, opt, b, key, t, i, hp):
        k_fit, k_dream, k_learn = jax.random.split(key, 3)
        params, opt, said = fit_model(params, opt, loss, b, k_fit, t, i, hp)
        memory = learner.memory(b.reward.shape[0])
        act = lambda obs, key: learner.act(params, obs, memory, key, t, hp)[0]
        dreamt = imagine(act, params, b, k_dream, hp, noisy)
        params, opt, stats = learner.update(params, opt, dreamt, k_learn, t, i, hp)
        return params, opt, said | stats

    return modelling(world, learner)._replace(update=update)
