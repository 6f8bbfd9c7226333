"""TRPO. Schulman, Levine, Moritz, Jordan, Abbeel 2015, arXiv 1502.05477.

Maximise L(θ) = E[ r A ] subject to E[KL(π_old(.|s) || π(.|s))] <= δ, r = π(a|s) / π_old(a|s)
(eq. 14; single path, with A in place of Q), by one step (appendix C):
  x ≈ F⁻¹ ∇L by conjugate gradient,    β = √(2δ / xᵀFx),    θ <- θ_old + α β x,
with the first α of 1, 1/2, 1/4, ... at which L improves and the KL is at most δ; none: no step.

From policy gradients (A2C) it differs in measuring a step by how far it moves the policy.

As in the authors' later code the Fisher matrix is damped, (F + damping I) x = ∇L, the advantages
are GAE and an entropy bonus may join L; unlike there, xᵀFx is undamped and the bound is δ itself.
Not checked: vine sampling, F on a tenth of the data, and the results on MuJoCo and Atari.
"""

import jax
import jax.numpy as jnp
import optax

from jaxrl.core import Part, Policy
from jaxrl.families.on_policy import OnPolicy, on_policy, sgd, stateless, total_loss
from jaxrl.hyper import arg, hyper
from jaxrl.optim import conjugate_gradient, fisher_vector_product, line_search
from jaxrl.policies import Network, policy_for

PAPER = {
    "slug": "trpo",
    "id": 33,
    "title": "Trust Region Policy Optimization",
    "year": 2015,
    "arxiv": "1502.05477",
    "chapter": "on_policy",
    "hyper": "TRPO",
    "parent": "a2c",
    "changes": "a natural-gradient step as long as a bound on the KL allows, found by line search",
    "claim": "every step keeps its bound on the KL, and it beats plain policy gradients",
    "check": {
        "on": {"CartPole-v1": 100_000, "Acrobot-v1": 200_000, "Pendulum-v1": 200_000},
        "tune": {"lr": [3e-4, 1e-3, 3e-3]},
        "arms": {
            "a2c": {"paper": "a2c"},
            # the same data and advantages; only the step differs
            "gradient": {
                "paper": "a2c",
                "hyper": {"num_steps": 64, "lam": 0.95, "normalise_advantage": True},
                "tune": {"lr": [3e-3, 1e-2, 3e-2]},
            },
            "no_search": {"hyper": {"backtracks": 0}},
        },
        "says": [
            "max kl < 0.0101",
            "max kl < no_search",
            "final_return > a2c",
            "final_return > gradient",
        ],
    },
}


@hyper
class TRPO(OnPolicy):
    UNREAD = {"accumulate": "a step is of a rollout as a whole"}
    delta: float = arg(0.01, "bound on the mean KL of a step, in nats", "(0, inf)")
    damping: float = arg(0.1, "multiple of the identity added to the Fisher matrix", "[0, inf)")
    cg_iters: int = arg(10, "iterations of conjugate gradient", "[1, inf)")
    backtracks: int = arg(10, "lengths tried; 0: the full step unchecked", "[0, inf)")


def importance(w, b, hp):
    return -jnp.exp(w.log_ratio) * b.advantage  # eq. 14


def longest_step(g, F, hp):
    """β x, which moves the policy by δ to second order: ½ (βx)ᵀ F (βx) = δ."""
    x = conjugate_gradient(lambda v: optax.tree.add_scale(F(v), hp.damping, v), g, hp.cg_iters)
    curvature = jnp.maximum(optax.tree.vdot(x, F(x)), 1e-30)  # g = 0 gives x = 0 and β x = 0
    return optax.tree.scale(jnp.sqrt(2 * hp.delta / curvature), x)


def trust_region(policy: Policy, surrogate=importance, sequences: bool = False) -> Part:
    """The critic by `sgd`, then the policy by one step within the bound: out = (state, metrics)."""
    critic = sgd(policy, lambda w, b, hp: jnp.zeros(()), sequences=sequences)
    report = total_loss(policy, surrogate)

    def update(s, b, t, hp, world):
        _, (s2, stats) = critic.apply((), s, b, t, hp.replace(ent_coef=0.0), world)
        key, k = jax.random.split(s2.key)
        # The critic goes first, and what is old is what it leaves: where they share a trunk it has
        # moved the policy, and the KL has the Fisher matrix for its Hessian only where it is 0.
        theta = s2.params
        now = b.replace(old=policy.judge(theta, theta, b, k).record)

        def look(p):
            w = policy.judge(p, theta, now, k)
            loss = surrogate(w, now, hp).mean() - hp.ent_coef * w.entropy().mean()
            return loss, w.kl().mean()

        def good(p):
            loss, kl = look(p)
            return (loss < before) & (kl <= hp.delta)

        (before, _), g = jax.value_and_grad(look, has_aux=True)(theta)
        F = fisher_vector_product(lambda p: look(p)[1], theta)
        step = longest_step(optax.tree.scale(-1.0, g), F, hp)
        if hp.backtracks:
            params, accepted = line_search(good, theta, step, hp.backtracks)
        else:
            params, accepted = optax.tree.add(theta, step), jnp.float32(1.0)
        stats |= report(params, s.params, b, k, hp)[1]
        stats |= dict(kl=look(params)[1], accepted=accepted, grad_norm=optax.tree.norm(g))
        return s2.replace(params=params, key=key), stats

    return stateless(update)


def make(world, network=Network()):
    policy = policy_for(world, network)
    return on_policy(policy, update=trust_region(policy, sequences=network.memory > 0))
