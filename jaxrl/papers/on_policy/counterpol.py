"""CounterPol. Deshmukh, Srivatsan, Vijay, Subramanian, Agarwal 2023, arXiv 2307.13192.

What is the least change to a policy π₀ after which its return J is R*, be it higher or lower?
  minimise (J(π) - R*)² / scale + k E[ Σₜ KL(π'(.|sₜ) || π(.|sₜ)) ],   π' the pivot, with gradient
  2 (J - R*) / scale E[ ∇log π(a|s) A ] + k E[ ∇KL(π'(.|s) || π(.|s)) ]   per step of an episode,
by one step of Adam a rollout, none while |J - R*| < δ. π' is π₀, and after every `pivot` steps π:
far targets are in reach, on a path that the KL keeps short. PPO makes π₀, in the same run.

From PPO it differs in the sign of R* - J, which says up or down, and in the KL for the clip.

Checked: the authors' code. There A is Gₜ - R*, the KL is -π'(a) log π(a), actions are the mode's,
scale is squared (a gradient below Adam's ε here) and the first J within δ ends it; its notebook
has the weights (1 - k, k), its table k > 1. J is a running mean, as episodes outlast rollouts. Not
checked: the text, and its link to trust regions.
"""

import jax
import jax.numpy as jnp

from jaxrl.core import Part
from jaxrl.families.on_policy import on_policy, on_policy_sampler, sgd
from jaxrl.hyper import arg, hyper
from jaxrl.papers.on_policy.ppo import PPO, clip, clipped_value
from jaxrl.policies import Network, policy_for

PAPER = {
    "slug": "counterpol",
    "id": 81,
    "title": "Counterfactual Explanation Policies in RL",
    "year": 2023,
    "arxiv": "2307.13192",
    "chapter": "on_policy",
    "hyper": "CounterPol",
    "parent": "ppo",
    "changes": "a trained policy is led to a given return, up or down, by small steps from a pivot",
    "claim": "it attains the return asked for, nearer to the original policy than without the KL",
    "check": {
        # no tuning: the largest final return is not what is asked for
        "on": {"CartPole-v1": 200_000},
        "arms": {
            "no_kl": {"hyper": {"kl_coef": 0.0}},
            "no_kl_slow": {"hyper": {"kl_coef": 0.0, "cf_lr": 3e-4}},
        },
        "says": ["last target_gap < 0.15", "last kl_origin < no_kl", "last kl_origin < no_kl_slow"],
    },
    "battery": {"env_params": {"max_steps": 16}, "hyper": {"target": 16.0, "delta": 1.0}},
}


@hyper
class CounterPol(PPO):
    target: float = arg(100.0, "R*, the return asked for", "(-inf, inf)")
    scale: float = arg(500.0, "what (J - R*)² is divided by: the range of returns", "(0, inf)")
    kl_coef: float = arg(5.0, "k, the price of the KL from the pivot", "[0, inf)")
    pivot: int = arg(10, "steps between the pivot's moves to the policy", "[1, inf)")
    delta: float = arg(10.0, "δ, the distance from R* that is near enough", "[0, inf)")
    pretrain: float = arg(0.12, "share of the run in which PPO makes π₀", "[0, 1]")
    cf_lr: float = arg(1e-3, "Adam's step size after it", "[0, inf)")
    keep: float = arg(0.8, "share of its weight in J that an episode keeps a rollout", "[0, 1)")


def toward(w, b, hp):
    """Its gradient at the policy that collected is the objective's; `old` is the pivot's record."""
    slope = 2 * (b.dual - hp.target) / hp.scale  # J is `dual`
    return slope * w.log_prob * b.advantage + hp.kl_coef * w.kl()


def with_return(policy):
    """A rollout with J as its `dual`: a mean over episodes, of late ones above all."""
    inner = on_policy_sampler(policy)

    def sample(seen, s, _, t, hp, world):
        _, (s, b, metrics) = inner.apply((), s, None, t, hp, world)
        n = metrics["episodes"]
        seen = hp.keep * seen + jnp.stack([jnp.nan_to_num(metrics["episode_return"]) * n, n])
        return seen, (s, b.replace(dual=seen[0] / jnp.maximum(seen[1], 1e-8)), metrics)

    return Part(lambda *_: jnp.zeros(2), sample)


def counterfactual(policy, sequences=False):
    """PPO, then steps toward R*. The slot: π₀, π', and optimisers of these steps' own."""
    learn = sgd(policy, clip, value_loss=clipped_value, sequences=sequences)
    critic = sgd(policy, lambda w, b, hp: jnp.zeros(()), sequences=sequences)
    step = sgd(policy, toward, value_loss=lambda w, *_: 0 * w.value, sequences=sequences)

    def update(slot, s, b, t, hp, world):
        origin, pivot, opts = slot
        key, k = jax.random.split(s.key)
        s, made = s.replace(key=key), jnp.ceil(hp.pretrain * hp.horizon)
        age, gap = t - made, jnp.abs(b.dual - hp.target)
        to = lambda yes, held: jax.tree.map(lambda x, y: jnp.where(yes, x, y), s.params, held)
        origin, pivot = to(age <= 0, origin), to((age <= 0) | (age % hp.pivot == 0), pivot)
        under = lambda params: b.replace(old=policy.judge(params, params, b, k).record)

        def before(s):
            own = hp.replace(horizon=jnp.maximum(made, 1.0))
            return *learn.apply((), s, b, t, own, world)[1], opts

        def after(s):
            own = hp.replace(lr=hp.cf_lr, ent_coef=0.0)
            _, (fit, stats) = critic.apply((), s.replace(opt=opts[0]), b, t, own, world)
            own = own.replace(lr=hp.cf_lr * (gap >= hp.delta), epochs=1, minibatches=1)
            raw = under(pivot).replace(advantage=b.target - b.value)  # not standardised
            _, (new, more) = step.apply((), fit.replace(opt=opts[1]), raw, t, own, world)
            more["value_loss"] = stats["value_loss"]
            return new.replace(opt=s.opt), more, (fit.opt, new.opt)

        s, stats, opts = jax.lax.cond(age < 0, before, after, s)
        stats["kl_origin"] = policy.judge(s.params, origin, under(origin), k).kl().mean()
        stats["target_gap"] = gap / jnp.maximum(jnp.abs(hp.target), 1e-8)
        return (origin, pivot, opts), (s, stats)

    return Part(lambda key, s, hp, world: (s.params, s.params, (s.opt, s.opt)), update)


def make(world, network=Network()):
    policy = policy_for(world, network)
    update = counterfactual(policy, network.memory > 0)
    return on_policy(policy, sampler=with_return(policy), update=update)
