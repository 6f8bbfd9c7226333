"""IPPO: independent PPO. De Witt, Gupta, Makoviichuk et al. 2020, arXiv 2011.09533.

Each agent of a team takes the others for a part of its environment: PPO's clipped objective on its
own observations, for its actor and its critic, with the team's reward,
  L = E[ min(r A, clip(r, 1-ε, 1+ε) A) ] over the agents' steps                             (eq. 2)
and the same clip of the critic's change. One network serves all; it is told whose turn it is.

From PPO it differs in nothing but where it is used.

Equations from the text; the number is as it is remembered. The paper's networks have memory
(`--memory 64`).
"""

from jaxrl.families.multi_agent import Teams, local, team
from jaxrl.families.on_policy import on_policy
from jaxrl.hyper import hyper
from jaxrl.papers.on_policy.ppo import PPO, clip, clipped_value
from jaxrl.policies import Network, policy_for

PAPER = {
    "slug": "ippo",
    "reference": True,
    "title": "Is Independent Learning All You Need in the StarCraft Multi-Agent Challenge?",
    "year": 2020,
    "arxiv": "2011.09533",
    "chapter": "multi_agent",
    "hyper": "IPPO",
    "parent": "ppo",
    "changes": "each agent of a team learns by itself, from what it sees",
    "claim": "agents that learn by themselves learn to forage together",
    "check": {
        "on": {"agents/foraging": 800_000},
        "arms": {},
        # as policies explore: by their modes two can wait for each other for ever
        "says": ["last episode_return > 0.95"],
    },
}


@hyper
class IPPO(Teams, PPO):
    pass


def make(world, network=Network()):
    team(world)
    policy = local(policy_for(world, network))
    return on_policy(policy, clip, value_loss=clipped_value, sequences=network.memory > 0)
