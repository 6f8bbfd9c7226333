"""SubPO. Prajapat, Mutný, Zeilinger, Krause 2024 (ICLR), arXiv 2307.13372.

Maximise E[F(τ)] for a monotone submodular F of the states that a path visits, by its marginal gains
F(s|τ) = F(τ ∪ {s}) - F(τ):

  ∇J = E[ Σᵢ ∇ log π(aᵢ|sᵢ) ( Σⱼ F(sⱼ₊₁|τ₀:ⱼ) - b(sᵢ) ) ],    j ∈ [i, H)

The environment remembers the path and pays the gains, so this is REINFORCE on them; it differs from
it in what is paid, a reward that depends on all states before. The policy sees cell and time alone
(SubPO-M). The baseline b is a critic that sees the same.

The environment pays (F(s'|τ), f(s')); with modular=True the second is learned from, f(s) summed up
as if nothing had been visited before: ModPO, the baseline of the paper.

Checked: the authors' code, which weighs a step by F so far instead of by the gains to come, has no
baseline, and lowers an entropy bonus over time. The text from memory. Not: policies that see the
whole path (SubPO-NM), item collection, Bayesian experiment design, MuJoCo and the racing car.
"""

from jaxrl.families.on_policy import on_policy, stateless
from jaxrl.hyper import arg, hyper
from jaxrl.papers.on_policy.reinforce import REINFORCE, monte_carlo
from jaxrl.policies import Network, policy_for
from jaxrl.surrogate import policy_gradient

PAPER = {
    "slug": "subpo",
    "id": 37,
    "title": "Submodular Reinforcement Learning",
    "year": 2024,
    "arxiv": "2307.13372",
    "chapter": "on_policy",
    "hyper": "SubPO",
    "parent": "reinforce",
    "changes": "rewards are marginal gains of a submodular function of the whole path",
    "claim": "its paths are worth more than those that additive rewards lead to",
    "check": {
        "on": {"cover/biodiversity": 120_000, "cover/coverage": 120_000},
        "tune": {"lr": [3e-3, 1e-2, 3e-2]},
        "arms": {"modpo": {"hyper": {"modular": True}}},
        "says": [
            "final_return > modpo on cover/biodiversity",
            "final_return > modpo on cover/coverage",
        ],
    },
    "inert": {"lam": "the return is Monte-Carlo: λ is 1"},
    "battery": {"run": {"env": "cover/coverage"}, "env_params": {"size": 3}},
}


@hyper
class SubPO(REINFORCE):
    gamma: float = 1.0  # F is of the path as a whole
    modular: bool = arg(False, "learn from the additive f(s) in place of the gain: ModPO")


def gains_to_go(s, b, t, hp, world):
    """Monte-Carlo advantages from one of the two rewards."""
    paid = b.reward[..., 1 if hp.modular else 0]
    return monte_carlo(s, b.replace(reward=paid), t, hp, world)


def make(world, network=Network()):
    policy = policy_for(world, network)
    advantage = stateless(gains_to_go)
    return on_policy(policy, policy_gradient, advantage=advantage, sequences=network.memory > 0)
