"""Improper RL (ACIL). Zaki, Mohan, Gopalan, Mannor 2022 (ICML), arXiv 2207.09090.

Given are M controllers K_m(a|s). The learner picks one at every step, m ~ softmax(θ), which plays:
  π_θ(a|s) = Σ_m softmax(θ)_m K_m(a|s),    a mixture that may be better than each of them.
With Ã(s, m) the advantage of m for one step, and d the discounted distribution of states,
  actor-critic: θ <- θ + α ∇J,        (∇J)_m = softmax(θ)_m E_d[Ã(s, m)] / (1 - γ),
  natural:      θ <- θ + α F⁺ ∇J,     F⁺ ∇J = ∇J / softmax(θ) up to a constant, since Σ (∇J)_m = 0;
Ã is estimated by the TD error of a critic that is linear in the features of a state. It differs
from actor-critics (A2C) in what an action is: a controller, whatever the state.
Checked: the gradient and F⁺ (derived here) by enumeration. An action weighs γᵗ within its episode,
else the steps do not follow J. By the mode the controllers take turns, each as often as its share.
Not checked: the text (steps, schedules, the critic's features), its cartpole.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxrl import heads, policies
from jaxrl.core import Policy
from jaxrl.families.exact import draw, expected_return, tables
from jaxrl.families.on_policy import OnPolicy, gae, on_policy, sgd, stateless, watched
from jaxrl.hyper import Linear, arg, at, hyper
from jaxrl.policies import Network
from jaxrl.surrogate import policy_gradient

PAPER = {
    "slug": "improper_rl",
    "id": 277,
    "title": "Actor-Critic based Improper Reinforcement Learning",
    "year": 2022,
    "arxiv": "2207.09090",
    "chapter": "on_policy",
    "hyper": "ImproperRL",
    "parent": "a2c",
    "changes": "actions are given controllers; what is learned is how to mix them",
    "claim": "it comes within 1 % of the best mixture, worth a fifth more than the best controller",
    "check": {  # the best mixture is worth -15.633, the better controller -19.885
        "on": {"tabular/queues": 200_000},
        "tune": {"lr": ["0.03:0", "0.1:0", "0.3:0"]},
        "by": "last objective",
        "arms": {"plain": {"hyper": {"natural": False}}},
        "says": ["last objective > -15.79", "last objective > plain - 0.16"],
    },
    "inert": {"max_grad_norm": "the steps are not clipped"},
    "battery": {"run": {"env": "tabular/queues"}, "env_params": {"max_steps": 8}},
}


@hyper
class ImproperRL(OnPolicy):
    lr: float | Linear = Linear(0.1, 0.0)  # α; steps must shrink, or their noise stays
    critic_lr: float = arg(1.0, "Adam's step size for the critic", "[0, inf)")
    natural: bool = arg(True, "precondition the actor's step by the Fisher matrix")
    gamma: float = 0.9
    lam: float = 0.0
    ent_coef: float = 0.0
    num_steps: int = 60
    epochs: int = 1
    minibatches: int = 1
    normalise_advantage: bool = False


def mixture(K: jax.Array) -> Policy:
    """The policy over controllers K [M, S, A]; what it draws is a controller."""
    M, S, _ = K.shape
    head, init = heads.categorical(M), dict(theta=jnp.zeros(M), critic=jnp.zeros(S))

    def look(params, obs, start):
        return jnp.broadcast_to(params["theta"], (*start.shape, M)), obs @ params["critic"]

    def act(params, obs, start, owed, key):
        theta, value = look(params, obs, start)
        keys = (None, None) if key is None else jax.random.split(key)
        m, record = policies.choose(head, theta, keys[0])
        if key is None:
            owed = owed + jax.nn.softmax(theta)
            m = owed.argmax(-1)
            owed = owed - jax.nn.one_hot(m, M)
        return draw(K[m, obs.argmax(-1)], keys[1]), record, value, owed

    def judge(params, old_params, b, key):
        return policies.view(head, *look(params, b.obs, b.start), b)

    return Policy(lambda key, obs: init, lambda n: jnp.zeros((n, M)), act, judge)


def discounted(s, b, t, hp, world):
    """TD errors times γᵗ, t the step of its episode, times T: so that a mean is a sum over t."""
    b, now = gae(s, b, t, hp, world), jnp.arange(len(b.start))[:, None]
    age = now - jax.lax.cummax(jnp.where(b.start, now, 0))
    return b.replace(advantage=hp.gamma**age * len(now) * b.advantage)


def steps(hp, t: Any = 0):
    """α times the gradient for θ, natural or not; Adam for the critic."""
    critic = optax.adam(hp.critic_lr)
    init: Any = lambda params: critic.init(params["critic"])

    def update(updates: Any, state: Any, params: Any = None):
        p = jnp.maximum(jax.nn.softmax(params["theta"]), 1e-3) if hp.natural else 1.0
        w, state = critic.update(updates["critic"], state)
        return dict(theta=-at(hp.lr, t, hp) * updates["theta"] / p, critic=w), state

    return optax.GradientTransformation(init, update)


def make(world, network=Network()):
    K = tables(world).controllers
    policy = mixture(K)

    def measure(s, b, hp, world):
        pi = jnp.tensordot(jax.nn.softmax(s.params["theta"]), K, 1)
        return dict(objective=expected_return(tables(world), pi, hp.gamma))

    update = watched(sgd(policy, policy_gradient, optimiser=steps), measure)
    return on_policy(policy, advantage=stateless(discounted), update=update, optimiser=steps)
