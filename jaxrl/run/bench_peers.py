"""The libraries that `jaxrl bench` measures beside ours, on the same environments and sizes.

rejax: its PPO (`pip install 'jaxrl[bench]'`), same networks, parameters, epochs and minibatches. It
differs in this: the gradient is clipped by element, actor and critic have an optimiser each,
advantages are normalised within a minibatch, and a truncated episode counts as a terminated one, so
that no value of the next observation is computed. It has no memory: not for `f`. Its SAC has
our networks and sizes; a truncated episode counts as a terminated one there, too, a target's new
step is that of one before, and the first actions are its policy's, not uniform.

brax.training: its PPO, where the environment is brax's, for one seed: it knows no several. It
differs in this: minibatches are of whole unrolls, episodes begin again from one state, returns are
not normalised, and the policy is the tanh of a Gaussian whose scale is not the exponential of its
parameter.

    python -m jaxrl.run.bench_peers ITEM.json DONE     one update by rejax, then DONE is written
"""

import json
import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
from flax import struct

from envs.adapters.common import quiet
from envs.spaces import Discrete


@struct.dataclass
class Parameters:
    max_steps_in_episode: int = struct.field(pytree_node=False, default=1000)


class FiveValues:
    """One of our environments as gymnax had them before 1.0: `step` gives obs, state, reward, done,
    info, and begins again by itself. So both libraries run the same physics."""

    def __init__(self, env: Any):
        self.env = env
        self.default_params = Parameters(env.max_steps)

    def __deepcopy__(self, memo):
        return self  # rejax copies its whole configuration, and brax's models refuse that

    def reset(self, key, params):
        state, obs = self.env.reset(key)
        return obs, state

    def step(self, key, state, action, params):
        key_step, key_reset = jax.random.split(key)
        s = self.env.step(key_step, state, action.reshape(self.env.action_space.shape))
        done = s.terminated | s.truncated
        choose = lambda new, old: jnp.where(done, new.astype(old.dtype), old)
        state, obs = jax.tree.map(choose, self.env.reset(key_reset), (s.state, s.obs))
        return obs, state, s.reward, done, {}

    def action_space(self, params):
        return gymnax_space(self.env.action_space)

    def observation_space(self, params):
        return gymnax_space(self.env.observation_space)


def gymnax_space(space: Any) -> Any:
    from gymnax.environments import spaces

    if isinstance(space, Discrete):
        return spaces.Discrete(space.n)
    low, high = (jnp.asarray(x, jnp.float32) for x in (space.low, space.high))
    return spaces.Box(low, high, space.shape)


class Trainer(NamedTuple):
    """A library's training of one seed; all are to be jitted, and vmapped over seeds."""

    init: Callable[..., Any]  # key -> state
    train: Callable[..., Any]  # state -> state, all updates
    evaluate: Callable[..., Any]  # (state, key) -> mean return, by the library's own evaluation
    parameters: Callable[..., Any]  # state -> those of its networks


def missing() -> list[str]:
    """What is not installed, a line each."""
    if find_spec("rejax"):
        return []
    return ["peer rejax is not installed: pip install 'jaxrl[bench]'"]


def rejax(item: Any) -> Trainer:
    """rejax's trainer for an item."""
    return rejax_ppo(item) if hasattr(item, "minibatches") else rejax_sac(item)


def rejax_sac(item: Any) -> Trainer:
    """rejax's SAC at an item's sizes."""
    from rejax import SAC

    import envs

    env = FiveValues(envs.make_env(item.env))
    algo = SAC.create(
        env=env,
        env_params=env.default_params,
        agent_kwargs=dict(hidden_layer_sizes=(64, 64), activation="relu"),
        learning_rate=item.lr,
        max_grad_norm=float("inf"),
        num_envs=item.num_envs,
        num_epochs=item.gradient_steps,
        batch_size=item.batch_size,
        buffer_size=item.buffer_size,
        fill_buffer=item.learning_starts,
        gamma=item.gamma,
        target_update_freq=1,
        polyak=1 - item.tau,
    )
    one = lambda _, ts: algo.train_iteration(ts)
    return Trainer(
        algo.init_state,
        lambda ts: jax.lax.fori_loop(0, item.updates, one, ts),
        lambda ts, key: algo.eval_callback(algo, ts, key)[1].mean(),
        lambda ts: (ts.actor_ts.params, ts.critic_ts.params, ts.critic_target_params),
    )


def rejax_ppo(item: Any) -> Trainer:
    """rejax's PPO at an item's sizes."""
    import optax
    from rejax import PPO

    import envs

    env = FiveValues(envs.make_env(item.env))
    count = item.updates * item.epochs * item.minibatches
    algo = PPO.create(
        env=env,
        env_params=env.default_params,
        agent_kwargs=dict(hidden_layer_sizes=(64, 64), activation="tanh"),
        learning_rate=optax.linear_schedule(item.lr, 0.0, count) if item.annealed else item.lr,
        num_envs=item.num_envs,
        num_steps=item.num_steps,
        num_epochs=item.epochs,
        num_minibatches=item.minibatches,
        gamma=item.gamma,
        gae_lambda=0.95,
        clip_eps=0.2,
        vf_coef=0.5,
        ent_coef=item.ent_coef,
        max_grad_norm=0.5,
        normalize_observations=item.normalise,
        normalize_rewards=item.normalise,
        reward_normalization_discount=item.gamma,
    )
    one = lambda _, ts: algo.train_iteration(ts)
    return Trainer(
        algo.init_state,
        lambda ts: jax.lax.fori_loop(0, item.updates, one, ts),
        lambda ts, key: algo.eval_callback(algo, ts, key)[1].mean(),
        lambda ts: (ts.actor_ts.params, ts.critic_ts.params),
    )


def brax_ppo(item: Any, evaluate: bool = False) -> tuple[float, float, float]:
    """Train by brax.training three times as long as an item, as one call of it: the seconds of the
    last third, those that the others took more, and the return after the first by its own
    evaluation (NaN without `evaluate`). It compiles in the first two: the program again for what
    the program gave."""
    with quiet():
        from brax import envs
        from brax.training.agents.ppo import networks, train
    from flax import linen as nn

    _, model, *backend = item.env.split("/")
    sizes = dict(policy_hidden_layer_sizes=(64, 64), value_hidden_layer_sizes=(64, 64))
    seen = []
    # jax 0.10 took this away; brax 0.14.2 still calls it, to put its state on the one device
    replicated = lambda x, devices: jax.tree.map(lambda v: jnp.stack([v]), x)
    with quiet(), mock.patch.object(jax, "device_put_replicated", replicated, create=True):
        train.train(
            environment=envs.get_environment(model, backend=(*backend, "spring")[0]),
            num_timesteps=3 * item.updates * item.num_envs * item.num_steps,
            episode_length=1000,
            num_envs=item.num_envs,
            unroll_length=item.num_steps,
            batch_size=item.num_envs // item.minibatches,
            num_minibatches=item.minibatches,
            num_updates_per_batch=item.epochs,
            learning_rate=item.lr,
            discounting=item.gamma,
            gae_lambda=0.95,
            clipping_epsilon=0.2,
            vf_loss_coefficient=0.5,
            entropy_cost=item.ent_coef,
            max_grad_norm=0.5,
            normalize_observations=item.normalise,
            network_factory=partial(networks.make_ppo_networks, **sizes, activation=nn.tanh),
            max_devices_per_host=1,
            num_evals=4,  # at the start, after each third
            run_evals=evaluate,
            progress_fn=lambda _, metrics: seen.append(metrics),
        )
    _, two, three = (float(m["training/walltime"]) for m in seen[-3:])
    final = float(seen[-3].get("eval/episode_reward", jnp.nan))
    return three - two, two - 2 * (three - two), final


def main(item: str, done: str) -> None:
    """One update of one seed, as a process of its own."""
    trainer = rejax(SimpleNamespace(**json.loads(Path(item).read_text())))
    state = jax.jit(trainer.init)(jax.random.key(0))
    jax.block_until_ready(jax.jit(trainer.train)(state))
    Path(done).write_text("done")


if __name__ == "__main__":
    main(*sys.argv[1:])
