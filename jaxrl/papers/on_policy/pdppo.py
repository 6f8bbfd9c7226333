"""PDPPO. Felizardo, Fadda, Brandimarte, Del-Moral-Hernandez, Nascimento 2025, arXiv 2504.05150.

A transition is s, a -> sˣ, which is certain and earns rˣ, and sˣ -> s', which is not and earns the
rest of r. Two critics, each for its own Monte-Carlo return to the end of the episode,

  Rₜ = Σₖ γᵏ⁻ᵗ (rₖ - rˣₖ) for V(sₜ),    Rˣₜ = Σₖ γᵏ⁻ᵗ rˣₖ for Vˣ(sˣₜ),
  Aₜ = max(Rₜ - V(sₜ), Rˣₜ - Vˣ(sˣₜ)),

and PPO's clip with that advantage. From PPO it differs in the second critic, in what it is of, and
in the maximum. The environment says what is certain: `post(obs, action) -> (sˣ, rˣ)`. Rollouts are
to hold whole episodes: nothing is added for what comes after they end.

With post=False the second critic is another ordinary one: A = R - min(V, V'), the control. An
earlier release of the authors' code has this with V' = V(sˣ), and a loss of min(V, V'); the text
and the last release have the above. Checked: that code (three optimisers, advantages as they are),
and the text by summaries only. Not: Frozen Lake, and their larger factories.
"""

import jax
import jax.numpy as jnp

from jaxrl import returns
from jaxrl.errors import InputError
from jaxrl.families.on_policy import on_policy, standardise, stateless
from jaxrl.hyper import arg, hyper
from jaxrl.papers.on_policy.ppo import PPO, clip, clipped_value
from jaxrl.policies import Network, policy_for

PAPER = {
    "slug": "pdppo",
    "id": 190,
    "title": "A Reinforcement Learning Method for Environments with Stochastic Variables: "
    "Post-Decision Proximal Policy Optimization with Dual Critic Networks",
    "year": 2025,
    "arxiv": "2504.05150",
    "chapter": "on_policy",
    "hyper": "PDPPO",
    "parent": "ppo",
    "changes": "a second critic, of the state after the decision; the larger advantage",
    "claim": "it beats PPO, and PPO with two ordinary critics, where transitions are stochastic",
    "check": {
        "on": {"factory/lot-sizing": 80_000, "factory/lot-sizing-certain": 80_000},
        "hyper": {"max_grad_norm": "inf"},  # one norm for all networks would starve the actor
        "tune": {"lr": [3e-4, 1e-3, 2.5e-3, 5e-3, 1e-2]},
        "arms": {"twins": {"hyper": {"post": False}}, "ppo": {"paper": "ppo"}},
        "says": [
            "final_return > ppo on factory/lot-sizing",
            "final_return > twins on factory/lot-sizing",
            "final_return < ppo + 1 on factory/lot-sizing-certain",
            "final_return > ppo - 1 on factory/lot-sizing-certain",
        ],
    },
    "inert": {"lam": "returns are Monte-Carlo: λ is 1"},
    "battery": {"run": {"env": "factory/lot-sizing"}},
}


@hyper
class PDPPO(PPO):
    UNREAD = {"storage": "post-decision states are exact"}
    post: bool = arg(True, "the second critic is of the post-decision state; False: of the state")

    def problem(self) -> str:
        """What is wrong between fields, in one line; "" if nothing is."""
        for name in ("normalise_obs", "normalise_reward"):
            if getattr(self, name):
                return f"{name}: the environment computes the decision from what it showed; off"
        return super().problem()


def decision(world):
    """The environment's `post`, for batches of any shape."""
    env = world
    while not hasattr(env, "post"):
        if not hasattr(env, "env"):
            raise InputError(f"env: {world.name} does not say what is certain of a step: no post")
        env = env.env
    return env.post


def dual(policy):
    """The policy with a second critic, of the same kind, for what `record["post"]` holds."""

    def init(key, obs):
        one, two = jax.random.split(key)
        return policy.init(one, obs) | dict(post=policy.init(two, obs))

    def judge(params, old_params, b, key):
        w = policy.judge(params, old_params, b, key)
        post = policy.act(params["post"], b.record["post"], b.start, (), None)[2]
        return w._replace(value=jnp.stack([w.value, post], -1))

    return policy._replace(init=init, judge=judge)


def dual_value(w, b, hp):
    return clipped_value(w, b, hp).sum(-1)


def dual_advantage(policy):
    def advantage(s, b, t, hp, world):
        post, r = decision(world)(b.obs, b.action) if hp.post else (b.obs, b.reward)
        rest = b.reward - r if hp.post else b.reward
        b = b.replace(record=b.record | dict(post=post))
        V = policy.judge(s.params, s.params, b, s.key).value
        goes_on = jnp.where(b.done, 0.0, hp.gamma)[..., None]
        R = returns.backward(jnp.stack([rest, r], -1), jnp.broadcast_to(goes_on, V.shape))
        A = (R - V).max(-1)
        A = standardise(A) if hp.normalise_advantage else A
        return b.replace(value=V, target=R, advantage=A)

    return stateless(advantage)


def make(world, network=Network()):
    if network.memory:
        raise InputError(f"memory: {network.memory}: a post-decision state has none; use 0")
    policy = dual(policy_for(world, network))
    return on_policy(policy, clip, value_loss=dual_value, advantage=dual_advantage(policy))
