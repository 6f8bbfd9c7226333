"""What is traced, what is refused, and that nothing recompiles that should not."""

import math
import typing
from dataclasses import field

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from jaxrl.errors import InputError
from jaxrl.hyper import Linear, arg, at, cast, check, hyper, leaves, replace, traced


@hyper
class Inner:
    beta: float = arg(0.9, "decay", "[0, 1)")
    steps: int = arg(3, "count", "[1, inf)")


@hyper
class Everything:
    lr: float = arg(3e-4, "step size", "(0, inf)")
    gamma: float = arg(0.5, "discount", "[0, 1]")
    clip: float = arg(math.inf, "norm; inf: off", "(0, inf]")
    betas: tuple[float, ...] = arg((0.5, 0.25), "decays", "[0, 1)")
    pair: tuple[float, float] = (1.0, 2.0)
    table: jax.Array = field(default_factory=lambda: jnp.array([1.0, 2.0]))
    rate: float | Linear = arg(0.1, "a schedule", "[0, 1]")
    inner: Inner = arg(Inner(), "nested")
    epochs: int = arg(4, "passes", "[1, inf)")
    on: bool = False
    kind: str = arg("clip", "which", ("clip", "kl"))
    hidden: tuple[int, ...] = arg((8, 8), "widths", "[1, inf)")
    seed_or_name: int | str = 3
    horizon: float = arg(10.0, "iterations", "(0, inf)")


TRACED = ["lr", "gamma", "clip", "betas", "pair", "table", "rate", "inner", "horizon"]
STATIC = {"epochs", "on", "kind", "hidden", "seed_or_name"}


def one_line(error, *words):
    """The message is a single line that contains every word."""
    message = str(error.value)
    assert "\n" not in message and message == message.strip() and message
    for word in words:
        assert str(word) in message, (word, message)


# ---- what is a leaf ----


def test_the_type_says_what_is_traced():
    hp = Everything()
    assert list(dict.fromkeys(name.partition(".")[0] for name in leaves(hp))) == TRACED
    assert {"betas.0", "betas.1", "inner.beta"} <= set(leaves(hp))
    # 2 betas, 2 of the pair, Inner's beta but not its count: what jax itself makes of the value
    found = {jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_flatten_with_path(hp)[0]}
    assert found == {
        *(f".{name}" for name in ("lr", "gamma", "clip", "table", "rate", "inner.beta", "horizon")),
        *(f".{name}" for name in ("betas[0]", "betas[1]", "pair[0]", "pair[1]")),
    }
    scheduled = replace(hp, rate=Linear(start=1.0, end=0.0))
    assert len(jax.tree.leaves(scheduled)) == len(jax.tree.leaves(hp)) + 1


def test_static_fields_are_in_the_treedef_and_leaves_are_not():
    hp = Everything()
    structure = jax.tree.structure
    other = dict(epochs=5, on=True, kind="kl", hidden=(4,), seed_or_name="a")
    assert set(other) == STATIC
    for name, value in other.items():
        assert structure(replace(hp, **{name: value})) != structure(hp), name
    for name in ("lr", "gamma", "clip", "table", "horizon"):
        assert structure(replace(hp, **{name: 0.25})) == structure(hp), name
    hash(structure(hp))  # a jit cache key


@pytest.mark.parametrize(
    "kind, leaf",
    [
        (float, True),
        (jax.Array, True),
        (Linear, True),
        (tuple[float, ...], True),
        (tuple[float, float], True),
        (tuple[Linear, ...], True),
        (float | Linear, True),
        (float | jax.Array, True),
        (int, False),
        (bool, False),
        (str, False),
        (tuple, False),
        (tuple[int, ...], False),
        (tuple[str, int], False),
        (int | None, False),
        (typing.Optional[str], False),  # noqa: UP045
    ],
)
def test_traced(kind, leaf):
    assert traced(kind) is leaf


@pytest.mark.parametrize(
    "kind",
    [
        float | None,
        typing.Optional[float],  # noqa: UP045
        Linear | None,
        float | int,
        tuple[float, int],
        tuple[float | None, ...],
    ],
)
def test_a_mixture_of_traced_and_static_is_refused(kind):
    with pytest.raises(TypeError) as error:
        traced(kind)
    one_line(error, "float")
    with pytest.raises(TypeError):
        hyper(type("A", (), {"__annotations__": {"x": kind}, "x": 1.0}))


def test_string_annotations_are_refused():
    with pytest.raises(TypeError) as error:
        hyper(type("A", (), {"__annotations__": {"x": "float"}, "x": 1.0}))
    one_line(error, "A.x", "string")


# ---- subclasses ----


def test_an_override_without_its_type_is_refused():
    with pytest.raises(TypeError) as error:

        @hyper
        class A(Everything):
            lr = 1.0

    one_line(error, "A.lr")


def test_a_subclass_keeps_the_bounds_it_does_not_restate():
    @hyper
    class A(Everything):
        lr: float = 1e-2  # another default, the same field
        gamma: float = arg(2.0, "discount", "[0, 5]")  # restated
        more: float = arg(0.5, "more", "(0, 1)")

        def problem(self):
            return "more: too close to lr" if self.more == self.lr else ""

    assert list(dict.fromkeys(n.partition(".")[0] for n in leaves(A()))) == [*TRACED, "more"]
    check(A())  # 2 is inside the new bounds of gamma
    for name in ("lr", "more"):
        with pytest.raises(InputError, match=f"^{name}: 0 is outside"):
            check(A(**{name: 0}))
    with pytest.raises(InputError, match="^epochs: 0 is outside"):
        check(A(epochs=0))
    with pytest.raises(InputError, match="^more: too close to lr$"):
        check(A(more=0.25, lr=0.25))
    assert check(Everything(gamma=1.0)).gamma == 1.0  # the parent is as it was
    with pytest.raises(InputError):
        check(Everything(gamma=2.0))


def test_fields_are_frozen_and_by_name():
    with pytest.raises(TypeError):
        Everything(0.1)
    with pytest.raises((AttributeError, struct.dataclasses.FrozenInstanceError)):
        Everything().lr = 1.0


# ---- check ----


@pytest.mark.parametrize(
    "bounds, inside, outside",
    [
        ("(0, inf)", [1e-9, 5, 1e30], [0, -1, math.inf, -math.inf]),
        ("[0, 1]", [0, 1, 0.5], [-1e-9, 1.0000001]),
        ("[0, 1)", [0, 0.999], [1, -0.1]),
        ("(0, 1]", [1, 1e-3], [0, 1.5]),
        ("(0, inf]", [math.inf, 3], [0, -math.inf]),
        ("(-inf, inf)", [0, -1e30], [math.inf, -math.inf]),
        ("[-2, -1]", [-2, -1, -1.5], [0, -2.5]),
        ("[1e-3, 1e3]", [1e-3, 1e3], [9e-4, 1e4]),
    ],
)
def test_bounds(bounds, inside, outside):
    A = hyper(type("A", (), {"__annotations__": {"x": float}, "x": arg(0.5, "", bounds)}))
    for x in inside:
        hp = A(x=x)
        assert check(hp) is hp
    for x in [*outside, math.nan]:
        with pytest.raises(InputError) as error:
            check(A(x=x))
        one_line(error, "x: ", x, *([] if math.isnan(x) else [bounds]))


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(lr=0), "lr: 0 is outside (0, inf)"),
        (dict(lr=-0.5), "lr: -0.5 is outside (0, inf)"),
        (dict(gamma=math.nan), "gamma: nan is not a number"),
        (dict(lr=np.array([0.1, -1.0, 0.2])), "lr: -1.0 is outside (0, inf)"),  # one bad of a sweep
        (dict(lr=jnp.array([[0.1], [math.nan]])), "lr: nan is not a number"),
        (dict(betas=(0.5, 1.0)), "betas: 1.0 is outside [0, 1)"),
        (dict(pair=(0.5, math.nan)), "pair: nan is not a number"),
        (dict(rate=Linear(start=0.5, end=2.0)), "rate: 2.0 is outside [0, 1]"),
        (dict(epochs=0), "epochs: 0 is outside [1, inf)"),
        (dict(kind="k3"), "kind: k3 is not one of clip, kl"),
        (dict(hidden=(64, 0)), "hidden: 0 is outside [1, inf)"),
        (dict(lr=True), "lr: True is not a float"),
        (dict(lr="0.1"), "lr: '0.1' is not a float"),
        (dict(lr=None), "lr: None is not a float"),
        (dict(betas=(0.5, None)), "betas: (0.5, None) is not a tuple[float, ...]"),
        (dict(betas=0.5), "betas: 0.5 is not a tuple[float, ...]"),
        (dict(pair=(0.5,)), "pair: (0.5,) is not a tuple[float, float]"),
        (dict(lr=(0.1, 0.2)), "lr: (0.1, 0.2) is not a float"),  # a sweep is an array
        (dict(lr=np.ones(40, bool)), "lr: array([ True,  True".replace("  ", " ")),
        (dict(lr=1j), "lr: 1j is not a float"),
        (dict(epochs=True), "epochs: True is not an int"),
        (dict(epochs=2.0), "epochs: 2.0 is not an int"),
        (dict(epochs="4"), "epochs: '4' is not an int"),
        (dict(on=1), "on: 1 is not a bool"),
        (dict(kind=3), "kind: 3 is not a str"),
        (dict(hidden=[8, 8]), "hidden: [8, 8] is not a tuple[int, ...]"),
        (dict(hidden=(8, "a")), "hidden: (8, 'a') is not a tuple[int, ...]"),
        (dict(hidden=8), "hidden: 8 is not a tuple"),
        (dict(seed_or_name=1.5), "seed_or_name: 1.5 is not an int | str"),
        (dict(inner=Inner(beta=1.0)), "beta: 1.0 is outside [0, 1)"),
        (dict(inner=Inner(steps=0)), "steps: 0 is outside [1, inf)"),
        (dict(inner=Inner(steps=1.5)), "steps: 1.5 is not an int"),
    ],
)
def test_messages(changes, message):
    with pytest.raises(InputError) as error:
        check(Everything(**changes))
    one_line(error)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        dict(lr=1),  # an int for a float is a number
        dict(lr=np.float64(0.1), gamma=np.int32(1), clip=jnp.float32(3.0)),
        dict(lr=np.linspace(0.1, 1.0, 5)),
        dict(rate=Linear(start=1.0, end=0.0)),
        dict(seed_or_name="a"),
        dict(seed_or_name=7),
        dict(betas=()),
    ],
)
def test_what_is_right_passes(changes):
    hp = Everything(**changes)
    assert check(hp) is hp


def test_bounds_are_not_looked_at_while_tracing():
    hp = jax.tree.map(lambda x: jnp.stack([x, x]), cast(Everything()))
    sweep = replace(hp, lr=jnp.array([-1.0, 9.0]))
    np.testing.assert_array_equal(jax.jit(jax.vmap(lambda hp: hp.lr * 2))(sweep), [-2.0, 18.0])


# ---- replace ----


def test_replace_suggests_the_nearest_name():
    hp = replace(Everything(), gamma=0.25, epochs=9)
    assert (hp.gamma, hp.epochs, hp.lr) == (0.25, 9, Everything().lr)
    with pytest.raises(InputError) as error:
        replace(Everything(), gama=0.5)
    one_line(error, "Everything", "gama", "did you mean gamma?")
    with pytest.raises(InputError) as error:
        replace(Inner(), zzz=0.5)
    one_line(error, "Inner", "zzz", "beta, steps")


# ---- cast, schedules, sweeps ----


def test_cast_makes_one_program_of_every_kind_of_number():
    traces = []

    @jax.jit
    def f(hp):
        traces.append(1)
        return hp.lr * hp.gamma * hp.betas[0] * hp.inner.beta

    values = [1, 1.0, np.float64(1), np.float32(1), np.int64(1), jnp.float32(1), jnp.int32(1)]
    for v in [*values, jnp.asarray(1.0)]:
        hp = cast(Everything(lr=v, gamma=v, betas=(v, 0.5), inner=Inner(beta=v)))
        kinds = {(str(x.dtype), x.weak_type) for x in jax.tree.leaves(hp)}
        assert kinds == {("float32", False)}
        assert float(f(hp)) == 1.0
    assert len(traces) == 1
    assert (hp.epochs, hp.hidden, hp.kind) == (4, (8, 8), "clip")  # static fields are left alone
    f(cast(replace(hp, epochs=5)))
    assert len(traces) == 2  # and they are another program
    for v in (1, np.float64(1), np.float32(1)):  # without the cast each is one more: the trap
        f(replace(hp, lr=v))
    assert len(traces) > 2


def test_linear_over_the_horizon():
    hp = cast(Everything(rate=Linear(start=3.0, end=-1.0), horizon=8.0))
    t = jnp.arange(20)
    got = jax.jit(jax.vmap(lambda t: at(hp.rate, t, hp)))(t)
    np.testing.assert_allclose(got, np.interp(np.arange(20), [0, 8], [3, -1]), atol=1e-6)
    assert (float(got[0]), float(got[4]), float(got[8]), float(got[19])) == (3.0, 1.0, -1.0, -1.0)
    assert float(at(0.25, 5, hp)) == 0.25 and float(at(jnp.float32(0.25), jnp.int32(5), hp)) == 0.25


def test_vmap_over_one_leaf():
    hp = cast(Everything())
    axes = jax.tree.map(lambda _: None, hp).replace(lr=0)
    sweep = hp.replace(lr=jnp.array([1.0, 2.0, 3.0]))

    def f(hp, t):
        return hp.lr * at(hp.rate, t, hp) + sum(hp.pair) * hp.epochs

    got = jax.jit(jax.vmap(f, in_axes=(axes, None)))(check(sweep), 3)
    np.testing.assert_allclose(got, np.array([1, 2, 3]) * 0.1 + 3.0 * 4, rtol=1e-6)
