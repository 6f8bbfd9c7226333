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
# # A tour of jaxrl
#
# Train a policy, look at it, disturb it, compare it, and hand it on. Everything here is also a
# command: `jaxrl train`, `evaluate`, `render`, `compare`, `export`, `report`.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np

import jaxrl

STEPS = int(os.environ.get("ITERATIONS", 100)) * 1024  # 16 environments x 64 steps an iteration

# %% [markdown]
# ## Train
#
# Eight seeds of PPO, environments and all, are one compiled program. Any hyperparameter is a keyword;
# a name or a value that is not allowed is an error of one line, before anything runs.

# %%
run = jaxrl.train("ppo", env="CartPole-v1", seeds=8, steps=STEPS)
run

# %% [markdown]
# The seed is the unit of replication. The picture shows each seed thinly, and the interquartile mean
# over seeds with its 95 % bootstrap interval; the table acts in fresh episodes, by the policy's mode.
#
# Everything that was measured is an array `[seeds, iterations]`:

# %%
print({name: x.shape for name, x in run.arrays.items()})
for name in ("entropy", "approx_kl", "explained_variance"):
    plt.plot(run.arrays["steps"], run.arrays[name].mean(0), label=name)
plt.xlabel("environment steps of one seed")
plt.legend()
plt.show()

# %% [markdown]
# ## Watch
#
# One episode of the seed whose return is the median:

# %%
run.render(steps=120)

# %% [markdown]
# ## Disturb
#
# The environment's physics are parameters. How much gravity does the policy bear that was trained
# under 9.8? Each line is a seed.

# %%
gravity = [2, 5, 10, 20, 40, 80]
returns = np.array([run.evaluate(env_params={"gravity": g}, episodes=20) for g in gravity])
plt.plot(gravity, returns, color="#0072B2", alpha=0.5)
plt.xscale("log")
plt.xlabel("gravity")
plt.ylabel("return")
plt.show()

# %% [markdown]
# ## Compare
#
# Other papers at the same budget, on the same environments and seeds. The interval plot puts the
# environments on one scale, and says which. "P" is the probability that a seed does better than one
# of the first method.

# %%
comparison = jaxrl.compare(["ppo", "spo"], env=["CartPole-v1", "Acrobot-v1"], seeds=8, steps=STEPS)
comparison

# %% [markdown]
# These are the papers' own defaults, at a small budget: a picture, not a verdict. A verdict needs each
# method tuned alike: `jaxrl.tune`, and the recorded claims of `jaxrl papers`.
#
# ## Go on
#
# A run that was stopped, or killed, goes on bit for bit; a finished one can be made longer:

# %%
longer = jaxrl.resume(run.folder, steps=STEPS + 10 * 1024)
print(longer)

# %% [markdown]
# ## Hand on
#
# A page to send to a colleague (one HTML file with the curve, the film and the exact settings), and
# the policy itself, without what trained it. `jaxrl export RUN --out policy.stablehlo` writes the same
# as a program that needs no jaxrl.

# %%
print(longer.report())
act = longer.export("policy.npz")
action, memory = act(np.zeros((3, 4), np.float32))
print(action)
