"""The token family: a language model writes completions of prompts, a verifier rewards them.

    algo = tokens(world, network, surrogate, advantage=..., weigh=...)

An iteration samples `group` completions of each of `prompts` prompts (B rows together), weighs them
against each other and learns from their tokens:

    L = Σ_it weigh(mask)_it (surrogate(w, b, hp) + β penalty(log π_ref - log π) - c H)_it

    sample     ids of prompts by `choose`, completions by `decode` (one scan with a cache), rewards
               by the world's verifier; where there is a `keep`, whole groups that pass go first
    advantage  (b, hp) -> [B] or [B, L], for `b.advantage`; or the Group, with what else it fills
    surrogate  (View, b, hp) -> [M, L], per token, as on_policy's are per sample: the same
               functions; or [M], of completions, which count the same. Groups are whole in the M
    weigh      mask [M, L] -> how much each token counts: how losses are aggregated
    reward_pairs  of the hyperparameters: a model of rewards is fitted to so many pairs first
               (`jaxrl/rewards.py`), which then says what completions are worth; 0: the verifier
    refs       (State, t, hp) -> the reference of iteration t; it does not move, if unsaid
    track      a Part that owns a table of prompts, a tree of arrays [prompts, ...]; `b.seen` has
               the rows of those that were sampled, as they were before. It sees what was learned
    resume     (table, hp, task) -> tokens [B, L], how many of them each row has already, and after
               how many it stops: so completions may go on in the next iteration. Such a table has
               rows [B, ...], which are `b.seen`; what has not ended has no reward yet, `b.over`

The policy is the model at `temperature`, in sampling as in learning. `old` is what it gave when it
sampled: with `stale` > 1 the sampler is up to so many iterations behind. A frozen reference is what
training began with: the world's `start`, if it has one (`jaxrl pretrain`), or chance.

`episode_return` is the mean reward of the sampled completions, by the verifier, and `proxy` what a
model of rewards says of them. Other metrics: `response_length`;
`entropy` of tokens; `kl_ref` to the reference (k3; of an eighth of the rows where the method needs
none); `clip_fraction`; shares `solve_none` and `solve_all` of groups, `pass_at_group`; `off_wish`,
where prompts ask for a length.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from jaxrl import rollout
from jaxrl.completions import (
    Group,
    LanguageModel,
    beginning,
    decode,
    examination,
    judge,
    learned,
    model,
    next_token,
    task,
    whole,
)
from jaxrl.core import Algo, Part
from jaxrl.hyper import Linear, arg, hyper
from jaxrl.loops import averaged, summed
from jaxrl.optim import adam, norm
from jaxrl.policies import Network
from jaxrl.returns import group_advantage
from jaxrl.rewards import RewardModel, modelled, predicted
from jaxrl.shuffle import shuffle
from jaxrl.surrogate import k1, k3, sequence_mean, token_mean
from jaxrl.transformer import Transformer
from jaxrl.types import Key, Params


@hyper
class Tokens:
    """What every method of the family needs. An iteration learns from prompts x groups."""

    STARTS = True  # a run begins with its task's start
    RUN = dict(steps=131_072, eval_episodes=512)  # an episode is one completion, right or wrong
    CHECK = dict(  # what a claim is tested on, where its paper says nothing else
        on={"tokens/add": 51_200},
        tune={"lr": [5e-4, 1e-3, 2e-3]},
        by="last episode_return",
        seeds=10,
    )
    IN_TURN = True  # on a CPU seeds are faster one after the other: their products are large
    lr: float | Linear = arg(1e-3, "Adam's step size; a:b goes linearly from a to b", "[0, inf)")
    max_grad_norm: float = arg(1.0, "clip the gradient's global norm; inf: off", "(0, inf]")
    temperature: float = arg(1.0, "of the policy that samples and learns", "(0, inf)")
    ent_coef: float = arg(0.0, "weight of the entropy bonus", "(-inf, inf)")
    prompts: int = arg(128, "prompts an iteration", "[1, inf)")
    group: int = arg(8, "completions of each", "[1, inf)")
    oversample: int = arg(1, "so many times the prompts are tried, where some are kept", "[1, inf)")
    epochs: int = arg(1, "passes over each iteration's completions", "[1, inf)")
    minibatches: int = arg(1, "of whole groups, a pass", "[1, inf)")
    accumulate: int = arg(4, "pieces of a minibatch whose gradients are added", "[1, inf)")
    share_prefix: bool = arg(True, "learn from a group with its prompt read once, not for each")
    value_first: int = arg(0, "iterations in which only the critic's head learns", "[0, inf)")
    stale: int = arg(1, "iterations for which one sampler serves", "[1, inf)")
    horizon: float = arg(1.0, "iterations of the whole run: set by it, for schedules", "[1, inf)")

    @classmethod
    def for_env(cls, kind: str) -> Any:
        """The defaults for a class of environments: the same for all, but for a table's steps."""
        return cls(**PRESETS.get(kind, {}))

    @staticmethod
    def network_for(kind: str) -> LanguageModel:
        """`hidden`: the transformer's layers, all of one width."""
        return LanguageModel(hidden=(64, 64), table=kind == "preference")

    @classmethod
    def smallest(cls) -> dict[str, dict]:
        """The smallest problem that moves every part, for the battery, as a config.toml has it."""
        return dict(
            run=dict(env="tokens/tiny"),
            env_params={},
            network=dict(hidden=(8,)),
            hyper=dict(prompts=4, group=4, accumulate=2, minibatches=2, epochs=2, lr=0.03),
        )

    @property
    def steps_per_iteration(self) -> int:
        """Completions that one iteration writes, kept or not: what `--steps` counts here."""
        return self.prompts * self.oversample * self.group

    def problem(self) -> str:
        """What is wrong between fields, in one line; "" if nothing is."""
        if self.prompts % self.minibatches:
            return f"minibatches: {self.minibatches} does not divide prompts = {self.prompts}"
        if (n := self.prompts // self.minibatches) % self.accumulate:
            return f"accumulate: {self.accumulate} does not divide a minibatch of {n} prompts"
        return ""


PRESETS: dict[str, dict[str, Any]] = dict(preference=dict(lr=0.05))


class State(struct.PyTreeNode):
    params: Params
    opt: Any  # of the part that learns, as are those of the reference and of the sampler
    ref: Params
    sampler: Any  # () where it is the policy itself
    table: Any  # of `track`
    key: Key
    reward: Any = ()  # parameters of a model, where there is one


# ---- the seams' defaults ---------------------------------------------------------------------


def uniform(table: Any, key: Key, n: int, task: Any) -> jax.Array:
    """Numbers of n prompts."""
    return jax.random.randint(key, (n,), 0, task.count)


NOTHING = Part(lambda key, s, hp, world: (), lambda table, s, b, t, hp, world: (table, {}))


def normalised(b: Group, hp: Any) -> jax.Array:
    """GRPO's advantages: the reward less its group's mean, in standard deviations of the group."""
    return group_advantage(grouped(b.reward, hp)).reshape(-1)


def centred(b: Group, hp: Any) -> jax.Array:
    """The reward less its group's mean."""
    return group_advantage(grouped(b.reward, hp), scale=False).reshape(-1)


def whitened(A: jax.Array, mask: jax.Array) -> jax.Array:
    """Advantages of tokens [B, L] in units of the mean and standard deviation of all of them."""
    count = token_mean(mask)
    mean = (count * A).sum()
    return (A - mean) / jnp.sqrt((count * jnp.square(A - mean)).sum() + 1e-8)


def last_chosen(mask: jax.Array) -> jax.Array:
    """1 at the last token of each row [B, L] that was chosen."""
    return mask * (jnp.cumsum(mask[:, ::-1], 1)[:, ::-1] == 1)


def token_rewards(b: Group, hp: Any) -> jax.Array:
    """[B, L]: the reward at the last token that was chosen, less `hp.beta` times k1 at each."""
    return last_chosen(b.mask) * b.reward[:, None] - hp.beta * b.mask * k1(b.ref - b.old)


def grouped(x: jax.Array, hp: Any) -> jax.Array:
    """[B, ...] as [prompts, group, ...]."""
    return x.reshape(-1, hp.group, *x.shape[1:])


def tries(net: Transformer, s: Any, key: Key, hp: Any, world: Any, n: int) -> jax.Array:
    """Rewards [prompts, n] of n completions of every prompt: what a table may begin with. They are
    not among the steps that a run counts."""
    game, score = task(world), jax.vmap(rollout.known(world, "score"))
    numbers = jnp.arange(game.prompts)
    once = lambda key: score(decode(net, s.params, game, numbers, key, hp.temperature).state)
    return jax.lax.map(once, jax.random.split(key, n)).T


def pass_rates(decay: float = 0.9) -> Part:
    """A table of prompts: how often each was seen, and a moving mean of its groups' rewards."""

    def init(key, s, hp, world):
        n = task(world).prompts
        return dict(visits=jnp.zeros(n, jnp.int32), rate=jnp.zeros(n))

    def apply(table, s, b, t, hp, world):
        number, R = b.number[:: hp.group], grouped(b.reward, hp).mean(-1)
        first = table["visits"][number] == 0
        rate = jnp.where(first, R, decay * table["rate"][number] + (1 - decay) * R)
        visits = table["visits"].at[number].add(1)
        return dict(visits=visits, rate=table["rate"].at[number].set(rate)), {}

    return Part(init, apply)


def histories(last: int = 8) -> Part:
    """A table of prompts [prompts, last]: the mean rewards of a prompt's last groups, the newest
    first, and -1 where it was not seen so often."""

    def init(key, s, hp, world):
        return jnp.full((task(world).prompts, last), -1.0)

    def apply(table, s, b, t, hp, world):
        number, R = b.number[:: hp.group], grouped(b.reward, hp).mean(-1)
        now = jnp.concatenate([R[:, None], table[number, :-1]], 1)
        return table.at[number].set(now), {}

    return Part(init, apply)


# ---- the loss -------------------------------------------------------------------------------


def total_loss(
    net: Transformer,
    params: Params,
    b: Group,
    share: jax.Array,
    count: jax.Array,
    row: jax.Array,
    hp: Any,
    surrogate: Callable,
    penalty: Callable | None = None,
    critic: bool = False,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """What completions add to a loss: (the sum, sums of what is told of them).

    share, count: how much each token counts of the loss, and of a mean over tokens [B, L].
    row: how much each completion counts [B].
    """
    w = judge(net, params, b, hp.temperature, hp.group if hp.share_prefix else 1)
    entropy, each = w.entropy(), surrogate(w, b, hp)
    extra = -hp.ent_coef * entropy
    if penalty is not None:
        extra += hp.beta * penalty(b.ref - w.log_prob)
    chosen = lambda x: jnp.where(b.mask > 0, x, 0.0)
    loss = (row * each if each.ndim == 1 else share * chosen(each)).sum()
    total = loss + (share * chosen(extra)).sum()
    stats = dict(entropy=entropy, approx_kl=w.kl())
    if critic:
        stats["value_loss"] = jnp.square(w.value - b.target) / 2
        total += hp.vf_coef * (count * stats["value_loss"]).sum()
    if hasattr(hp, "eps"):
        high = jnp.log1p(getattr(hp, "eps_high", hp.eps))
        outside = (w.log_ratio > high) | (jnp.expm1(w.log_ratio) < -hp.eps)
        stats["clip_fraction"] = outside.astype(jnp.float32)
    return total, {k: (count * x).sum() for k, x in stats.items()} | dict(policy_loss=loss)


# ---- the builder -----------------------------------------------------------------------------


def tokens(
    world: Any,
    network: Network,
    surrogate: Callable,
    advantage: Callable = normalised,
    weigh: Callable = sequence_mean,
    penalty: Callable | None = None,
    choose: Callable = uniform,
    keep: Callable | None = None,
    track: Part = NOTHING,
    resume: Callable | None = None,
    reference: bool = False,
    critic: bool = False,
    greedy: bool = False,
    refs: Callable | None = None,
) -> Algo:
    """An algorithm from what its paper says of completions and their tokens.

    Args:
      world: for its task.
      surrogate: (View, Group, hp) -> losses [M, L], or [M].
      advantage: (Group, hp) -> [B] or [B, L], or a Group: a critic's has a target.
      weigh: mask [M, L] -> weights [M, L].
      penalty: (log π_ref - log π) -> [M, L], added `hp.beta` times.
      choose: (table, key, n, task) -> numbers of n prompts.
      keep: (Group, hp) -> [prompts x oversample] bool, the groups to learn from.
      track: a Part; its slot is the table.
      resume: (table, hp, task) -> tokens, counts, stops.
      reference: whether `advantage` or `surrogate` read `b.ref`.
      critic: whether the value head learns, `hp.vf_coef` its weight.
      greedy: whether `b.baseline` is wanted.
      refs: (State, t, hp) -> what the reference is from now on.
    """
    net = model(world, network)
    rewarder = RewardModel(task(world).vocabulary)
    reference = reference or penalty is not None

    def init(key, hp, world):
        key, k_net, k_track = jax.random.split(key, 3)
        params = beginning(net, k_net, world)
        reward = ()
        if pairs := getattr(hp, "reward_pairs", 0):
            k_reward = jax.random.fold_in(k_track, 1)
            reward = modelled(net, params, world, k_reward, pairs, hp.reward_models)
        part = learned(params)
        sampler = () if hp.stale == 1 else part
        s = State(params, adam(hp).init(part), part, sampler, (), key, reward)
        return s.replace(table=track.init(k_track, s, hp, world))

    def sample(params, s, key, hp, world):
        k_choose, k_decode = jax.random.split(key)
        game, score = task(world), jax.vmap(rollout.known(world, "score"))
        numbers = choose(s.table, k_choose, hp.prompts * hp.oversample, game)
        prefix, until = None, None
        if resume is not None:
            *given, until = resume(s.table, hp, game)
            prefix = tuple(given)
        x = decode(net, params, game, numbers, k_decode, hp.temperature, hp.group, prefix, until)
        gold = score(x.state)
        b = Group(x.state.number, x.state.tokens, x.mask, x.log_prob, x.value, gold)
        if resume is None:
            b = b.replace(seen=jax.tree.map(lambda x: x[b.number], s.table))
        else:
            reward = jnp.where(x.state.over, b.reward, 0.0)
            b = b.replace(seen=s.table, over=x.state.over, reward=reward)
        if game.wished:
            b = b.replace(wish=jax.vmap(game.wished)(x.state))
        if greedy:
            mode = decode(net, params, game, numbers, None)
            b = b.replace(baseline=jnp.repeat(score(mode.state), hp.group))
        said = told(b, hp)  # of all, kept or not
        if s.reward != ():
            b = b.replace(reward=predicted(rewarder, s.reward, b.tokens))
            said["proxy"] = b.reward.mean()
        if keep is None:
            return b, said
        kept = keep(b, hp)
        order = jnp.argsort(~kept)[: hp.prompts]  # stable: as they were sampled
        pick = lambda x: grouped(x, hp)[order].reshape(-1, *x.shape[1:])
        b = jax.tree.map(pick, b)
        return b.replace(mask=b.mask * jnp.repeat(kept[order], hp.group)[:, None]), said

    def told(b, hp):
        """What an iteration's rewards were, by name."""
        R = grouped(b.reward, hp)
        solved = R >= 1.0
        length = b.mask.sum(-1)
        over = jnp.ones(R.shape) if resume is None else grouped(b.over, hp)
        wish = {} if isinstance(b.wish, tuple) else dict(off_wish=jnp.abs(length - b.wish).mean())
        return wish | dict(
            episode_return=R.sum() / jnp.maximum(over.sum(), 1),
            episodes=jnp.float32(over.sum()),
            response_length=length.mean(),
            solve_none=(~solved.any(-1)).mean(),
            solve_all=solved.all(-1).mean(),
            pass_at_group=solved.any(-1).mean(),
        )

    def weighed(s, b, hp):
        """Completions with their advantages, and their KL to the reference."""
        some = max(1, hp.prompts // 8) * hp.group
        looked = b if reference else jax.tree.map(lambda x: x[:some], b)
        before = whole(s.params, s.ref)
        ref = judge(net, before, looked, hp.temperature, hp.group).log_prob
        kl = (token_mean(looked.mask) * k3(ref - looked.old)).sum()
        b = b.replace(ref=ref) if reference else b
        A = advantage(b, hp)
        b = A if isinstance(A, Group) else b.replace(advantage=A)
        A = jnp.broadcast_to(b.advantage.reshape(len(b.mask), -1), b.mask.shape)
        return b.replace(advantage=A), kl

    def learn(params, opt, b, t, hp):
        """One step, from a minibatch, by the gradients of its pieces."""
        part = learned(params)

        def loss(part, piece):
            own = whole(params, part)
            return total_loss(net, own, *piece, hp, surrogate, penalty, critic)

        def of(piece):
            (_, stats), grads = jax.value_and_grad(loss, has_aux=True)(part, piece)
            return (grads, stats), None

        cut = lambda x: x.reshape(hp.accumulate, -1, *x.shape[1:])
        row = sequence_mean(b.mask).sum(-1)
        pieces = jax.tree.map(cut, (b, weigh(b.mask), token_mean(b.mask), row))
        (grads, stats), _ = summed(of, pieces)
        if hp.value_first:  # the trunk is the policy's too
            only = lambda path, x: x * ("value" in str(path))
            head = jax.tree_util.tree_map_with_path(only, grads)
            grads = rollout.choose(t < hp.value_first, head, grads)
        updates, opt = adam(hp, t).update(grads, opt, part)
        params = whole(params, optax.apply_updates(part, updates))
        return params, opt, stats | dict(grad_norm=norm(grads))

    def update(params, opt, b, key, t, hp):
        def one(carry, index):
            mine = jax.tree.map(lambda x: grouped(x, hp)[index].reshape(-1, *x.shape[1:]), b)
            params, opt, stats = learn(*carry, mine, t, hp)
            return (params, opt), stats

        keys = jax.random.split(key, hp.epochs)
        orders = [shuffle(k, hp.prompts).reshape(hp.minibatches, -1) for k in keys]
        (params, opt), stats = averaged(one, (params, opt), jnp.concatenate(orders))
        return params, opt, stats

    def step(s, t, hp, world):
        key, k_sample, k_update = jax.random.split(s.key, 3)
        if hp.stale > 1:
            s = s.replace(sampler=rollout.choose(t % hp.stale == 0, learned(s.params), s.sampler))
        writer = whole(s.params, s.sampler) if hp.stale > 1 else s.params
        if refs:
            s = s.replace(ref=refs(s, t, hp))
        b, said = sample(writer, s, k_sample, hp, world)
        b, kl = weighed(s, b, hp)
        params, opt, stats = update(s.params, s.opt, b, k_update, t, hp)
        s = s.replace(params=params, opt=opt, key=key)
        table, seen = track.apply(s.table, s, b, t, hp, world)
        return s.replace(table=table), said | dict(kl_ref=kl) | stats | seen

    def act(s, obs, memory, key, hp):
        return next_token(net, s.params, obs, key, hp.temperature), memory

    def examine(s, key, hp, world):
        return examination(net, s.params, whole(s.params, s.ref), world, key)

    def trace(s, key, hp, world):
        """An iteration's completions with their advantages, as it would learn from them."""
        return weighed(s, sample(s.params, s, key, hp, world)[0], hp)[0]

    return Algo(init, step, act, examine=examine, trace=trace)
