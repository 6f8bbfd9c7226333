"""DAC: Discriminator-Actor-Critic. Kostrikov, Agrawal, Dwibedi, Levine, Tompson 2018,
arXiv 1809.02925.

GAIL off the policy: the discriminator D tells the expert's pairs from those of the whole replay
buffer R, as if one policy had made them, and what it says is the learner's reward (algorithm 1):
  max_D  E_{RE}[log D(s, a)] + E_R[log(1 - D(s, a))] - λ E[(‖∇D‖ - 1)²],
  r(s, a) = log D(s, a) - log(1 - D(s, a)),
which is D's logit h, of either sign. Every row that is drawn is paid by the latest D. There are no
importance weights.

A terminal leads to an absorbing state whose reward is learned, too, so that there is no bonus for
living on nor for dying (`jaxrl/families/imitation.py`). Its value is summed here; the paper learns
it, from rows of the way there and of staying.

The learner is SAC, as in AILBoost's comparison with it; in the paper TD3. Checked against DAC in
AILBoost's released code (the losses, λ = 10, one step of D to one of the learner), which has no
absorbing states. Not checked: the text of the paper, from memory.
"""

import jax

from jaxrl.families.imitation import Imitation, imitation
from jaxrl.hyper import hyper
from jaxrl.papers.off_policy import sac
from jaxrl.papers.off_policy.sac import SAC
from jaxrl.policies import Network

PAPER = {
    "slug": "dac",
    "reference": True,
    "title": "Discriminator-Actor-Critic: Addressing Sample Inefficiency and Reward Bias in "
    "Adversarial Imitation Learning",
    "year": 2018,
    "arxiv": "1809.02925",
    "chapter": "imitation",
    "hyper": "DAC",
    "parent": "sac",
    "changes": "its reward is what tells the expert's steps from those of the replay buffer",
    "claim": "from 40 steps of an expert it nearly does as well, where behaviour cloning does not",
    "check": {
        "on": {"experiments/datasets/pendulum-demos.npz": 16_000},
        "hyper": {"batch_size": 64},
        "tune": {"lr": [1e-3, 3e-3], "disc_lr": [1e-4, 1e-3]},
        "arms": {"bc": {"paper": "bc", "tune": {"lr": [3e-4, 1e-3, 3e-3, 1e-2]}}},
        "says": ["final_return > -300", "final_return > bc + 200"],
    },
}


@hyper
class DAC(Imitation, SAC):
    pass


def cross_entropy(expert, replay):
    """-log D of the expert's and -log(1 - D) of the replay's, of their logits h."""
    return jax.nn.softplus(-expert), jax.nn.softplus(replay)


def make(world, network=Network()):
    return imitation(sac.learner(world, network), network, cross_entropy)
