"""CQL: conservative Q-learning. Kumar, Zhou, Tucker, Levine 2020 (NeurIPS), arXiv 2006.04779.

SAC on a dataset, whose critics are low where the data are not: CQL(H)                      (eq. 4)
  L = Σᵢ E_D[ (Qᵢ(s, a) - y)² ] + α E_D[ log ∫ exp Qᵢ(s, ã) dã - Qᵢ(s, a) ]
  y = r + γ minᵢ Q'ᵢ(s', a'),  a' ~ π(.|s')
The integral is by importance sampling, N actions from each of: uniform, π(.|s), π(.|s').
From SAC it differs in the second term, and in targets that are not paid for entropy.
This is the released code's variant, and was checked against it: no 1/2 before the squared error, as
eq. 4 has it, so that α is twice the paper's; a fixed α, where Lagrange's is an option; no cloning
first. There the integral lacks 1/(3N), a constant. α is on the scale of values: Pendulum's returns
span 1500, and at α = 5, the released code's, it still hopes for actions that nobody tried.
"""

import math

import jax
import jax.numpy as jnp

from jaxrl.critics import ActionValue, ensemble
from jaxrl.families.off_policy import actions, fit, torso
from jaxrl.families.offline import Offline, offline
from jaxrl.heads import gaussian
from jaxrl.hyper import arg, hyper
from jaxrl.networks import Actor
from jaxrl.papers.off_policy import sac
from jaxrl.policies import Network

PAPER = {
    "slug": "cql",
    "reference": True,
    "title": "Conservative Q-Learning for Offline Reinforcement Learning",
    "year": 2020,
    "arxiv": "2006.04779",
    "chapter": "offline",
    "hyper": "CQL",
    "parent": "sac",
    "changes": "a penalty on the values of actions that the data do not hold",
    "claim": "it beats cloning mixed data; without the penalty it fails on an expert's",
    "check": {
        "on": {
            "experiments/datasets/pendulum-mixed.npz": 3000,
            "experiments/datasets/pendulum-expert.npz": 3000,
        },
        "hyper": {"batch_size": 64, "tau": 0.02},
        "tune": {"weight": [5.0, 20.0, 80.0]},
        "arms": {
            "without": {"hyper": {"weight": 0.0, "samples": 1}, "tune": {"lr": [3e-4, 1e-3, 3e-3]}},
            "bc": {"paper": "bc", "tune": {"lr": [3e-4, 1e-3, 3e-3]}},
        },
        "says": [
            "final_return > without on experiments/datasets/pendulum-expert.npz",
            "final_return > bc on experiments/datasets/pendulum-mixed.npz",
        ],
    },
}


@hyper
class CQL(Offline):
    weight: float = arg(5.0, "α, of low values where the data are not", "[0, inf)")
    samples: int = arg(10, "N, actions of each proposal", "[1, inf)")
    entropy: float = arg(-1.0, "what the temperature makes entropy, in nats for each number")


def log_integral(q, log_density):
    """log ∫ exp Q(s, ã) dã, from K actions that were drawn: q [2, K, M], log_density [K, M]."""
    return jax.nn.logsumexp(q - log_density, 1) - math.log(q.shape[1])


def learner(world, network):
    d = actions(world)
    head = gaussian(d, state_std=True, squash=True)
    actor, critic = Actor(head.size, torso(network)), ActionValue(1, torso(network))
    Q = lambda *args: ensemble(critic, 2)[1](*args)[..., 0]
    each = jax.vmap(Q, (None, None, 0), 1)  # of actions [K, M, d]: [2, K, M]

    def draw(p, obs, key, *n):
        """Actions [*n, M, d] and their log-probabilities [*n, M]."""
        dist = head.distribution(head.output({}, actor.apply(p, obs), obs))
        raw = head.sample(dist, jax.random.normal(key, (*n, *dist.mode().shape)))
        return head.action(raw), dist.log_prob(raw)

    def proposals(p, b, key, N):
        """Actions [3 N, M, d] and the logarithms of their densities [3 N, M]."""
        k_any, k_now, k_ahead = jax.random.split(key, 3)
        anything = jax.random.uniform(k_any, (N, *b.action.shape), minval=-1.0)
        uniform = anything, jnp.full(anything.shape[:-1], -d * math.log(2.0))
        drawn = uniform, draw(p, b.obs, k_now, N), draw(p, b.next_obs, k_ahead, N)
        return jax.tree.map(lambda *x: jnp.concatenate(x), *drawn)

    def update(params, opt, b, key, t, i, hp):
        k_ahead, k_actor, k_proposals = jax.random.split(key, 3)
        alpha = jnp.exp(params["log_alpha"])
        ahead = draw(params["actor"], b.next_obs, k_ahead)[0]
        y = b.reward + b.discount * Q(params["target"]["critic"], b.next_obs, ahead).min(0)
        a_any, density = proposals(params["actor"], b, k_proposals, hp.samples)

        def of_critic(p):
            q = Q(p, b.obs, b.action)
            gap = (log_integral(each(p, b.obs, a_any), density) - q).mean(1).sum()
            error = jnp.square(q - y).mean(1).sum()
            return error + hp.weight * gap, dict(critic_loss=error, gap=gap, q=q.mean())

        def of_actor(p):
            a, log_prob = draw(p, b.obs, k_actor)
            L = (alpha * log_prob - Q(params["critic"], b.obs, a).min(0)).mean()
            return L, dict(actor_loss=L, entropy=-log_prob.mean())

        params, opt, stats = fit(params, opt, "critic", of_critic, hp, t)
        params, opt, more = fit(params, opt, "actor", of_actor, hp, t)
        much = more["entropy"] - hp.entropy * d
        of_alpha = lambda x: (jnp.exp(x) * much, dict(alpha=jnp.exp(x)))
        params, opt, last = fit(params, opt, "log_alpha", of_alpha, hp, t)
        return sac.move(params, hp.tau), opt, stats | more | last

    return sac.learner(world, network)._replace(update=update)


def make(world, network=Network()):
    return offline(learner(world, network))
