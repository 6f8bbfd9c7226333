"""What no implementation of an item can do without, a program each, of the job's own sizes.

environment  its steps alone, under random actions
rollout      the same steps under the policy, with what is kept of them and their values
gradient     the forward and backward passes of the update over one minibatch again and again, with
             the optimiser's step: no collection, no shuffle, no metrics

Of a token run the environment is its prompts and its verifier, the rollout is generation with a
cache, and a fourth program is the gradient of a plain cross-entropy over whole windows:

plain        the forward and backward passes as they would be with no prompt shared

What a loop has made is carried to its end, else XLA would leave it out.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxrl.completions import Group, decode, judge, model, task
from jaxrl.families.off_policy import explorer, n_steps
from jaxrl.families.on_policy import gae, minibatches, total_loss
from jaxrl.families.tokens import total_loss as of_tokens
from jaxrl.optim import adam
from jaxrl.papers.off_policy import sac
from jaxrl.papers.on_policy import ppo
from jaxrl.policies import policy_for
from jaxrl.rollout import draw, rollout, unjudged
from jaxrl.run.run import Setting, compiled, over_rows, traced
from jaxrl.surrogate import k3, sequence_mean, token_mean


class Work(NamedTuple):
    """What an item's method does in an iteration, without what holds it together."""

    collect: Callable[..., Any]  # (state, key, hp, world) -> (stage, batch, metrics)
    minibatch: Callable[..., Any]  # (state, hp, world) -> what a gradient step reads
    descend: Callable[..., Any]  # (params, opt, minibatch, state, hp) -> (params, opt)
    count: int  # gradient steps of the whole run


def of_ppo(s: Setting) -> Work:
    net, hp, policy = s.job.network, s.job.hyper, policy_for(s.world, s.job.network)
    loss = total_loss(policy, ppo.clip, ppo.clipped_value)

    def collect(x, key, hp, world):
        return rollout(policy, x.params, x.stage, key, hp, world, hp.num_steps)

    def minibatch(x, hp, world):
        batch = gae(x, collect(x, x.key, hp, world)[1], jnp.int32(0), hp, world)
        index, take = minibatches(x.key, batch, hp, net.memory > 0)
        return take(index[0])

    def descend(params, opt, b, x, hp):
        grads, _ = jax.grad(loss, has_aux=True)(params, x.params, b, x.key, hp)
        updates, opt = adam(hp).update(grads, opt, params)
        return optax.apply_updates(params, updates), opt

    return Work(collect, minibatch, descend, s.job.iterations * hp.epochs * hp.minibatches)


def of_sac(s: Setting) -> Work:
    learner, hp = sac.learner(s.world, s.job.network), s.job.hyper
    waits = -(-hp.learning_starts // hp.steps_per_iteration) - 1  # iterations

    def collect(x, key, hp, world):
        policy = explorer(learner, world, waits + 1, hp)
        return unjudged(policy, x.params, x.stage, key, hp, world, hp.num_steps)

    def minibatch(x, hp, world):
        steps = -(-hp.batch_size // hp.num_envs)
        b = collect(x, x.key, hp.replace(num_steps=steps), world)[1].replace(start=None)
        rows = jax.tree.map(lambda x: x.reshape(-1, 1, *x.shape[2:])[: hp.batch_size], b)
        return n_steps(rows.replace(record=(), memory=()), hp.gamma)

    def descend(params, opt, b, x, hp):
        return learner.update(params, opt, b, x.key, jnp.int32(0), jnp.int32(0), hp)[:2]

    return Work(collect, minibatch, descend, (s.job.iterations - waits) * hp.updates)


def floors(s: Setting) -> dict[str, Callable]:
    """The floors of all iterations of a run, by name: each call does the whole of one."""
    job, n = s.job, s.job.iterations
    if job.paper == "grpo":
        return token_floors(s)
    work = dict(ppo=of_ppo, sac=of_sac)[job.paper](s)

    def environment(x, hp, world):
        def chosen(key):
            key_act, key_env = jax.random.split(key)
            keys = jax.random.split(key_act, (hp.num_steps, hp.num_envs))
            actions = jax.vmap(jax.vmap(world.action_space.sample))(keys)
            return actions, draw(world, key_env, hp.num_steps, hp.num_envs)

        def one(carry, now):
            action, chance = now
            return world.step(chance, carry[0], action), None

        def once(i, carry):
            return jax.lax.scan(one, carry, chosen(jax.random.fold_in(x.inner.key, i)))[0]

        first = x.inner.stage.env, None
        now = jax.tree.map(lambda y: y[0], chosen(x.inner.key))
        shapes = jax.eval_shape(one, first, now)[0][1]
        return jax.lax.fori_loop(0, n, once, (first[0], blank(shapes)))

    def whole_rollout(x, hp, world):
        def once(i, carry):
            s = x.inner.replace(stage=carry[0])
            return work.collect(s, jax.random.fold_in(s.key, i), hp, world)

        shapes = jax.eval_shape(work.collect, x.inner, x.inner.key, hp, world)[1:]
        return jax.lax.fori_loop(0, n, once, (x.inner.stage, *blank(shapes)))

    def one_minibatch(x, hp, world):
        return work.minibatch(x.inner, hp, world)

    def gradient(x, hp, world):
        s, b = x[0].inner, x[1]
        once = lambda _, carry: work.descend(*carry, b, s, hp)
        return jax.lax.fori_loop(0, work.count, once, (s.params, s.opt))

    state = begun(s)
    part = call(s, one_minibatch, state)(state, s.hp, s.world)
    inputs = {environment: state, whole_rollout: state, gradient: (state, part)}
    names = ("environment", "rollout", "gradient")
    made = {k: (call(s, f, x), x) for k, (f, x) in zip(names, inputs.items())}
    return {k: partial(f, x, s.hp, s.world) for k, (f, x) in made.items()}


def token_floors(s: Setting) -> dict[str, Callable]:
    """`floors` of a GRPO run."""
    hp, n = s.job.hyper, s.job.iterations
    net, rows = model(s.world, s.job.network), hp.prompts * hp.group

    def numbers(key, world):
        return jax.random.randint(key, (hp.prompts,), 0, task(world).count)

    def environment(x, hp, world):
        game = task(world)

        def once(i, total):
            begun = jax.vmap(game.begin)(jnp.repeat(numbers(keyed(x, i), world), hp.group))
            return total + jax.vmap(game.score)(begun).sum()

        return jax.lax.fori_loop(0, n, once, 0.0)

    def keyed(x, i):
        return jax.random.fold_in(x.inner.key, i)

    def wrote(x, i, hp, world):
        key = keyed(x, i)
        which = numbers(key, world)
        return decode(net, x.inner.params, task(world), which, key, hp.temperature, hp.group)

    def generation(x, hp, world):
        once = lambda i, total: total + wrote(x, i, hp, world).state.tokens.sum()
        return jax.lax.fori_loop(0, n, once, 0)

    def minibatch(x, hp, world):
        w = wrote(x, 0, hp, world)
        one = jax.random.normal(x.inner.key, (rows, 1)) * jnp.ones_like(w.mask)
        game = task(world)
        R = jax.vmap(game.score)(w.state)
        b = Group(w.state.number, w.state.tokens, w.mask, w.log_prob, w.value, R, advantage=one)
        return b.replace(ref=w.log_prob)

    def descent(loss):
        def whole(x, hp, world):
            s, b = x[0].inner, x[1]
            cut = lambda y: y.reshape(hp.accumulate, -1, *y.shape[1:])
            pieces = jax.tree.map(cut, b)

            def once(_, carry):
                params, opt = carry
                more = lambda sum, b: (jax.tree.map(jnp.add, sum, jax.grad(loss)(params, b, hp)), 0)
                grads, _ = jax.lax.scan(more, jax.tree.map(jnp.zeros_like, params), pieces)
                updates, opt = adam(hp).update(grads, opt)
                return optax.apply_updates(params, updates), opt

            return jax.lax.fori_loop(0, n, once, (s.params, s.opt))

        return whole

    def grpo_loss(params, b, hp):
        weights = sequence_mean(b.mask), token_mean(b.mask), b.mask[:, 0]
        return of_tokens(net, params, b, *weights, hp, ppo.clip, k3)[0]

    def cross_entropy(params, b, hp):
        return -judge(net, params, b, hp.temperature).log_prob.mean()

    state = begun(s)
    part = call(s, minibatch, state)(state, s.hp, s.world)
    inputs = dict(
        environment=(environment, state),
        rollout=(generation, state),
        gradient=(descent(grpo_loss), (state, part)),
        plain=(descent(cross_entropy), (state, part)),
    )
    return {k: partial(call(s, f, x), x, s.hp, s.world) for k, (f, x) in inputs.items()}


def begun(s: Setting) -> Any:
    """The state of every row at the start."""
    return jax.jit(over_rows(s.algo.init, s))(s.keys, s.hp, s.world)


def call(s: Setting, f: Callable, x: Any) -> Callable:
    """f(x, hp, world) over rows, as a program."""
    return compiled(traced(over_rows(f, s), x, s.hp, s.world))


def blank(shapes: Any) -> Any:
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
