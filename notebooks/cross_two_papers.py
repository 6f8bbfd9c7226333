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
# # Cross two papers
#
# SPO changes the actor: a sample whose ratio $r = \pi(a|s) / \pi_\mathrm{old}(a|s)$ left the clip range
# is pulled back, not let go,
#
# $$\max\ \mathbb{E}\left[ r A - \frac{|A|}{2\varepsilon} (r - 1)^2 \right].$$
#
# PG-Rainbow changes the critic: it learns quantiles of the return. Neither knows of the other. A paper
# here fills only the parts that its equations define, and exports them by name; so the cross of the
# two is a file of its own with one line that matters.

# %%
# %%writefile crossed.py
"""SPO's actor with PG-Rainbow's critic."""

from jaxrl.papers.on_policy import pg_rainbow, spo
from jaxrl.papers.on_policy.pg_rainbow import PGRainbow as PGRainbow
from jaxrl.policies import Network

PAPER = {
    "slug": "crossed",
    "title": "SPO with quantiles",
    "chapter": "on_policy",
    "hyper": "PGRainbow",
    "claim": "the ratio stays where SPO keeps it, with the critic of PG-Rainbow",
}


def make(world, network=Network()):
    return pg_rainbow.make(world, network, surrogate=spo.penalty)


# %% [markdown]
# The battery says whether it is sound: one program without callbacks, no dead hyperparameter,
# resumable bit for bit, no NaN. An empty list means that nothing is wrong.

# %%
from jaxrl.run.battery import examine

examine("crossed.py")

# %% [markdown]
# ## All four
#
# PPO has neither change, SPO the one, PG-Rainbow the other. All else is alike: budget, seeds, learning
# rate, and rewards scaled as PG-Rainbow scales them.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np

import jaxrl

STEPS = int(os.environ.get("ITERATIONS", 30)) * 1024  # 16 environments x 64 steps an iteration
METHODS = ["ppo", "spo", "pg_rainbow", "crossed.py"]
comparison = jaxrl.compare(
    [f"{name}:lr=3e-3,normalise-reward=true" for name in METHODS],
    env="Acrobot-v1",
    seeds=8,
    steps=STEPS,
)
comparison

# %% [markdown]
# Did each keep what it came with? How far the ratio strays is SPO's matter; every run is a folder
# whose arrays can be looked at.

# %%
for row, name in zip(comparison.rows, METHODS):
    arrays = jaxrl.load(row["folder"], named=[os.path.abspath("crossed.py")]).arrays
    plt.plot(arrays["steps"], arrays["ratio_excursion"].mean(0), label=name)
plt.xlabel("environment steps of one seed")
plt.ylabel("how far the ratio strays")
plt.legend()
plt.show()

# %% [markdown]
# ## The cross at work

# %%
crossed = jaxrl.load(comparison.rows[-1]["folder"], named=[os.path.abspath("crossed.py")])
crossed.render(steps=100)

# %% [markdown]
# What each change is worth, with the other and without, as differences of the interquartile mean and
# their 95 % intervals: the seed is the unit, and an interval that holds 0 decides nothing.

# %%
from jaxrl.run.stats import difference

ppo, spo, rainbow, both = [np.array(r["final_return"]["per_seed"], float) for r in comparison.rows]
for what, x, y in (
    ("SPO's actor, with PPO's critic", spo, ppo),
    ("SPO's actor, with quantiles", both, rainbow),
    ("quantiles, with PPO's actor", rainbow, ppo),
    ("quantiles, with SPO's actor", both, spo),
):
    gap, (low, high) = difference(x, y)
    print(f"{what}: {gap:+.1f} [{low:+.1f}, {high:+.1f}]")
