"""Hyper++. Klein, Lang, Shkabrii, Sturm, Sidak, Miklautz et al. 2025, arXiv 2512.14202.

PPO on a hyperboloid: x of d dimensions are the torso's features for the actor, or the critic,
  u = tanh(x / rms(x)) / √d,   v = atanh(0.95) σ(gate(u)) u,   h = exp_o(v),
  logits = ‖z‖ asinh( cosh(r) <h₁.., z>/‖z‖ - sinh(r) h₀ ),  a hyperplane (z, r) for each;
  V = Σ p c over the centres c of 51 bins on [-10, 10], p by cross-entropy to the bins' masses of
  N(V_targ, (0.75 width)²) (HL-Gauss).
From PPO it differs in geometry; from a naive hyperbolic PPO (`bounded` and `categorical` off:
v = relu(x), squared error) in that ‖v‖ < 1.84, so that exp_o has bounded gradients.

Checked: the authors' code (d = 32, curvature -1, scaled rewards). Left out: its clamps of asinh's
argument (float64 there), its advantages anew in each epoch, DDQN. Not checked: the text.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl import heads
from jaxrl.core import Algo, Policy
from jaxrl.errors import InputError
from jaxrl.families.on_policy import OnPolicy, on_policy, squared_error
from jaxrl.hyper import arg, hyper
from jaxrl.hyperbolic import Hyperbolic
from jaxrl.papers.on_policy.ppo import clip
from jaxrl.policies import TORSOS, Network, feedforward

PAPER = {
    "slug": "hyper_plus_plus",
    "id": 101,
    "title": "Understanding and Improving Hyperbolic Deep Reinforcement Learning",
    "year": 2025,
    "arxiv": "2512.14202",
    "chapter": "on_policy",
    "hyper": "HyperPlusPlus",
    "parent": "ppo",
    "changes": "a hyperbolic last layer on features of bounded norm, and a categorical critic",
    "claim": "it keeps a trust region that a naive hyperbolic PPO leaves, and a flat PPO's return",
    "check": {
        "on": {"CartPole-v1": 75_000, "Acrobot-v1": 100_000},
        "hyper": {"normalise_reward": True},
        "tune": {"lr": [1e-3, 2.5e-3, 5e-3]},
        "arms": {
            "naive": {"hyper": {"bounded": False, "categorical": False}},
            "ppo": {"paper": "ppo"},
        },
        "says": ["mean approx_kl < naive", "max approx_kl < naive", "final_return > ppo - 0.1"],
    },
}

EDGES = np.linspace(-10.0, 10.0, 52)  # of the critic's bins
CENTRES, SIGMA = (EDGES[1:] + EDGES[:-1]) / 2, 0.75 * (EDGES[1] - EDGES[0])


@hyper
class HyperPlusPlus(OnPolicy):
    eps: float = arg(0.2, "clip range of the ratio; inf: off", "(0, inf]")
    normalise_reward: bool = True
    bounded: bool = arg(True, "features normalised and scaled into a ball before the exponential")
    categorical: bool = arg(True, "a critic of bins by cross-entropy; otherwise it regresses")


def hl_gauss(target: jax.Array) -> jax.Array:
    """The share of N(target, σ²) in each bin, [..., bins], of what lies in any."""
    x = jnp.clip(target, EDGES[0], EDGES[-1])[..., None]
    p = jnp.diff(jax.scipy.special.erf((EDGES - x) / (2**0.5 * SIGMA)))
    return p / p.sum(-1, keepdims=True)


def cross_entropy(w, b, hp):
    return -(hl_gauss(b.target) * jax.nn.log_softmax(w.record["critic"])).sum(-1)


def hyperbolic(world, network: Network, bounded: bool = True, categorical: bool = True) -> Policy:
    """A policy whose critic's logits are in its record; V is their mean, or the only one."""
    head = heads.for_space(world.action_space, network.head)
    torso = partial(TORSOS[network.torso], network.hidden, network.activation)
    bins, radius = len(CENTRES) if categorical else 1, np.arctanh(0.95) if bounded else np.inf
    inner = feedforward(Hyperbolic(head.size, bins, torso, network.shared, radius), head)
    mean = lambda x: (jax.nn.softmax(x) * CENTRES).sum(-1) if categorical else x[..., 0]

    def act(params, obs, start, memory, key):
        action, record, x, memory = inner.act(params, obs, start, memory, key)
        return action, record | dict(critic=x), mean(x), memory

    def judge(params, old_params, batch, key):
        w = inner.judge(params, old_params, batch, key)
        return w._replace(value=mean(w.value), record=w.record | dict(critic=w.value))

    return inner._replace(act=act, judge=judge)


def switched(build) -> Algo:
    """The algorithm that `build(hp)` makes: for what is static in hp and shapes the network."""
    return Algo(
        lambda key, hp, world: build(hp).init(key, hp, world),
        lambda s, t, hp, world: build(hp).step(s, t, hp, world),
        lambda s, obs, memory, key, hp: build(hp).act(s, obs, memory, key, hp),
    )


def make(world, network=Network()):
    if network.memory:
        raise InputError(f"memory: {network.memory}: hyper_plus_plus has none; use 0")

    def build(hp):
        policy = hyperbolic(world, network, hp.bounded, hp.categorical)
        return on_policy(
            policy, clip, value_loss=cross_entropy if hp.categorical else squared_error
        )

    return switched(build)
