"""DPPO. Ren et al. 2024, arXiv 2409.00588: "Diffusion Policy Policy Optimization".

A diffusion policy, cloned from data, is fine-tuned by PPO over its denoising steps: each is an
action of an inner MDP, a Gaussian of which the likelihood is known. The last K' of K steps learn:
  x_{k-1} ~ N(μ_k(s, x_k), σ_k²),   μ_k from the noise that a network sees (DDPM), σ_k >= σ_min
  L = E_s E_k[ -min(r_k A_k, clip(r_k, 1 - ε_k, 1 + ε_k) A_k) ],     r_k of step k alone
  A_k = γ_d^{k-1} A(s, a),   ε_k grows from ε_0 at k = K' to ε at k = 1, exponentially
with GAE of the environment's steps for A and a critic of s alone. Cloned by E‖ε - ε_θ(s, x_k, k)‖².

From PPO it differs in the policy, and in the ratios and advantages of its steps.

Checked against the released code (schedule, clipping of x₀ to [-1, 1], discount, ε_k), not the
text. There log-likelihoods are means over an action's numbers, and clamped; here they are sums.
No action chunks, DDIM or images. A mode has no noise but in its first draw, which is 0.
"""

import jax
import jax.numpy as jnp

from jaxrl.families.diffusion import FineTuned, cloned, denoiser, flow, noised, sight
from jaxrl.families.on_policy import on_policy
from jaxrl.hyper import arg, hyper
from jaxrl.policies import Network
from jaxrl.surrogate import clipped

PAPER = {
    "slug": "dppo",
    "id": 67,
    "title": "Diffusion Policy Policy Optimization",
    "year": 2024,
    "arxiv": "2409.00588",
    "chapter": "diffusion",
    "hyper": "DPPO",
    "parent": "ppo",
    "changes": "the policy is a diffusion, cloned first; each denoising step has its own ratio",
    "claim": "it improves on what it cloned, and no less than PPO improves a cloned Gaussian",
    "check": {
        "on": {"experiments/datasets/pendulum-mixed.npz": 50_000},
        "tune": {"lr": [3e-4, 1e-3, 3e-3]},
        "by": "last episode_return",
        "arms": {
            "cloned": {"hyper": {"lr": 0.0}, "tune": {"clone_lr": [3e-4, 1e-3, 3e-3]}},
            "gaussian": {"paper": "bc_ppo"},
        },
        "says": ["last episode_return > cloned", "last episode_return > gaussian - 30"],
    },
    "inert": {"ent_coef": "the entropy of a chain's steps is fixed"},
}


@hyper
class DPPO(FineTuned):
    eps: float = arg(0.2, "ε, clip range of the last step's ratio", "(0, inf)")
    eps_first: float = arg(0.1, "ε_0, of the first one's that learns", "(0, inf)")
    gamma_denoise: float = arg(0.95, "γ_d, discount of a denoising step", "[0, 1]")
    std: float = arg(0.1, "σ_min, the least deviation of a step", "(0, inf)")
    denoise_steps: int = arg(10, "K, steps from noise to an action", "[2, inf)")
    tuned_steps: int = arg(5, "K', the last ones, which are fine-tuned", "[2, inf)")

    def problem(self):
        K, tuned = self.denoise_steps, self.tuned_steps
        wrong = f"tuned_steps: {tuned} is above denoise_steps = {K}"
        return super().problem() or wrong * (tuned > K)


def surrogate(w, b, hp):
    k = jnp.arange(hp.tuned_steps - 1, -1, -1)
    along = jnp.expm1(3 * (1 - k / (hp.tuned_steps - 1))) / jnp.expm1(3.0)
    eps = hp.eps_first + (hp.eps - hp.eps_first) * along
    A = b.advantage[..., None] * hp.gamma_denoise**k
    return -clipped(jnp.exp(w.record["log_prob"] - b.old["log_prob"]), A, eps).mean(-1)


def make(world, network=Network()):
    nets = flow(world, network)

    def denoising(params, b, key, hp):
        k_step, k_noise = jax.random.split(key)
        k = jax.random.randint(k_step, b.reward.shape, 1, hp.denoise_steps + 1)
        noise, s = jax.random.normal(k_noise, b.action.shape), sight(b.obs, k > 0)
        x = noised(b.action, noise, k, hp.denoise_steps)
        return jnp.square(nets.field(params, s, x, k / hp.denoise_steps) - noise).mean()

    policy = lambda hp: denoiser(nets, hp.denoise_steps, hp.tuned_steps, hp.std)
    finish = lambda params: params | dict(base=params["field"])
    return cloned(on_policy(policy, surrogate), denoising, finish)
