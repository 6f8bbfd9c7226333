"""The transformer: what is computed with a cache is what is computed without."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.transformer import Transformer, attention, rotary, small

NET = Transformer(small(7, (16, 16)))
TOKENS = jax.random.randint(jax.random.key(1), (3, 9), 1, 7).at[1, :2].set(0)


@pytest.fixture(scope="module")
def params():
    params = NET.init(jax.random.key(0), TOKENS)
    noise = lambda x: x + 0.3 * jax.random.normal(jax.random.key(x.size), x.shape)
    return jax.tree.map(noise, params)  # no leaf is 0 or 1


def test_a_cache_changes_nothing(params):
    logits, value, _ = NET.read(params, TOKENS)
    cache = NET.empty(3, 12)  # there may be more room than is used
    first, v_first, cache = NET.read(params, TOKENS[:, :4], cache, 0)
    step = jax.jit(lambda cache, token, at: NET.read(params, token, cache, at))
    rest = []
    for i in range(4, 9):
        out, v, cache = step(cache, TOKENS[:, i : i + 1], i)
        rest.append((out, v))
    together = jnp.concatenate([first, *(x for x, _ in rest)], 1)
    np.testing.assert_allclose(together, logits, atol=2e-5)
    values = jnp.concatenate([v_first, *(v for _, v in rest)], 1)
    np.testing.assert_allclose(values, value, atol=2e-5)
    np.testing.assert_allclose(NET.read(params, TOKENS, since=5)[0], logits[:, 5:], atol=2e-5)


def test_a_token_says_nothing_to_those_before_it(params):
    logits = NET.read(params, TOKENS)[0]
    other = NET.read(params, TOKENS.at[:, 6].set(3))[0]
    np.testing.assert_array_equal(logits[:, :6], other[:, :6])
    assert (np.abs(logits[:, 6:] - other[:, 6:]).max((1, 2)) > 1e-3).any()


def test_blanks_on_the_left_are_not_seen(params):
    row = TOKENS[:1, 2:]
    plain = NET.read(params, row)[0]
    padded = NET.read(params, jnp.pad(row, ((0, 0), (2, 0))))[0]
    np.testing.assert_allclose(padded[:, 2:], plain, atol=2e-5)


def test_rotary_scores_depend_on_the_distance_alone():
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 8))
    score = lambda i, j: float((rotary(q, jnp.array([i])) * rotary(k, jnp.array([j]))).sum())
    assert score(5, 2) == pytest.approx(score(13, 10), abs=1e-5)
    assert score(5, 2) != pytest.approx(score(5, 3), abs=1e-3)
    # the pair (0, D/2) turns by one radian a place
    x = jnp.zeros((1, 1, 1, 4)).at[..., 0].set(1.0)
    turned = rotary(x, jnp.array([2]))[0, 0, 0]
    np.testing.assert_allclose(turned, [np.cos(2), 0, np.sin(2), 0], atol=1e-6)


def test_attention_is_the_formula_head_by_head():
    keys = jax.random.split(jax.random.key(2), 3)
    q = jax.random.normal(keys[0], (2, 3, 4, 5))  # four heads, in two groups
    k, v = (jax.random.normal(x, (2, 6, 2, 5)) for x in keys[1:])
    mask = jnp.arange(6) <= jnp.array([[1], [3], [5]])
    out = np.asarray(attention(q, k, v, jnp.broadcast_to(mask, (2, 3, 6)))).reshape(2, 3, 4, 5)
    for b, s, h in np.ndindex(2, 3, 4):
        scores = np.asarray(k)[b, :, h // 2] @ np.asarray(q)[b, s, h] / np.sqrt(5)
        weights = np.where(np.asarray(mask)[s], np.exp(scores), 0)
        want = (weights / weights.sum()) @ np.asarray(v)[b, :, h // 2]
        np.testing.assert_allclose(out[b, s, h], want, rtol=1e-4, atol=1e-5)
