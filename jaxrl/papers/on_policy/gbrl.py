"""GBRL. Fuhrer, Tessler, Dalal 2025 (ICML), arXiv 2407.08250.

    F_k = F_{k-1} + rate · h_k,    h_k: a tree fitted to gᵢ = -∂L/∂F_{k-1}(sᵢ),    F(s) = (z, V)

L is PPO's loss at a sample, z what the head makes a distribution of, F_0 = 0. Actor and critic
share the trees, each at its own rate; `trees.fit` has the splits' score and the leaves' values.
From PPO it differs in this alone: trees, one a gradient step, are the parameters.
Integers in an observation are categories; a full ensemble learns no more. Checked: the authors'
code (trees on 64 to 512 rows, here the rollout; Adam for log σ, here plain). Not: the text.
"""

import jax
import jax.numpy as jnp
import optax

from jaxrl import heads, trees
from jaxrl.core import Part, Policy
from jaxrl.errors import InputError
from jaxrl.families.on_policy import minibatches, on_policy, stateless, total_loss
from jaxrl.hyper import Linear, arg, at, check, hyper
from jaxrl.papers.on_policy.ppo import PPO, clip, clipped_value
from jaxrl.policies import Network, feedforward, view

PAPER = {
    "slug": "gbrl",
    "id": 125,
    "title": "Gradient Boosting Reinforcement Learning",
    "year": 2025,
    "arxiv": "2407.08250",
    "chapter": "on_policy",
    "hyper": "GBRL",
    "parent": "ppo",
    "changes": "gradient-boosted trees, one a gradient step, in place of the network",
    "claim": "it beats PPO's network where observations are ids of categories, and solves CartPole",
    "check": {
        "on": {"grid/fetch": 200_000, "CartPole-v1": 200_000},
        "tune": {"lr": [0.25, 0.5, 1.0]},
        "arms": {
            "ppo": {  # it does better on such rollouts than on its own
                "paper": "ppo",
                "hyper": {"num_steps": 256, "minibatches": 16},
                "tune": {"lr": [2.5e-3, 5e-3, 1e-2]},
            },
        },
        "says": ["final_return > ppo on grid/fetch", "final_return > 475 on CartPole-v1"],
    },
    "battery": {"hyper": {"num_steps": 8, "epochs": 2, "trees": 16}},
}


@hyper
class GBRL(PPO):
    UNREAD = {"accumulate": "trees are fitted to whole minibatches"}
    lr: float | Linear = arg(0.5, "rate of the actor's outputs; a:b goes linearly", "[0, inf)")
    value_lr: float | Linear = arg(0.1, "rate of the critic's output", "[0, inf)")
    max_grad_norm: float = arg(10.0, "bound on each gᵢ, actor's and critic's; inf: off", "(0, inf]")
    trees: int = arg(4096, "trees there is room for", "[1, inf)")
    depth: int = arg(4, "questions of each", "[1, 10]")
    bins: int = arg(32, "candidates for a question, of each feature", "[1, inf)")
    num_steps: int = 256
    epochs: int = 16
    minibatches: int = 1
    normalise_obs: bool = False  # moments move, and what old trees ask would move with them


def bounded(g, most):
    return g * jnp.minimum(1.0, most / (jnp.linalg.norm(g, axis=-1, keepdims=True) + 1e-8))


def boost(head, kinds, surrogate=clip, value_loss=clipped_value) -> Part:
    """Epochs of minibatches, a tree for each: out = (state, metrics)."""

    def judge(p, _, b, key):  # the "parameters" are the outputs themselves; the loss is as ever
        return view(head, head.output(p["head"], p["z"], b.obs), p["value"], b)

    loss = total_loss(Policy(*[lambda *_: ()] * 3, judge), surrogate, value_loss)

    def update(s, b, t, hp, world):
        key, k = jax.random.split(s.key)
        x = trees.table(jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), b.obs))
        rate = jnp.append(jnp.full(head.size, at(hp.lr, t, hp)), at(hp.value_lr, t, hp))

        def epoch(carry, k):
            k_shuffle, k_loss = jax.random.split(k)
            index, take = minibatches(k_shuffle, b, hp, sequences=False)

            def step(carry, xs):
                (net, own, F), (i, k) = carry, xs
                p = dict(z=F[i, :-1], value=F[i, -1], head=own)
                grads, stats = jax.grad(loss, has_aux=True)(p, None, take(i), k, hp)
                g = [-i.size * grads["z"], -i.size * grads["value"][:, None]]  # the loss is a mean
                stats["grad_norm"] = optax.tree.norm(g) / i.size**0.5
                g = jnp.concatenate([bounded(d, hp.max_grad_norm) for d in g], -1)
                h = trees.fit(x[i], g, trees.questions(x[i], hp.bins, kinds), hp.depth)
                now = jnp.where(net.count < hp.trees, rate, 0.0)
                h = h.replace(value=now * h.value)
                own = jax.tree.map(lambda w, d: w - now[0] * d, own, grads["head"])
                return (trees.append(net, h), own, F + trees.answer(h, x)), stats

            return jax.lax.scan(step, carry, (index, jax.random.split(k_loss, hp.minibatches)))

        carry = s.params["net"], s.params["head"], trees.predict(s.params["net"], x)
        (net, own, _), stats = jax.lax.scan(epoch, carry, jax.random.split(k, hp.epochs))
        stats = jax.tree.map(jnp.mean, stats) | dict(trees=net.count.astype(jnp.float32))
        return s.replace(params=dict(net=net, head=own), key=key), stats

    return stateless(update)


def make(world, network=Network()):
    if check(network).memory:
        raise InputError(f"memory: {network.memory}; trees remember nothing, so gbrl takes 0")
    head = heads.for_space(world.action_space, network.head)
    update = boost(head, trees.categories(world.observation_space))

    def build(hp):  # the policy's size is hp's to say, and only `init` needs it
        policy = feedforward(trees.Forest(hp.trees, hp.depth, head.size), head)
        return on_policy(policy, update=update, optimiser=lambda *_: optax.identity())

    return build(GBRL())._replace(init=lambda key, hp, world: build(hp).init(key, hp, world))
