"""The family of segments: pairs of segments of behaviour, and which of two is preferred.

    algo = segments(world, network, loss)

The world holds pairs (`envs/segments.py`) and is played only to be evaluated. An iteration is
`updates` gradient steps on minibatches of them, of

    L(θ) = E over pairs [loss(w, b, hp)]

    loss     (Said, Pairs, hp) -> [B], as the preference family has it. The preferred one of a pair
             is first; where only a share of those who were asked preferred it, both ways are
             weighed. `w.policy` [B, 2] are log-probabilities of segments, and `w.each.policy`
             [B, 2, T] of their steps, 0 where `b.mask` is

For the first `pretrain` of the run all segments are cloned, whatever is said of them. Then the
optimiser begins anew, and what the policy is by then is `w.ref` for the rest.

Metrics: `loss`, `grad_norm`; `chosen` and `rejected`, log π of a step of either; `agree`, how often
the segment that was preferred is also the more likely one, step by step.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from jaxrl.core import Algo
from jaxrl.errors import InputError
from jaxrl.families.offline import moments, see
from jaxrl.families.preference import Said, turned
from jaxrl.hyper import Linear, arg, hyper
from jaxrl.loops import averaged
from jaxrl.optim import adam, norm
from jaxrl.policies import Network, policy_for
from jaxrl.rollout import choose, known
from jaxrl.types import Batch, Key, Params


@hyper
class Segments:
    """What every method of the family needs. An iteration is `updates` gradient steps."""

    RUN = dict(steps=4_000, eval_episodes=128)
    CHECK = dict(  # what a claim is tested on, where its paper says nothing else
        on={"segments/maze": 4_000, "segments/pendulum": 4_000},
        hyper={"pairs": 1024},
        tune={"lr": [3e-4, 1e-3, 3e-3]},
        seeds=10,
    )
    lr: float | Linear = arg(1e-3, "Adam's step size; a:b goes linearly from a to b", "[0, inf)")
    max_grad_norm: float = arg(jnp.inf, "clip the gradient's global norm; inf: off", "(0, inf]")
    pretrain: float = arg(0.4, "share of the run, its first, that clones all segments", "[0, 1)")
    pairs: int = arg(0, "that a run learns from, drawn from the world's; 0: all", "[0, inf)")
    minibatch: int = arg(64, "pairs of a gradient step", "[1, inf)")
    updates: int = arg(20, "gradient steps an iteration", "[1, inf)")
    normalise_obs: bool = arg(True, "shift and scale observations to the data's mean and deviation")
    horizon: float = arg(1.0, "iterations of the whole run: set by it, for schedules", "[1, inf)")

    @classmethod
    def for_env(cls, kind: str) -> Any:
        """The defaults for a class of environments: the same for all."""
        return cls()

    @staticmethod
    def network_for(kind: str) -> Network:
        """The policy's: a perceptron."""
        return Network()

    @classmethod
    def smallest(cls) -> dict[str, dict]:
        """The smallest problem that moves every part, for the battery, as a config.toml has it."""
        return dict(
            run=dict(env="segments/maze"),
            env_params=dict(pairs=16, length=4),
            network=dict(hidden=(8,)),
            hyper=dict(minibatch=8, updates=2, lr=0.03, max_grad_norm=1.0),
        )

    @property
    def steps_per_iteration(self) -> int:
        """Gradient steps that one iteration takes."""
        return self.updates


class State(struct.PyTreeNode):
    params: Params
    opt: Any
    ref: Params  # what pretraining ended with
    at: jax.Array  # [pairs] of the world's, which are learned from
    moments: Any  # of the data's observations; () where they are not normalised
    key: Key


def pairs_of(world: Any) -> Any:
    """The pairs of a world, through whatever is around it. InputError where it has none."""
    if (pairs := known(world, "pairs")) is None:
        raise InputError(f"env: {world.name} has no pairs of segments; segments/maze has some")
    return pairs


def both_ways(loss: Callable, w: Said, b: Any, hp: Any) -> jax.Array:
    """The loss [B] of pairs in any order, by how often the first and the second were preferred."""
    one, other = loss(w, b, hp), loss(turned(w), turned(b), hp)
    return b.win[:, 0] * one + b.win[:, 1] * other


def segments(world: Any, network: Network, loss: Callable, *, optimiser: Callable = adam) -> Algo:
    """An algorithm from what its paper says of pairs of segments.

    Args:
      loss: as it stands above.
      optimiser: (hp, t) -> an optax transformation.
    """
    if network.memory or network.head == "squashed":
        what = f"memory: {network.memory}" if network.memory else f"head: {network.head}"
        raise InputError(f"{what}; segments are judged by the density of each action as it is")
    policy = policy_for(world, network)

    def bounded(params):
        """With a deviation, where no state changes it, within [e⁻⁵, e²]."""
        return params | dict(head=jax.tree.map(lambda x: jnp.clip(x, -5.0, 2.0), params["head"]))

    def of_steps(params, m, b):
        """log π of each step [B, 2, T]."""
        start, old = jnp.zeros(b.mask.shape, bool), dict(log_prob=0.0)
        steps = Batch(see(m, b.obs), b.action, dict(raw=b.action), start, old=old)
        unused = jax.random.key(0)  # these densities take no draw
        return policy.judge(bounded(params), params, steps, unused).log_prob * b.mask

    def init(key, hp, world):
        data = pairs_of(world)
        D = len(data.win)
        if hp.pairs > D:
            raise InputError(f"pairs: {hp.pairs} are more than the {D} of {world.name}")
        key, k_net, k_pairs = jax.random.split(key, 3)
        at = jax.random.permutation(k_pairs, D)[: hp.pairs or D]
        flat = jax.tree.map(lambda x: x[at].reshape(-1, *x.shape[3:]), data.obs)
        m = moments(flat) if hp.normalise_obs else ()
        params = policy.init(k_net, see(m, jax.tree.map(lambda x: x[:1], flat)))
        return State(params, optimiser(hp, 0).init(params), params, at, m, key)

    def step(s, t, hp, world):
        key, k = jax.random.split(s.key)
        turn = jnp.round(hp.pretrain * hp.horizon)
        fresh, cloning = t == turn, t < turn
        opt = choose(fresh, optimiser(hp, t).init(s.params), s.opt)
        ref = choose(t <= turn, s.params, s.ref)

        def one(carry, k):
            params, opt = carry
            at = s.at[jax.random.randint(k, (hp.minibatch,), 0, len(s.at))]
            b = jax.tree.map(lambda x: x[at], pairs_of(world))

            def total(params):
                each = Said(*(of_steps(p, s.moments, b) for p in (params, ref, s.params)))
                w = Said(*(x.sum(-1) for x in each[:3]), each)
                clone = -each.policy.sum() / b.mask.sum()
                return jnp.where(cloning, clone, both_ways(loss, w, b, hp).mean()), w

            (value, w), grads = jax.value_and_grad(total, has_aux=True)(params)
            updates, opt = optimiser(hp, t).update(grads, opt, params)
            mean = w.policy / jnp.maximum(b.mask.sum(-1), 1)
            share = lambda x, by: (x * by).sum(1).mean()
            stats = dict(
                loss=value,
                grad_norm=norm(grads),
                chosen=share(mean, b.win),
                rejected=share(mean, b.win[:, ::-1]),
                agree=share(mean > mean[:, ::-1], b.win),
            )
            return (optax.apply_updates(params, updates), opt), stats

        (params, opt), stats = averaged(one, (s.params, opt), jax.random.split(k, hp.updates))
        none = dict(episode_return=jnp.float32(jnp.nan), episodes=jnp.float32(0))
        s = s.replace(params=params, opt=opt, ref=ref, key=key)
        return s, none | stats

    def act(s, obs, memory, key, hp):
        start = jnp.zeros(len(jax.tree.leaves(obs)[0]), bool)
        action, *_ = policy.act(bounded(s.params), see(s.moments, obs), start, (), key)
        return action, memory

    return Algo(init, step, act)
