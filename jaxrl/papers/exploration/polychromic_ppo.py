"""Polychromic PPO. Hamid, Orney, Xu, Finn, Sadigh 2026 (ICLR), arXiv 2509.25424.

Maximise E[f] over sets of n independent trajectories from s. A polychromic f wants reward and
variety:  f(s, τ₁..τₙ) = (1/n Σᵢ R(τᵢ)) d(s, τ₁..τₙ),  0 <= d <= 1.
Vine sampling: N continuations of each of p states, and from them M random sets of n. The steps of a
set share A = f(set) - mean of f over the M sets, and PPO's clip does the rest. From PPO it differs
in this advantage, which no trajectory has by itself. (One that is in several sets has their mean.)

Here d is how many goals the set reaches, by n; M = N; the p states are starts of episodes, and what
follows a continuation's end has no advantage. The paper branches from later states too, has GAE
elsewhere, and tunes a pretrained policy with a price on its KL from it. Checked: summaries of the
text; a replication by others, which adds α d to rewards instead. Not: the text itself, its tasks.
"""

from functools import partial

import jax
import jax.numpy as jnp

from jaxrl.core import Part
from jaxrl.errors import InputError
from jaxrl.families.on_policy import gae, on_policy, stateless
from jaxrl.hyper import arg, hyper
from jaxrl.papers.on_policy.ppo import PPO, clip, clipped_value
from jaxrl.policies import Network, policy_for
from jaxrl.rollout import Episodes, rollout

PAPER = {
    "slug": "polychromic_ppo",
    "id": 7,
    "title": "Polychromic Objectives for Reinforcement Learning",
    "year": 2026,
    "arxiv": "2509.25424",
    "chapter": "exploration",
    "hyper": "PolychromicPPO",
    "parent": "ppo",
    "changes": "the advantage is that of a set: its mean return times its diversity",
    "claim": "its attempts reach more distinct goals than PPO's, and hardly less often one",
    "check": {
        "on": {"rooms/four": 160_000},
        "tune": {"lr": [1e-3, 2.5e-3, 5e-3]},
        "by": "last success",  # of what is sampled: a set's policy has no mode of interest
        "arms": {
            "ppo": {"hyper": {"objective": "return"}},
            "entropy": {"hyper": {"objective": "return", "ent_coef": 0.1}},
        },
        "says": ["last coverage > ppo", "last coverage > entropy", "last success > ppo - 0.05"],
    },
    "battery": {"run": {"env": "rooms/four"}, "hyper": {"num_envs": 32, "group": 16}},
}


@hyper
class PolychromicPPO(PPO):
    num_envs: int = 64
    num_steps: int = 32
    group: int = arg(32, "N, continuations of a vine state", "[1, inf)")
    set_size: int = arg(4, "n, of them in a set", "[1, inf)")
    objective: str = arg("polychromic", "of sets; return: PPO's own", ("polychromic", "return"))

    def problem(self) -> str:
        """What is wrong between fields, in one line; "" if nothing is."""
        if self.num_envs % self.group or self.group < self.set_size:
            return f"group: {self.group} must divide num_envs and not be less than set_size"
        return super().problem()


def set_advantage(key, R, goals, n):
    """The advantage [N] of each trajectory, from the returns [N] and the goals [N, G] reached."""
    member = 1.0 * (jax.random.uniform(key, [len(R)] * 2).argsort(-1) < n)  # N sets of n
    f = (member @ R / n) * ((member @ goals > 0).sum(-1) / n)
    return (f - f.mean()) @ member / jnp.maximum(member.sum(0), 1.0)


def attempts(b, hp, world):
    """Which steps are of first episodes [T, pN], and their returns [p, N] and goals [p, N, G]."""
    env = world
    while not hasattr(env, "goals"):
        if not hasattr(env, "env"):
            raise InputError(f"env: {world.name} does not say which goals an observation is on")
        env = env.env
    own = jnp.cumsum(b.start, 0) == 1
    R = (own * b.reward).sum(0).reshape(-1, hp.group)
    goals = (own[..., None] & env.goals(b.obs)).any(0)
    return own, R, goals.reshape(*R.shape, -1).astype(jnp.float32)


def vines(policy) -> Part:
    """A rollout of N continuations of each of p fresh starts; `coverage`: of all goals, by N."""

    def sample(s, _, t, hp, world):
        if hp.num_steps < world.max_steps:
            raise InputError(f"num_steps: {hp.num_steps} is below max_steps = {world.max_steps}")
        key, k_start, k = jax.random.split(s.key, 3)
        n, fresh = hp.num_envs, world.reset(k_start, hp.num_envs // hp.group)
        env, obs = jax.tree.map(lambda x: x[jnp.arange(n) // hp.group], fresh)
        now = s.stage.replace(env=env, obs=obs, start=jnp.ones(n, bool), episodes=Episodes.begin(n))
        stage, b, metrics = rollout(policy, s.params, now, k, hp, world, hp.num_steps)
        _, R, goals = attempts(b, hp, world)
        metrics |= dict(coverage=goals.any(1).mean(), success=(R > 0).mean())
        return s.replace(key=key, stage=stage), b, metrics

    return stateless(sample)


def polychromic(key, s, b, t, hp, world):
    key, k = jax.random.split(key)
    out, (own, R, goals) = gae(s, b, t, hp, world), attempts(b, hp, world)
    one = lambda k, R, goals: set_advantage(k, R, goals, hp.set_size)
    A = own * jax.vmap(one)(jax.random.split(k, len(R)), R, goals).ravel()
    if hp.normalise_advantage:  # to deviation 1 about 0, which stays where nothing is learned
        A /= jnp.sqrt(jnp.square(A).sum() / own.sum()) + 1e-8
    return key, out.replace(advantage=A) if hp.objective == "polychromic" else out


def make(world, network=Network()):
    policy, of_sets = policy_for(world, network), Part(lambda key, *_: key, polychromic)
    algo = partial(on_policy, policy, clip, value_loss=clipped_value, sampler=vines(policy))
    return algo(advantage=of_sets, sequences=network.memory > 0)
