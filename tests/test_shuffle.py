"""The permutation of minibatches: it is one, and as good as uniform."""

import jax
import numpy as np
import pytest

from jaxrl import shuffle

DRAWS = 20_000


@pytest.mark.parametrize("n", [1, 7, 256, 257, 512, 1000, 2048 * 32, 514, 3 * 5 * 7 * 11])
def test_it_is_a_permutation(n):
    for seed in range(3):
        drawn = shuffle.shuffle(jax.random.key(seed), n)
        assert drawn.shape == (n,) and drawn.dtype == np.int32
        np.testing.assert_array_equal(np.sort(drawn), np.arange(n))


@pytest.mark.parametrize(("n", "rows"), [(512, 16), (1000, 25)])
def test_it_is_as_good_as_uniform(n, rows):
    """Against what a uniform permutation does: where a number lands, and how often two of them
    share one of four minibatches. Each statistic is near a standard normal."""
    columns, four = n // rows, 4
    keys = jax.random.split(jax.random.key(0), DRAWS)
    drawn = np.asarray(jax.jit(jax.vmap(lambda k: shuffle.shuffle(k, n)))(keys))
    batch = np.empty_like(drawn)
    np.put_along_axis(batch, drawn, np.arange(n)[None] // (n // four), 1)
    counts = np.stack([(batch == i).sum(0) for i in range(four)])
    chi = ((counts - DRAWS / four) ** 2 / (DRAWS / four)).sum()
    freedom = n * (four - 1)
    assert abs(chi - freedom) / np.sqrt(2 * freedom) < 4
    p = (n / four - 1) / (n - 1)
    for apart in (1, 2, rows, columns, columns + 1, 2 * columns, n // 2, n // 4):
        same = (batch[:, :-apart] == batch[:, apart:]).mean(0)
        z = (same - p) / np.sqrt(p * (1 - p) / DRAWS)  # of each pair; nearly independent
        assert abs(z.mean()) * np.sqrt(len(z)) < 4, apart
        assert abs(z.std() - 1) < 0.2, apart


def test_two_keys_and_two_passes_differ():
    one, two = (np.asarray(shuffle.shuffle(jax.random.key(i), 512)) for i in range(2))
    assert (one == two).mean() < 0.02
    assert abs(np.corrcoef(one, np.arange(512))[0, 1]) < 0.2
