"""VaGraM. Voelcker, Liao, Garg, Farahmand 2022 (ICLR), arXiv 2204.01464.

A model need be right where values are steep. To first order V(ŝ') - V(s') = ∇V(s')·(ŝ' - s'), and
a bound on its square number by number is a weighted squared error (the paper's L):
  L = E[ Σᵢ (∂V/∂sᵢ(s'))² (ŝ'ᵢ - s'ᵢ)² ] + E[ (r̂ - r)² ],    ∂V/∂s = ∂Q(s, a)/∂s at a = π(s)
summed over both critics and both targets. Gradients are cut at the 95 % quantile of their norms.
The model is deterministic; for the first of the run the plain squared error is added.

From MBPO it differs in the model's loss.

Checked: the authors' code (the four critics, no gradient through a, the quantile, the plain error
in the first epoch; one of its versions divides ∇V by a running mean of its norm). Here errors are
in deviations of the data, so that ∂V/∂sᵢ is times that of sᵢ; weights have mean 1 over each batch;
a terminal weighs nothing, for nothing follows it. Not checked: the text, MuJoCo.
"""

import jax
import jax.numpy as jnp

from jaxrl import dynamics
from jaxrl.critics import ActionValue, ensemble
from jaxrl.families.model_based import imagining
from jaxrl.families.off_policy import off_policy, torso
from jaxrl.hyper import arg, hyper
from jaxrl.papers.model_based.mbpo import MBPO
from jaxrl.papers.off_policy import sac
from jaxrl.policies import Network

PAPER = {
    "slug": "vagram",
    "id": 251,
    "title": "Value Gradient weighted Model-Based Reinforcement Learning",
    "year": 2022,
    "arxiv": "2204.01464",
    "chapter": "model_based",
    "hyper": "VaGraM",
    "parent": "mbpo",
    "changes": "the model's errors are weighed by the value's gradient",
    "claim": "with a small model, among distractors, it beats maximum likelihood",
    "check": {
        "on": {"distract/pendulum": 5_000},
        "hyper": {
            "num_envs": 2,
            "updates": 2,
            "batch_size": 64,
            "learning_starts": 500,
            "lr": 3e-3,
            "members": 2,
            "units": 16,
        },
        "network": {"hidden": [32, 32]},
        "tune": {"model_lr": [3e-3, 1e-2]},
        "arms": {"mbpo": {"paper": "mbpo"}},
        "says": ["final_return > mbpo"],
    },
}


@hyper
class VaGraM(MBPO):
    quantile: float = arg(0.95, "of the gradients' norms, at which they are cut", "(0, 1]")
    early: float = arg(0.05, "share of the run in which the plain error is added", "[0, 1]")


def slopes(Q, params, obs, action):
    """∂Q/∂s of each critic, [K, M, D]; Q: (critics, obs, action) -> [2, M]."""

    def of(critic, k):
        return jax.grad(lambda s: Q(critic, s, action)[k].sum())(obs)

    both = params["critic"], params["target"]["critic"]
    return jnp.stack([of(critic, k) for critic in both for k in (0, 1)])


def weights(g, std, alive, quantile):
    """(∂V/∂sᵢ σᵢ)², summed over the critics' g [K, M, D], in the mean 1: [M, D]."""
    g = g * std
    norm = jnp.linalg.norm(g, axis=-1, keepdims=True)
    most = jnp.quantile(norm, quantile, axis=1, keepdims=True)
    g = jnp.where(norm > most, g * most / jnp.maximum(norm, 1e-8), g)
    w = jnp.square(g).sum(0) * alive[:, None]
    return w / jnp.maximum(w.mean(), 1e-8)


def learner(world, network):
    inner = sac.learner(world, network)
    critics = ensemble(ActionValue(1, torso(network)), 2)[1]
    Q = lambda *args: critics(*args)[..., 0]

    def loss(guess, error, b, params, t, i, hp):
        action = inner.act(params, b.next_obs, (), None, t, hp)[0]
        g, std = slopes(Q, params, b.next_obs, action), dynamics.deviation(params["scale"])[:-1]
        w = weights(g, std, b.discount > 0, hp.quantile)
        plain = jnp.where(t < hp.early * hp.horizon, jnp.square(error).mean(-1), 0.0)
        weighed = (w * jnp.square(error[..., :-1])).mean(-1)
        return weighed + jnp.square(error[..., -1]) + plain

    return imagining(world, inner, loss, noisy=False)


def make(world, network=Network()):
    return off_policy(learner(world, network))
