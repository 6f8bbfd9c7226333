"""What no implementation of an item can do without, a program each, of the job's own sizes.

environment  its steps alone, under random actions
rollout      the same steps under the policy, with what is kept of them and their values
gradient     the forward and backward passes of the update over one minibatch again and again, with
             the optimiser's step: no collection, no shuffle, no metrics

What a loop has made is carried to its end, else XLA would leave it out.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxrl.families.off_policy import explorer, n_steps
from jaxrl.families.on_policy import gae, minibatches, total_loss
from jaxrl.optim import adam
from jaxrl.papers.off_policy import sac
from jaxrl.papers.on_policy import ppo
from jaxrl.policies import policy_for
from jaxrl.rollout import draw, rollout, unjudged
from jaxrl.run.run import Setting, compiled, over_rows, traced


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

    rest = s.hp, s.world
    call = lambda f, x: compiled(traced(over_rows(f, s), x, *rest))
    state = jax.jit(over_rows(s.algo.init, s))(s.keys, *rest)
    part = call(one_minibatch, state)(state, *rest)
    inputs = {environment: state, whole_rollout: state, gradient: (state, part)}
    names = ("environment", "rollout", "gradient")
    return {k: partial(call(f, x), x, *rest) for k, (f, x) in zip(names, inputs.items())}


def blank(shapes: Any) -> Any:
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
