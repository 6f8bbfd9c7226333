"""AILBoost. Chang, Sreenivas, Huang, Brantley, Sun 2024 (ICLR), arXiv 2404.08513.

Adversarial imitation as boosting. The imitator is a mixture of all policies so far, π_1 .. π_t, of
which a round adds one with the weight α, so that the older ones' fall:
  w_t = α,    w_i = α (1 - α)^(t-i),    w_1 = (1 - α)^(t-1),
and it is the mixture whose reverse KL from the expert is to fall. What witnesses it is
  D = argmin_D  E_{RE}[exp(-D(s, a))] + E_{Σ w_i d_i}[D(s, a)]   ( = log d_E / d_mixture ),
on all data so far, each round's with its policy's weight; D is then the next policy's reward. Only
D's data are weighted: the policy learns from the whole buffer. Evaluated, each episode is played by
a member that its weight draws.

From DAC it differs in the weights, the loss, the tanh around D, and in the mixture that acts.

Checked against the released code: the weights, the loss, the tanh, the gradient penalty of 10, α =
0.05, SAC, which goes on from round to round, and what it learns from. The code keeps more policies
than a run makes; here the last `members`, their weights scaled to sum to 1. There a round has 1,000
steps of learning and then 1,000 more of the policy for D; here the steps that are played are both.
Rounds before learning starts are random, and their members untrained. Not checked: the text, but
for its abstract; pixels.
"""

import jax.numpy as jnp

from jaxrl.families.imitation import Imitation, aged, imitation, mixture
from jaxrl.hyper import arg, hyper
from jaxrl.papers.off_policy import sac
from jaxrl.papers.off_policy.sac import SAC
from jaxrl.policies import Network

PAPER = {
    "slug": "ailboost",
    "id": 259,
    "title": "Adversarial Imitation Learning via Boosting",
    "year": 2024,
    "arxiv": "2404.08513",
    "chapter": "imitation",
    "hyper": "AILBoost",
    "parent": "dac",
    "changes": "a mixture of policies, and replay weighted as the mixture is",
    "claim": "from 40 steps of an expert, in 8,000 of its own, it imitates better than DAC",
    "check": {
        "on": {"experiments/datasets/pendulum-demos.npz": 8000},
        "hyper": {"batch_size": 64},
        "tune": {"lr": [1e-3, 3e-3], "disc_lr": [1e-4, 1e-3]},
        "arms": {"dac": {"paper": "dac"}},
        "says": ["final_return > -300", "final_return > dac"],
    },
    "battery": {"hyper": {"members": 3}},
}


@hyper
class AILBoost(Imitation, SAC):
    alpha: float = arg(0.05, "α, weight of the newest policy", "(0, 1)")
    members: int = arg(50, "policies in the mixture, at most: of the last rounds", "[1, inf)")

    def problem(self) -> str:
        """What is wrong between fields, in one line; "" if nothing is."""
        if self.members > self.rounds:
            return f"members: {self.members} is above the {self.rounds} rounds of buffer_size"
        return super().problem()


def weights(t, hp):
    """Of the last K policies [K], the latest first, when that of iteration t is the latest."""
    age = jnp.arange(hp.members)
    w = jnp.where(age < t, hp.alpha, 1.0) * (1 - hp.alpha) ** age
    w = jnp.where(age <= t, w, 0.0)
    return w / w.sum()


def witness(expert, replay):
    """exp(-D) of the expert's pairs, D of the replay's."""
    return jnp.exp(-expert), replay


def weighted(buffer, key, t, hp):
    """Rows of the mixture."""
    return aged(buffer, weights(t, hp), key, t, hp)


def make(world, network=Network()):
    learner = sac.learner(world, network)
    algo = imitation(learner, network, witness, bounded=True, replayed=weighted)
    return mixture(algo, learner, lambda hp: hp.members, weights)
