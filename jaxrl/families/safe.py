"""Constraints on the on-policy family: maximise the return while each cost keeps to its budget.

    max J_r(π)  subject to  J_k(π) <= d_k,    J_k the undiscounted cost of an episode

A world of this family names its costs, `objectives` = ("return", "cost", ...). They are a further
axis of rewards, values and advantages, [T, N, 1 + k], and `b.dual` is the `Account` of them:

    sampler     `counted`: what an episode cost, and how long it was
    dual        `priced(begin, rule)`: the prices λ [k], by a rule of `jaxrl.duals`
    advantage   `mixed`: (A_r - Σ λ_k A_k) / (1 + Σ λ_k); or `separate`, one for each objective
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxrl import returns
from jaxrl.core import Algo, Part, Policy
from jaxrl.errors import InputError
from jaxrl.families.on_policy import (
    OnPolicy,
    State,
    on_policy,
    on_policy_sampler,
    sgd,
    stateless,
    watched,
)
from jaxrl.hyper import arg, hyper
from jaxrl.policies import Network, policy_for
from jaxrl.rollout import objectives
from jaxrl.types import Batch

# Whole episodes of the point tasks fit a rollout, so that each tells its cost at once.
PRESETS: dict[str, dict[str, Any]] = {
    "safe": dict(num_envs=20, num_steps=100, epochs=8, minibatches=4, lr=3e-3, ent_coef=0.0),
    "tabular": dict(num_envs=25, num_steps=40),
}
BUDGETS = {"safe": 5.0, "tabular": 10.0}
SMALLEST: dict[str, dict[str, Any]] = dict(
    run=dict(env="tabular/tolls"),
    env_params=dict(max_steps=8),
    network=dict(hidden=(8,)),
    hyper=dict(num_envs=4, num_steps=8, minibatches=2, epochs=2, lr=0.03, budget=3.0),
)


@hyper
class Safe(OnPolicy):
    """What every constrained method needs."""

    budget: float | tuple[float, ...] = arg(
        25.0, "what an episode may cost, undiscounted: for every cost, or one each", "[0, inf)"
    )

    def problem(self) -> str:
        """What is wrong between fields, in one line; "" if nothing is."""
        if self.normalise_reward:
            return "normalise_reward: True would scale costs too, which a budget counts as they are"
        return super().problem()

    @classmethod
    def for_env(cls, kind: str) -> Any:
        """The defaults for a class of environments (`envs.kind`)."""
        budget = dict(budget=BUDGETS[kind]) if kind in BUDGETS else {}
        return cls(**budget, **cls.unless_own(PRESETS.get(kind, {})))

    @classmethod
    def smallest(cls) -> dict[str, dict]:
        """The smallest problem that moves every part, for the battery, as a config.toml has it."""
        return dict(SMALLEST)  # its own: what it is merged with stays out of ours


class Account(struct.PyTreeNode):
    """`b.dual`: of the latest episodes that finished, 0 and 1 before any did, and the prices."""

    cost: jax.Array  # J_k [k], undiscounted
    length: jax.Array  # steps of an episode
    price: Any = ()  # λ [k]


def costs(world: Any) -> tuple[str, ...]:
    """The names of a world's costs. InputError where it has none."""
    if not (names := objectives(world)[1:]):
        raise InputError(f"env: {world.name} has no costs; a constrained method needs safe/...")
    return names


def limits(hp: Any, world: Any) -> jax.Array:
    """The budgets d [k]. InputError where they are neither one nor as many as the costs."""
    d, names = jnp.asarray(hp.budget, jnp.float32), costs(world)
    if d.size not in (1, len(names)):
        raise InputError(f"budget: {d.size} for {len(names)} costs of {world.name}: {names}")
    return jnp.broadcast_to(d, len(names))


# ---- parts -----------------------------------------------------------------------------------


def counted(policy: Policy, names: tuple[str, ...]) -> Part:
    """A rollout under the current parameters, with its `Account`, which is the slot, too."""
    inner = on_policy_sampler(policy)

    def apply(account, s, b, t, hp, world):
        _, (s, b, metrics) = inner.apply((), s, b, t, hp, world)
        cost = jnp.stack([metrics[f"episode_{k}"] for k in names])
        latest, some = Account(cost, metrics["episode_length"]), metrics["episodes"] > 0
        account = jax.tree.map(lambda new, old: jnp.where(some, new, old), latest, account)
        return account, (s, b.replace(dual=account), metrics)

    return Part(lambda *_: Account(jnp.zeros(len(names)), jnp.ones(())), apply)


def priced(begin: Callable, rule: Callable) -> Part:
    """The account with prices.

    begin: (k, hp) -> slot.
    rule: (slot, cost [k], budget [k], hp) -> (slot, λ [k]), once an iteration.
    """

    def apply(slot, s, b, t, hp, world):
        slot, price = rule(slot, b.dual.cost, limits(hp, world), hp)
        return slot, b.dual.replace(price=price)

    return Part(lambda key, s, hp, world: begin(len(costs(world)), hp), apply)


def centred(A: jax.Array) -> jax.Array:
    """Each to mean 0, and the return's to deviation 1: so a price means the same in every task.

    Costs keep their scale, as in the code of Ray et al. 2019: rare ones would be mostly noise.
    """
    scale = A[..., 0].std() + 1e-8
    return (A - A.mean((0, 1))) / jnp.ones(A.shape[-1]).at[0].set(scale)


def separate(s: State, b: Batch, t: jax.Array, hp: Any, world: Any) -> Batch:
    """An advantage for each objective, [T, N, 1 + k], and the critics' targets."""
    cuts = (b.terminated, b.done)
    A = returns.gae(b.reward, b.value, b.next_value, *cuts, hp.gamma, hp.lam)
    target = A + b.value
    return b.replace(advantage=centred(A) if hp.normalise_advantage else A, target=target)


def mix(A: jax.Array, price: jax.Array) -> jax.Array:
    """(A_r - Σ λ_k A_k) / (1 + Σ λ_k): the divisor keeps its size, however large λ grows."""
    return (A[..., 0] - A[..., 1:] @ price) / (1 + price.sum())


def mixed(s: State, b: Batch, t: jax.Array, hp: Any, world: Any) -> Batch:
    """The advantage in the Lagrangian, at the account's prices."""
    b = separate(s, b, t, hp, world)
    return b.replace(advantage=mix(b.advantage, b.dual.price))


def accounted(s: State, b: Batch, hp: Any, world: Any) -> dict[str, jax.Array]:
    """Metrics of an account: `excess`, by how much the worst cost is over its budget (negative:
    under); `overspent`, the sum of what is over; and each `price_NAME`, where there are prices."""
    over = b.dual.cost - limits(hp, world)
    out = dict(excess=over.max(), overspent=jnp.maximum(over, 0.0).sum())
    return out | {f"price_{k}": x for k, x in zip(costs(world), b.dual.price)}


# ---- builders --------------------------------------------------------------------------------


def critics(world: Any, network: Network) -> Policy:
    """A policy with a critic for the return and for each cost."""
    return policy_for(world, network, values=1 + len(costs(world)))


def safe(world: Any, policy: Policy, update: Part, **parts: Any) -> Algo:
    """`on_policy` with an account of the costs: its parts, but for the sampler."""
    update = watched(update, accounted)
    return on_policy(policy, sampler=counted(policy, costs(world)), update=update, **parts)


def make_with(surrogate: Callable, *, advantage: Part = stateless(mixed), **parts: Any) -> Callable:
    """The `make` of a paper that takes epochs of gradient steps on a surrogate."""

    def make(world: Any, network: Network = Network()) -> Algo:
        policy = critics(world, network)
        update = sgd(policy, surrogate, sequences=network.memory > 0)
        return safe(world, policy, update, advantage=advantage, **parts)

    return make
