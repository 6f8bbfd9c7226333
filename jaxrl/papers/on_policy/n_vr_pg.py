"""N-VR-PG. Barakat, Fatkhullin, He 2023 (ICML), arXiv 2306.01854.

Maximise F(λ), λ(s) = (1 - γ) Σₜ γᵗ Pr(sₜ = s): no reward, but a utility of how often each state is
seen; ∇F(λ) is the reward that stands for it. Here F is the entropy, to see everything. With θ' the
parameters before θ, r = ∇F(λ), r' that of the λ before, and w = Πₜ π_θ'(aₜ|sₜ) / π_θ(aₜ|sₜ),
  λ <- η λ(τ) + (1 - η) (λ + (1 - w) λ(τ)),
  d <- η g(τ, θ, r) + (1 - η) (d + g(τ, θ, r) - w g(τ, θ', r')),   θ <- θ + α d / |d|,
  g(τ, θ, r) = Σₜ ∇log π_θ(aₜ|sₜ) Σ_{h≥t} γʰ r(s_h).  A rollout is a trajectory, or a few.

From policy gradients (REINFORCE) it differs in what is maximised, and in a momentum that corrects
what it remembers for the parameters having moved: η = 1 forgets everything, and is plain.
Not checked: the text (which F it tries; schedules of η and α, here constant), utilities of actions,
the regression of λ on features for large spaces.
"""

import jax
import jax.numpy as jnp
import optax

from jaxrl import returns
from jaxrl.core import Part
from jaxrl.families.exact import occupancy, tables
from jaxrl.families.on_policy import OnPolicy, on_policy, stateless, watched
from jaxrl.hyper import arg, hyper
from jaxrl.policies import Network, policy_for

PAPER = {
    "slug": "n_vr_pg",
    "id": 309,
    "title": "Reinforcement Learning with General Utilities: Simpler Variance Reduction and "
    "Large State-Action Space",
    "year": 2023,
    "arxiv": "2306.01854",
    "chapter": "on_policy",
    "hyper": "NVRPG",
    "parent": "reinforce",
    "changes": "a utility of the occupancy, and a normalised step with variance-reduced momentum",
    "claim": "from as many trajectories it comes nearer to the most entropy than without memory",
    "check": {
        "on": {"tabular/chain": 60_000, "tabular/queues": 60_000},
        "tune": {"lr": [0.003, 0.01, 0.03]},
        "by": "last utility",
        "arms": {"plain": {"hyper": {"eta": 1.0}}},
        "says": ["last utility > plain on tabular/chain", "last utility > plain on tabular/queues"],
    },
    "inert": {
        "lam": "there is no critic",
        "vf_coef": "there is no critic",
        "ent_coef": "there is no bonus",
        "max_grad_norm": "every step has the same length",
    },
    "battery": {"run": {"env": "tabular/chain"}, "network": {"hidden": ()}},
}


@hyper
class NVRPG(OnPolicy):
    UNREAD = dict.fromkeys(("accumulate", "storage"), "a step is of whole trajectories, as seen")
    lr: float = arg(0.01, "α, the length of a step", "[0, inf)")
    eta: float = arg(0.1, "η, weight of the newest trajectory; 1: no memory", "(0, 1]")
    gamma: float = 0.9
    num_envs: int = 1
    num_steps: int = 40
    minibatches: int = 1

    @staticmethod
    def network_for(kind):
        return Network(hidden=())  # of a row with a one it makes a table


def entropy(occupancy):
    """F(λ) = -Σ λ log λ, where an estimated λ is held positive."""
    x = jnp.maximum(occupancy, 1e-3)
    return -(x * jnp.log(x)).sum()


def visits(b, gamma):
    """λ(τ) [S], and γᵗ [T, N], of whole trajectories."""
    weight = gamma ** jnp.arange(len(b.start))[:, None] * jnp.ones_like(b.reward)
    return (1 - gamma) * (weight[..., None] * b.obs).sum((0, 1)) / b.start.shape[1], weight


def variance_reduced(policy, utility=entropy):
    """The update, its slot (λ, r, d, θ'): out = (state, metrics)."""

    def init(key, s, hp, world):
        S = len(tables(world).rho)
        return jnp.full(S, 1 / S), jnp.zeros(S), optax.tree.zeros_like(s.params), s.params

    def update(slot, s, b, t, hp, world):
        occ, last_r, d, last = slot
        r, (seen, weight) = jax.grad(utility)(occ), visits(b, hp.gamma)
        log_prob = lambda params: policy.judge(params, params, b, s.key).log_prob

        def g(params, r):
            to_go = returns.backward(weight * (b.obs @ r), jnp.ones_like(weight))
            return jax.grad(lambda p: (log_prob(p) * to_go).sum(0).mean())(params)

        w = jnp.exp((log_prob(last) - log_prob(s.params)).sum(0)).mean()
        occ = hp.eta * seen + (1 - hp.eta) * (occ + (1 - w) * seen)
        mix = lambda new, old, d: hp.eta * new + (1 - hp.eta) * (d + new - w * old)
        d = jax.tree.map(mix, g(s.params, r), g(last, last_r), d)
        step = hp.lr / jnp.maximum(optax.tree.norm(d), 1e-8)
        now = s.replace(params=optax.tree.add_scale(s.params, step, d))
        return (occ, r, d, s.params), (now, dict(weight=w))

    return Part(init, update)


def make(world, network=Network()):
    policy = policy_for(world, network)

    def measure(s, b, hp, world):
        S = len((mdp := tables(world)).rho)
        logits = policy.act(s.params, jnp.eye(S), jnp.zeros(S, bool), (), None)[1]["out"]
        return dict(utility=entropy(occupancy(mdp, jax.nn.softmax(logits), hp.gamma)))

    advantage = stateless(lambda s, b, *_: b.replace(advantage=b.reward, target=b.value))
    update = watched(variance_reduced(policy), measure)
    return on_policy(policy, advantage=advantage, update=update)
