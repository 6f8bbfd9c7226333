"""Grad-MPC. Jyothir, Jalagam, LeCun, Sobal 2023, arXiv 2312.17227.

At every step a plan is made in the learned model, by its gradient, and its first action taken:
  a_{t:t+H} ← clip(a_{t:t+H} + Adam(∇ₐ Σ_k r̂(ŝ_{t+k}, a_{t+k}))),    ŝ_{k+1} = f(ŝ_k, a_k)
and of a few candidates, refined side by side, the best. `--start policy` is the hybrid: plans begin
around what a policy, learned in the model's imagination (MBPO's SAC), would do there. `--planner
cem` is the cross-entropy method at the same cost: three times as many plans in each round, a
gradient being worth three evaluations; `--planner none` leaves the policy alone.

From MBPO it differs in acting by plans.

Here the model is of observations, not of latents from pixels, f the mean of the members, and no
value follows the last step. Read: a planner in a public copy of a Dreamer code base, which looks
like the paper's (Adam from zeros, clipping, plain sums, one candidate, no warm start). Not checked:
the text. Candidates, their noise and the hybrid's details are ours.
"""

import jax
import jax.numpy as jnp

from jaxrl.families.model_based import expect, fit_model, imagining, likelihood, worth
from jaxrl.families.off_policy import actions, off_policy
from jaxrl.hyper import arg, hyper
from jaxrl.papers.model_based.mbpo import MBPO
from jaxrl.papers.off_policy import sac
from jaxrl.planning import cross_entropy, gradient
from jaxrl.policies import Network

PAPER = {
    "slug": "grad_mpc",
    "id": 327,
    "title": "Gradient-based Planning with World Models",
    "year": 2023,
    "arxiv": "2312.17227",
    "chapter": "model_based",
    "hyper": "GradMPC",
    "parent": "mbpo",
    "changes": "it acts by plans that follow the gradient through the model",
    "claim": "its plans are as good as CEM's at the same cost; the hybrid beats its policy",
    "check": {
        "on": {"Pendulum-v1": 2_500},
        "hyper": {"num_envs": 2, "batch_size": 64, "lr": 3e-3, "model_lr": 3e-3, "members": 2},
        "network": {"hidden": [32, 32]},
        "tune": {"spread": [0.5, 1.0]},
        "arms": {
            "cem": {"hyper": {"planner": "cem"}},
            "hybrid": {"hyper": {"start": "policy"}},
            "policy": {"hyper": {"planner": "none"}},
        },
        "says": ["final_return > cem - 30", "final_return of hybrid > policy"],
    },
    "battery": {"hyper": {"start": "policy", "length": 3, "candidates": 2, "rounds": 2}},
}


@hyper
class GradMPC(MBPO):
    planner: str = arg("gradient", "what refines plans", ("gradient", "cem", "none"))
    start: str = arg("noise", "around what they begin: 0, or a policy", ("noise", "policy"))
    length: int = arg(15, "H, steps of a plan", "[1, inf)")
    candidates: int = arg(4, "plans refined side by side; of cem 3 times as many", "[1, inf)")
    rounds: int = arg(5, "in which they are refined", "[1, inf)")
    elites: int = arg(3, "plans that cem's next ones are drawn around", "[1, inf)")
    plan_lr: float = arg(0.2, "Adam's step size on actions", "[0, inf)")
    spread: float = arg(0.5, "deviation of the first plans", "[0, inf)")
    sigma: float = arg(0.1, "deviation of the exploration's noise", "[0, inf)")

    def problem(self) -> str:
        if self.elites > (n := 3 * self.candidates):
            return f"elites: {self.elites} is above 3 * candidates = {n}"
        return super().problem()


def learner(world, network):
    inner = sac.learner(world, network)
    dreamer, d = imagining(world, inner), actions(world)

    def update(params, opt, b, key, t, i, hp):
        if hp.start == "policy" or hp.planner == "none":
            return dreamer.update(params, opt, b, key, t, i, hp)
        return fit_model(params, opt, likelihood, b, key, t, i, hp)

    def follow(params, obs, t, hp):
        """What the policy's mode would do in the model, [M, H, d]; or zeros."""
        if hp.start == "noise":
            return jnp.zeros((obs.shape[0], hp.length, d))

        def one(s, _):
            a = inner.act(params, s, (), None, t, hp)[0]
            return expect(params, s, a, hp)[0], a

        return jax.lax.scan(one, obs, length=hp.length)[1].swapaxes(0, 1)

    def act(params, obs, memory, key, t, hp):
        if hp.planner == "none":
            return inner.act(params, obs, memory, key, t, hp)
        k_plan, k_noise = jax.random.split(jax.random.key(0) if key is None else key)

        def plan(s, centre, key):
            value = lambda plans: worth(params, s, plans, hp)
            if hp.planner == "cem":
                size = 3 * hp.candidates, hp.elites
                return cross_entropy(key, value, centre, hp.spread, hp.rounds, *size)[0]
            noise = jax.random.normal(key, (hp.candidates, *centre.shape)).at[0].set(0.0)
            plans = jnp.clip(centre + hp.spread * noise, -1.0, 1.0)
            return gradient(value, plans, hp.rounds, hp.plan_lr)[0]

        a = jax.vmap(plan)(obs, follow(params, obs, t, hp), jax.random.split(k_plan, len(obs)))
        if key is None:
            return a, memory
        return jnp.clip(a + hp.sigma * jax.random.normal(k_noise, a.shape), -1.0, 1.0), memory

    return dreamer._replace(update=update, act=act)


def make(world, network=Network()):
    return off_policy(learner(world, network))
