"""V-MPO. Song, Abdolmaleki, Springenberg, Clark, Soyer, Rae, Noury et al. 2020, arXiv 1909.12238.

Of each minibatch D̃ is the half with the larger advantages. Minimise, together,
  L_π = -Σ_D̃ ψ log π(a|s),    ψ = exp(A/η) / Σ_D̃ exp(A/η),
  L_η = η ε_η + η log mean_D̃ exp(A/η),
  L_α = α (ε_α - ⟨KL⟩) + ⟨α⟩ KL,    KL = E[KL(π_old(.|s) || π(.|s))],    ⟨.⟩ a constant,
in θ, the temperature η and the multiplier α: the nearest of the policies that are π_old tilted
towards what went better, within a bound.

From PPO it differs in imitating the better half, not in climbing a surrogate of the return.

η and α are exp of what Adam moves (there: cut at a small number), and one KL is of the whole
Gaussian, not of its mean and scale apart. Checked: PolicyGradientsJax. Not checked: the text; the
paper's n-step targets (here GAE), target network, Atari and DMLab.
"""

import jax
import jax.numpy as jnp
import optax

from jaxrl.core import Part
from jaxrl.families.on_policy import OnPolicy, on_policy, one_pass, total_loss
from jaxrl.hyper import arg, hyper
from jaxrl.optim import adam
from jaxrl.policies import Network, policy_for

PAPER = {
    "slug": "vmpo",
    "reference": True,
    "title": "V-MPO: On-Policy Maximum a Posteriori Policy Optimization",
    "year": 2020,
    "arxiv": "1909.12238",
    "chapter": "on_policy",
    "hyper": "VMPO",
    "parent": "ppo",
    "changes": "weighted imitation of the better half, within a bound on the KL",
    "claim": "it learns without importance weights, clipping or an entropy bonus",
}


@hyper
class VMPO(OnPolicy):
    UNREAD = {"accumulate": "weights are of a minibatch as a whole"}
    ent_coef: float = 0.0
    eta: float = arg(1.0, "where the temperature starts, in deviations of A", "(0, inf)")
    alpha: float = arg(5.0, "where the multiplier of the KL starts", "(0, inf)")
    eps_eta: float = arg(0.01, "ε_η, bound on the KL of ψ from uniform, in nats", "(0, inf)")
    eps_alpha: float = arg(0.01, "ε_α, bound on the KL of a step, in nats", "(0, inf)")
    dual_lr: float = arg(0.01, "Adam's step size for log η and log α", "[0, inf)")


def better_half(A):
    return jnp.greater_equal(A, jnp.median(A))


def weights(A, eta):
    """ψ: it sums to 1 over the better half."""
    return jax.nn.softmax(jnp.where(better_half(A), A / eta, -jnp.inf), axis=None)


def temperature_loss(A, eta, hp):
    keep = better_half(A)
    total = jax.nn.logsumexp(jnp.where(keep, A / eta, -jnp.inf), axis=None)
    return eta * (hp.eps_eta + total - jnp.log(keep.sum()))


def imitation(w, b, hp):
    """L_π + ⟨α⟩ KL per sample, b.dual = (η, α); times n, for the family takes the mean of n."""
    eta, alpha = b.dual
    return alpha * w.kl() - weights(b.advantage, eta) * b.advantage.size * w.log_prob


def maximum_a_posteriori(policy, sequences=False) -> Part:
    """The update, its slot log η, log α and Adam's state for them: out = (state, metrics)."""
    loss = total_loss(policy, imitation)

    def init(key, s, hp, world):
        duals = jnp.log(jnp.array([hp.eta, hp.alpha]))
        return duals, optax.adam(hp.dual_lr).init(duals)

    def update(slot, s, b, t, hp, world):
        opt, dual_opt = adam(hp, t), optax.adam(hp.dual_lr)

        def step(x, part, key):
            params, state, duals, inner = x
            part = part.replace(dual=jnp.exp(duals))
            grads, stats = jax.grad(loss, has_aux=True)(params, s.params, part, key, hp)
            kl = policy.judge(params, s.params, part, key).kl().mean()

            def dual_loss(duals):
                eta, alpha = jnp.exp(duals)
                return temperature_loss(part.advantage, eta, hp) + alpha * (hp.eps_alpha - kl)

            updates, state = opt.update(grads, state, params)
            change, inner = dual_opt.update(jax.grad(dual_loss)(duals), inner)
            stats |= dict(kl=kl, grad_norm=optax.tree.norm(grads))
            return (optax.apply_updates(params, updates), state, duals + change, inner), stats

        epoch = lambda x, k: one_pass(step, x, b, k, hp, sequences)
        key, k = jax.random.split(s.key)
        x, stats = jax.lax.scan(epoch, (s.params, s.opt, *slot), jax.random.split(k, hp.epochs))
        stats = jax.tree.map(jnp.mean, stats) | dict(eta=jnp.exp(x[2][0]), alpha=jnp.exp(x[2][1]))
        return x[2:], (s.replace(params=x[0], opt=x[1], key=key), stats)

    return Part(init, update)


def make(world, network=Network()):
    policy = policy_for(world, network)
    return on_policy(policy, update=maximum_a_posteriori(policy, network.memory > 0))
