"""N-HARPG and N-PG-IGT. Fatkhullin, Barakat, Kireeva, He 2023 (ICML), arXiv 2302.01734.

One step a rollout along a direction that remembers, θₜ₊₁ = θₜ + γₜ dₜ / ‖dₜ‖, where
  N-PG-IGT (implicit gradient transport):  dₜ = (1-η) dₜ₋₁ + η g(τ; θ̃),
    τ collected by θ̃ = θₜ + (1-η)/η (θₜ - θₜ₋₁)
  N-HARPG (Hessian-aided recursion):       dₜ = (1-η) (dₜ₋₁ + B(τ̂; θ̂) (θₜ - θₜ₋₁)) + η g(τ; θₜ),
    τ̂ collected by θ̂ = q θₜ + (1-q) θₜ₋₁, q uniform in [0, 1]
  g = ∇Φ,  Φ(τ; θ) = Σₕ Aₕ log π(aₕ|sₕ),  B v = ∇²Φ v + ∇Φ (∇log p(τ) · v),
  ηₜ = η₀ (2/(2+t))ᵃ,  γₜ = lr (2/(2+t))ᵇ.
From REINFORCE it differs in the memory, brought from where it was to θₜ, and in the step's length.

States are not discounted; an episode is what of it lies in the rollout (where it outlasts that B is
biased); the critic has Adam; the second rollout counts. `agreement` is cos(d brought, g). Checked:
part of the authors' code, whose powers a, b these are (its B has means, and, it seems, a minus).
"""

import jax
import jax.numpy as jnp
import optax

from jaxrl.core import Part
from jaxrl.families.on_policy import OnPolicy, gae, on_policy, sgd, stateless
from jaxrl.gradients import gradient, hessian_vector_product
from jaxrl.hyper import arg, hyper
from jaxrl.policies import Network, policy_for
from jaxrl.rollout import rollout

PAPER = {
    "slug": "harpg",
    "id": 41,
    "title": "Stochastic Policy Gradient Methods: Improved Sample Complexity for "
    "Fisher-non-degenerate Policies",
    "year": 2023,
    "arxiv": "2302.01734",
    "chapter": "on_policy",
    "hyper": "HARPG",
    "parent": "reinforce",
    "changes": "a memory of gradients, brought to where the policy is by Hessian-vector products",
    "claim": "memory that is brought agrees more with the gradient; it learns faster than none",
    "check": {
        "on": {"CartPole-v1": 50_000, "Catch-bsuite": 50_000},
        "tune": {"lr": [0.1, 0.3, 1.0, 3.0]},
        "arms": {
            "igt": {"hyper": {"variant": "igt"}},
            "still": {"hyper": {"variant": "still"}},
            "pg": {"hyper": {"variant": "pg"}},
        },
        "says": ["mean agreement > still", "mean episode_return > pg"],
    },
}
POWERS = {"harpg": (1, 1), "still": (1, 1), "igt": (4 / 5, 1), "pg": (0, 2 / 3)}  # a, b


@hyper
class HARPG(OnPolicy):
    UNREAD = {"accumulate": "a step is of a rollout as a whole"}
    variant: str = arg("harpg", "still: B = 0; pg: no memory", tuple(POWERS))
    lr: float = arg(0.3, "length of the first step, or what stands before d", "[0, inf)")
    eta: float = arg(1.0, "η₀, weight of the newest gradient at first", "(0, 1]")
    critic_lr: float = arg(2.5e-3, "Adam's step size for the critic", "[0, inf)")
    lam: float = 1.0  # Monte-Carlo, as in `reinforce`
    num_envs: int = 4
    num_steps: int = 32
    minibatches: int = 1
    normalise_advantage: bool = False  # gradients of several rollouts are added

    @property
    def steps_per_iteration(self) -> int:
        return self.num_envs * self.num_steps * (2 if self.variant == "harpg" else 1)


def ahead(params, slot, t, hp):
    """(η, where the rollout is collected): θ̃, or θ itself where d is not brought by it."""
    eta = hp.eta * (2 / (2 + t)) ** POWERS[hp.variant][0]
    far = (1 - eta) / eta if hp.variant == "igt" else 0.0
    return eta, optax.tree.add_scale(params, far, slot["step"])


def collect(policy, params, s, key, hp, world):
    stage, b, metrics = rollout(policy, params, s.stage, key, hp, world, hp.num_steps)
    return s.replace(stage=stage), b, metrics


def ascent(policy, critic) -> Part:
    """A step along d, and the critic's update. The slot: d, and the last step."""

    def init(key, s, hp, world):
        return dict.fromkeys(("d", "step"), optax.tree.zeros_like(s.params))

    def update(slot, s, b, t, hp, world):
        key, k, k_q, k_rollout = jax.random.split(s.key, 4)
        d, (eta, theta), norm = slot["d"], ahead(s.params, slot, t, hp), optax.tree.norm
        if hp.variant == "harpg":
            between = optax.tree.add_scale(s.params, -jax.random.uniform(k_q), slot["step"])
            s, c, _ = collect(policy, between, s, k_rollout, hp, world)
            c = gae(s, c, t, hp, world)
            d = optax.tree.add(d, hessian_vector_product(policy, between, c, slot["step"], k, hp))
        g = gradient(policy, theta, b, k, hp)
        agreement = optax.tree.vdot(d, g) / jnp.maximum(norm(d) * norm(g), 1e-30)
        d = optax.tree.add_scale(d, eta, optax.tree.sub(g, d))
        gamma = hp.lr * (2 / (2 + t)) ** POWERS[hp.variant][1]
        step = optax.tree.scale(gamma / jnp.maximum(norm(d), 1e-30), d)
        alone = hp.replace(lr=hp.critic_lr, ent_coef=0.0)
        _, (s, stats) = critic.apply((), s.replace(key=key), b, t, alone, world)
        stats |= dict(agreement=agreement, grad_norm=norm(g), d_norm=norm(d))
        return dict(d=d, step=step), (s.replace(params=optax.tree.add(s.params, step)), stats)

    return Part(init, update)


def make(world, network=Network()):
    policy = policy_for(world, network)
    critic = sgd(policy, lambda w, b, hp: jnp.zeros(()), sequences=network.memory > 0)

    def sample(s, _, t, hp, world):
        key, k = jax.random.split(s.key)
        theta = ahead(s.params, s.slots["update"], t, hp)[1]
        return collect(policy, theta, s.replace(key=key), k, hp, world)

    return on_policy(policy, sampler=stateless(sample), update=ascent(policy, critic))
