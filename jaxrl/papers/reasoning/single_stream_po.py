"""SPO. Xu, Ding 2025, arXiv 2509.13232 (Single-stream Policy Optimization).

One completion of a prompt at a time. Its baseline is what was seen of the prompt before, a Beta
posterior of its success that forgets as fast as the policy moves:

    v(x) = α / (α + β),    α ← ρ α + r,    β ← ρ β + 1 - r
    ρ = clip(2^(-D(x) / D_half), ρ_min, ρ_max),    Â = (r - v(x) - mean_batch) / std_batch

with the v of before r, under PPO's clip, wider above. D(x) is how far the policy is from the one
that last wrote to x: the mean |log π - log π_then| of the tokens that it wrote. Prompts are drawn
without replacement by weights √(v (1 - v)) + ε.

Equations and defaults are those of the authors' code (the recipe of verl), not read in the paper
itself. There policies are compared after their steps, here as they sample. Tables begin with
1 / (1 - ρ_min) tries' weight in the success of `first` completions of every prompt; the authors
have 8. Here the default is none, and α = β = 1/2 as in their code: eight of each of some thousand
prompts are most of what a short run learns from.
"""

import jax
import jax.numpy as jnp

from jaxrl.completions import judge, model, task
from jaxrl.core import Part
from jaxrl.families.tokens import Tokens, tokens, tries
from jaxrl.hyper import arg, hyper
from jaxrl.papers.reasoning.dapo import clip_higher
from jaxrl.surrogate import token_mean

PAPER = {
    "slug": "single_stream_po",
    "id": 191,
    "title": "Single-stream Policy Optimization",
    "year": 2025,
    "arxiv": "2509.13232",
    "chapter": "reasoning",
    "hyper": "SingleStreamPO",
    "parent": "grpo",
    "changes": "one completion of a prompt; its baseline is a memory of the prompt",
    "claim": "at equal completions it solves more held-out sums than GRPO",
    "check": {"says": ["final sampled > grpo"]},
    "battery": {"hyper": {"group": 1, "first": 2, "rho_min": 0.1}},
}


@hyper
class SingleStreamPO(Tokens):
    prompts: int = 1024
    group: int = 1
    eps: float = arg(0.2, "ε_low, clip range of the ratio below 1", "(0, inf)")
    eps_high: float = arg(0.28, "ε_high, that above 1", "(0, inf)")
    half: float = arg(
        0.06, "D_half, the change of the policy that halves what is known", "(0, inf)"
    )
    rho_min: float = arg(0.875, "ρ_min, the least of it that is kept", "[0, 1)")
    rho_max: float = arg(0.96, "ρ_max, the most", "[0, 1]")
    explore: float = arg(0.05, "ε, the least weight of a prompt", "(0, inf)")
    first: int = arg(0, "completions of every prompt to begin with, uncounted", "[0, inf)")

    def problem(self):
        return "group: it has one completion of a prompt" * (self.group > 1) or super().problem()


def value(table):
    return table["alpha"] / (table["alpha"] + table["beta"])


def weighed(table, hp):
    """The table with how often its prompts are to be drawn."""
    v = jnp.clip(value(table), 0.0, 1.0)
    return table | dict(weight=jnp.sqrt(v * (1 - v)) + hp.explore)


def by_weight(table, key, n, game):
    w = table["weight"]
    return jax.random.choice(key, len(w), (n,), replace=n > len(w), p=w / w.sum())


def against_memory(b, hp):
    A = b.reward - value(b.seen)
    return (A - A.mean()) / (A.std(ddof=1) + 1e-8)


def memory(net):
    """The Part that has α, β and the last completion of each prompt."""

    def init(key, s, hp, world):
        game, n = task(world), task(world).prompts
        v, weight = jnp.full(n, 0.5), 1.0
        if hp.first:
            right = tries(net, s, key, hp, world, hp.first).sum(-1)
            v, weight = (right + 0.5) / (hp.first + 1), 1 / (1 - hp.rho_min)
        none = jnp.zeros((n, game.L))
        table = dict(alpha=weight * v, beta=weight * (1 - v), mask=none, old=none)
        return weighed(table | dict(tokens=jnp.zeros((n, game.window), jnp.int32)), hp)

    def apply(table, s, b, t, hp, world):
        then = b.replace(**{k: b.seen[k] for k in ("tokens", "mask", "old")})
        gap = jnp.abs(judge(net, s.params, then, hp.temperature).log_ratio).sum(-1)
        D = gap / jnp.maximum(then.mask.sum(-1), 1)  # 0 where nothing was written yet
        rho = jnp.clip(2 ** (-D / hp.half), hp.rho_min, hp.rho_max)
        new = dict(alpha=rho * b.seen["alpha"] + b.reward, beta=rho * b.seen["beta"] + 1 - b.reward)
        new |= dict(tokens=b.tokens, mask=b.mask, old=b.old)
        table = table | {k: table[k].at[b.number].set(x) for k, x in new.items()}
        return weighed(table, hp), dict(forgetting=rho.mean())

    return Part(init, apply)


def make(world, network=Tokens.network_for("")):
    table = memory(model(world, network))
    method = (clip_higher, against_memory, token_mean)
    return tokens(world, network, *method, choose=by_weight, track=table)
