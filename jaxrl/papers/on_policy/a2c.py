"""A2C. Mnih, Badia, Mirza, Graves, Lillicrap, Harley, Silver, Kavukcuoglu 2016, arXiv 1602.01783.

∇θ log π(aₜ|sₜ) Aₜ + β ∇θ H(π(.|sₜ)),    Aₜ = Σᵢ γⁱ rₜ₊ᵢ + γᵏ V(sₜ₊ₖ) - V(sₜ),    i ∈ [0, k),
with k the steps that are left of the rollout or the episode (section 4, algorithm S3); the critic
regresses on the same k-step returns (λ = 1; a smaller λ makes them generalised advantages).
This is A3C with its actors in step: one gradient over all environments instead of many, stale.

From REINFORCE it differs in short rollouts whose end is bootstrapped from the critic.

Adam stands for the paper's RMSProp. Not checked: the results on Atari, TORCS, MuJoCo, Labyrinth.
"""

from jaxrl.families.on_policy import OnPolicy, on_policy
from jaxrl.hyper import hyper
from jaxrl.policies import Network, policy_for
from jaxrl.surrogate import policy_gradient

PAPER = {
    "slug": "a2c",
    "reference": True,
    "title": "Asynchronous Methods for Deep Reinforcement Learning",
    "year": 2016,
    "arxiv": "1602.01783",
    "chapter": "on_policy",
    "hyper": "A2C",
    "parent": "reinforce",
    "changes": "short rollouts, bootstrapped from the critic where they end",
    "claim": "with the critic as bootstrap it learns from fewer steps than from whole returns",
}


@hyper
class A2C(OnPolicy):
    lam: float = 1.0
    num_steps: int = 5
    epochs: int = 1
    minibatches: int = 1
    normalise_advantage: bool = False


def make(world, network=Network()):
    policy = policy_for(world, network)
    return on_policy(policy, policy_gradient, sequences=network.memory > 0)
