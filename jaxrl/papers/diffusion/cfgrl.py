"""CFGRL. Frans et al. 2025, arXiv 2505.23458: "Diffusion Guidance Is a Controllable Policy
Improvement Operator".

A flow clones the data, told whether an action was better than its state's value, o = 1[A >= 0], or
told nothing. Guidance then samples from a better policy than either, by a weight w that is chosen
afterwards:
  π_w(a|s) ∝ π̂(a|s) p(o=1|s, a)^w,       v_w = v_∅ + w (v_{o=1} - v_∅)
  L = E‖v(a_t, t, s, c) - (a - ε)‖²,   a_t = (1 - t) ε + t a,   c = o, or ∅ with probability 0.1
A(s, a) = min Q'(s, a) - V(s) by IQL's values (arXiv 2110.06169), whose own policy is learned too.

From cloning it differs in the condition, and in what is done with it.

Checked against the released code (labels, dropout, 16 steps, clipping; its values). Not the text.
Its goal-conditioned form needs no values, and is not here. A mode is what noise of 0 is carried to.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.core import Learner
from jaxrl.critics import ActionValue, ActionValues, ensemble
from jaxrl.families.diffusion import euler, flow, sight
from jaxrl.families.off_policy import fit, optimisers, torso
from jaxrl.families.offline import offline
from jaxrl.hyper import arg, hyper
from jaxrl.papers.offline import iql
from jaxrl.policies import Network

PAPER = {
    "slug": "cfgrl",
    "id": 369,
    "title": "Diffusion Guidance Is a Controllable Policy Improvement Operator",
    "year": 2025,
    "arxiv": "2505.23458",
    "chapter": "diffusion",
    "hyper": "CFGRL",
    "parent": "iql",
    "changes": "a flow told what was better than average, guided towards it",
    "claim": "guided, it does better than cloning, and the more the better",
    "check": {
        "on": {"experiments/datasets/pendulum-mixed.npz": 20_000},
        "tune": {"lr": [3e-4, 1e-3, 3e-3]},
        "arms": {
            "unguided": {"hyper": {"guidance": 0.0}},
            "conditional": {"hyper": {"guidance": 1.0}},
        },
        "says": [
            "final_return > unguided",
            "final_return of conditional > unguided",
            "final_return > conditional",
        ],
    },
    "inert": {"guidance": "it is how the flow acts, not how it learns"},
}


@hyper
class CFGRL(iql.IQL):
    expectile: float = arg(0.9, "τ of the values", "(0, 1)")
    guidance: float = arg(3.0, "w; 0: the clone, 1: what is better than average", "[0, inf)")
    dropout: float = arg(0.1, "how often the flow is told nothing", "[0, 1]")
    flow_steps: int = arg(16, "Euler's steps from noise to an action", "[1, inf)")


def learner(world, network):
    values, nets = iql.learner(world, network), flow(world, network, more=3)
    _, critics = ensemble(ActionValue(1, torso(network)), 2)  # as IQL has them
    value: Any = ActionValues(1, 1, torso(network), critic=True).apply
    nothing, worse, better = jnp.eye(3)

    def told(obs, c):  # c [M, 3], or of all
        s = sight(obs, jnp.ones(jax.tree.leaves(obs)[0].shape[0], bool))
        return jnp.concatenate([s, jnp.broadcast_to(c, (len(s), 3))], -1)

    def init(key, obs, hp):
        k_values, k_flow = jax.random.split(key)
        return values.init(k_values, obs, hp) | dict(flow=nets.init(k_flow, obs)["field"])

    def update(params, opt, b, key, t, i, hp):
        params, opt, stats = values.update(params, opt, b, key, t, i, hp)
        q = critics(params["target"]["critic"], b.obs, b.action)[..., 0].min(0)
        good = q >= value(params["value"], b.obs)[:, 0, 0]
        k_x, k_t, k_c = jax.random.split(key, 3)
        x, t_flow = jax.random.normal(k_x, b.action.shape), jax.random.uniform(k_t, good.shape)
        forget = jax.random.bernoulli(k_c, hp.dropout, good.shape)
        c = jnp.where(forget[:, None], nothing, jnp.where(good[:, None], better, worse))
        u = t_flow[:, None]

        def of_flow(p):
            v = nets.field(dict(field=p), told(b.obs, c), (1 - u) * x + u * b.action, t_flow)
            L = jnp.square(v - (b.action - x)).mean()
            return L, dict(flow_loss=L, good=good.mean())

        params, opt, more = fit(params, opt, "flow", of_flow, hp, t)
        return params, opt, stats | more

    def act(params, obs, memory, key, t, hp):
        p = dict(field=params["flow"])
        plain, towards = (partial(nets.field, p, told(obs, c)) for c in (nothing, better))
        guided = lambda x, t: plain(x, t) + hp.guidance * (towards(x, t) - plain(x, t))
        n = jax.tree.leaves(obs)[0].shape[0]
        x = jnp.zeros((n, nets.size)) if key is None else jax.random.normal(key, (n, nets.size))
        return jnp.clip(euler(guided, x, hp.flow_steps), -1.0, 1.0), memory

    return Learner(init, lambda p, hp: values.opt(p, hp) | optimisers("flow")(p, hp), update, act)


def make(world, network=Network()):
    return offline(learner(world, network))
