"""T-PPO, truncated PPO. Fan, Liu, Yue, Chen et al. 2025, arXiv 2506.15050.

A completion is written in windows: an iteration adds one of at most w tokens to each row, learns,
and goes on with those that have not ended; a row that has is a new prompt's. Advantages of what is
cut off at token l are by extended GAE, which takes the value that is not there yet for the last:

    Â_t = Σ_k (γλ)^k δ_{t+k},  k ∈ [0, l - t),    δ_t = r_t + γ V(s_{t+1}) - V(s_t),
    V(s_l) = V(s_{l-1}) where it is cut off, 0 where it has ended

The policy learns from the tokens of this window, by PPO's clip; the critic from completions that
have ended, from all of their tokens, towards their return. γ is 1; there is no penalty.

The paper itself was not read: this is from its abstract and public reviews of it, which name
V(s_l) = V(s_{l-1}) and that the critic waits for ends. Equations' numbers are unread, and which
tokens at a cut its filter drops besides (here: none). What was written is read anew, so a window
costs here what the whole does. Tokens are what is counted: a step is a whole completion's.
"""

import jax.numpy as jnp

from jaxrl.completions import task
from jaxrl.core import Part
from jaxrl.families.tokens import Tokens, tokens, uniform, whitened
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
    "claim": "of as many tokens it solves as many held-out sums as PPO of whole completions",
    "check": {
        "on": {"tokens/add": 102_400},
        "tune": {"lr": [5e-4, 1e-3, 2e-3]},
        "by": "last episode_return",
        "arms": {"token_ppo": {"paper": "token_ppo"}},
        "says": ["final_return > token_ppo - 0.05"],
    },
    "battery": {"hyper": {"prompts": 16, "group": 1}},
}


@hyper
class TPPO(Tokens):
    prompts: int = 1024
    group: int = 1
    windows: int = arg(2, "windows in which the longest completion is written", "[1, inf)")
    eps: float = arg(0.2, "ε, clip range of the ratio", "(0, inf)")
    lam: float = arg(0.95, "λ of extended GAE, over tokens", "[0, 1]")
    vf_coef: float = arg(0.5, "weight of the critic's loss", "[0, inf)")

    @property
    def steps_per_iteration(self) -> int:
        return max(1, self.prompts // self.windows)

    def problem(self) -> str:
        apart = "" if self.group == 1 else f"group: {self.group} is not 1: each row is its own"
        return super().problem() or apart


def resume(rows, hp, game):
    window = -(-game.L // hp.windows)
    return rows["tokens"], rows["count"], rows["count"] + window


def begun_or_new(rows, key, n, game):
    return jnp.where(rows["count"] > 0, rows["number"], uniform(rows, key, n, game))


def start(key, s, hp, world):
    none, rows = jnp.zeros(hp.prompts, jnp.int32), jnp.zeros((hp.prompts, task(world).L))
    return dict(number=none, count=none, tokens=rows.astype(jnp.int32), mask=rows, old=rows)


def carry(rows, s, b, t, hp, world):
    """Rows that have not ended, with what was written of them."""
    game = task(world)
    count = jnp.where(b.over, 0, jnp.minimum(resume(rows, hp, game)[2], game.L))
    goes_on = (count > 0)[:, None]
    kept = dict(tokens=b.tokens[:, game.P :], **{k: goes_on * b.extra[k] for k in ("mask", "old")})
    return dict(number=b.number, count=count, **kept), dict(unfinished=goes_on.mean())


def egae(reward, value, mask, over, lam):
    """Extended GAE of completions [B, L] that have ended, or are cut off."""
    last = mask * (jnp.cumsum(mask[:, ::-1], 1)[:, ::-1] == 1)
    ends = (last > 0) & over[:, None]
    ahead = jnp.where(last > 0, value, jnp.roll(value, -1, 1))  # V(s_l) = V(s_{l-1})
    steps = [x.T for x in (last * (over * reward)[:, None], value, ahead, ends, last > 0)]
    return gae(*steps, 1.0, lam).T * mask


def by_windows(b, hp):
    now, whole = b.mask, jnp.maximum(b.mask, b.seen["mask"])
    old = jnp.where(b.seen["mask"] > 0, b.seen["old"], b.old)
    A = whitened(egae(b.reward, b.value, whole, b.over, hp.lam), now)
    ended = whole * b.over[:, None]
    weights = {k: token_mean(m) * m.size for k, m in dict(policy=now, critic=ended).items()}
    extra = weights | dict(mask=whole, old=old)
    target = b.reward[:, None] * ended
    return b.replace(mask=jnp.maximum(now, ended), old=old, advantage=A, target=target, extra=extra)


def clip_and_regress(w, b, hp):
    error = jnp.square(w.value - b.target) / 2
    return b.extra["policy"] * clip(w, b, hp) + hp.vf_coef * b.extra["critic"] * error


def make(world, network=Tokens.network_for("")):
    rows = Part(start, carry)
    learn = dict(weigh=constant_length, choose=begun_or_new, track=rows, resume=resume)
    return tokens(world, network, clip_and_regress, by_windows, **learn)
