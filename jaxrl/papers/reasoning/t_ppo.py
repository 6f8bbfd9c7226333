"""T-PPO, truncated PPO. Fan, Liu, Yue, Chen et al. 2025, arXiv 2506.15050.

An iteration writes a window of each completion, learns, and goes on with those that have not ended;
the others give place to new prompts. Of what is cut off at token l, advantages are extended GAE's:

    Â_t = Σ_k (γλ)^k δ_{t+k},  k ∈ [0, l - t),    δ_t = r_t + γ V(s_{t+1}) - V(s_t),
    V(s_l) = V(s_{l-1}) where it is cut off, 0 where it has ended

The policy learns from the tokens of this window, by PPO's clip; the critic from completions that
have ended, from all of their tokens, towards their return, and first alone. γ is 1.

The paper itself was not read: this is from its abstract and public reviews of it, which name
V(s_l) = V(s_{l-1}) and that the critic waits for ends; what else it filters is unread. A token just
before a cut has δ = 0, so windows should be long: of 2 tokens, as on tokens/add, they unlearn. What
was written is read anew, so a window costs here what the whole does; what is counted is tokens.
"""

import jax.numpy as jnp

from jaxrl.completions import task
from jaxrl.core import Part
from jaxrl.families.tokens import Tokens, last_chosen, tokens, uniform, whitened
from jaxrl.hyper import arg, hyper
from jaxrl.papers.on_policy.ppo import clip
from jaxrl.returns import gae
from jaxrl.surrogate import constant_length, token_mean

PAPER = {
    "slug": "t_ppo",
    "id": 9,
    "title": "Truncated Proximal Policy Optimization",
    "year": 2025,
    "arxiv": "2506.15050",
    "chapter": "reasoning",
    "hyper": "TPPO",
    "parent": "token_ppo",
    "changes": "it learns from windows of completions; the critic from those that have ended",
    "claim": "of as many tokens it sorts as many held-out strings as PPO of whole completions",
    "check": {
        "on": {"tokens/sort": 25_600},
        "says": ["final sampled > token_ppo - 0.05"],
    },
    "battery": {
        "run": {"env": "tokens/parity"},
        "env_params": {"length": 4},
        "hyper": {"prompts": 16, "group": 1, "value_first": 0},
    },
}


@hyper
class TPPO(Tokens):
    prompts: int = 1024
    group: int = 1
    value_first: int = 10
    windows: int = arg(2, "windows in which the longest completion is written", "[1, inf)")
    eps: float = arg(0.2, "ε, clip range of the ratio", "(0, inf)")
    lam: float = arg(0.95, "λ of extended GAE, over tokens", "[0, 1]")
    vf_coef: float = arg(0.5, "weight of the critic's loss", "[0, inf)")

    @property
    def steps_per_iteration(self) -> int:
        return max(1, self.prompts // self.windows)

    def problem(self) -> str:
        return super().problem() or "group: is not 1; rows end each by itself" * (self.group != 1)


def resume(rows, hp, game):
    return rows["tokens"], rows["count"], rows["count"] + -(-game.L // hp.windows)


def begun_or_new(rows, key, n, game):
    return jnp.where(rows["count"] > 0, rows["number"], uniform(rows, key, n, game))


def start(key, s, hp, world):
    none, rows = jnp.zeros(hp.prompts, jnp.int32), jnp.zeros((hp.prompts, task(world).L))
    return dict(number=none, count=none, tokens=rows.astype(jnp.int32), mask=rows, old=rows)


def carry(rows, s, b, t, hp, world):
    """Rows that have not ended, with what was written of them."""
    count = jnp.where(b.over, 0, resume(rows, hp, task(world))[2])
    kept = {k: b.extra[k] * (count > 0)[:, None] for k in ("mask", "old")}
    own = dict(number=b.number, count=count, tokens=b.tokens[:, -b.mask.shape[1] :])
    return own | kept, dict(unfinished=(count > 0).mean())


def egae(reward, value, mask, over, lam):
    """Extended GAE of completions [B, L] that have ended, or are cut off."""
    last = last_chosen(mask)
    ends = (last > 0) & over[:, None]
    ahead = jnp.where(last > 0, value, jnp.roll(value, -1, 1))  # V(s_l) = V(s_{l-1})
    steps = ends * reward[:, None], value, ahead, ends, last > 0
    return gae(*(x.T for x in steps), 1.0, lam).T * mask


def by_windows(b, hp):
    now, whole = b.mask, jnp.maximum(b.mask, b.seen["mask"])
    old = jnp.where(b.seen["mask"] > 0, b.seen["old"], b.old)
    A = whitened(egae(b.reward, b.value, whole, b.over, hp.lam), now)
    ended = whole * b.over[:, None]
    share = lambda mask: token_mean(mask) * mask.size
    extra = dict(policy=share(now), critic=share(ended), mask=whole, old=old)
    b = b.replace(advantage=A, target=b.reward[:, None], old=old, extra=extra)
    return b.replace(mask=jnp.maximum(now, ended))


def clip_and_regress(w, b, hp):
    error = jnp.square(w.value - b.target) / 2
    return b.extra["policy"] * clip(w, b, hp) + hp.vf_coef * b.extra["critic"] * error


def make(world, network=Tokens.network_for("")):
    parts = world, network, clip_and_regress, by_windows, constant_length
    return tokens(*parts, choose=begun_or_new, track=Part(start, carry), resume=resume)
