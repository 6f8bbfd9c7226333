"""Dynamic policy gradient. Klein, Weissmann, Döring 2024 (ICLR), arXiv 2310.02671.

In a problem of H epochs each has a softmax of its own, π_h(a|s) ∝ exp θ_h(s,a). Two ways to train:
  simultaneous   θ_h <- θ_h + η ∇_h J(θ; ρ)   for all h at once,   η = 1 / (5 H² R*);
  dynamic        backwards in time, h = H-1 ... 0: N_h steps of
                 θ_h <- θ_h + η_h ∇ E_{s~μ_h, a~π_h}[Q_h(s,a)],   η_h = 1 / (2 (H-h) R*),
where Q_h is that of the later epochs as they were left. Both gradients are w_h π_h (Q_h - V_h),
w the occupancy of π, or μ_h (uniform here); or means over K trajectories of ∇ log π_h Σ_{k>=h} r_k.
Bounds on the steps to ε: H⁵ against H³. From policy gradients it differs in their order alone.

R* = max |r|, and `lr` multiplies the theorems' step sizes. Not checked: the text, but for its
abstract and a summary with the two powers of H; the step sizes and N_h ∝ H - h are from memory.
"""

import jax
import jax.numpy as jnp

from jaxrl import episodic
from jaxrl.families.exact import Exact, exact
from jaxrl.hyper import arg, hyper
from jaxrl.policies import Network

PAPER = {
    "slug": "dynamic_pg",
    "id": 87,
    "title": "Beyond Stationarity: Convergence Analysis of Stochastic Softmax Policy Gradient"
    " Methods",
    "year": 2024,
    "arxiv": "2310.02671",
    "chapter": "theory",
    "hyper": "DynamicPG",
    "parent": "reinforce",
    "changes": "one softmax for each step of the episode, trained from the last to the first",
    "claim": "up to 100 times the theorems' steps it ends nearer to the optimum, far above not",
    "check": {
        "on": {"tabular/stopping": 1000, "tabular/random": 1000, "tabular/chain": 1000},
        "tune": {"lr": [1.0, 10.0, 100.0]},
        "by": "-last gap",
        "arms": {
            "together": {"hyper": {"order": "simultaneous"}},
            "sampled": {"hyper": {"samples": 32}},
            "together_sampled": {"hyper": {"order": "simultaneous", "samples": 32}},
            "large": {"tune": {"lr": [1e3, 1e4, 1e5]}},
            "together_large": {"hyper": {"order": "simultaneous"}, "tune": {"lr": [1e3, 1e4, 1e5]}},
        },
        "says": [
            "last gap < together",
            "last gap of sampled < together_sampled",
            "last gap of together_large < large",
        ],
    },
}


@hyper
class DynamicPG(Exact):
    lr: float = arg(1.0, "step size, in those of the theorems", "[0, inf)")
    gamma: float = arg(1.0, "discount", "[0, 1]")
    order: str = arg("dynamic", "which epochs a step trains", ("dynamic", "simultaneous"))
    samples: int = arg(0, "K, trajectories of a gradient; 0: exact", "[0, inf)")

    @classmethod
    def smallest(cls):
        return super().smallest() | dict(env_params=dict(max_steps=3))


def epoch(t, H, hp):
    """The epoch that iteration t trains: h has a share of them that goes by H - h."""
    left = jnp.cumsum(jnp.arange(1, H + 1)) / (H * (H + 1) / 2)
    return H - 1 - jnp.minimum((left <= (t + 0.5) / hp.horizon).sum(), H - 1)


def exactly(pi, mdp, h, hp):
    """∇ [H, S, A] of all epochs, or of what epoch h makes of the later ones."""
    Q, V = episodic.values(mdp.P, mdp.r, pi, hp.gamma)
    w = episodic.occupancy(mdp.P, mdp.rho, pi) * hp.gamma ** jnp.arange(len(pi))[:, None]
    if hp.order == "dynamic":
        w = (jnp.arange(len(pi)) == h)[:, None] / len(mdp.rho)
    return w[..., None] * pi * (Q - V[..., None])


def sampled(key, pi, mdp, h, hp):
    """The same, estimated from trajectories that begin where its weights say."""
    H, dynamic = len(pi), hp.order == "dynamic"
    first, mu = (h, jnp.ones_like(mdp.rho)) if dynamic else (0, mdp.rho)

    def one(key):
        s, a = episodic.episode(key, mdp.P, mu, pi, first)
        k = jnp.arange(H)
        paid = mdp.r[s, a] * hp.gamma ** (k - first)
        to_go = jnp.cumsum(paid[::-1])[::-1] * (k == h if dynamic else 1.0)
        score = jax.nn.one_hot(a, pi.shape[-1]) - pi[k, s]
        return jnp.zeros_like(pi).at[k, s].set(score * to_go[:, None])

    return jax.vmap(one)(jax.random.split(key, hp.samples)).mean(0)


def improve(params, mdp, t, hp):
    H, theta, pi = len(params["theta"]), params["theta"], jax.nn.softmax(params["theta"])
    h, key = epoch(t, H, hp), jax.random.fold_in(params["key"], t)
    grad = sampled(key, pi, mdp, h, hp) if hp.samples else exactly(pi, mdp, h, hp)
    bound = jnp.maximum(jnp.abs(mdp.r).max(), jnp.finfo(theta.dtype).tiny)  # R*
    scale = 2 * (H - jnp.arange(H)) if hp.order == "dynamic" else jnp.full(H, 5 * H**2)
    eta = hp.lr / (scale * bound)
    return params | dict(theta=theta + eta[:, None, None] * grad), dict(epoch=h)


def make(world, network=Network()):
    H = episodic.length(world)
    rewards = lambda mdp: jnp.broadcast_to(mdp.r, (H, *mdp.r.shape))

    def start(key, mdp, hp):
        theta = 0.1 * jax.random.normal(key, (H, *mdp.r.shape))
        return dict(theta=theta, key=jax.random.fold_in(key, 1))

    policy = lambda params, mdp: jax.nn.softmax(params["theta"])
    judge = lambda mdp, pi, hp: episodic.worth(mdp, pi, hp.gamma)
    most = lambda mdp, hp: episodic.most(mdp, rewards(mdp), hp.gamma)
    own = dict(start=start, judge=judge, most=most, play=episodic.play, memory=episodic.memory)
    return exact(improve, policy, **own)
