"""The diversity family: several policies for one task, each unlike those before it.

    algo = diversity(policy, direction, interior)

A run is divided among P policies, which PPO trains one after the other from fresh parameters; those
that are finished are kept, frozen. At a state the earlier policy j is D_j away, a distance of
distributions of actions, and a step's novelty is min_j D_j: a second reward, with a critic and
advantages of its own. U = min_j E[D_j] over a rollout is how novel the policy is. `direction` makes
one gradient of the task's and the novelty's; `interior` says when an episode is broken off.

D is the Wasserstein distance: W2 of Gaussians, and W1 of categories that are all 1 apart, which is
their total variation. Both are metrics, and so is their mean over states.

Metrics: `episode_return` and `novelty`, U, of the policy in training (U is 0 of the first);
`set_return`, the mean over the policies so far of what each returned in its latest episodes of
training, `worst_return` the least of them, `set_novelty` the least U in which one of them was left.
Acting, a row is played by one of the policies, spread evenly over the rows.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.flatten_util import ravel_pytree

from envs.base import Transition, Wrapper
from jaxrl import returns
from jaxrl.core import Algo, Part, Policy
from jaxrl.errors import InputError
from jaxrl.families.on_policy import (
    OnPolicy,
    on_policy,
    one_pass,
    squared_error,
    standardise,
    stateless,
)
from jaxrl.hyper import arg, hyper
from jaxrl.loops import averaged
from jaxrl.optim import adam, norm
from jaxrl.policies import Network, policy_for
from jaxrl.rollout import begin, choose, draw, objectives, rollout, rows
from jaxrl.surrogate import clipped
from jaxrl.types import Params


@hyper
class Diversity(OnPolicy):
    """What every method of the family needs. An iteration trains one policy."""

    eps: float = arg(0.2, "clip range of the ratio; inf: off", "(0, inf]")
    population: int = arg(4, "P, policies that are trained one after the other", "[2, inf)")

    def problem(self) -> str:
        """What is wrong between fields, in one line; "" if nothing is."""
        if self.normalise_obs or self.normalise_reward:
            return "normalise_obs, normalise_reward: policies of a set see and are paid the same"
        return super().problem()

    @classmethod
    def for_env(cls, kind: str) -> Any:
        """The defaults for a class of environments: the same for all."""
        return cls()

    @classmethod
    def smallest(cls) -> dict[str, dict]:
        """The smallest problem that moves every part, for the battery, as a config.toml has it."""
        small = super().smallest()
        return small | dict(hyper=small["hyper"] | dict(population=2))


class Set(struct.PyTreeNode):
    """The policies so far, and where the one in training stands."""

    players: Params  # [P, ...] parameters, of those that are finished
    now: jax.Array  # () int: which one is in training
    returned: jax.Array  # [P] what each returned, as last seen
    novelty: jax.Array  # [P] its U, likewise; inf of the first
    path: Any  # of each environment's episode: the sums of D_j [N, P], and the steps [N]


def distance(a: Any, b: Any) -> jax.Array:
    """Of two distributions of actions, as heads put them out: W2 of Gaussians, W1 of softmaxes."""
    if isinstance(a, dict):
        gap = jnp.square(a["loc"] - b["loc"]) + jnp.square(a["scale"] - b["scale"])
        return jnp.sqrt(gap.sum(-1))
    return 0.5 * jnp.abs(jax.nn.softmax(a) - jax.nn.softmax(b)).sum(-1)


def far(policy: Policy, players: Params, own: Any, obs: Any, start: jax.Array) -> jax.Array:
    """How far what a policy put out at observations is from each of the players, [..., P]."""
    theirs = lambda p: policy.act(p, obs, start, (), None)[1]["out"]
    return jax.vmap(lambda p: distance(own, theirs(p)), out_axes=-1)(players)


@struct.dataclass
class Broken(Wrapper):
    """A world whose episodes end, too, where `ends(sums [N, P], steps [N]) -> [N]` says so of the
    distances `D(obs) -> [N, P]` along them. Its state is (state, obs, (sums, steps))."""

    D: Callable = struct.field(pytree_node=False, default=None)
    ends: Callable = struct.field(pytree_node=False, default=None)

    def draw(self, key, steps, n):
        k_env, k = jax.random.split(key)
        starts = jax.vmap(lambda k: self.env.reset(k, n))(jax.random.split(k, steps))
        return draw(self.env, k_env, steps, n), starts

    def step(self, key, state, action):
        chance, fresh = key
        env, obs, (sums, steps) = state
        env, s = self.env.step(chance, env, action)
        sums, steps = sums + self.D(obs), steps + 1
        over = s.terminated | s.truncated
        broken = ~over & self.ends(sums, steps)
        env, obs = choose(broken, fresh, (env, s.obs))
        path = choose(over | broken, jax.tree.map(jnp.zeros_like, (sums, steps)), (sums, steps))
        s = Transition(obs, s.reward, s.terminated | broken, s.truncated, s.final_obs)
        return (env, obs, path), s


def turn(t: jax.Array, hp: Any) -> jax.Array:
    """Which policy is trained in iteration t."""
    i = jnp.floor(t * hp.population / hp.horizon).astype(jnp.int32)
    return jnp.minimum(i, hp.population - 1)


def separate(s: Any, b: Any, t: jax.Array, hp: Any, world: Any) -> Any:
    """Advantages [T, N, 2] of the task and of novelty, and the critics' targets."""
    cuts = (b.terminated, b.done)
    A = returns.gae(b.reward, b.value, b.next_value, *cuts, hp.gamma, hp.lam)
    out = standardise(A) if hp.normalise_advantage else A
    return b.replace(advantage=out, target=A + b.value)


# ---- the builder -----------------------------------------------------------------------------


def diversity(policy: Policy, direction: Callable, interior: Callable = lambda hp: None) -> Algo:
    """An algorithm from a policy with two values, and what its paper changes.

    Args:
      direction: (gradient of the task's objective, of novelty's, U, hp) -> the one to ascend; of
        flat vectors. It is not asked of the first policy.
      interior: hp -> None, or (sums of D_j over an episode so far [N, P], inf of who is not there,
        its steps [N]) -> which episodes are broken off [N] bool.
    """

    def begin_set(key, s, hp, world):
        P, N = hp.population, s.stage.start.size
        players = jax.tree.map(lambda x: jnp.stack([x] * P), s.params)
        path = jnp.zeros((N, P)), jnp.zeros(N, jnp.int32)
        return Set(players, jnp.int32(0), jnp.zeros(P), jnp.full(P, jnp.inf), path)

    def next_policy(key, ours, s, hp, world):
        """The one in training is kept, and another begins."""
        k_env, k_params = jax.random.split(key)
        players = jax.tree.map(lambda all, x: all.at[ours.now].set(x), ours.players, s.params)
        stage = begin(policy, k_env, hp, world)
        params = policy.init(k_params, stage.obs)
        s = s.replace(params=params, opt=adam(hp).init(params), stage=stage)
        path = jax.tree.map(jnp.zeros_like, ours.path)
        return ours.replace(players=players, now=ours.now + 1, path=path), s

    def sample(ours, s, _, t, hp, world):
        key, k, k_new = jax.random.split(s.key, 3)
        due = turn(t, hp) > ours.now
        another = lambda: next_policy(k_new, ours, s, hp, world)
        ours, s = jax.lax.cond(due, another, lambda: (ours, s))
        there = jnp.arange(hp.population) < ours.now

        def D(obs, start, own):
            gap = far(policy, ours.players, own, obs, start)
            return jnp.where(there, gap, jnp.inf)  # who is not there is far away

        where, stage, breaks = world, s.stage, interior(hp)
        if breaks is not None:

            def along(obs):
                start = jnp.zeros(rows(obs), bool)
                own = policy.act(s.params, obs, start, (), None)[1]["out"]
                return D(obs, start, own)

            ends = lambda sums, steps: (ours.now > 0) & breaks(sums, steps)
            where = Broken(world, along, ends)
            stage = stage.replace(env=(stage.env, stage.obs, ours.path))
        stage, b, metrics = rollout(policy, s.params, stage, k, hp, where, hp.num_steps)
        if breaks is not None:
            env, _, path = stage.env
            stage, ours = stage.replace(env=env), ours.replace(path=path)
        gaps = D(b.obs, b.start, b.record["out"])
        first = ours.now == 0
        U = gaps.mean((0, 1)).min()
        paid = jnp.where(first, 0.0, gaps.min(-1))
        b = b.replace(reward=jnp.stack([b.reward, paid], -1), dual=U)
        latest = jnp.where(
            metrics["episodes"] > 0, metrics["episode_return"], ours.returned[ours.now]
        )
        ours = ours.replace(
            returned=ours.returned.at[ours.now].set(latest),
            novelty=ours.novelty.at[ours.now].set(U),
        )
        so_far = jnp.arange(hp.population) <= ours.now
        metrics |= dict(
            novelty=jnp.where(first, 0.0, U),
            set_return=jnp.where(so_far, ours.returned, 0.0).sum() / (ours.now + 1),
            worst_return=jnp.where(so_far, ours.returned, jnp.inf).min(),
            set_novelty=jnp.where(first, 0.0, ours.novelty.min()),
        )
        return ours, (s.replace(key=key, stage=stage), b, metrics)

    def objective(params, old, b, key, hp, which):
        """PPO's, of the task (0) or of novelty (1)."""
        w = policy.judge(params, old, b, key)
        A = b.advantage[..., which]
        bonus = hp.ent_coef * w.entropy().mean() if which == 0 else 0.0
        return clipped(jnp.exp(w.log_ratio), A, hp.eps).mean() + bonus

    def critics(params, old, b, key, hp):
        return squared_error(policy.judge(params, old, b, key), b, hp).mean()

    def learn(s, b, t, hp, world):
        opt = adam(hp, t)
        key, k = jax.random.split(s.key)
        alone = s.slots["sampler"].now == 0

        def one(carry, part, k):
            params, state = carry
            args = (params, s.params, part, k, hp)
            (J, f), (J_new, g) = (jax.value_and_grad(objective)(*args, i) for i in (0, 1))
            f, back = ravel_pytree(f)
            g = ravel_pytree(g)[0]
            ascent = back(jnp.where(alone, f, direction(f, g, b.dual, hp)))
            error, down = jax.value_and_grad(critics)(*args)
            grads = jax.tree.map(lambda up, d: hp.vf_coef * d - up, ascent, down)
            updates, state = opt.update(grads, state, params)
            cosine = f @ g / (jnp.linalg.norm(f) * jnp.linalg.norm(g) + 1e-12)
            stats = dict(policy_loss=-J, value_loss=error, grad_norm=norm(grads), cosine=cosine)
            return (optax.apply_updates(params, updates), state), stats

        def epoch(carry, k):
            return one_pass(one, carry, b, k, hp, False)

        carry, stats = averaged(epoch, (s.params, s.opt), jax.random.split(k, hp.epochs))
        params, state = carry
        return s.replace(params=params, opt=state, key=key), stats

    inner = on_policy(
        policy,
        sampler=Part(begin_set, sample),
        advantage=stateless(separate),
        update=stateless(learn),
    )

    def act(s, obs, memory, key, hp):
        ours = s.slots["sampler"]
        players = jax.tree.map(lambda all, x: all.at[ours.now].set(x), ours.players, s.params)
        mine = jax.tree.map(lambda x: x[memory % (ours.now + 1)], players)
        keys = None if key is None else jax.random.split(key, len(memory))
        one = jax.tree.map(lambda x: x[:, None], obs)
        play = lambda p, obs, k: policy.act(p, obs, jnp.zeros(1, bool), (), k)[0][0]
        return jax.vmap(play)(mine, one, keys), memory

    return Algo(inner.init, inner.step, act, lambda n: jnp.arange(n))


def two_critics(world: Any, network: Network) -> Policy:
    """A policy with a critic for the task and one for novelty. InputError where it cannot be."""
    if objectives(world):
        raise InputError(f"env: {world.name} pays several rewards; this method learns from one")
    if network.memory:
        raise InputError(f"memory: {network.memory}: this method compares policies without memory")
    return policy_for(world, network, values=2)
