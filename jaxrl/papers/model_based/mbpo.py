"""MBPO. Janner, Fu, Zhang, Levine 2019 (NeurIPS), arXiv 1906.08253.

SAC that learns from a model's short rollouts, branched from states that were really seen (alg. 2):
  fit an ensemble p(s', r | s, a), Gaussian, to all real data by maximum likelihood
  from a replayed s, k steps of a ~ π, (s', r) ~ a member drawn at each step
  update SAC on what was imagined (and on a few real transitions)

From SAC it differs in what it learns from.

Here the model takes one gradient step where SAC does, and what is imagined is used at once instead
of kept for some time; no members are left out for their validation loss; the model also says what
is terminal. Not checked against the paper's text; the VaGraM authors' code of its loop was read.
"""

from jaxrl.families.model_based import Imagination, imagining
from jaxrl.families.off_policy import off_policy
from jaxrl.hyper import hyper
from jaxrl.papers.off_policy import sac
from jaxrl.papers.off_policy.sac import SAC
from jaxrl.policies import Network

PAPER = {
    "slug": "mbpo",
    "reference": True,
    "title": "When to Trust Your Model: Model-Based Policy Optimization",
    "year": 2019,
    "arxiv": "1906.08253",
    "chapter": "model_based",
    "hyper": "MBPO",
    "parent": "sac",
    "changes": "it learns from short rollouts of a learned model, branched from replayed states",
    "claim": "with five updates a step, of imagined ones, it learns in fewer steps than SAC does "
    "with one; and not worse than SAC with as many, of real ones",
    "check": {
        "on": {"Pendulum-v1": 3_000},
        "hyper": {
            "num_envs": 2,
            "updates": 10,
            "batch_size": 64,
            "learning_starts": 500,
        },
        "network": {"hidden": [32, 32]},
        "tune": {"lr": [1e-3, 2e-3]},
        "arms": {
            "sac": {"paper": "sac", "hyper": {"updates": 2}},  # one a step
            "more": {"paper": "sac"},
        },
        "says": ["final_return > sac", "final_return > more - 50"],
    },
}


@hyper
class MBPO(Imagination, SAC):
    model_lr: float = 3e-3


def make(world, network=Network()):
    return off_policy(imagining(world, sac.learner(world, network)))
