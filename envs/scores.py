"""Two fixed points of each environment's scale, so that returns on several can be put together.

    normalised = (return - low) / (high - low)

low: a uniformly random policy's mean return over 256 episodes (its own actions sampled from the
action space). high: the most there is where that is known, else what PPO reached in
experiments/results/learning, rounded.
"""

RANGES = {
    "CartPole-v1": (22.8, 500.0),  # the most
    "Acrobot-v1": (-500.0, -79.0),
    "Pendulum-v1": (-1195.0, -149.0),
    "MountainCarContinuous-v0": (-33.3, 93.9),
    "MemoryChain-bsuite": (0.0, 1.0),  # chance, the most
    "Catch-bsuite": (-0.64, 1.0),  # the most
    "Asterix-MinAtar": (0.5, 1.8),
    "Breakout-MinAtar": (0.4, 24.0),
    "Freeway-MinAtar": (0.4, 32.9),
    "SpaceInvaders-MinAtar": (4.5, 145.0),
    "Seaquest-MinAtar": (0.1, 3.0),
    "brax/inverted_pendulum": (24.4, 1000.0),  # the most
}
