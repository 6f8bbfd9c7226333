"""TC-RMDP: Time-Constrained Robust MDPs. Zouitine et al. 2024 (NeurIPS), arXiv 2406.08395.

A game of two players, over physics ψ that may move by no more than L a step (`envs/robust.py`):
  a ~ π(s),    u ~ ν(s, ψ, a),    ψ' = ψ + L u,    s' under ψ'                       (algorithm 1)
The agent learns from r and the adversary from -r, each by TD3 on the same replayed steps. What the
agent, its critics included, `sees` gives the paper's three methods:
  tc        s                        stacked    s and the step before's s, a
  oracle    s and ψ

From TD3 it differs in the adversary. With `against` chance, ψ is a random walk, and with nobody
what it was when the episode began (domain randomisation), but for the random steps at first. The
adversary learns all the same, so that an evaluation, by the modes, is always against a learned one:
its own, which makes returns of several arms hard to compare; "worst" is the same for all.

Checked: views, game and order of moves against the released code's environments; the learner there
is M2TD3, whose adversary for this game could not be run. Here it is two TD3s, as the paper's
TC-RARL. Not checked: rates and widths, which are TD3's.
"""

import jax
import jax.numpy as jnp

from envs.robust import psi
from jaxrl.core import Learner
from jaxrl.families.off_policy import off_policy
from jaxrl.families.robust import graded, seats
from jaxrl.hyper import arg, hyper
from jaxrl.papers.off_policy import td3
from jaxrl.policies import Network

PAPER = {
    "slug": "tc_rmdp",
    "id": 331,
    "title": "Time-Constrained Robust MDPs",
    "year": 2024,
    "arxiv": "2406.08395",
    "chapter": "robust",
    "hyper": "TCRMDP",
    "parent": "td3",
    "changes": "an adversary moves the physics, a little at each step",
    "claim": "at worst who learned from a foe does better, better yet who sees or could infer ψ",
    "check": {
        "on": {"robust/pendulum": 12_000},
        "tune": {"lr": [3e-4, 1e-3, 3e-3]},
        "by": "last worst",
        "arms": {
            "oracle": {"hyper": {"sees": "oracle"}},
            "stacked": {"hyper": {"sees": "stacked"}},
            "nobody": {"hyper": {"against": "nobody"}},
        },
        "says": [
            "last worst > nobody",
            "last worst of stacked > tc_rmdp",
            "last worst of oracle > tc_rmdp",
        ],
    },
}

VIEWS = dict(tc={}, stacked=dict(before="before", action="action"), oracle=dict(psi="privileged"))


@hyper
class TCRMDP(td3.TD3):
    sees: str = arg("tc", "what the agent sees beside the state", tuple(VIEWS))
    against: str = arg("adversary", "who moves ψ in learning", ("adversary", "chance", "nobody"))

    @classmethod
    def smallest(cls):
        return super().smallest() | dict(run=dict(env="robust/pendulum"))


def view(obs, sees):
    return dict(obs=obs["obs"]) | {k: obs[name] for k, name in VIEWS[sees].items()}


def learner(world, network):
    agent, foe = (td3.learner(seat, network) for seat in seats(world))
    own = seats(world)[0].action_space.shape[0]
    foe_sees = lambda obs, a: dict(obs=obs["obs"], psi=psi(obs), agent=a)

    def init(key, obs, hp):
        k_agent, k_foe = jax.random.split(key)
        a = jnp.zeros((len(psi(obs)), own))
        return dict(
            agent=agent.init(k_agent, view(obs, hp.sees), hp),
            foe=foe.init(k_foe, foe_sees(obs, a), hp),
        )

    def opt(params, hp):
        return dict(agent=agent.opt(params["agent"], hp), foe=foe.opt(params["foe"], hp))

    def update(params, opt, b, key, t, i, hp):
        k_agent, k_foe = jax.random.split(key)
        mine = b.replace(obs=view(b.obs, hp.sees), next_obs=view(b.next_obs, hp.sees))
        mine = mine.replace(action=b.action[:, :own])
        ahead = agent.act(params["agent"], mine.next_obs, (), None, t, hp)[0]
        its = b.replace(obs=foe_sees(b.obs, mine.action), next_obs=foe_sees(b.next_obs, ahead))
        its = its.replace(action=b.action[:, own:], reward=-b.reward)
        p, o, stats = agent.update(params["agent"], opt["agent"], mine, k_agent, t, i, hp)
        q, m, more = foe.update(params["foe"], opt["foe"], its, k_foe, t, i, hp)
        stats |= {f"foe_{k}": x for k, x in more.items()}
        return dict(agent=p, foe=q), dict(agent=o, foe=m), stats

    def act(params, obs, memory, key, t, hp):
        k_agent, k_foe = [None] * 2 if key is None else jax.random.split(key)
        a = agent.act(params["agent"], view(obs, hp.sees), (), k_agent, t, hp)[0]
        u = foe.act(params["foe"], foe_sees(obs, a), (), k_foe, t, hp)[0]
        if key is not None and hp.against != "adversary":
            chance = jax.random.uniform(jax.random.fold_in(key, 2), u.shape, minval=-1.0)
            u = chance if hp.against == "chance" else jnp.zeros_like(u)
        return jnp.concatenate([a, u], -1), memory

    return Learner(init, opt, update, act)


def make(world, network=Network()):
    return graded(off_policy(learner(world, network)))
