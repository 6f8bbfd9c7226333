"""PPO at fixed preferences: what each policy is told to maximise."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.papers.multi_objective.mo_ppo import fixed, preferences

pytestmark = pytest.mark.equation("mo_ppo")


@pytest.mark.parametrize(("P", "K"), [(2, 2), (6, 2), (6, 3), (10, 3)])
def test_preferences_are_a_lattice_of_the_simplex(P, K):
    w = np.asarray(preferences(jnp.zeros((P, K))))
    parts = {(2, 2): 1, (6, 2): 5, (6, 3): 2, (10, 3): 3}[P, K]
    grid = np.indices((parts + 1,) * K).reshape(K, -1).T
    want = {tuple(x) for x in grid if x.sum() == parts}
    assert {tuple(np.rint(x * parts).astype(int)) for x in w} == want


def test_they_stay_and_so_does_the_population():
    s = types.SimpleNamespace(points=jnp.array([[3.0, -7.0], [0.0, 1.0], [2.0, 2.0]]))
    for t in (0, 5):
        slot, (after, w) = fixed.apply((), s, None, t, None, None)
        assert after is s and slot == ()
        np.testing.assert_allclose(w, [[0, 1], [0.5, 0.5], [1, 0]])
