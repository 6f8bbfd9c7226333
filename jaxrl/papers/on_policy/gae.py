"""GAE. Schulman, Moritz, Levine, Jordan, Abbeel 2016 (ICLR), arXiv 1506.02438.

Advantage (eq. 16):  A_t = Σ_l (γλ)ˡ δ_{t+l},  δ_t = r_t + γ V(s_{t+1}) - V(s_t): `returns.gae`.
Critic (section 5):  minimise Σ (V - V̂)² subject to mean (V - V_old)² / (2σ²) <= ε,
  σ² = mean (V_old - V̂)², by one step of conjugate gradient along -H⁻¹ g, scaled to the bound, with
  H = mean ∇V ∇Vᵀ, the Gauss-Newton matrix;   V̂ the discounted sum of rewards, bootstrapped.
Policy: a step of TRPO.

From Monte-Carlo (λ = 1) and one-step (λ = 0) actor-critics it differs in what lies between: the
variance of the first and the bias of the second both grow with the distance from the other.

Here H is damped and V̂ is the λ-return at λ = 1. Checked: the equations by NumPy. Not checked: the
text beyond what is cited (numbers from the catalogue and from memory), its locomotion tasks.
"""

import jax
import jax.numpy as jnp
import optax

from jaxrl import returns
from jaxrl.core import Part
from jaxrl.families import on_policy as family
from jaxrl.families.on_policy import stateless
from jaxrl.hyper import arg, hyper
from jaxrl.optim import conjugate_gradient
from jaxrl.papers.on_policy import trpo
from jaxrl.papers.on_policy.trpo import TRPO
from jaxrl.policies import Network, policy_for

PAPER = {
    "slug": "gae",
    "id": 323,
    "title": "High-Dimensional Continuous Control Using Generalized Advantage Estimation",
    "year": 2016,
    "arxiv": "1506.02438",
    "chapter": "on_policy",
    "hyper": "GAE",
    "parent": "trpo",
    "changes": "advantages between one-step and Monte-Carlo, and a trust region for the critic too",
    "claim": "a λ in between learns faster than one-step and than Monte-Carlo advantages",
    "check": {
        "on": {"CartPole-v1": 60_000, "Pendulum-v1": 100_000},
        "tune": {"delta": [0.01, 0.03]},
        "by": "mean episode_return",
        "arms": {"one_step": {"hyper": {"lam": 0.0}}, "monte_carlo": {"hyper": {"lam": 1.0}}},
        "says": ["mean episode_return > one_step", "mean episode_return > monte_carlo"],
    },
    "inert": {
        "lr": "no step is Adam's",
        "vf_coef": "the critic's step is as long as its bound allows",
        "max_grad_norm": "no step is Adam's",
    },
}


@hyper
class GAE(TRPO):
    lam: float = 0.96
    vf_eps: float = arg(0.05, "bound on the critic's step, in variances of its error", "(0, inf)")
    normalise_advantage: bool = True


def monte_carlo_target(s, b, t, hp, world):
    """GAE, with the return itself as the critic's target V̂."""
    b, cuts = family.gae(s, b, t, hp, world), (b.terminated, b.done)
    return b.replace(target=returns.lambda_returns(b.reward, b.next_value, *cuts, hp.gamma, 1.0))


def critic_step(policy) -> Part:
    """The critic's trust region: out = (state, metrics)."""

    def update(s, b, t, hp, world):
        V = lambda params: policy.judge(params, params, b, s.key).value.ravel()
        old, pull = jax.vjp(V, s.params)
        error, n = old - b.target.ravel(), len(old)
        g = pull(error / n)[0]
        push = jax.linearize(V, s.params)[1]
        H = lambda v: optax.tree.add_scale(pull(push(v) / n)[0], hp.damping, v)
        x = conjugate_gradient(H, g, hp.cg_iters)
        moved = jnp.square(push(x)).mean() / jnp.maximum(2 * jnp.square(error).mean(), 1e-8)
        # no farther than the minimum of the quadratic, which is x itself
        step = -jnp.minimum(1.0, jnp.sqrt(hp.vf_eps / jnp.maximum(moved, 1e-30)))
        params = optax.tree.add_scale(s.params, step, x)
        change = jnp.square(V(params) - old).mean() / jnp.maximum(
            2 * jnp.square(error).mean(), 1e-8
        )
        return s.replace(params=params), dict(vf_change=change)

    return stateless(update)


def make(world, network=Network()):
    policy = policy_for(world, network)
    critic, actor = critic_step(policy), trpo.trust_region(policy)

    def update(s, b, t, hp, world):
        _, (s, stats) = critic.apply((), s, b, t, hp, world)
        still = hp.replace(lr=0.0, epochs=1, minibatches=1)  # what TRPO's own critic would learn
        _, (s, more) = actor.apply((), s, b, t, still, world)
        return s, more | stats

    advantage = stateless(monte_carlo_target)
    return family.on_policy(policy, advantage=advantage, update=stateless(update))
