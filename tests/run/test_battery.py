"""The battery finds what it is there to find. One broken paper a defect."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.families.on_policy import OnPolicy
from jaxrl.hyper import arg, hyper
from jaxrl.run import battery

HEAD = '''
"""A paper with a defect. Nobody, 2026."""

import jax
import jax.numpy as jnp

from jaxrl.families.on_policy import OnPolicy, on_policy
from jaxrl.hyper import arg, hyper
from jaxrl.policies import Network, policy_for

PAPER = {
    "slug": "broken", "title": "Broken", "chapter": "on_policy", "hyper": "Broken", "claim": "none",
    "inert": {INERT},
}


@hyper
class Broken(OnPolicy):
    eps: float = arg(0.2, "clip range", "(0, inf)")
    idle: float = arg(1.0, "nothing", "[0, inf)")


def surrogate(w, b, hp):
    r = jnp.exp(w.log_ratio)
    BODY


def make(world, network=Network()):
    return on_policy(policy_for(world, network), surrogate)
'''


SOUND = dict(body="return -jnp.minimum(r, 1 + hp.eps) * b.advantage", inert='"idle": "no use"')


def problems(tmp_path, **change):
    text = HEAD.lstrip()
    for name, value in (SOUND | change).items():
        text = text.replace(name.upper(), value)
    file = tmp_path / "broken.py"
    file.write_text(text)
    return battery.examine(str(file))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(), []),
        (dict(inert=""), ["idle: dead"]),
        (dict(inert='"idle": ""'), ["idle: declared inert without a reason"]),
        (dict(inert='"idle": "no", "eps": "no"'), ["eps: declared inert (no), but it is not"]),
        (
            dict(body="jax.debug.callback(lambda x: None, r); return -r * hp.eps * b.advantage"),
            ["program: it calls back to the host (debug_callback)"],
        ),
        (
            dict(body="return -r * b.advantage * hp.eps / (jnp.max(b.target) < 1e5)"),
            ["reward 1e6: NaN in"],
        ),
    ],
    ids=["sound", "dead", "no reason", "not inert", "callback", "nan"],
)
def test_a_defect_is_named(tmp_path, change, words):
    found = problems(tmp_path, **change)
    assert len(found) == len(words), found
    for line, word in zip(found, words):
        assert line.startswith(word)


@pytest.mark.slow
def test_a_run_that_depends_on_where_it_was_cut_is_found(tmp_path, monkeypatch):
    real = battery.advance

    def other(algo, size, s, t, n, hp, world):
        s = s.replace(params=jax.tree.map(lambda x: x * (1 + 1e-6 * (t > 0)), s.params))
        return real(algo, size, s, t, n, hp, world)

    monkeypatch.setattr(battery, "advance", other)
    assert problems(tmp_path) == ["resume: 4 iterations are not 2, a checkpoint and 2, bit for bit"]


def test_a_long_file_is_too_long(tmp_path):
    file = tmp_path / "long.py"
    file.write_text("x = 1\n" * 121 + "#" * 101 + "\n")
    assert list(battery.file_problems(file)) == [
        "file: 122 lines, allowed are 120",
        "file: line 122 is wider than 100",
    ]


@hyper
class Fields(OnPolicy):
    off: float = arg(0.0, "off", "[0, inf)")
    never: float = arg(jnp.inf, "off", "(0, inf]")
    share: float = arg(0.5, "a share", "[0, 1)")
    two: tuple[float, float] = arg((1.0, 2.0), "two", "[0, inf)")


def test_a_row_changes_one_value_within_its_bounds():
    hp = Fields()
    assert list(battery.variants(hp, "lr")) == pytest.approx([2.5e-4, 2.5e-2])
    assert list(battery.variants(hp, "gamma")) == pytest.approx([0.099, 1.0])
    assert list(battery.variants(hp, "off")) == [1e-3, 1.0]
    assert list(battery.variants(hp, "never")) == [1e-3, 1.0]
    assert list(battery.variants(hp, "share")) == pytest.approx([0.05, 0.75])
    rows = battery.rows(hp)
    assert list(map(float, rows["two.1 x 10.0"][1].two)) == [1.0, 20.0]
    assert rows["base"][1] is rows["again"][1] is hp
    assert not any("horizon" in name for name in rows)


def test_a_callback_is_found_however_deep_it_is():
    def deep(x):
        def body(c, _):
            return jax.lax.cond(c > 0, lambda c: jax.pure_callback(np.sin, c, c), lambda c: c, c), 0

        return jax.lax.scan(body, x, None, 3)

    found = set(battery.primitives(jax.make_jaxpr(jax.jit(deep))(1.0).jaxpr))
    assert {"pure_callback", "scan", "cond"} <= found
