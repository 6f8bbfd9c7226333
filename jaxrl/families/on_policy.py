"""The on-policy family: roll out, estimate advantages, update, forget.

    algo = on_policy(policy, surrogate)

Each iteration: `sampler` gives a batch, `dual` adapts multipliers, `advantage` fills `b.advantage`
and `b.target`, `update` changes the parameters. Each is a `Part` with a slot of the state; a paper
passes in the one its equations define. `surrogate` and `value_loss` are functions per sample,
(View, Batch, hp) -> [...]; the family means, weighs and minibatches them.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from jaxrl import returns
from jaxrl.core import Algo, Part, Policy
from jaxrl.errors import InputError
from jaxrl.hyper import Linear, arg, hyper
from jaxrl.loops import averaged, summed
from jaxrl.optim import adam, norm
from jaxrl.policies import Network, policy_for
from jaxrl.rollout import Stage, begin, flattened, rollout, rows, see
from jaxrl.shuffle import shuffle
from jaxrl.types import Batch, Key, Params, moved


@hyper
class OnPolicy:
    """What every on-policy method needs. An iteration is num_envs x num_steps environment steps."""

    lr: float | Linear = arg(2.5e-3, "Adam's step size; a:b goes linearly from a to b", "[0, inf)")
    gamma: float = arg(0.99, "discount", "[0, 1]")
    lam: float = arg(0.95, "λ of the advantage estimator", "[0, 1]")
    vf_coef: float = arg(0.5, "weight of the critic's loss", "[0, inf)")
    ent_coef: float = arg(0.01, "weight of the entropy bonus", "[0, inf)")
    max_grad_norm: float = arg(0.5, "clip the gradient's global norm; inf: off", "(0, inf]")
    num_envs: int = arg(16, "environments stepped side by side", "[1, inf)")
    num_steps: int = arg(64, "steps of each environment an iteration", "[1, inf)")
    epochs: int = arg(4, "passes over each rollout", "[1, inf)")
    minibatches: int = arg(4, "minibatches a pass", "[1, inf)")
    # groups of environments draw and are shuffled each by itself: devices that share one seed's
    # take whole ones, and unless it is said there are as many groups as these
    groups: int = arg(1, "of environments, that devices may share out", "[1, inf)")
    # what a method ranks or bounds within a minibatch it does within a piece
    accumulate: int = arg(1, "pieces of a minibatch whose gradients are added", "[1, inf)")
    storage: str = arg("float32", "what observations are kept in", ("float32", "bfloat16"))
    normalise_obs: bool = arg(False, "observations by their running mean and deviation")
    normalise_reward: bool = arg(False, "rewards by the running deviation of the return")
    normalise_advantage: bool = arg(True, "advantages to mean 0, deviation 1 over the rollout")
    horizon: float = arg(1.0, "iterations of the whole run: set by it, for schedules", "[1, inf)")

    def problem(self) -> str:
        """What is wrong between fields, in one line; "" if nothing is."""
        rows = self.num_envs * self.num_steps
        if self.num_envs % self.groups:
            return f"groups: {self.groups} does not divide num_envs = {self.num_envs}"
        if self.groups > 1 and rows // self.groups % self.minibatches:
            return (
                f"minibatches: {self.minibatches} does not divide num_envs / groups * num_steps = "
                f"{self.num_envs} / {self.groups} * {self.num_steps} = {rows // self.groups}"
            )
        if rows % self.minibatches:
            return (
                f"minibatches: {self.minibatches} does not divide num_envs * num_steps = "
                f"{self.num_envs} * {self.num_steps} = {rows}"
            )
        if (size := rows // self.minibatches) % self.accumulate:
            return f"accumulate: {self.accumulate} does not divide a minibatch of {size} rows"
        return ""

    @classmethod
    def unless_own(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Those of the values that no paper's class sets itself: one epoch makes A2C what it is."""
        papers = (c for c in cls.__mro__ if c is not OnPolicy)
        own = {name for c in papers for name in vars(c).get("__annotations__", {})}
        return {k: v for k, v in values.items() if k not in own}

    @classmethod
    def for_env(cls, kind: str) -> Any:
        """The defaults for a class of environments (`envs.kind`)."""
        return cls(**cls.unless_own(PRESETS.get(kind, {})))

    @classmethod
    def smallest(cls) -> dict[str, dict]:
        """The smallest problem that moves every part, for the battery, as a config.toml has it."""
        return SMALLEST | dict(hyper=cls.unless_own(SMALLEST["hyper"]))

    @staticmethod
    def network_for(kind: str) -> Network:
        """The network that goes with them."""
        return Network(**NETWORKS.get(kind, {}))

    @property
    def steps_per_iteration(self) -> int:
        """Environment steps that one iteration takes."""
        return self.num_envs * self.num_steps


# One default per class of environment, for every paper of the family; none per environment.
SCALED: dict[str, Any] = dict(normalise_obs=True, normalise_reward=True, ent_coef=0.0, lr=3e-4)
PRESETS: dict[str, dict[str, Any]] = {
    "control": SCALED | dict(num_envs=16, num_steps=128, epochs=10, minibatches=16),
    "brax": SCALED | dict(num_envs=64, num_steps=64, minibatches=32),
    "minatar": dict(num_envs=64, num_steps=128, minibatches=16, lr=Linear(2.5e-3, 0.0)),
} | dict.fromkeys(("classic", "bsuite", "misc"), dict(lr=Linear(2.5e-3, 0.0)))
PRESETS["playground"] = PRESETS["brax"]
PRESETS["agents"] = dict(num_envs=16, num_steps=50, epochs=10, minibatches=1, lr=2.5e-3)
PRESETS["jaxmarl"] = PRESETS["agents"]
NETWORKS: dict[str, dict[str, Any]] = {"minatar": dict(activation="relu")}
SMALLEST: dict[str, dict[str, Any]] = dict(
    run=dict(env="CartPole-v1"),
    env_params=dict(max_steps=8),
    network=dict(hidden=(8,)),
    hyper=dict(num_envs=4, num_steps=8, minibatches=2, epochs=2, lr=0.03),
)


class State(struct.PyTreeNode):
    params: Params
    opt: Any
    key: Key
    stage: Stage
    slots: dict[str, Any]  # of the parts, by the part's name


# ---- parts -----------------------------------------------------------------------------------


def stateless(apply: Callable[[State, Batch, jax.Array, Any, Any], Any]) -> Part:
    """A part without a slot, from `apply(state, batch, t, hp, world) -> out`."""
    return Part(lambda *_: (), lambda _, *args: ((), apply(*args)))


Acting = Policy | Callable[[Any], Policy]  # or of the hyperparameters that acting has


def bound(policy: Acting, hp: Any) -> Policy:
    """The policy itself: one whose acting has hyperparameters is a function of them."""
    return policy(hp) if callable(policy) else policy


def on_policy_sampler(policy: Acting) -> Part:
    """One rollout under the current parameters: out = (state, batch, metrics)."""

    def sample(s, _, t, hp, world):
        key, k = jax.random.split(s.key)
        acting = bound(policy, hp)
        stage, batch, metrics = rollout(acting, s.params, s.stage, k, hp, world, hp.num_steps)
        return s.replace(key=key, stage=stage), batch, metrics

    return stateless(sample)


def standardise(A: jax.Array) -> jax.Array:
    """To mean 0 and deviation 1 over time and environments (each objective by itself)."""
    return (A - A.mean((0, 1))) / (A.std((0, 1)) + 1e-8)


def gae(s: State, b: Batch, t: jax.Array, hp: Any, world: Any) -> Batch:
    """Generalised advantages, and the λ-returns they imply as the critic's targets."""
    if b.reward.ndim > b.value.ndim:
        paid = f"{world.name} pays {b.reward.shape[-1]} rewards a step"
        raise InputError(f"env: {paid}; this method learns from one")
    cuts = (b.terminated, b.done)
    A = returns.gae(b.reward, b.value, b.next_value, *cuts, hp.gamma, hp.lam)
    target = A + b.value
    return b.replace(advantage=standardise(A) if hp.normalise_advantage else A, target=target)


def squared_error(w, b: Batch, hp: Any) -> jax.Array:
    """(V - target)² / 2."""
    return 0.5 * jnp.square(w.value - b.target)


def minibatches(key: Key, b: Batch, hp: Any, sequences: bool):
    """Index sets [minibatches, ...] for one pass, and the function that takes one of them.

    Rows [M, ...] of a flattened batch, or whole sequences [T, M, ...] with the memory they began
    with. What the loss does not read is left out, so that it is not carried through the shuffle.
    Each has as much of every group of environments, so that no row leaves its group's device.
    """
    dual, memory, G = b.dual, b.memory, hp.groups
    b = b.replace(reward=None, terminated=None, done=None, next_value=None, dual=(), memory=())
    n = (b.start.shape[1] if sequences else b.start.size) // G
    if n % hp.minibatches:
        of = "num_envs" if G == 1 else "num_envs / groups"
        raise InputError(f"minibatches: {hp.minibatches} does not divide {of} = {n} sequences")
    if not sequences:
        b = jax.tree.map(lambda x: flattened(x, G), b)

    def take(i):
        at = partial(picked, i=i)
        if not sequences:
            return moved(at, b).replace(dual=dual)
        return moved(jax.vmap(at), b).replace(memory=jax.tree.map(at, memory), dual=dual)

    if G == 1:
        return shuffle(key, n).reshape(hp.minibatches, -1), take
    index = jax.vmap(lambda k: shuffle(k, n))(jax.random.split(key, G))
    return jnp.moveaxis(index.reshape(G, hp.minibatches, -1), 0, 1), take


def picked(x: jax.Array, i: jax.Array) -> jax.Array:
    """The rows [M, ...] of x [N, ...] at i [M]; or at i [G, M / G], counted within each group."""
    if i.ndim == 1:
        return x[i]
    own = x.reshape(len(i), -1, *x.shape[1:])
    return jax.vmap(lambda x, i: x[i])(own, i).reshape(i.size, *x.shape[1:])


def one_pass(step: Callable, carry: Any, b: Batch, key: Key, hp: Any, sequences: bool):
    """The last carry of step(carry, minibatch, key) -> (carry, stats) over the minibatches of a
    shuffled batch, and each stat's mean."""
    k_shuffle, k_step = jax.random.split(key)
    index, take = minibatches(k_shuffle, b, hp, sequences)
    each = lambda carry, x: step(carry, take(x[0]), x[1])
    return averaged(each, carry, (index, jax.random.split(k_step, hp.minibatches)))


def total_loss(policy: Acting, surrogate: Callable, value_loss: Callable = squared_error):
    """mean(surrogate) + vf_coef mean(value_loss) - ent_coef mean(entropy), and its parts."""

    def loss(params, old_params, b, key, hp):
        w = bound(policy, hp).judge(params, old_params, b, key)
        policy_loss, value, entropy = surrogate(w, b, hp), value_loss(w, b, hp), w.entropy()
        total = policy_loss.mean() + hp.vf_coef * value.mean() - hp.ent_coef * entropy.mean()
        gain = jnp.expm1(w.log_ratio)  # r - 1
        each = dict(policy_loss=policy_loss, value_loss=value, entropy=entropy)
        each["approx_kl"] = gain - w.log_ratio  # k3, Schulman 2020: >= 0, unbiased
        each["ratio_deviation"] = jnp.abs(gain)
        return total, means(each) | dict(ratio_excursion=jnp.abs(gain).max())

    return loss


def means(each: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The mean of each array; those of one shape by one reduction."""
    alike: dict[tuple[int, ...], dict[str, jax.Array]] = {}
    for name, x in each.items():
        alike.setdefault(x.shape, {})[name] = jax.lax.stop_gradient(x)
    out = {}
    for shape, arrays in alike.items():
        mean = jnp.stack(list(arrays.values())).mean(tuple(range(1, 1 + len(shape))))
        out |= dict(zip(arrays, mean))
    return out


def gradient(loss: Callable, params: Params, old: Params, b: Batch, key: Key, hp: Any, axis: int):
    """Of a mean over the samples of a minibatch: (its gradient, what the loss says on the way).

    It is that of `hp.accumulate` equal pieces, one after the other, so that what a backward pass
    keeps is a piece's; what is said are means over pieces, of `ratio_excursion` the largest.

    axis: of rows, 0, or of sequences, 1. InputError where their number is not a multiple.
    """
    n, G, M = hp.accumulate, hp.groups, b.start.shape[axis]
    if n == 1:
        return jax.grad(loss, has_aux=True)(params, old, b, key, hp)
    if M % (n * G):
        rows = f"a minibatch of {M}" + (f" / groups = {M // G}" if G > 1 else "")
        raise InputError(f"accumulate: {n} does not divide {rows}")
    size = M // n // G  # of each group

    def cut(x, i, axis):
        own = x.reshape(*x.shape[:axis], G, M // G, *x.shape[axis + 1 :])
        own = jax.lax.dynamic_slice_in_dim(own, i * size, size, axis + 1)
        return own.reshape(*x.shape[:axis], G * size, *x.shape[axis + 1 :])

    def of(x):
        i, k = x
        piece = moved(partial(cut, i=i, axis=axis), b.replace(memory=(), dual=()))
        memory = jax.tree.map(partial(cut, i=i, axis=0), b.memory)
        piece = piece.replace(memory=memory, dual=b.dual)
        return jax.grad(loss, has_aux=True)(params, old, piece, k, hp)

    total, said = summed(of, (jnp.arange(n), jax.random.split(key, n)))
    stats = jax.tree.map(jnp.mean, said) | dict(ratio_excursion=said["ratio_excursion"].max())
    return jax.tree.map(lambda g: g / n, total), stats


def sgd(
    policy: Acting,
    surrogate: Callable,
    *,
    value_loss: Callable = squared_error,
    optimiser: Callable = adam,
    sequences: bool = False,
) -> Part:
    """Epochs of minibatch gradient steps on the total loss: out = (state, metrics)."""
    loss = total_loss(policy, surrogate, value_loss)

    def update(s, b, t, hp, world):
        opt = optimiser(hp, t)
        key, k = jax.random.split(s.key)

        def step(carry, part, k):
            params, state = carry
            grads, stats = gradient(loss, params, s.params, part, k, hp, int(sequences))
            updates, state = opt.update(grads, state, params)
            stats["grad_norm"] = norm(grads)
            return (optax.apply_updates(params, updates), state), stats

        def epoch(carry, k):
            return one_pass(step, carry, b, k, hp, sequences)

        carry, stats = averaged(epoch, (s.params, s.opt), jax.random.split(k, hp.epochs))
        params, opt_state = carry
        return s.replace(params=params, opt=opt_state, key=key), stats

    return stateless(update)


def descent(policy: Policy, surrogate: Callable, optimiser: Callable = adam) -> Callable:
    """(state, batch, key, hp, world, lr, epochs) -> what `sgd` makes of the state's parameters by a
    surrogate alone, without the critic or an entropy bonus, from a fresh optimiser."""
    part = sgd(policy, surrogate, value_loss=lambda w, *_: 0 * w.value, optimiser=optimiser)

    def descend(s, b, key, hp, world, lr, epochs):
        hp = hp.replace(lr=lr, epochs=epochs, ent_coef=0.0)
        s = s.replace(opt=optimiser(hp).init(s.params), key=key)
        return part.apply((), s, b, 0, hp, world)[1][0].params

    return descend


def watched(update: Part, measure: Callable) -> Part:
    """An update that reports more: measure(state after it, batch, hp, world) -> metrics."""

    def apply(slot, s, b, t, hp, world):
        slot, (s, stats) = update.apply(slot, s, b, t, hp, world)
        return slot, (s, stats | measure(s, b, hp, world))

    return Part(update.init, apply)


# ---- the builder -----------------------------------------------------------------------------


def on_policy(
    policy: Acting,
    surrogate: Callable | None = None,
    *,
    sampler: Part | None = None,
    advantage: Part = stateless(gae),
    dual: Part = stateless(lambda s, b, *_: b.dual),
    update: Part | None = None,
    value_loss: Callable = squared_error,
    optimiser: Callable = adam,
    sequences: bool = False,
) -> Algo:
    """An algorithm from a policy and what its paper changes.

    Args:
      policy: or hp -> policy, without memory, where acting has hyperparameters.
      surrogate: (View, Batch, hp) -> loss per sample; needed unless `update` is given.
      sampler: out = (state, batch, metrics). Default: one rollout under the current parameters.
      dual: out = `b.dual`, whatever the later parts want of it.
      advantage: out = the batch with `advantage` and `target` filled in. Default: GAE.
      update: out = (state, metrics). Default: epochs of minibatch gradient steps.
      sequences: minibatches of whole sequences instead of rows; recurrent networks need them.
    """
    if update is None:
        if surrogate is None:
            raise TypeError("on_policy needs a surrogate or an update")
        update = sgd(
            policy, surrogate, value_loss=value_loss, optimiser=optimiser, sequences=sequences
        )
    parts = dict(
        sampler=sampler or on_policy_sampler(policy), dual=dual, advantage=advantage, update=update
    )

    def init(key, hp, world):
        key, key_env, key_params, *keys = jax.random.split(key, 3 + len(parts))
        stage = begin(bound(policy, hp), key_env, hp, world)
        params = bound(policy, hp).init(key_params, stage.obs)
        s = State(params, optimiser(hp).init(params), key, stage, {})
        for (name, part), k in zip(parts.items(), keys, strict=True):
            s = s.replace(slots=s.slots | {name: part.init(k, s, hp, world)})
        return s

    def apply(name, s, b, t, hp, world):
        return parts[name].apply(s.slots[name], s, b, t, hp, world)

    def step(s, t, hp, world):
        slots = {}
        slots["sampler"], (s, b, metrics) = apply("sampler", s, None, t, hp, world)
        slots["dual"], extra = apply("dual", s, b, t, hp, world)
        b = b.replace(dual=extra)
        slots["advantage"], b = apply("advantage", s, b, t, hp, world)
        slots["update"], (s, stats) = apply("update", s, b, t, hp, world)
        unexplained = jnp.var(b.target - b.value) / (jnp.var(b.target) + 1e-8)
        stats["explained_variance"] = 1.0 - unexplained
        return s.replace(slots=slots), metrics | stats

    def act(s, obs, memory, key, hp):
        start = jnp.zeros(rows(obs), bool)
        seen = see(s.stage, obs)
        action, _, _, memory = bound(policy, hp).act(s.params, seen, start, memory, key)
        return action, memory

    return Algo(init, step, act, lambda n: () if callable(policy) else policy.memory(n))


def make_with(surrogate: Callable, **parts: Any) -> Callable:
    """The `make` of a paper that takes any network: parts as `on_policy` has them."""

    def make(world: Any, network: Network = Network()) -> Algo:
        policy = policy_for(world, network)
        return on_policy(policy, surrogate, sequences=network.memory > 0, **parts)

    return make
