"""What no implementation of an item can do without, a program each, of the job's own sizes.

environment  its steps alone, under random actions
rollout      the same steps under the policy, with what is kept of them and their values
gradient     the forward and backward passes of the update over one minibatch again and again, with
             the optimiser's step: no collection, no shuffle, no metrics

What a loop has made is carried to its end, else XLA would leave it out.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxrl.families.on_policy import gae, minibatches, total_loss
from jaxrl.optim import adam
from jaxrl.papers.on_policy import ppo
from jaxrl.policies import policy_for
from jaxrl.rollout import draw, rollout
from jaxrl.run.run import Setting, compiled, over_rows, traced


def floors(s: Setting) -> dict[str, Callable]:
    """The floors of all iterations of a run, by name: each call does the whole of one."""
    job, net = s.job, s.job.network
    n, policy = job.iterations, policy_for(s.world, net)
    loss = total_loss(policy, ppo.clip, ppo.clipped_value)

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

    def collect(x, key, hp, world):
        return rollout(policy, x.params, x.stage, key, hp, world, hp.num_steps)

    def whole_rollout(x, hp, world):
        def once(i, carry):
            s = x.inner.replace(stage=carry[0])
            return collect(s, jax.random.fold_in(s.key, i), hp, world)

        shapes = jax.eval_shape(collect, x.inner, x.inner.key, hp, world)[1:]
        return jax.lax.fori_loop(0, n, once, (x.inner.stage, *blank(shapes)))

    def one_minibatch(x, hp, world):
        batch = gae(x.inner, collect(x.inner, x.inner.key, hp, world)[1], jnp.int32(0), hp, world)
        index, take = minibatches(x.inner.key, batch, hp, net.memory > 0)
        return take(index[0])

    def gradient(x, hp, world):
        s, b = x[0].inner, x[1]
        opt = adam(hp)

        def once(_, carry):
            params, state = carry
            grads, _ = jax.grad(loss, has_aux=True)(params, s.params, b, s.key, hp)
            updates, state = opt.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        return jax.lax.fori_loop(0, n * hp.epochs * hp.minibatches, once, (s.params, s.opt))

    rest = s.hp, s.world
    call = lambda f, x: compiled(traced(over_rows(f, s), x, *rest))
    state = jax.jit(over_rows(s.algo.init, s))(s.keys, *rest)
    part = call(one_minibatch, state)(state, *rest)
    inputs = {environment: state, whole_rollout: state, gradient: (state, part)}
    names = ("environment", "rollout", "gradient")
    return {k: partial(call(f, x), x, *rest) for k, (f, x) in zip(names, inputs.items())}


def blank(shapes: Any) -> Any:
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
