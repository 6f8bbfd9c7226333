# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Your own environment
#
# An environment is two pure functions and two spaces. Written in jax, it compiles into the training
# program and runs by the thousand. Here a boat must reach a buoy and stay there, in wind.

# %%
# %%writefile boat.py
import jax
import jax.numpy as jnp
from flax import struct

from envs.base import Step, TimeLimit
from envs.spaces import Box


@struct.dataclass
class State:
    position: jax.Array  # [2], metres from the buoy
    velocity: jax.Array  # [2]
    wind: jax.Array  # [2], another in each episode


@struct.dataclass
class Boat:
    """Thrust in, position, velocity and wind out; the price is the distance to the buoy."""

    thrust: float = 2.0  # a float is physics: it can be swept, and changed by --env-param
    gusts: float = 0.5
    name = "boat"
    observation_space = Box(-jnp.inf, jnp.inf, (6,))
    action_space = Box(-1.0, 1.0, (2,))
    max_steps = 0

    def see(self, s):
        return jnp.concatenate([s.position, s.velocity, s.wind])

    def reset(self, key):
        k1, k2 = jax.random.split(key)
        position = jax.random.uniform(k1, (2,), minval=-3.0, maxval=3.0)
        wind = self.gusts * jax.random.normal(k2, (2,))
        s = State(position, jnp.zeros(2), wind)
        return s, self.see(s)

    def step(self, key, s, action):
        force = self.thrust * jnp.clip(action, -1, 1) + s.wind - 0.3 * s.velocity
        velocity = s.velocity + 0.1 * force
        s = State(s.position + 0.1 * velocity, velocity, s.wind)
        reward = -jnp.linalg.norm(s.position)
        lost = jnp.abs(s.position).max() > 20.0
        return Step(s, self.see(s), reward, lost, jnp.zeros((), bool))


def make(**physics):
    return TimeLimit(Boat(**physics), 100)


# %% [markdown]
# ## Is it sound?
#
# The check plays it: spaces against what it gives, flags, resets, the last observation of an episode,
# and whether equal keys give equal episodes. It names what is wrong; nothing is.

# %%
from envs.check import check

check("boat:make", steps=300)

# %% [markdown]
# ## Train on it
#
# `my_module:make` is a name like any other. Nothing of this kit knew boats.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np

import envs
import jaxrl

STEPS = int(os.environ.get("ITERATIONS", 150)) * 2048  # 32 environments x 64 steps an iteration
run = jaxrl.train(
    "ppo", env="boat:make", seeds=8, steps=STEPS, num_envs=32, num_steps=64, lr=3e-3, gamma=0.97
)
run

# %% [markdown]
# ## Watch
#
# No drawing was written for boats, so the film shows what the policy sees and does.

# %%
run.render(steps=60)

# %% [markdown]
# One's own picture is a loop away: the exported policy acts on any batch, and the environment is a
# function. Sixty-four boats, from their starts to the buoy:

# %%
import jax

act = run.export("boat.npz")
world = envs.make("boat:make")
state, obs = world.reset(jax.random.key(1), 64)
track = [np.asarray(obs[:, :2])]
for t in range(60):
    action, _ = act(obs)
    state, out = world.step(jax.random.key(t), state, action)
    obs = out.obs
    track.append(np.asarray(obs[:, :2]))
track = np.stack(track)  # [61, 64, 2]
plt.figure(figsize=(5, 5))
plt.plot(*track.transpose(2, 0, 1), color="#0072B2", alpha=0.5, linewidth=1)
plt.plot(*track[0].T, ".", color="#000000", label="start")
plt.plot(0, 0, "o", color="#D55E00", markersize=12, label="buoy")
plt.legend()
plt.axis("equal")
plt.show()

# %% [markdown]
# ## In another wind
#
# `gusts` is a float of the environment, so it is an argument of the compiled program. How does a
# policy trained in a breeze do in a storm?

# %%
for gusts in (0.0, 0.5, 1.0, 2.0):
    returns = run.evaluate(env_params={"gusts": gusts}, episodes=50)
    print(f"gusts {gusts}: return {returns.mean():.1f}, worst seed {returns.min():.1f}")
