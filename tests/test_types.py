"""Draws along one axis."""

import jax
import pytest

from jaxrl.types import flat


@pytest.mark.parametrize("draw", [jax.random.gumbel, jax.random.bits, jax.random.split])
def test_the_numbers_are_those_of_the_shape(draw):
    key = jax.random.key(3)
    assert (flat(draw, key, (5, 3, 2)) == draw(key, (5, 3, 2))).all()
