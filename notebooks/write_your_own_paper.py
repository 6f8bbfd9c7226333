# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Write your own paper
#
# A new idea for a policy loss should cost ten lines. Here PPO's hard clip becomes a soft one: the gain
# of the ratio saturates smoothly,
#
# $$L = \mathbb{E}\left[\varepsilon \tanh\left(\frac{r-1}{\varepsilon}\right) A\right],\qquad
# r = \frac{\pi(a|s)}{\pi_\mathrm{old}(a|s)}.$$
#
# At $r = 1$ its gradient is the policy gradient's; far from 1 it vanishes, on both sides.
# We write it as a paper, run the battery, look at it beside PPO, and test a claim about it. The kit is
# not touched. (Whether it is *better* than PPO is what the claim asks; we expect little.)

# %% [markdown]
# ## The paper
#
# One file: the hyperparameters, the equation, `make`, and a `PAPER` that says what is claimed and how
# it is checked. Every field with an `arg` is a flag of the command, with its bounds.

# %%
# %%writefile soft_clip.py
"""Soft clip. You, today.

Maximise E[ ε tanh((r - 1) / ε) A ],   r = π(a|s) / π_old(a|s)

From PPO it differs in that the ratio's gain saturates smoothly, on both sides.
"""

import jax.numpy as jnp

from jaxrl.families.on_policy import OnPolicy, on_policy
from jaxrl.hyper import arg, hyper
from jaxrl.policies import Network, policy_for

PAPER = {
    "slug": "soft_clip",
    "title": "A soft clip",
    "chapter": "on_policy",
    "hyper": "SoftClip",
    "parent": "ppo",
    "claim": "it does as well as PPO's clip, within 5 % of the range of returns",
    "check": {
        "on": {"CartPole-v1": 100_000, "Acrobot-v1": 100_000},
        "tune": {"lr": [1e-3, 5e-3]},
        "arms": {"ppo": {"paper": "ppo"}},
        "says": ["final_return > ppo - 0.05"],
    },
}


@hyper
class SoftClip(OnPolicy):
    eps: float = arg(0.2, "where the ratio's gain saturates", "(0, inf)")


def surrogate(w, b, hp):
    return -hp.eps * jnp.tanh(jnp.expm1(w.log_ratio) / hp.eps) * b.advantage


def make(world, network=Network()):
    return on_policy(policy_for(world, network), surrogate, sequences=network.memory > 0)


# %% [markdown]
# ## The battery
#
# What every paper must pass, on the smallest problem of its family: one XLA program without callbacks,
# vmappable over seeds and over every float, no dead hyperparameter, resumable bit for bit, no NaN from
# rewards of 0, 1 and a million. An empty list means that nothing is wrong. (From the command line:
# `jaxrl check-paper soft_clip.py`.)

# %%
from jaxrl.run.battery import examine

examine("soft_clip.py")

# %% [markdown]
# ## Beside PPO
#
# A run is a function of a key and of hyperparameters, so seeds are a vmap. Eight seeds of each:

# %%
import os
from functools import partial

import jax
import matplotlib.pyplot as plt
import numpy as np

import envs
from jaxrl.core import train
from jaxrl.run import catalogue

ITERATIONS = int(os.environ.get("ITERATIONS", 100))  # of 16 environments x 64 steps
world = envs.make("CartPole-v1")
keys = jax.random.split(jax.random.key(0), 8)
curves = {}
for name in ("soft_clip.py", "ppo"):
    module, hyper_class = catalogue.load(name)
    run = partial(train, module.make(world), hp=hyper_class(), world=world, n=ITERATIONS)
    state, metrics = jax.jit(jax.vmap(run))(keys)
    curves[name] = np.asarray(metrics["episode_return"])  # [8, ITERATIONS]

for name, x in curves.items():
    steps = np.arange(1, ITERATIONS + 1) * 16 * 64
    (line,) = plt.plot(steps, np.nanmean(x, 0), label=name)
    plt.plot(steps, x.T, color=line.get_color(), alpha=0.2, linewidth=0.7)
plt.xlabel("environment steps of one seed")
plt.ylabel("return, as it explores")
plt.legend()
plt.show()

# %% [markdown]
# Any float can be swept in the same program: eight clip ranges, of the same seed.

# %%
module, SoftClip = catalogue.load("soft_clip.py")
algo, eps = module.make(world), np.array([0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0])
sweep = jax.jit(jax.vmap(lambda e: train(algo, keys[0], SoftClip(eps=e), world, ITERATIONS)[1]))
last = np.asarray(sweep(eps)["episode_return"])[:, -10:]
{float(e): round(float(np.nanmean(x)), 1) for e, x in zip(eps, last)}

# %% [markdown]
# ## The claim
#
# `PAPER["check"]` says which environments, which arms, and what must hold. Each arm is tuned over the
# same grid, on seeds that are used for nothing else, and reported on fresh ones; the statement holds
# only if the whole 95 % interval of the difference does. `quick` looks at 4 seeds and a 20th of the
# steps: enough to see that it runs, no evidence. The real thing, minutes, with 16 seeds, is
# `jaxrl claims soft_clip.py`; it is recorded beside the file.

# %%
from jaxrl.run import claims

result = claims.run("soft_clip.py", quick=True, say=print)
[(s["says"], s["difference"], s["ci95"], s["verdict"]) for s in result["statements"]]

# %% [markdown]
# ## Crossing it with other parts
#
# The surrogate is a function of a view of the policy and a batch, so it goes with any policy and any
# other part: here with a recurrent network, on a task that needs memory.

# %%
from jaxrl.families.on_policy import on_policy
from jaxrl.policies import Network, policy_for

chain = envs.make("MemoryChain-bsuite")
recurrent = on_policy(policy_for(chain, Network(memory=32)), module.surrogate, sequences=True)
run = jax.jit(lambda key: train(recurrent, key, SoftClip(), chain, ITERATIONS)[1])
print("return at the end:", np.nanmean(np.asarray(run(keys[0])["episode_return"])[-10:]).round(2))
