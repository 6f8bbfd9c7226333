"""Completions: how a transformer writes them, and what it says of those that are written.

A task's prompts (`envs/tokens`) are numbers; B = prompts x group rows stand together, those of one
prompt side by side.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxrl.core import View
from jaxrl.errors import InputError
from jaxrl.hyper import arg, check, hyper
from jaxrl.models import shape_of
from jaxrl.policies import Network
from jaxrl.rollout import choose, known
from jaxrl.surrogate import k3
from jaxrl.tables import Tree
from jaxrl.transformer import MATRICES, Adapter, Transformer, small
from jaxrl.types import Key, Params, flat

LARGE = 4096  # a vocabulary of which not all logits are there at once
MOST = 2**22  # logits that are there at a time, where a vocabulary is large
EXAMINED, PASS_AT = 128, 16  # prompts of an examination, and completions of each
SOME = 8  # of these, for another pass@k
TEMPERATURES = (0.25, 0.5, 0.75, 1.0)  # that an examination tries, 1 the last


def task(world: Any) -> Any:
    """The token task within a world (envs/tokens.py). InputError where there is none."""
    inner = world
    while not hasattr(inner, "place") and hasattr(inner, "env"):
        inner = inner.env
    if not hasattr(inner, "place"):
        raise InputError(
            f"env: {world.name} has no prompts; this method needs tokens/... or preference/..."
        )
    return inner


@hyper
class LanguageModel(Network):
    """A small one of our own, with `hidden` layers, or one from a folder; or a table."""

    table: bool = arg(
        False, "a number for each completion in its place, of tasks where they can be counted"
    )
    model: str = arg("", "the folder of a language model to begin with: its layers, its tokens")
    lora: int = arg(0, "rank of adapters that learn in its place; 0: all of it learns", "[0, inf)")
    lora_scale: float = arg(16.0, "what adapters add is times this by their rank", "(0, inf)")
    lora_on: str = arg("all", f"matrices that have one, such as q+v, of {'+'.join(MATRICES)}")
    dtype: str = arg(
        "float32", "what it computes in; what learns is float32", ("float32", "bfloat16")
    )
    remat: bool = arg(False, "compute layers anew in the backward pass, which needs less memory")

    @property
    def adapter(self) -> Adapter | None:
        """What learns in the model's place, if something does."""
        on = MATRICES if self.lora_on == "all" else tuple(self.lora_on.split("+"))
        return Adapter(self.lora, self.lora_scale, on) if self.lora else None

    @property
    def kept(self) -> Any:
        """The type of parameters: what does not learn needs no float32 master."""
        return jnp.bfloat16 if self.lora and self.dtype == "bfloat16" else jnp.float32

    def problem(self) -> str:
        """What is wrong between fields, in one line; "" if nothing is."""
        if self.table and (self.model or self.lora):
            return "table: it is no language model, and has no adapters"
        if self.torso != "mlp" or self.memory:
            return "torso, memory: this method has a transformer of its own"
        if not self.model and (len(set(self.hidden)) != 1 or self.hidden[0] % 2):
            return f"hidden: {self.hidden} are not layers of one even width"
        for name in self.lora_on.split("+"):
            if name not in (*MATRICES, "all"):
                return f"lora_on: {name!r} is not all, or of {'+'.join(MATRICES)}"
        return ""


def model(world: Any, network: Network) -> Any:
    """The transformer for a world's tokens, or its table. InputError where it cannot be so."""
    assert isinstance(network, LanguageModel)
    check(network)
    game = task(world)
    if network.table:
        if not game.COUNTABLE:
            raise InputError(f"table: the completions of {world.name} are too many to count")
        return Tree(game.prompts, game.vocabulary, game.P, game.L)
    known, hidden = network.model, network.hidden
    shape = shape_of(known)[0] if known else small(game.vocabulary, hidden)
    dtype = None if network.dtype == "float32" else jnp.dtype(network.dtype)
    return Transformer(shape, game.blank, network.adapter, network.remat, dtype)


def beginning(net: Any, key: Key, world: Any) -> Params:
    """The parameters that a run begins with: the world's start, a table's reference, or chance."""
    fresh = net.init(key, jnp.zeros((1, 1), jnp.int32))
    if isinstance(net, Tree):
        reference = known(world, "reference")
        table = fresh["params"]["table"] if reference is None else reference
        return dict(params={**fresh["params"], "table": table})
    return {**fresh, **(known(world, "start") or {})}


def learned(params: Params) -> Params:
    """The part that learns: all, or where there are adapters these and the value head."""
    if "lora" not in params:
        return params
    return dict(lora=params["lora"], params=dict(value=params["params"]["value"]))


def whole(params: Params, part: Params) -> Params:
    """Parameters with another `learned` part."""
    if "lora" not in params:
        return part
    return dict(lora=part["lora"], params={**params["params"], **part["params"]})


class Group(struct.PyTreeNode):
    """Completions [B, ...], those of one prompt side by side: what a surrogate's `b` is."""

    number: jax.Array  # of the prompt
    tokens: jax.Array  # [B, P + L]
    mask: jax.Array  # [B, L] 1 where the policy chose; 0 after the end, and in what is left out
    old: jax.Array  # [B, L] log-probabilities under the sampler
    value: jax.Array  # [B, L] before each token, likewise
    reward: jax.Array  # [B]
    baseline: Any = ()  # [B] the reward of the greedy completion, where there is one
    ref: Any = ()  # [B, L] log-probabilities under the reference, where they are needed
    over: Any = ()  # [B] whether it has ended, where some are to be gone on with
    wish: Any = ()  # [B] the length that the prompt asks for, where it does
    seen: Any = ()  # what the table has of each one's prompt, before this iteration
    advantage: Any = ()  # [B, L]
    target: Any = ()  # [B, L] what the critic regresses on
    extra: Any = ()  # what else a method wants its surrogate to know of each


class Written(struct.PyTreeNode):
    """What `decode` wrote, [B, ...]."""

    state: Any  # of the task: tokens among it
    mask: jax.Array  # [B, L] 1 where the policy chose
    log_prob: jax.Array  # [B, L], 0 elsewhere
    value: jax.Array  # [B, L]


def decode(
    net: Transformer,
    params: Params,
    game: Any,
    numbers: jax.Array,
    key: Key | None,
    temperature: Any = 1.0,
    group: int = 1,
    prefix: tuple[jax.Array, jax.Array] | None = None,
    until: jax.Array | None = None,
    cached: bool = True,
) -> Written:
    """`group` completions of each prompt, in one scan. The prompt is read once for all of them.

    Args:
      numbers: of the prompts.
      key: None: by the mode.
      prefix: tokens [B, L] and how many of each row are given, not chosen: 0 of them to L. A whole
        completion given is one from elsewhere; part of one, a state to go on from.
      until: after how many tokens each row stops, [B], whether it has ended or not.
      cached: False computes every token from the whole sequence anew, for tests.
    """
    P, L, T = game.P, game.L, game.window
    B, n = len(numbers) * group, game.vocabulary
    begun = jax.vmap(game.begin)(jnp.repeat(numbers, group))
    draw = lambda key, *shape: flat(jax.random.gumbel, key, shape)
    large = n >= LARGE  # then not all noise is there at once
    noise = None
    if key is not None:
        noise = jax.random.split(key, L) if large else draw(key, L, B, n)
    cache = net.empty(len(numbers), T)
    if P > 1:
        cache = net.read(params, begun.tokens[::group, : P - 1], cache, 0)[2]
    cache = jax.tree.map(lambda x: jnp.repeat(x, group, 0), cache)

    def one(carry, x):
        state, cache = carry
        i, noise = x
        if cached:
            token = jax.lax.dynamic_slice_in_dim(state.tokens, P - 1 + i, 1, 1)
            logits, value, cache = net.read(params, token, cache, P - 1 + i)
        else:
            logits, value, _ = net.read(params, state.tokens)
            at = lambda y: jax.lax.dynamic_slice_in_dim(y, P - 1 + i, 1, 1)
            logits, value = at(logits), at(value)
        log_p = jax.nn.log_softmax(logits[:, 0] / temperature)
        if noise is not None:
            noise = draw(noise, B, n) if large else noise
        action = (log_p if noise is None else log_p + noise).argmax(-1)
        mine = jax.vmap(game.mine)(state) & ~state.over
        if prefix is not None:
            given = i < prefix[1]
            action = jnp.where(given, prefix[0][:, i], action)
            mine &= ~given
        after = jax.vmap(game.place)(state, action)
        if until is not None:
            mine &= i < until
            after = jax.vmap(choose)(i < until, after, state)
        state = after
        chosen = jnp.take_along_axis(log_p, action[:, None], 1)[:, 0]
        row = mine.astype(jnp.float32), jnp.where(mine, chosen, 0.0), value[:, 0]
        return (state, cache), row

    (state, _), rows = jax.lax.scan(one, (begun, cache), (jnp.arange(L), noise))
    return Written(state, *(jnp.moveaxis(x, 0, 1) for x in rows))


def replay(game: Any, numbers: jax.Array, completions: jax.Array) -> tuple[Any, jax.Array]:
    """States of a task after completions that come from elsewhere, such as a file or its solutions,
    and which of their tokens are a policy's to choose.

    Args:
      numbers: of the prompts [B].
      completions: tokens [B, L].

    Returns (state, mask [B, L]).
    """

    def one(state, token):
        return game.place(state, token), game.mine(state) & ~state.over

    each = lambda j, tokens: jax.lax.scan(one, game.begin(j), tokens)
    state, mask = jax.vmap(each)(numbers, completions)
    return state, mask.astype(jnp.float32)


def offline(
    net: Transformer,
    params: Params,
    game: Any,
    numbers: jax.Array,
    completions: jax.Array,
    temperature: Any = 1.0,
) -> Group:
    """Completions [B, L] that come from elsewhere as a policy's own would be learned from: with
    their rewards, and in `old` and `value` what these parameters say of them."""
    state, mask = replay(game, numbers, completions)
    none = jnp.zeros_like(mask)
    reward = jax.vmap(game.score)(state)
    b = Group(state.number, state.tokens, mask, none, none, reward)
    w = judge(net, params, b, temperature)
    return b.replace(old=w.log_prob * mask, value=w.value)


def judge(net: Transformer, params: Params, b: Group, temperature: Any, group: int = 1) -> View:
    """What the model says of completions, per token, against what the sampler said.

    group: so many stand together that have one prompt, which is read once for all of them.
    """
    B, L = b.mask.shape
    P = b.tokens.shape[1] - L
    if group > 1 and P > 1:
        empty = net.empty(B // group, P - 1 + L)
        cache = net.read(params, b.tokens[::group, : P - 1], empty, 0)[2]
        cache = jax.tree.map(lambda x: jnp.repeat(x, group, 0), cache)
        x, value = net.see(params, b.tokens[:, P - 1 : -1], cache, P - 1)
    else:
        x, value = net.see(params, b.tokens[:, :-1], since=P - 1)
    log_prob, entropy = said(net, params, x, b.tokens[:, P:], temperature)
    log_ratio = (log_prob - b.old) * (b.mask > 0)
    return View(
        log_ratio=log_ratio,
        log_prob=log_prob,
        value=value,
        entropy=lambda: entropy,
        kl=lambda: k3(log_ratio),  # an estimate, from the sampler's completions
        reverse_kl=lambda: jnp.exp(log_ratio) * log_ratio - jnp.expm1(log_ratio),
        record=log_prob,
        logits=net.say(params, x) / temperature,  # nothing is computed where nobody reads them
    )


def said(
    net: Transformer, params: Params, x: jax.Array, tokens: jax.Array, temperature: Any
) -> tuple[jax.Array, jax.Array]:
    """Log-probabilities of tokens [B, L] at states [B, L, width], and entropies. A large
    vocabulary's are computed some tokens at a time, in the backward pass too."""

    def of(part):
        x, token = part
        log_p = jax.nn.log_softmax(net.say(params, x) / temperature)
        chosen = jnp.take_along_axis(log_p, token[..., None], -1)[..., 0]
        return chosen, -(jnp.exp(log_p) * log_p).sum(-1)

    size = max(1, MOST // net.shape.vocabulary)
    if net.shape.vocabulary < LARGE or tokens.size <= size:
        return of((x, tokens))
    parts = -(-tokens.size // size)
    flat_x, flat_token = x.reshape(tokens.size, -1), tokens.ravel()
    short = parts * size - tokens.size
    cut = lambda y: jnp.pad(y, [(0, short)] + [(0, 0)] * (y.ndim - 1)).reshape(
        parts, size, *y.shape[1:]
    )
    out = jax.lax.map(jax.checkpoint(of), (cut(flat_x), cut(flat_token)))
    return tuple(y.ravel()[: tokens.size].reshape(tokens.shape) for y in out)  # type: ignore


def attempts(
    net: Transformer, params: Params, game: Any, key: Key, prompts: int, each: int
) -> tuple[jax.Array, jax.Array]:
    """Which of so many completions each of random prompts are right: sampled at each of the
    temperatures [temperatures, prompts, each], and by the mode [prompts]."""
    k_number, k_decode = jax.random.split(key)
    numbers = jax.random.randint(k_number, (prompts,), 0, game.count)
    right = lambda x: (jax.vmap(game.score)(x.state) >= 1.0).reshape(prompts, -1)
    at = lambda T: right(decode(net, params, game, numbers, k_decode, T, each))
    greedy = right(decode(net, params, game, numbers, None))[:, 0]
    return jax.lax.map(at, jnp.array(TEMPERATURES)), greedy


def pass_at(k: int, right: jax.Array) -> jax.Array:
    """How often one of k completions is right, of which n were tried [..., n], without bias:
    1 - C(n - c, k) / C(n, k), c of them right (Chen et al. 2021, arXiv 2107.03374, eq. 1)."""
    n = right.shape[-1]
    wrong = n - right.sum(-1, dtype=jnp.int32)
    i = jnp.arange(k)
    return 1 - (jnp.maximum(wrong[..., None] - i, 0) / (n - i)).prod(-1)


def counted(world: Any) -> Group:
    """All completions of every prompt [prompts * V ** L], of a task where they can be counted."""
    game = task(world)
    n, V, L = game.prompts, game.vocabulary, game.L
    begun = jax.vmap(game.begin)(jnp.repeat(jnp.arange(n), V**L))
    written = jnp.stack(jnp.meshgrid(*[jnp.arange(V)] * L, indexing="ij"), -1).reshape(-1, L)
    rows = jnp.concatenate([begun.tokens[:, : game.P], jnp.tile(written, (n, 1))], 1)
    reward = jax.vmap(known(world, "score"))(begun.replace(tokens=rows))
    none = jnp.zeros((len(rows), L))
    return Group(begun.number, rows, none + 1, none, none, reward)


def picked(game: Any, number: jax.Array, log_p: jax.Array, key: Key) -> tuple:
    """Of completions that can be counted, K drawn for each prompt by log-probabilities
    [B, K, V ** L]: windows [B, K, P + L], and which of all they are [B, K]."""
    rows = counted(game).tokens.reshape(game.prompts, -1, game.window)
    at = jax.random.categorical(key, log_p)
    return jnp.take_along_axis(rows[number], at[..., None], 1), at


def everything(
    net: Transformer, params: Params, game: Any, temperature: Any = 1.0
) -> tuple[jax.Array, jax.Array]:
    """Of a task whose completions can be counted: the log-probability and the reward of each,
    [prompts, V ** L]."""
    b = counted(game)
    log_prob = judge(net, params, b, temperature).log_prob.sum(-1)
    return log_prob.reshape(game.prompts, -1), b.reward.reshape(game.prompts, -1)


def next_token(
    net: Transformer, params: Params, obs: Any, key: Key | None, temperature: Any = 1.0
) -> jax.Array:
    """The token that a policy places after each window [B]; its mode where there is no key."""
    logits, _, _ = net.read(params, obs["tokens"])
    logits = jnp.take_along_axis(logits, obs["at"][:, None, None], 1)[:, 0] / temperature
    if key is not None:
        logits += jax.random.gumbel(key, logits.shape)
    return logits.argmax(-1)


def examination(
    net: Transformer, params: Params, ref: Params, world: Any, key: Key
) -> dict[str, jax.Array]:
    """On prompts that are held out: how much is solved by the mode, by samples, by the best of
    some, and by samples at the best of some temperatures. Of a countable task also the expected
    reward, what that lacks of the best, the KL to the reference, and how much of the policy is on
    what is in no pair of "data", all exact."""
    game = task(world).examined()
    each, greedy = attempts(net, params, game, key, EXAMINED, PASS_AT)
    out = {
        "sampled": each[-1].mean(),
        "greedy": greedy.mean(),
        f"pass_at_{SOME}": pass_at(SOME, each[-1]).mean(),
        f"pass_at_{PASS_AT}": each[-1].any(-1).mean(),
        "tempered": each.mean((1, 2)).max(),
    }
    if game.COUNTABLE:
        log_p, R = everything(net, params, game)
        p = jnp.exp(log_p)
        out["expected"] = (p * R).sum(-1).mean()
        out["regret"] = R.max(-1).mean() - out["expected"]
        out["exact_kl"] = (p * (log_p - everything(net, ref, game)[0])).sum(-1).mean()
        if hasattr(game, "cover"):
            out["uncovered"] = jnp.where(game.cover > 0, 0.0, p).sum(-1).mean()
    return out
