"""Starts: a model fitted to a token task's own solutions, so that learning by rewards begins from a
policy that solves some problems and not others.

A task's start is made once for each of its windows and architectures, kept beside the compiled
programs, and shared by all seeds and methods: it is to a token run what a base model is to a
language model's.
"""

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from envs.tokens.spoken import spoken
from jaxrl import cache
from jaxrl.completions import LanguageModel, attempts, model, replay, task
from jaxrl.errors import InputError
from jaxrl.models import load_checkpoint, reader
from jaxrl.policies import Network
from jaxrl.run.checkpoint import as_json, by_path, kind, plain
from jaxrl.run.files import replacing
from jaxrl.surrogate import token_mean
from jaxrl.types import Params

BATCH, CHUNK, MOST = 256, 64, 16_384  # solutions a step; steps between two looks; steps at most
LOOKED, EACH = 256, 8  # held-out prompts of a look, and completions of each
LR, CLIP = 3e-3, 1.0
BETWEEN = (0.25, 0.45)  # where a start's pass@1 must lie


def fitted(
    world: Any,
    network: Network,
    between: tuple[float, float] = BETWEEN,
    seed: int = 0,
    say: Callable[[str], Any] = lambda line: None,
) -> tuple[Params, dict]:
    """Parameters whose pass@1 on held-out prompts, sampled, lies in an interval; and about them.

    Cross-entropy of solutions given their prompts, until a look finds it there. Where it has jumped
    over the interval it goes back and looks twice as often.

    Raises:
      InputError: it cannot be brought there.
    """
    game, net = task(world), model(world, network)
    k_net, key = jax.random.split(jax.random.key(seed))
    params = net.init(k_net, jnp.zeros((1, 1), jnp.int32))
    adam = optax.chain(optax.clip_by_global_norm(CLIP), optax.adam(LR))
    P = game.P

    def solution(j):
        return game.problem(game.order[game.first + j], game.difficulty).solution

    def loss(params, key):
        numbers = jax.random.randint(key, (BATCH,), 0, game.count)
        state, mask = replay(game, numbers, jax.vmap(solution)(numbers))
        logits = net.read(params, state.tokens[:, :-1], since=P - 1)[0]
        each = optax.softmax_cross_entropy_with_integer_labels(logits, state.tokens[:, P:])
        return token_mean(mask).ravel() @ each.ravel()

    @jax.jit
    def advance(params, opt, key, n):
        def one(i, carry):
            params, opt = carry
            grads = jax.grad(loss)(params, jax.random.fold_in(key, i))
            updates, opt = adam.update(grads, opt, params)
            return optax.apply_updates(params, updates), opt

        return jax.lax.fori_loop(0, n, one, (params, opt))

    @jax.jit
    def look(params):
        key = jax.random.key(seed + 1)
        sampled, greedy = attempts(net, params, game.examined(), key, LOOKED, EACH)
        return sampled.mean((1, 2)), greedy.mean()

    low, high = between
    opt, done, n = adam.init(params), 0, CHUNK
    while done < MOST and n:
        ahead = advance(params, opt, jax.random.fold_in(key, done), jnp.int32(n))
        tempered, greedy = jax.device_get(look(ahead[0]))
        sampled = float(tempered[-1])
        if sampled > high:
            n //= 2
            continue
        (params, opt), done = ahead, done + n
        say(f"{done} steps: pass@1 {sampled:.3f}")
        if sampled >= low:
            about = dict(sampled=sampled, greedy=float(greedy), tempered=float(tempered.max()))
            return params, about | dict(steps=done, seed=seed)
    raise InputError(
        f"pretrain: {world.name}: pass@1 is {sampled:.3f} after {done} steps, "
        f"wanted is [{low}, {high}]; another difficulty, or hidden, may help"
    )


def place(world: Any, network: Network) -> Path:
    """Where the start of a task and an architecture is kept."""
    game = task(world)
    leaves = [np.asarray(game.order), np.asarray(game.difficulty)]
    about = f"{jax.tree.structure(game)} {network.hidden} {LR} {BATCH} {BETWEEN} {jax.__version__}"
    digest = hashlib.sha256(about.encode() + b"".join(x.tobytes() for x in leaves)).hexdigest()
    return cache.home() / "jaxrl" / "starts" / f"{game.name.replace('/', '-')}-{digest[:12]}.npz"


def save(path: Path, params: Params, about: dict) -> None:
    """Write a start: its leaves by their paths, and `about` as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    leaves: Any = plain(params)
    with replacing(path, "start") as new:
        np.savez(new, about=as_json(about), **leaves)


def load(path: Path, like: Params) -> Params:
    """The parameters in a file. InputError where it holds no such ones."""
    try:
        with np.load(path, allow_pickle=False) as found:
            leaves = {k: found[k] for k in found.files if k != "about"}
    except (OSError, ValueError, EOFError) as e:
        raise InputError(f"start: {path}: {getattr(e, 'strerror', None) or e}") from e
    want = {k: kind(x) for k, x in by_path(like).items()}
    have = {k: kind(x) for k, x in leaves.items()}
    for k in {**want, **have}:
        if want.get(k) != have.get(k):
            raise InputError(f"start: {path}: {k} is {have.get(k)}, needed is {want.get(k)}")
    return jax.tree.unflatten(jax.tree.structure(like), [leaves[k] for k in want])


def started(world: Any, network: Network) -> Any:
    """The world with its task's start, which is made where there is none yet; or in the tokens of
    the language model that it is to begin with."""
    assert isinstance(network, LanguageModel)
    if network.model:
        found = load_checkpoint(network.model, network.kept)
        return within(world, lambda task: spoken(task, reader(found), found.params))
    net, path = model(world, network), place(world, network)
    like = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    if not path.exists():
        print(f"fitting a start for {world.name}, once: {path}", file=sys.stderr, flush=True)
        save(path, *fitted(world, network))
    start = jax.tree.map(jnp.asarray, load(path, like))
    return within(world, lambda task: task.replace(start=start))


def within(world: Any, change: Callable) -> Any:
    """The world whose task is changed."""
    if not hasattr(world, "env"):
        return change(world)
    return world.replace(env=within(world.env, change))
