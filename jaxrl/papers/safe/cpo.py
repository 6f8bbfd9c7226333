"""CPO. Achiam, Held, Tamar, Abbeel 2017 (ICML), arXiv 1705.10528.

Each step is the best in the part of the trust region that is inside the budget (eq. 10),
  max_x gᵀx  subject to  c + bᵀx <= 0,  ½ xᵀHx <= δ,
g and b the gradients of E[r A_r] and E[r A_c], r = π/π_old, H the KL's Hessian, c = (J_c - d) / T
a step. By its dual (theorem 2), q = gᵀH⁻¹g, u = gᵀH⁻¹b, s = bᵀH⁻¹b, A = q - u²/s, B = 2δ - c²/s:
  x = H⁻¹(g - ν b) / λ,    ν = [λc + u]₊ / s,
  λ the better of √(A/B), held to where λc + u > 0, and √(q/2δ), held to where it is not;
or, where no step of the region is inside, x = -√(2δ/s) H⁻¹b (eq. 14). Tried are 1, κ, κ², ... of x,
until KL <= δ, E[r A_c] grows by at most [-c]₊, and, unless c > 0, E[r A_r] grows.

From TRPO it differs in the second constraint, which holds at each step and not only in the end.

Of several costs the one that is most over its budget is the constraint. H is damped. Checked: the
authors' code, and Safety Gym's (c, the search). Not checked: its tasks, the shaping of costs.
"""

import jax
import jax.numpy as jnp
import optax

from jaxrl import duals
from jaxrl.core import Part, Policy
from jaxrl.families.on_policy import sgd, stateless
from jaxrl.families.safe import Safe, critics, limits, safe, separate
from jaxrl.hyper import arg, hyper
from jaxrl.optim import conjugate_gradient, fisher_vector_product, line_search
from jaxrl.policies import Network

PAPER = {
    "slug": "cpo",
    "reference": True,
    "title": "Constrained Policy Optimization",
    "year": 2017,
    "arxiv": "1705.10528",
    "chapter": "safe",
    "hyper": "CPO",
    "parent": "trpo",
    "changes": "a step is also held inside the budget, by a dual in closed form",
    "claim": "it goes to the edge of the budget and along it, where TRPO goes far beyond",
    "check": {
        "on": {"safe/circle": 120_000},
        "hyper": {"num_envs": 10},
        "tune": {"lr": [1e-3, 3e-3, 6e-3]},
        "by": "mean episode_return",
        "arms": {"trpo": {"hyper": {"budget": 1e6}}, "lagrangian": {"paper": "ppo_lagrangian"}},
        "says": [
            "max kl < 0.0101",
            "last episode_cost < 8.0",
            "last episode_cost of trpo > 30.0",
            "mean episode_return > lagrangian",
        ],
    },
    "battery": {"hyper": {"delta": 0.5}},  # steps that are refused at first
}


@hyper
class CPO(Safe):
    UNREAD = {"accumulate": "a step is of a rollout as a whole"}
    delta: float = arg(0.01, "δ, bound on the mean KL of a step, in nats", "(0, inf)")
    damping: float = arg(0.1, "multiple of the identity added to H", "[0, inf)")
    shrink: float = arg(0.8, "κ, by which a refused step is shortened", "(0, 1)")
    cg_iters: int = arg(10, "iterations of conjugate gradient", "[1, inf)")
    backtracks: int = arg(10, "lengths tried", "[1, inf)")


def constrained_step(policy: Policy, sequences: bool = False) -> Part:
    """The critics by `sgd`, then the policy by one step: out = (state, metrics)."""
    critic = sgd(policy, lambda w, b, hp: jnp.zeros(()), sequences=sequences)

    def update(s, b, t, hp, world):
        _, (s2, stats) = critic.apply((), s, b, t, hp.replace(ent_coef=0.0), world)
        key, k = jax.random.split(s2.key)
        theta = s2.params  # what the critics leave is what is old, as in trpo.py
        now = b.replace(old=policy.judge(theta, theta, b, k).record)
        over = (b.dual.cost - limits(hp, world)) / b.dual.length
        c, A = over.max(), b.advantage
        A_c = A[..., 1:][..., over.argmax()]

        def look(p):
            w = policy.judge(p, theta, now, k)
            r = jnp.exp(w.log_ratio)
            gain = (r * A[..., 0]).mean() + hp.ent_coef * w.entropy().mean()
            return gain, (r * A_c).mean(), w.kl().mean()

        def good(p):
            gain, cost, kl = look(p)
            kept = (kl <= hp.delta) & (cost - cost_0 <= jnp.maximum(-c, 0.0))
            return kept & ((gain > gain_0) | (c > 0))

        (gain_0, cost_0), pull = jax.vjp(lambda p: look(p)[:2], theta)
        g, b_c = pull((1.0, 0.0))[0], pull((0.0, 1.0))[0]
        F = fisher_vector_product(lambda p: look(p)[2], theta)
        H = lambda v: optax.tree.add_scale(F(v), hp.damping, v)
        x, p = (conjugate_gradient(H, v, hp.cg_iters) for v in (g, b_c))
        products = (optax.tree.vdot(*pair) for pair in ((g, x), (g, p), (b_c, p)))
        along, against = duals.trust_region(*products, c, hp.delta)
        step = optax.tree.add_scale(optax.tree.scale(along, x), -against, p)
        params, accepted = line_search(good, theta, step, hp.backtracks, hp.shrink)
        stats = {name: stats[name] for name in ("value_loss", "entropy")}
        stats |= dict(kl=look(params)[2], accepted=accepted, grad_norm=optax.tree.norm(g))
        return s2.replace(params=params, key=key), stats

    return stateless(update)


def make(world, network=Network()):
    policy = critics(world, network)
    update = constrained_step(policy, network.memory > 0)
    return safe(world, policy, update, advantage=stateless(separate))
