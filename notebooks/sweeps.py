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
# # Sweeps
#
# A float is traced, so a program holds any number of its values: a grid over learning rates, clip
# ranges and seeds compiles once and runs as one batch.

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import envs
import jaxrl

ITERATIONS = int(os.environ.get("ITERATIONS", 50))
STEPS = ITERATIONS * 1024  # 16 environments x 64 steps an iteration

# %% [markdown]
# ## A grid
#
# Six learning rates, three clip ranges and four seeds of each: 72 runs. `log6` is six values evenly
# spaced on a log scale. The best point is trained again on seeds that were used for nothing else,
# since the figure by which it was chosen flatters it.

# %%
grid = jaxrl.sweep(
    "ppo",
    env="CartPole-v1",
    vary={"lr": "1e-4..3e-2:log6", "eps": [0.05, 0.2, 0.5]},
    seeds=4,
    steps=STEPS,
)
grid

# %%
print(grid)

# %% [markdown]
# What is static, such as the number of epochs, is a program each:

# %%
static = jaxrl.sweep(
    "ppo",
    env="CartPole-v1",
    vary={"lr": [1e-3, 1e-2]},
    static={"epochs": [1, 4]},
    seeds=4,
    steps=STEPS,
)
static.table

# %% [markdown]
# ## A search
#
# Optuna proposes, batches of its trials are vmapped, and its journal file lets a search go on where it
# was stopped. The best trial and the paper's defaults meet on fresh seeds.

# %%
search = jaxrl.tune(
    "ppo",
    env="CartPole-v1",
    vary={"lr": "1e-4..3e-2:log", "ent_coef": "1e-4..1e-1:log"},
    trials=16,
    seeds=4,
    steps=STEPS,
)
search

# %%
print(search)

# %% [markdown]
# ## Watch the best

# %%
best = jaxrl.train("ppo", env="CartPole-v1", steps=STEPS, seeds=4, **search.best["point"])
best.render(steps=100)

# %% [markdown]
# ## By hand
#
# Under it all, training is a function of a key and of hyperparameters, and jax does the rest. Here is
# the same grid in a few lines, with whatever one likes to measure: the entropy at the end.

# %%
from jaxrl.core import train
from jaxrl.papers.on_policy import ppo

world = envs.make("CartPole-v1")
algo = ppo.make(world)


def entropy(lr, eps):
    _, metrics = train(algo, jax.random.key(0), ppo.PPO(lr=lr, eps=eps), world, ITERATIONS)
    return metrics["entropy"][-1]


lr, eps = jnp.geomspace(1e-4, 3e-2, 6), jnp.array([0.05, 0.2, 0.5])
table = jax.jit(jax.vmap(jax.vmap(entropy, (None, 0)), (0, None)))(lr, eps)  # [6, 3]
plt.imshow(table.T, origin="lower", cmap="cividis", aspect="auto")
plt.xticks(range(6), [f"{x:.1g}" for x in lr])
plt.yticks(range(3), [f"{x:.2f}" for x in eps])
plt.xlabel("lr")
plt.ylabel("eps")
plt.colorbar(label="entropy at the end")
plt.show()
np.asarray(table).round(2)
