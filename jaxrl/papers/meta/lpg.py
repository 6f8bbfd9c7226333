"""LPG, Learned Policy Gradient. Oh, Hessel, Czarnecki, Xu, van Hasselt, Singh, Silver 2020
(NeurIPS), arXiv 2007.08794.

What a policy is moved by, and what its predictions y mean, is the output of a network η that reads
a trajectory backwards; y(s) is a categorical distribution that nobody defined:
  π̂_t, ŷ_t = U_η(x_t | x_{t+1}, ...),   x_t = [r_t, d_t, γ, π(a_t|s_t), φ(y(s_t)), φ(y(s_{t+1}))]
  Δθ ∝ E[ ∇log π(a|s) π̂ - α_y ∇KL(y(s) || ŷ) ]                                            (eq. 2)
U is an LSTM that forgets where an episode ended, φ a small network, α_y the critic's weight.

η is evolved over whole training runs on small gridworlds, each drawn anew.

Checked: GROOVE's code of LPG (a GRU of 256 units, masking, pairs ranked 0 or 1). There, as in the
paper, η is mostly learned by meta-gradients over parts of a life, with entropies and norms as
regularisers; here by evolution strategies, which that code has too. Not checked: the paper's text.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrl.families.meta import Meta, Rule, evolution, uniform
from jaxrl.families.on_policy import on_policy, stateless
from jaxrl.hyper import hyper
from jaxrl.policies import Network, policy_for
from jaxrl.surrogate import policy_gradient

PAPER = {
    "slug": "lpg",
    "reference": True,
    "title": "Discovering Reinforcement Learning Algorithms",
    "year": 2020,
    "arxiv": "2007.08794",
    "chapter": "meta",
    "hyper": "LPG",
    "parent": "a2c",
    "changes": "targets of policy and predictions are a network's, learned over whole runs",
    "claim": "evolution raises the return that a life under the rule reaches on new levels",
    "check": {
        "on": {"levels/grid": 1_638_400},
        "arms": {"untrained": {"hyper": {"meta_lr": 0.0}}},
        "says": ["last fresh_fitness > untrained"],
    },
    "inert": {
        "lam": "there are no advantages",
        "ent_coef": "the rule decides",
    },
}
WIDTH, UNITS = 8, 16  # of y, of the LSTM


@hyper
class LPG(Meta):
    vf_coef: float = 0.5


class Net(nn.Module):
    """(r, done, γ, π(a|s) [T, N], y, y' [T, N, WIDTH]) -> (π̂ [T, N], log ŷ [T, N, WIDTH])."""

    @nn.compact
    def __call__(self, r, done, gamma, pi, y, ahead):
        phi = nn.Sequential([nn.Dense(16), nn.relu, nn.Dense(1)])
        over = done.astype(jnp.float32)
        x = jnp.stack([r, over, jnp.full_like(r, gamma), pi], -1)
        x = jnp.concatenate([x, phi(y), phi(ahead) * (1 - over)[..., None]], -1)

        def step(cell, carry, x):
            x, done = x
            carry = jax.tree.map(lambda c: jnp.where(done[:, None], 0.0, c), carry)
            return cell(carry, x)

        nothing = jnp.zeros((r.shape[1], UNITS))
        once: Any = {"params": False}  # the same at each step
        backward = nn.scan(step, variable_broadcast="params", split_rngs=once, reverse=True)
        h = nn.relu(backward(nn.LSTMCell(UNITS), (nothing, nothing), (x, done))[1])
        return nn.Dense(1)(h)[..., 0], jax.nn.log_softmax(nn.Dense(WIDTH)(h))


def init(key):
    one = jnp.zeros((1, 1))
    return Net().init(key, one, one > 0, 0.0, one, *[jnp.zeros((1, 1, WIDTH))] * 2)


def targets(eta, b, hp):
    """π̂ and log ŷ as the batch's advantage and target."""
    y, ahead = jax.nn.softmax(b.value), jax.nn.softmax(b.next_value)
    pi = jnp.exp(b.old["log_prob"])
    pi_hat, y_hat = Net().apply(eta, b.reward, b.done, hp.gamma, pi, y, ahead)
    return b.replace(advantage=pi_hat, target=y_hat)


def prediction_loss(w, b, hp):
    """KL(y || ŷ)."""
    log_y = jax.nn.log_softmax(w.value)
    return (jnp.exp(log_y) * (log_y - b.target)).sum(-1)


def agent(eta, world, network):
    policy = policy_for(world, network, WIDTH)
    part = stateless(lambda s, b, t, hp, world: targets(eta, b, hp))
    algo = on_policy(policy, policy_gradient, value_loss=prediction_loss, advantage=part)
    plain = lambda hp: hp.replace(ent_coef=0.0)
    step = lambda s, t, hp, world: algo.step(s, t, plain(hp), world)
    return algo._replace(step=step)


def make(world, network=Network(hidden=())):
    return evolution(Rule(init, agent), uniform(), network, world)
