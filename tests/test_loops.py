"""What loops bring back."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.loops import averaged, summed


def test_averaged_is_the_last_carry_and_the_means_by_name():
    """Whatever the order of the names: jax would sort a dictionary's."""
    step = lambda carry, x: (carry + x, dict(last=carry, first=2.0 * x, is_odd=x % 2 == 1))
    carry, said = jax.jit(lambda x: averaged(step, jnp.float32(0), x))(jnp.arange(1.0, 5.0))
    assert carry == 10
    assert {k: float(x) for k, x in said.items()} == dict(last=2.5, first=5.0, is_odd=0.5)


def test_what_is_averaged_may_be_averaged_again():
    inner = lambda carry, x: averaged(lambda c, y: (c + 1, dict(y=y, x=x)), carry, jnp.arange(3.0))
    carry, said = averaged(inner, jnp.int32(0), jnp.arange(2.0))
    assert (int(carry), float(said["y"]), float(said["x"])) == (6, 1.0, 0.5)


def test_a_loop_writes_one_array_a_step_whatever_is_said():
    step = lambda carry, x: (carry, {f"n{i}": x + i for i in range(5)})
    made = jax.make_jaxpr(lambda x: averaged(step, 0.0, x))(jnp.arange(4.0))
    (loop,) = (e for e in made.eqns if e.primitive.name == "scan")
    assert [x.aval.shape for x in loop.outvars if x.aval.ndim] == [(4, 5)]


def test_summed_is_the_sum_and_the_list():
    x = jnp.arange(12.0).reshape(4, 3)
    total, each = summed(lambda x: ((x**2).sum(), x[0]), x)
    assert total == (np.arange(12.0) ** 2).sum()
    np.testing.assert_array_equal(each, [0, 3, 6, 9])
