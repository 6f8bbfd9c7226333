"""REINFORCE with a baseline. Williams 1992, Machine Learning 8, doi 10.1007/BF00992696.

∇θ log π(aₜ|sₜ) (Gₜ - V(sₜ)),    Gₜ = Σᵢ γⁱ rₜ₊ᵢ to the end of the episode,
one step per rollout: the Monte-Carlo return less a baseline that is learned from those returns, as
the name is used today (Sutton and Barto, section 13.4). Williams' baseline is any number that does
not depend on the action, and his theorem 1 says that the step follows the gradient whatever it is.

Where a time limit or the rollout's end cuts an episode the rest of its return is not seen, and V
stands for it: to drop those steps instead would drop the longest episodes.

Adam stands for the constant step size, and the family's entropy bonus is kept. Not checked: his
networks of stochastic binary units.
"""

from jaxrl.families.on_policy import OnPolicy, gae, on_policy, stateless
from jaxrl.hyper import Linear, hyper
from jaxrl.policies import Network, policy_for
from jaxrl.surrogate import policy_gradient

PAPER = {
    "slug": "reinforce",
    "reference": True,
    "title": "Simple Statistical Gradient-Following Algorithms for Connectionist RL",
    "year": 1992,
    "arxiv": None,
    "chapter": "on_policy",
    "hyper": "REINFORCE",
    "parent": None,
    "changes": "the first: a step along ∇ log π, weighed by the return",
    "claim": "the mean step follows the gradient of the expected return, whatever the baseline",
    "inert": {"lam": "the return is Monte-Carlo: λ is 1"},
}


@hyper
class REINFORCE(OnPolicy):
    lr: float | Linear = 1e-2  # one step a rollout
    epochs: int = 1
    minibatches: int = 1


def monte_carlo(s, b, t, hp, world):
    """A = G - V, and G as the critic's target: the λ-return at λ = 1."""
    return gae(s, b, t, hp.replace(lam=1.0), world)


def make(world, network=Network()):
    policy = policy_for(world, network)
    advantage = stateless(monte_carlo)
    return on_policy(policy, policy_gradient, advantage=advantage, sequences=network.memory > 0)
