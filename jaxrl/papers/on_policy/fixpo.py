"""FixPO. Zentner, Puri, Huang, Sukhatme 2023, arXiv 2312.05405.

Primary phase, in each minibatch a step on the loss, and one of Adam on β >= 0:
  L = -E[ r A ] + β E[KL(π_old(.|s) || π(.|s))],    L_β = β (ε - c max_s KL(π_old || π)),
and after each epoch a fixup phase: while max_s KL > ε, steps on β E[KL] alone, β adapting too.
So every update keeps KL(π_old || π) <= ε at every state that was seen, with few steps more.

From PPO with a KL penalty (`ppo_kl`) it differs in what β is held to, and in the fixup.

Checked: the authors' code, which fixes up in minibatches of 1024 (here: the rollout as a whole).
Not checked: the text; MuJoCo, Meta-World.
"""

import jax
import jax.numpy as jnp
import optax

from jaxrl.core import Part
from jaxrl.families.on_policy import OnPolicy, on_policy, one_pass, total_loss
from jaxrl.hyper import arg, hyper
from jaxrl.optim import adam
from jaxrl.papers.on_policy.ppo_kl import penalty
from jaxrl.policies import Network, policy_for

PAPER = {
    "slug": "fixpo",
    "id": 280,
    "title": "Guaranteed Trust Region Optimization via Two-Phase KL Penalization",
    "year": 2023,
    "arxiv": "2312.05405",
    "chapter": "on_policy",
    "hyper": "FixPO",
    "parent": "ppo_kl",
    "changes": "a weight that holds the worst state's KL, and steps that repair what is left",
    "claim": "no update leaves the trust region at any state, for under 5 % more gradient steps",
    "check": {
        "on": {"CartPole-v1": 80_000, "Acrobot-v1": 80_000},
        "tune": {"lr": ["1e-3:0", "2.5e-3:0", "5e-3:0"]},  # to 0, as the authors'
        "arms": {"unfixed": {"hyper": {"fixup": False}}, "ppo": {"paper": "ppo"}},
        "says": [
            "max max_kl < 0.2001",
            "max max_kl < unfixed",
            "mean fixup_share < 0.05",
            "final_return > ppo - 0.05",
        ],
    },
}

LIMIT = 1000  # of fixup steps after an epoch, so that a loop always ends; `max_kl` would show it


@hyper
class FixPO(OnPolicy):
    UNREAD = {"accumulate": "the fixup takes a rollout whole"}
    eps_kl: float = arg(0.2, "ε, bound on the KL at every state, in nats", "(0, inf)")
    c_kl: float = arg(2.0, "c: β rises where the largest KL is over ε/c", "(0, inf)")
    beta: float = arg(1.0, "where β starts", "[0, inf)")
    beta_lr: float = arg(0.01, "Adam's step size for β", "[0, inf)")
    fixup: bool = arg(True, "repair what the primary phase leaves outside")


def two_phase(policy, sequences=False) -> Part:
    """The update, its slot (β, Adam's state for it): out = (state, metrics)."""
    loss = total_loss(policy, penalty)

    def init(key, s, hp, world):
        return jnp.float32(hp.beta), optax.adam(hp.beta_lr).init(jnp.float32(hp.beta))

    def update(slot, s, b, t, hp, world):
        opt, dual = adam(hp, t), optax.adam(hp.beta_lr)
        kl = lambda params, b, key: policy.judge(params, s.params, b, key).kl()

        def move(x, grads, worst):
            params, state, beta, inner = x
            updates, state = opt.update(grads, state, params)
            change, inner = dual.update(hp.eps_kl - hp.c_kl * worst, inner)  # ∂L_β / ∂β
            beta = jnp.maximum(beta + change, 0.0)
            return optax.apply_updates(params, updates), state, beta, inner

        def fix(x, key):
            def body(carry):
                x, n, worst = carry
                grads = jax.grad(lambda p: x[2] * kl(p, b, key).mean())(x[0])
                x = move(x, grads, worst)
                return x, n + 1, kl(x[0], b, key).max()

            outside = lambda carry: hp.fixup & (carry[2] > hp.eps_kl) & (carry[1] < LIMIT)
            return jax.lax.while_loop(outside, body, (x, jnp.int32(0), kl(x[0], b, key).max()))

        def step(x, part, key):
            part = part.replace(dual=x[2])
            grads, stats = jax.grad(loss, has_aux=True)(x[0], s.params, part, key, hp)
            stats["grad_norm"] = optax.tree.norm(grads)
            return move(x, grads, kl(x[0], part, key).max()), stats

        def epoch(x, key):
            k_pass, k_fix = jax.random.split(key)
            x, stats = one_pass(step, x, b, k_pass, hp, sequences)
            x, fixes, worst = fix(x, k_fix)
            return x, (stats, fixes, worst)

        key, k = jax.random.split(s.key)
        x, (stats, fixes, worst) = jax.lax.scan(
            epoch, (s.params, s.opt, *slot), jax.random.split(k, hp.epochs)
        )
        share = fixes.sum() / (hp.epochs * hp.minibatches)  # of the steps of the primary phase
        stats = jax.tree.map(jnp.mean, stats)
        stats |= dict(max_kl=worst[-1], fixup_share=share, beta=x[2])
        return x[2:], (s.replace(params=x[0], opt=x[1], key=key), stats)

    return Part(init, update)


def make(world, network=Network()):
    policy = policy_for(world, network)
    return on_policy(policy, update=two_phase(policy, network.memory > 0))
