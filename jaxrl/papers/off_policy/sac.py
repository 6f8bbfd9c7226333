"""SAC. Haarnoja et al. 2018, arXiv 1812.05905 (1801.01290 for its first form).

Maximum-entropy actor-critic, with a temperature α that keeps the entropy near a target H̄:
  y = r + γ (min_{i=1,2} Q'ᵢ(s', a') - α log π(a'|s')),  a' ~ π,   L = Σᵢ E[(Qᵢ(s, a) - y)²] / 2
  J(π) = E[α log π(a|s) - minᵢ Qᵢ(s, a)],   a = tanh(μ(s) + σ(s) ε) reparameterised         (eq. 9)
  J(α) = E[-α (log π(a|s) + H̄)],    H̄ = -|A|                                              (eq. 18)

From TD3 it differs in learning a distribution, and in being paid for its entropy.
"""

import jax
import jax.numpy as jnp

from jaxrl.core import Learner
from jaxrl.critics import ActionValue, ensemble
from jaxrl.families.off_policy import (
    OffPolicy,
    actions,
    fit,
    off_policy,
    optimisers,
    torso,
    with_targets,
)
from jaxrl.heads import gaussian
from jaxrl.hyper import arg, hyper
from jaxrl.networks import Actor
from jaxrl.policies import Network

PAPER = {
    "slug": "sac",
    "reference": True,
    "title": "Soft Actor-Critic Algorithms and Applications",
    "year": 2018,
    "arxiv": "1812.05905",
    "chapter": "off_policy",
    "hyper": "SAC",
    "parent": "td3",
    "changes": "a stochastic policy that is paid for its entropy, by a temperature that adapts",
    "claim": "it swings up the pendulum as in the RL Zoo (-157 in 20,000 steps)",
    "check": {
        "on": {"Pendulum-v1": 20_000},
        "tune": {"lr": [3e-4, 1e-3, 3e-3]},
        "arms": {},
        "says": ["final_return > -170"],
    },
}

move = with_targets("critic")


@hyper
class SAC(OffPolicy):
    entropy: float = arg(-1.0, "H̄, the entropy that α aims at, in nats for each number of a")


def half_squared_error(q, y, t, hp):
    return 0.5 * jnp.square(q - y)


def learner(world, network, critic_loss=half_squared_error):
    """critic_loss: (q [2, M], y [M], t, hp) -> [2, M]."""
    d = actions(world)
    head = gaussian(d, state_std=True, squash=True)
    actor = Actor(head.size, torso(network))
    init_critic, critics = ensemble(ActionValue(1, torso(network)), 2)
    Q = lambda *args: critics(*args)[..., 0]

    def init(key, obs, hp):
        k_actor, k_critic = jax.random.split(key)
        a = jnp.zeros((jax.tree.leaves(obs)[0].shape[0], d))
        params = dict(actor=actor.init(k_actor, obs), critic=init_critic(k_critic, obs, a))
        return move(params | dict(log_alpha=jnp.zeros(())), 1.0)

    def pi(params, obs):
        return head.distribution(head.output({}, actor.apply(params, obs), obs))

    def draw(params, obs, key):
        """Actions [M, d] and their log-probabilities [M]."""
        dist = pi(params, obs)
        raw = head.sample(dist, jax.random.normal(key, (*dist.mode().shape,)))
        return head.action(raw), dist.log_prob(raw)

    def update(params, opt, b, key, t, i, hp):
        k_ahead, k_actor = jax.random.split(key)
        alpha = jnp.exp(params["log_alpha"])
        ahead, log_prob = draw(params["actor"], b.next_obs, k_ahead)
        soft = Q(params["target"]["critic"], b.next_obs, ahead).min(0) - alpha * log_prob
        y = b.reward + b.discount * soft

        def of_critic(p):
            q = Q(p, b.obs, b.action)
            error = critic_loss(q, y, t, hp).mean(1).sum()
            return error, dict(critic_loss=error, q=q.mean())

        def of_actor(p):
            a, log_prob = draw(p, b.obs, k_actor)
            L = (alpha * log_prob - Q(params["critic"], b.obs, a).min(0)).mean()
            return L, dict(actor_loss=L, entropy=-log_prob.mean())

        params, opt, stats = fit(params, opt, "critic", of_critic, hp, t)
        params, opt, more = fit(params, opt, "actor", of_actor, hp, t)
        too_much = more["entropy"] - hp.entropy * d
        of_alpha = lambda log_alpha: (jnp.exp(log_alpha) * too_much, dict(alpha=jnp.exp(log_alpha)))
        params, opt, last = fit(params, opt, "log_alpha", of_alpha, hp, t)
        return move(params, hp.tau), opt, stats | more | last

    def act(params, obs, memory, key, t, hp):
        if key is None:
            return head.action(pi(params["actor"], obs).mode()), memory
        return draw(params["actor"], obs, key)[0], memory

    return Learner(init, optimisers("actor", "critic", "log_alpha"), update, act)


def make(world, network=Network()):
    return off_policy(learner(world, network))
