"""PPO at a million environments. Beukman, Khetarpal, Zheng, Dabney, Foerster, Dennis, Lyle 2026,
arXiv 2603.06009.

PPO's iterations are steps of stochastic optimisation: how far the policy moves is their size, and
as few samples as were collected are their noise. Return stagnates where steps are too large for
the noise. More environments lessen the noise; the recipe keeps the inner loop as it was,
  minibatches = environments x steps / size, of the same size, with the same epochs and rate,
so that only their number grows. (To keep the number, and let them grow, is the naive way.)

From PPO it differs in what scales with the environments. `minibatches` is not read.

Not checked: the text, its recipe (from summaries), Kinetix, and any scale near a million.
"""

from jaxrl.families.on_policy import on_policy, sgd, stateless
from jaxrl.hyper import arg, hyper
from jaxrl.papers.on_policy.ppo import PPO, clip, clipped_value
from jaxrl.policies import Network, policy_for

PAPER = {
    "slug": "million_envs",
    "id": 180,
    "title": "Preventing Learning Stagnation in PPO by Scaling to 1 Million Parallel Environments",
    "year": 2026,
    "arxiv": "2603.06009",
    "chapter": "on_policy",
    "hyper": "MillionEnvs",
    "parent": "ppo",
    "changes": "more environments, with minibatches of the same size in greater number",
    "claim": "at the same steps and rate, it ends above few environments and above naive scaling",
    "check": {
        "on": {"CartPole-v1": 200_000, "Acrobot-v1": 200_000},
        "hyper": {"lr": 5e-3, "epochs": 10, "num_envs": 128, "num_steps": 32, "minibatch_size": 64},
        "arms": {
            "few": {"hyper": {"num_envs": 8}},
            "naive": {"hyper": {"minibatch_size": 1024}},
        },
        "says": ["last episode_return > few", "last episode_return > naive"],
    },
    "battery": {"hyper": {"minibatch_size": 16}},
}


@hyper
class MillionEnvs(PPO):
    minibatch_size: int = arg(256, "rows of a minibatch, whatever the environments", "[1, inf)")

    def problem(self) -> str:
        rows, size = self.num_envs * self.num_steps, self.minibatch_size
        if rows % size:
            return f"minibatch_size: {size} does not divide num_envs * num_steps = {rows}"
        return self.misfit(size)


def fixed_inner(policy, sequences=False):
    """PPO's update in minibatches of a size instead of a number: out = (state, metrics)."""
    inner = sgd(policy, clip, value_loss=clipped_value, sequences=sequences)

    def update(s, b, t, hp, world):
        hp = hp.replace(minibatches=b.start.size // hp.minibatch_size)
        return inner.apply((), s, b, t, hp, world)[1]

    return stateless(update)


def make(world, network=Network()):
    policy = policy_for(world, network)
    return on_policy(policy, update=fixed_inner(policy, network.memory > 0))
