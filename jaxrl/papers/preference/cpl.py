"""CPL: Contrastive Preference Learning. Hejna, Rafailov, Sikchi, Finn, Niekum, Knox, Sadigh 2023
(ICLR 2024), arXiv 2310.13639, whose first version is titled so ("Prefence").

Who compares two segments prefers what is less regretted, not what is paid more. The regret is by
the advantages of a soft-optimal policy, and those are its logarithm, A* = α log π*:

    P(σ⁺ > σ⁻) = exp S⁺ / (exp S⁺ + exp S⁻),    S = Σ_t γ^t α log π*(a_t|s_t)

so that preferences are classified by the policy itself, without rewards, values or bootstrapping:

    L = -E[log (exp S⁺ / (exp S⁺ + exp λS⁻))],    0 < λ <= 1

Many policies tell finite pairs apart equally well, and some do what is in no data. With λ < 1 the
loss falls where both segments become more likely (but then π* is no longer its minimum).

From DPO it differs in that an answer is a segment: of length 1, from one state, with λ = 1 and a
uniform reference, it is DPO, and α is its β. With `reference` the log-ratio to what was cloned
stands for log π (CPL-KL).

Before it all segments are cloned, for `pretrain` of the run. Checked against the released code,
whose α and λ these are (of its tasks from states): there γ = 1, and log π is -|a - μ(s)|², so that
its α counts twice that of a Gaussian of deviation 1; here deviations are learned. The formula was
read as others quote it. The paper's own text was not to be had.
"""

import jax
import jax.numpy as jnp

from jaxrl.families.segments import Segments, segments
from jaxrl.hyper import arg, hyper

PAPER = {
    "slug": "cpl",
    "id": 238,
    "title": "Contrastive Prefence Learning: Learning from Human Feedback without RL",
    "year": 2023,
    "arxiv": "2310.13639",
    "chapter": "preference",
    "hyper": "CPL",
    "parent": "dpo",
    "changes": "an answer is a segment of behaviour, whose regret log-probabilities tell",
    "claim": "from as many pairs it plays better than cloning of what was preferred",
    "check": {
        "tune": {"lr": [1e-3, 3e-3, 1e-2]},
        "arms": {"sft": {"paper": "segment_sft"}},
        "says": [
            "final_return > sft on segments/maze",
            "final_return > sft on segments/pendulum",
        ],
    },
}


@hyper
class CPL(Segments):
    alpha: float = arg(0.1, "α, temperature of the policy that is looked for", "(0, inf)")
    gamma: float = arg(0.95, "γ, discount of a segment's regret", "[0, 1]")
    bias: float = arg(0.5, "λ, how much the segment that lost counts", "(0, 1]")
    reference: bool = arg(False, "relative to what was cloned: CPL-KL")


def score(w, hp):
    """S [B, 2]."""
    log_p = w.each.policy - w.each.ref if hp.reference else w.each.policy
    return hp.alpha * (hp.gamma ** jnp.arange(log_p.shape[-1]) * log_p).sum(-1)


def loss(w, b, hp):
    S = score(w, hp)
    return jax.nn.softplus(hp.bias * S[:, 1] - S[:, 0])


def make(world, network=Segments.network_for("")):
    return segments(world, network, loss)
