"""HL-Gauss. Farebrother et al. 2024 (ICML), arXiv 2403.03950.

DQN's values learned by classification: Q(s, a) = Σᵢ p̂ᵢ(s, a) zᵢ over m bins of a fixed support, by
  L = E[ -Σᵢ pᵢ log p̂ᵢ(s, a) ],    y = r + γ max_a' Q(s', a'; θ⁻), a number as before
  pᵢ = Φ((eᵢ₊₁ - y) / σ) - Φ((eᵢ - y) / σ),   eᵢ the bins' edges, σ / width = 0.75    (HL-Gauss)
or, as `two_hot`, all of p on the two centres next to y, in proportion to their nearness; `squared`
is DQN by the squared error, the paper's baseline.

From DQN it differs in the loss alone: a target's errors move probabilities, not the value itself.

p is divided by its sum, the mass within the support; targets are clipped to the bins' centres.
"""

from jaxrl.critics import classification, gaussian_bins, squared, two_hot
from jaxrl.families.off_policy import off_policy
from jaxrl.hyper import arg, hyper
from jaxrl.papers.off_policy.dqn import DQN, learner
from jaxrl.policies import Network

BINS, LOSSES = 101, ("hl_gauss", "two_hot", "squared")

PAPER = {
    "slug": "hl_gauss_value_learning",
    "id": 262,
    "title": "Stop Regressing: Training Value Functions via Classification for Scalable Deep RL",
    "year": 2024,
    "arxiv": "2403.03950",
    "chapter": "off_policy",
    "hyper": "HLGauss",
    "parent": "dqn",
    "changes": "cross-entropy of a Gaussian histogram instead of a squared error",
    "claim": "classification beats regression, and a smooth target the two-hot one",
    "check": {
        "on": {"CartPole-v1": 100_000, "Acrobot-v1": 100_000},
        "tune": {"lr": ["1e-3:0", "2e-3:0", "4e-3:0"]},
        "by": "mean episode_return",
        "arms": {
            "squared": {"hyper": {"loss": "squared"}},
            "two_hot": {"hyper": {"loss": "two_hot"}},
        },
        "says": ["mean episode_return > squared", "mean episode_return > two_hot"],
    },
}


@hyper
class HLGauss(DQN):
    low: float = arg(-100.0, "least value of the support", "(-inf, inf)")
    high: float = arg(100.0, "most", "(-inf, inf)")
    sigma: float = arg(0.75, "σ of a target, in widths of a bin", "(0, inf)")
    loss: str = arg("hl_gauss", "how values are learned", LOSSES)

    def problem(self):
        if self.high <= self.low:
            return f"high: {self.high} is not above low = {self.low}"
        return super().problem()


def critic(hp):
    if hp.loss == "squared":
        return squared
    spread = (lambda y, e: gaussian_bins(y, e, hp.sigma)) if hp.loss == "hl_gauss" else two_hot
    return classification(hp.low, hp.high, BINS, spread)


def make(world, network=Network()):
    return off_policy(learner(world, network, BINS, critic))
