"""The preference family: sets of responses to a prompt, and somebody says which is better.

    algo = preference(world, network, loss, draw=("policy", "policy"), ...)

An iteration takes sets of K responses (K = 2: pairs), asks for their order, and makes `updates`
gradient steps on

    L(θ) = E over sets [loss(w, b, hp)]

    draw     who each response is from: "policy", as the iteration begins; "ref"; "data", what fixed
             sets are from; or (Logs, hp) -> log-probabilities up to a constant, such as a mixture:
             of whole responses where they can be counted, else of each next token. If unsaid
             "data" where sets are fixed, else "policy"
    versus   who `b.win` says how often one wins against; the set's others, if unsaid
    fixed    one lot of sets for the whole run, in place of one an iteration
    choose   (scores [B, candidates], key, hp) -> [B, K], which of a set's candidates are kept
    refs     (State, t, hp) -> the reference of iteration t; it does not move, if unsaid
    again    the iteration is done twice from its beginning, the second time with "policy" what the
             first ended with (extragradient, mirror prox)
    loss     (Said, Sets, hp) -> [B]. The preferred one of a pair is first

Who is asked is the task's `beats`, which need not come from rewards (`envs/preference.py`).
`b.score` is the gold reward; with `reward_pairs` a model of it, which is first fitted to so many
pairs of "data" and then also answers in the oracle's place. With `sets` = 0 the loss is the
expected one, of infinitely many pairs: every pair there is, weighed by how likely it is, and both
answers.

Metrics: `loss`, `grad_norm`; `chosen` and `rejected`, log π - log π_ref of a set's first and last;
`labels`, the comparisons that were asked for so far. Where responses can be counted, exactly, of
the policy that the iteration ends with: `episode_return`, E_π[gold]; `kl_ref` to what the run began
with; `objective`, J_β; `regret`, what that lacks of its most; `tv`, the total variation to
`optimum`, the largest over prompts. Where pairs can be counted too: `gap`, the duality gap of the
game at β; `gap_average`, that of the mean of all policies so far; `gap_plain` and
`gap_average_plain`, the same at β = 0.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from jaxrl import preferences as exact
from jaxrl.completions import (
    Group,
    beginning,
    counted,
    decode,
    examination,
    judge,
    learned,
    model,
    next_token,
    picked,
    task,
    whole,
)
from jaxrl.core import Algo
from jaxrl.errors import InputError
from jaxrl.families.tokens import Tokens
from jaxrl.hyper import Linear, arg, hyper
from jaxrl.loops import averaged
from jaxrl.optim import adam, norm
from jaxrl.policies import Network
from jaxrl.rewards import RewardModel, drawn, modelled, outcomes, predicted, states
from jaxrl.rollout import known
from jaxrl.types import Key, Params

MANY = 2**17  # responses that are gone through in every iteration


@hyper
class Preference:
    """What every method of the family needs. An iteration is `updates` gradient steps."""

    STARTS = True  # a run begins with its task's start, if it has one
    RUN = dict(steps=2_000, eval_episodes=512)
    CHECK = dict(  # what a claim is tested on, where its paper says nothing else
        on={"preference/gibbs": 2_000},
        tune={"lr": [0.01, 0.03, 0.1]},
        by="last objective",
        seeds=10,
    )
    lr: float | Linear = arg(0.03, "Adam's step size; a:b goes linearly from a to b", "[0, inf)")
    max_grad_norm: float = arg(jnp.inf, "clip the gradient's global norm; inf: off", "(0, inf]")
    beta: float = arg(0.5, "β, weight of the KL to the reference", "[0, inf)")
    sets: int = arg(1024, "sets, fixed or of each iteration; 0: all pairs, weighed", "[0, inf)")
    responses: int = arg(2, "K, of a set", "[2, inf)")
    candidates: int = arg(0, "drawn for each set, if some are chosen; 0: no more", "[0, inf)")
    minibatch: int = arg(256, "sets of a gradient step", "[1, inf)")
    updates: int = arg(10, "gradient steps an iteration", "[1, inf)")
    opponents: int = arg(
        1, "responses that each of a set's is compared with, if `versus`", "[1, inf)"
    )
    remember: int = arg(1, "iterations whose sets are learned from, where not fixed", "[1, inf)")
    reward_pairs: int = arg(0, "that a reward model is fitted to; 0: the gold reward", "[0, inf)")
    reward_models: int = arg(1, "in its ensemble, whose mean it is", "[1, inf)")
    horizon: float = arg(1.0, "iterations of the whole run: set by it, for schedules", "[1, inf)")

    @classmethod
    def for_env(cls, kind: str) -> Any:
        """The defaults for a class of environments: a table's, or a transformer's."""
        return cls() if kind == "preference" else cls(lr=1e-3, max_grad_norm=1.0)

    network_for = staticmethod(Tokens.network_for)

    @classmethod
    def smallest(cls) -> dict[str, dict]:
        """The smallest problem that moves every part, for the battery, as a config.toml has it."""
        return dict(
            run=dict(env="preference/gibbs"),
            env_params=dict(prompts=2, size=3, length=2),
            network=dict(hidden=(8,)),
            hyper=dict(sets=16, minibatch=8, updates=2, max_grad_norm=1.0),
        )

    @property
    def steps_per_iteration(self) -> int:
        """Gradient steps that one iteration takes."""
        return self.updates

    def problem(self) -> str:
        """What is wrong between fields, in one line; "" if nothing is."""
        if self.sets == 0 and (self.responses, self.remember) != (2, 1):
            return "sets: 0 takes all pairs, so that responses is 2 and remember 1"
        if 0 < self.candidates < self.responses:
            return f"candidates: {self.candidates} are fewer than responses = {self.responses}"
        return ""


@hyper
class Twice(Preference):
    """Those of a method that does each iteration `again`, which costs as much again."""

    @property
    def steps_per_iteration(self) -> int:
        """Gradient steps that one iteration takes."""
        return 2 * self.updates


class Sets(struct.PyTreeNode):
    """Sets of K responses [B, K, ...], those of a pair with the preferred one first."""

    number: jax.Array  # [B] of the prompt
    tokens: jax.Array  # [B, K, P + L]
    mask: jax.Array  # [B, K, L] 1 where the policy chose
    gold: jax.Array  # [B, K] the reward
    score: jax.Array  # [B, K] the same, or what its model says
    win: jax.Array  # [B, K] how often each is preferred
    drawn: jax.Array  # [B, K] 0, 1, ...: which draw each one was
    sampler: jax.Array  # [B, K] log-probabilities under who drew them
    weight: Any = ()  # [B] of a sum over sets, where they are learned from


class Said(NamedTuple):
    """What is said of sets: log-probabilities of responses [B, K]."""

    policy: jax.Array
    ref: jax.Array
    old: jax.Array  # the policy as the iteration began
    each: Any = None  # the same of each token [B, K, L]
    squares: Any = None  # Σ_v π(v|x, y_<t)² [B, K, L]; not computed where nobody reads them

    @property
    def log_ratio(self) -> jax.Array:
        """log π - log π_ref [B, K]."""
        return self.policy - self.ref


class Logs(NamedTuple):
    """What a `draw` may mix: log-probabilities of all responses [X, N], or of next tokens."""

    policy: jax.Array
    ref: jax.Array
    data: Any = None  # these and
    score: Any = None  # rewards, of all responses only


class Known(NamedTuple):
    """What is known of responses that can be counted, of which an `optimum` is made."""

    ref: jax.Array  # [X, N] log-probabilities
    data: jax.Array  # [X, N] likewise
    score: jax.Array  # [X, N]
    gold: jax.Array  # [X, N]
    P: Any  # [X, N, N]; () where pairs are too many


class State(struct.PyTreeNode):
    params: Params
    opt: Any  # of the part that learns, as are the next two
    ref: Params
    first: Params  # what the run began with
    sets: Any  # that are fixed, or remembered
    reward: Any  # parameters of a model
    average: Any  # the mean of all policies so far [X, N]
    optimum: Any  # [X, N]
    labels: jax.Array
    key: Key


def margin(x: jax.Array) -> jax.Array:
    """What the first of a pair has more than the second: [B, 2] -> [B]."""
    return x[:, 0] - x[:, 1]


def gibbs(k: Known, hp: Any) -> jax.Array:
    """π_ref exp(r / β), the optimum of J."""
    return exact.gibbs(k.ref, k.score, hp.beta)


def of_pairs(optimum: Callable) -> Callable:
    """Says of an optimum that it is made of P, so that it is known only where P is."""
    optimum.of_pairs = True  # type: ignore
    return optimum


@of_pairs
def nash(k: Known, hp: Any) -> jax.Array:
    """The equilibrium of the game at β."""
    return exact.nash(k.P, k.ref, hp.beta)


# ---- sets ------------------------------------------------------------------------------------


class Mixed(NamedTuple):
    """Two models that write together: each next token by `mix` of what both say."""

    net: Any
    mix: Callable[[Logs], jax.Array]

    def empty(self, B, T):
        return self.net.empty(B, T), self.net.empty(B, T)

    def read(self, params, tokens, cache, begin):
        said = [self.net.read(p, tokens, c, begin) for p, c in zip(params, cache)]
        logs = Logs(*(jax.nn.log_softmax(x[0]) for x in said))
        return self.mix(logs), said[0][1], tuple(x[2] for x in said)


def spoken(who: Any, logs: Logs, hp: Any) -> jax.Array:
    """Log-probabilities of who draws, up to a constant."""
    return getattr(logs, who) if isinstance(who, str) else who(logs, hp)


def at_rows(x: jax.Array, at: jax.Array) -> jax.Array:
    """[B, M, ...] at [B, K]: [B, K, ...]."""
    return jnp.take_along_axis(x, at.reshape(*at.shape, *(1,) * (x.ndim - 2)), 1)


def turned(tree: Any) -> Any:
    """What is of pairs [B, 2, ...] the other way round; what is of both [B] stays."""
    return jax.tree.map(lambda x: x[:, ::-1] if x.ndim > 1 else x, tree)


def pairs(x: jax.Array) -> jax.Array:
    """What is known of all responses [X, N, ...], of all pairs of them [X N N, 2, ...]."""
    X, N = x.shape[:2]
    wide = X, N, N, *x.shape[2:]
    both = jnp.broadcast_to(x[:, :, None], wide), jnp.broadcast_to(x[:, None], wide)
    return jnp.stack(both, 3).reshape(X * N * N, 2, *x.shape[2:])


# ---- the builder -----------------------------------------------------------------------------


def preference(
    world: Any,
    network: Network,
    loss: Callable,
    *,
    draw: tuple = (),
    versus: Any = None,
    fixed: bool = False,
    choose: Callable | None = None,
    refs: Callable | None = None,
    again: bool = False,
    optimiser: Callable = adam,
    optimum: Callable | None = gibbs,
) -> Algo:
    """An algorithm from what its paper says of sets of responses; the seams as they stand above.

    Args:
      optimiser: (hp, t) -> an optax transformation.
      optimum: (Known, hp) -> log-probabilities [X, N] of what the method should come to; None
        where it is not known.
    """
    net, game = model(world, network), task(world)
    few = game.COUNTABLE and game.prompts * game.vocabulary**game.L <= MANY
    dense = hasattr(game, "preferences") and not isinstance(game.preferences, tuple)
    if not few or not dense and hasattr(optimum, "of_pairs"):
        optimum = None
    rewarder = RewardModel(game.vocabulary)
    draw = draw or (("data", "data") if fixed else ("policy", "policy"))

    # ---- what is said of responses

    def of_tokens(params, tokens, mask):
        """Of windows [..., P + L]: log-probabilities of each token, and the sums of the squares of
        what it was chosen from [..., L]."""
        rows, chosen = tokens.reshape(-1, game.window), mask.reshape(-1, game.L)
        none = jnp.zeros_like(chosen)
        b = Group(none[:, 0], rows, chosen, none, none, none[:, 0])
        w = judge(net, params, b, 1.0)
        squares = jnp.square(jax.nn.softmax(w.logits)).sum(-1)
        return (w.log_prob * chosen).reshape(mask.shape), squares.reshape(mask.shape)

    def both_of_all(params, world):
        """The same of all responses there are [X, N, L]."""
        b = counted(task(world))
        shape = game.prompts, -1, game.L
        return tuple(x.reshape(shape) for x in of_tokens(params, b.tokens, b.mask))

    def of_all(params, world):
        """Log-probabilities alone."""
        return both_of_all(params, world)[0]

    def scored(reward, tokens, gold):
        """What the model of rewards says; the gold, where there is none."""
        return gold if reward == () else predicted(rewarder, reward, tokens)

    def known_of(params, reward, world):
        """All that is known, with a reference."""
        here, b = task(world), counted(world)
        table = lambda x: x.reshape(game.prompts, -1)
        gold, score = table(b.reward), table(scored(reward, b.tokens, b.reward))
        ref = of_all(params, world).sum(-1)
        data = jnp.log(here.cover) if hasattr(here, "cover") else ref
        P = here.preferences if dense else ()
        if dense and reward != ():
            P = jax.nn.sigmoid(score[:, :, None] - score[:, None])
        return Known(ref, data, score, gold, P)

    def all_logs(s, policy, world):
        """What any `draw` may mix, and the rest that is known."""
        k = known_of(whole(s.params, s.ref), s.reward, world)
        return Logs(of_all(policy, world).sum(-1), k.ref, k.data, k.score), k

    # ---- sets

    def write(s, policy, who, number, key, hp, world):
        """Responses [B, K, P + L] by who they are from, in that order, with their masks and what
        was said of them [B, K]."""
        B, here = len(number), task(world)
        if few:
            logs = all_logs(s, policy, world)[0]
            said = jnp.stack([exact.normalised(spoken(w, logs, hp)) for w in who], 1)[number]
            tokens, at = picked(here, number, said, key)
            log_p = jnp.take_along_axis(said, at[..., None], -1)[..., 0]
            return tokens, jnp.ones((*at.shape, here.L)), log_p

        models = dict(policy=policy, ref=whole(s.params, s.ref))
        models["data"] = models["ref"]

        def by(w, n, key):
            if isinstance(w, str):
                x = decode(net, models[w], here, number, key, group=n)
            else:
                both = Mixed(net, lambda logs: w(logs, hp))
                x = decode(both, (policy, models["ref"]), here, number, key, group=n)  # type: ignore
            cut = lambda y: y.reshape(B, n, *y.shape[1:])
            return cut(x.state.tokens), cut(x.mask), cut(x.log_prob.sum(-1))

        counts = {w: who.count(w) for w in who}
        parts = [
            by(w, n, k) for (w, n), k in zip(counts.items(), jax.random.split(key, len(counts)))
        ]
        return tuple(jnp.concatenate(x, 1) for x in zip(*parts))

    def ask(world, reward, number, tokens, score, key):
        """Who wins of all pairs of a set [B, M, M]: 1 where the first does."""
        if reward != ():
            return drawn(jax.nn.sigmoid(score[:, :, None] - score[:, None]), key)
        many = jnp.repeat(number[:, None], tokens.shape[1], 1)
        return outcomes(known(world, "beats"), states(task(world), many, tokens), key)

    def ordered(s, policy, key, hp, world):
        """`sets` sets, the ones that win more often first."""
        K = hp.responses
        k_number, k_write, k_choose, k_ask = jax.random.split(key, 4)
        number = jax.random.randint(k_number, (hp.sets,), 0, task(world).count)
        many = max(hp.candidates, K) if choose else K
        others = (versus,) * hp.opponents if versus else ()
        who = (*draw, *(draw[-1],) * (many - len(draw)))[:many] + others
        tokens, mask, sampler = write(s, policy, who, number, k_write, hp, world)
        every = states(task(world), jnp.repeat(number[:, None], len(who), 1), tokens)
        gold = jax.vmap(jax.vmap(known(world, "score")))(every)
        score = scored(s.reward, tokens, gold)
        place = jnp.broadcast_to(jnp.arange(len(who)), gold.shape)
        rows = tokens, mask, gold, score, place, sampler
        if choose:
            at = choose(score[:, :many], k_choose, hp)
            opponents = jnp.broadcast_to(jnp.arange(many, len(who)), (hp.sets, len(others)))
            at = jnp.concatenate([at, opponents], 1)
            rows = tuple(at_rows(x, at) for x in rows)
        won = ask(world, s.reward, number, rows[0], rows[3], k_ask)
        among, against = won[:, :K, :K], won[:, :K, K:] if versus else won[:, :K, :K]
        win = against.sum(-1) / (hp.opponents if versus else K - 1)
        order = jnp.argsort(-among.sum(-1), 1, stable=True)
        tokens, mask, gold, score, place, sampler = (at_rows(x[:, :K], order) for x in rows)
        return Sets(number, tokens, mask, gold, score, at_rows(win, order), place, sampler)

    def asked(hp):
        """Comparisons of one lot of sets."""
        K = hp.responses
        return hp.sets * (K * (K - 1) / 2 + (K * hp.opponents if versus else 0))

    # ---- learning

    def among_samples(s, b, key, t, hp):
        """What `updates` steps learn from [updates, ...]: sets, what the reference and the policy
        say of them, and a function (params, x, hp) -> the loss of one."""
        size = min(hp.minibatch, hp.sets)
        there = hp.sets if fixed else hp.sets * jnp.minimum(t + 1, hp.remember)
        at = jax.random.randint(key, (hp.updates, size), 0, there)
        b = jax.tree.map(lambda x: x[at], b).replace(weight=jnp.full(at.shape, 1 / size))
        said = lambda params: of_tokens(params, b.tokens, b.mask)[0]

        def total(params, x):
            b, ref, old = x
            log_p, squares = of_tokens(params, b.tokens, b.mask)
            each = Said(log_p, ref, old)
            w = Said(*(y.sum(-1) for y in each[:3]), each, squares)
            return (b.weight * loss(w, b, hp)).sum(), w

        return (b, said(whole(s.params, s.ref)), said(s.params)), total

    def among_all(s, policy, hp, world):
        """The same of all pairs, in each of the steps."""
        logs, k = all_logs(s, policy, world)
        one, two = (exact.normalised(spoken(w, logs, hp)) for w in (draw[0], draw[-1]))
        third = exact.normalised(spoken(versus or draw[-1], logs, hp))
        X, N = k.ref.shape
        b = counted(task(world))
        rows = lambda x: pairs(x.reshape(X, N, *x.shape[1:]))
        weight = jnp.exp(one[:, :, None] + two[:, None]).reshape(-1) / X
        chance = k.P.reshape(-1)
        sampler = jnp.stack([pairs(one)[:, 0], pairs(two)[:, 1]], 1)
        b = Sets(
            number=jnp.repeat(jnp.arange(X), N * N),
            tokens=rows(b.tokens),
            mask=rows(b.mask),
            gold=pairs(k.gold),
            score=pairs(k.score),
            win=pairs(exact.win_rate(k.P, third)),
            drawn=jnp.broadcast_to(jnp.arange(2), (X * N * N, 2)),
            sampler=sampler,
            weight=weight,
        )
        ref, old = of_all(whole(s.params, s.ref), world), of_all(s.params, world)

        def total(params, x):
            log_p, squares = both_of_all(params, world)
            tokens = log_p, ref, old
            each = Said(*map(pairs, tokens))
            w = Said(*(pairs(y.sum(-1)) for y in tokens), each, pairs(squares))
            both = chance * loss(w, b, hp) + (1 - chance) * loss(turned(w), turned(b), hp)
            return (b.weight * both).sum(), w

        return jnp.zeros(hp.updates), total

    def learn(s, policy, key, t, hp, world):
        """The iteration's steps: (params, opt, sets, stats). The responses of "policy" are its."""
        k_sets, k_steps = jax.random.split(key)
        sets = s.sets
        if hp.sets == 0:
            xs, total = among_all(s, policy, hp, world)
        else:
            if not fixed:
                new = ordered(s, policy, k_sets, hp, world)
                start = (t % hp.remember) * hp.sets
                put = lambda all_, x: jax.lax.dynamic_update_slice_in_dim(all_, x, start, 0)
                sets = jax.tree.map(put, sets, new)
            xs, total = among_samples(s, sets, k_steps, t, hp)

        def one(carry, x):
            part, opt = carry
            of = lambda part: total(whole(s.params, part), x)
            (value, w), grads = jax.value_and_grad(of, has_aux=True)(part)
            updates, opt = optimiser(hp, t).update(grads, opt, part)
            ends = dict(chosen=w.log_ratio[:, 0].mean(), rejected=w.log_ratio[:, -1].mean())
            stats = dict(loss=value, grad_norm=norm(grads)) | (ends if hp.sets else {})
            return (optax.apply_updates(part, updates), opt), stats

        (part, opt), stats = averaged(one, (learned(s.params), s.opt), xs)
        return whole(s.params, part), opt, sets, stats

    # ---- the algorithm

    def init(key, hp, world):
        key, k_net, k_reward, k_sets = jax.random.split(key, 4)
        params = beginning(net, k_net, world)
        part = learned(params)
        none = jnp.float32(0)
        s = State(params, optimiser(hp, 0).init(part), part, part, (), (), (), (), none, key)
        if hp.reward_pairs:
            many = hp.reward_pairs, hp.reward_models
            reward = modelled(net, params, world, k_reward, *many)
            s = s.replace(reward=reward, labels=none + hp.reward_pairs)
        if hp.sets and fixed:
            b = ordered(s, params, k_sets, hp, world)
            s = s.replace(sets=b, labels=s.labels + asked(hp))
        elif hp.sets:
            make = lambda: ordered(s, params, k_sets, hp, world)
            empty = lambda x: jnp.zeros((hp.remember * x.shape[0], *x.shape[1:]), x.dtype)
            s = s.replace(sets=jax.tree.map(empty, jax.eval_shape(make)))
        elif not dense:
            raise InputError(f"sets: 0 takes all pairs of responses, too many in {world.name}")
        if not few:
            return s
        k = known_of(params, s.reward, world)
        s = s.replace(average=jnp.zeros_like(k.ref))
        return s.replace(optimum=optimum(k, hp)) if optimum else s

    def step(s, t, hp, world):
        key, k_one, k_two = jax.random.split(s.key, 3)
        if refs:
            s = s.replace(ref=refs(s, t, hp))
        params, opt, sets, stats = learn(s, s.params, k_one, t, hp, world)
        if again:
            params, opt, sets, stats = learn(s, params, k_two, t, hp, world)
        labels = s.labels
        if hp.sets and not fixed:
            labels += asked(hp) * (1 + again)
        s = s.replace(params=params, opt=opt, sets=sets, key=key, labels=labels)
        if not few:
            gold = jnp.float32(jnp.nan) if fixed else sets.gold[: hp.sets].mean()
            count = 0 if fixed else sets.gold[: hp.sets].size
            now = dict(episode_return=gold, episodes=jnp.float32(count))
        else:
            s, now = exactly(s, t, hp, world)
        return s, now | stats | dict(labels=labels)

    def exactly(s, t, hp, world):
        """The state with its mean policy, and what is exact of the policy."""
        k = known_of(whole(s.params, s.first), s.reward, world)
        p = of_all(s.params, world).sum(-1)
        average = s.average + (jnp.exp(p) - s.average) / (t + 1)
        most = exact.objective(exact.gibbs(k.ref, k.gold, hp.beta), k.ref, k.gold, hp.beta)
        J = exact.objective(p, k.ref, k.gold, hp.beta)
        now = dict(
            episode_return=exact.expected(p, k.gold).mean(),
            episodes=jnp.float32(p.size),
            kl_ref=exact.kl(p, k.ref).mean(),
            entropy=-exact.expected(p, p).mean(),
            objective=J.mean(),
            regret=(most - J).mean(),
        )
        if optimum:
            now["tv"] = exact.total_variation(p, s.optimum).max()
        if dense:
            mean = jnp.log(jnp.maximum(average, 1e-30))
            P = task(world).preferences
            gap = lambda log_p, beta: exact.duality_gap(log_p, P, k.ref, beta).mean()
            now |= dict(gap=gap(p, hp.beta), gap_plain=gap(p, 0.0))
            now |= dict(gap_average=gap(mean, hp.beta), gap_average_plain=gap(mean, 0.0))
        return s.replace(average=average), now

    def act(s, obs, memory, key, hp):
        return next_token(net, s.params, obs, key), memory

    def examine(s, key, hp, world):
        return examination(net, s.params, whole(s.params, s.first), world, key)

    return Algo(init, step, act, examine=examine)
