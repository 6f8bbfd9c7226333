"""SFT of segments: supervised fine-tuning on what was preferred. A baseline of Contrastive
Preference Learning, Hejna et al. 2023, arXiv 2310.13639.

    L(π) = -E[Σ_t log π(a_t|s_t)],    s_t, a_t of the preferred segment of each pair

after all segments were cloned for `pretrain` of the run. It imitates the better half of the data:
what was not preferred counts for nothing.
"""

from jaxrl.families.segments import Segments, segments
from jaxrl.hyper import hyper

PAPER = {
    "slug": "segment_sft",
    "reference": True,
    "title": "Supervised fine-tuning on preferred segments",
    "year": 2023,
    "arxiv": "2310.13639",
    "chapter": "preference",
    "hyper": "SFT",
    "parent": "sft",
    "changes": "only of preferred segments are actions cloned",
    "claim": "it plays no worse than cloning all of the data, and has not to be better",
    "check": {
        "tune": {"lr": [1e-3, 3e-3, 1e-2]},
        "arms": {"all": {"hyper": {"pretrain": 0.99}}},
        "says": [
            "final_return > all - 0.1 on segments/maze",
            "final_return > all - 50 on segments/pendulum",
        ],
    },
}


@hyper
class SFT(Segments):
    """Those of the family."""


def loss(w, b, hp):
    return -w.policy[:, 0]


def make(world, network=Segments.network_for("")):
    return segments(world, network, loss)
