"""What other libraries got wrong, where no other file is about it."""

from types import SimpleNamespace

import jax
import numpy as np

from jaxrl.run.run import Later, Setting, execute


def test_every_seed_is_scored_in_the_same_episodes_on_the_way():
    """rejax#13: each seed was scored in environments of its own, so a curve held their luck too."""
    job = SimpleNamespace(iterations=4, evals=2, save_iterations=0)

    def luck(scored, hp, world):  # what an evaluation makes of its keys alone
        return {"return": jax.vmap(lambda key: jax.random.normal(key, (5,)))(scored[1])}

    program = SimpleNamespace(
        chunk=1,
        init=lambda *_: 0,
        advance=lambda state, *_: (state, {}),
        greedy=Later(lambda: luck),
    )
    chunks = []
    execute(Setting(job, None, None, None, np.arange(3)), program, chunks.append)
    scores = np.stack([c.evaluation for c in chunks if c.evaluation is not None])
    np.testing.assert_array_equal(scores, np.full((2, 3), scores[0, 0]))
