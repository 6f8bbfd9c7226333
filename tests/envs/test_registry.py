"""Names, parameters and a person's own environments."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from envs import registry
from jaxrl.errors import InputError

KEY = jax.random.key(0)


def fails(call, *args, **kwargs):
    with pytest.raises(InputError) as e:
        call(*args, **kwargs)
    assert "\n" not in str(e.value)
    return str(e.value)


def test_names_need_no_jax():
    code = """
import sys, envs
from jaxrl.errors import InputError
assert "CartPole-v1" in envs.names() and envs.kind("brax/ant") == "brax"
try: envs.check_name("CartPole-v2")
except InputError as e: print(e)
print([m for m in ("jax", "numpy", "gymnax", "brax") if m in sys.modules])
"""
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert out.startswith("env: no 'CartPole-v2'; did you mean CartPole-v1") and out.endswith(
        "\n[]\n"
    )


def test_kinds():
    kinds = {n: envs.kind(n) for n in envs.names()}
    assert set(kinds.values()) == {
        "classic",
        "control",
        "bsuite",
        "minatar",
        "misc",
        "brax",
        "playground",
        "jaxmarl",
        *registry.OWN,
    }
    assert kinds["Breakout-MinAtar"] == "minatar" and kinds["brax/hopper/mjx"] == "brax"
    assert envs.kind("mine:make") == "custom" and envs.kind("brax/hopper/spring") == "brax"


def test_tables_follow_upstream():
    """A name upstream adds or drops must show: offered, or an exception with its reason."""
    import gymnax
    from brax import envs as brax

    assert set(registry.GYMNAX) | {"MNISTBandit-bsuite"} == set(gymnax.registered_envs)
    assert set(registry.BRAX) | {"swimmer"} == set(brax._envs)
    assert not set(registry.EXCEPTIONS) & set(envs.names())


def test_our_own_modules_make_what_the_table_names():
    for module, names in registry.OWN.items():
        for name in names:
            assert envs.make_env(f"{module}/{name}").name == f"{module}/{name}"


def test_wrong_names_and_parameters():
    assert "did you mean CartPole-v1" in fails(envs.make, "cartpole-v1")
    assert "jax 0.10 no longer has" in fails(envs.make, "brax/swimmer")
    assert "downloads" in fails(envs.check_name, "MNISTBandit-bsuite")
    assert "did you mean gravity?" in fails(envs.make, "CartPole-v1", gravty=9.0)
    assert fails(envs.make, "CartPole-v1", gravity="up") == "gravity: 'up' is not a number"
    assert fails(envs.make, "CartPole-v1", gravity=float("nan")) == "gravity: nan is not finite"
    assert "shape (2,) instead of ()" in fails(envs.make, "CartPole-v1", gravity=[1.0, 2.0])
    assert fails(envs.make, "CartPole-v1", max_steps=0) == "max_steps: 0 is outside [1, inf)"
    assert "is not an integer" in fails(envs.make, "MemoryChain-bsuite", memory_length=2.5)
    assert "did you mean reward?" in fails(envs.make, "probe/one", rewards=2.0)
    assert "did you mean gravity_scale?" in fails(envs.make, "brax/inverted_pendulum", gravity=2.0)


@pytest.mark.parametrize(
    ("extra", "package", "name"),
    [
        ("playground", "mujoco_playground", "playground/CartpoleBalance"),
        ("jaxmarl", "jaxmarl", "jaxmarl/overcooked"),
    ],
)
def test_an_extra_says_how_to_install_it(extra, package, name):
    if __import__("importlib.util").util.find_spec(package):
        pytest.skip("installed")
    assert f"pip install 'jaxrl[{extra}]'" in fails(envs.make, name)


@pytest.mark.parametrize(
    "name",
    [
        "CartPole-v1",
        "Pendulum-v1",
        "DeepSea-bsuite",
        "brax/fast",
        "brax/inverted_pendulum",
        "probe/match",
    ],
)
def test_a_second_make_recompiles_nothing(name):
    traces = []

    @jax.jit
    def leaves(world):
        traces.append(1)
        return world.name is not None

    leaves(envs.make(name))
    leaves(envs.make(name))
    assert len(traces) == 1
    assert jax.tree.structure(envs.make(name)) == jax.tree.structure(envs.make(name))


def test_physics_are_leaves():
    traces = []

    @jax.jit
    def fall(world):
        traces.append(1)
        state, _ = world.reset(KEY, 2)
        return world.step(KEY, state, jnp.zeros(2, jnp.int32))[1].final_obs

    plain, heavy = fall(envs.make("CartPole-v1")), fall(envs.make("CartPole-v1", gravity=30.0))
    assert len(traces) == 1 and not np.allclose(plain, heavy)


def test_boxes_of_actions_are_one_wide():
    """PointRobot's forces are within 0.1, and reach it only at 1."""
    env = envs.make_env("PointRobot-misc")
    assert (env.action_space.low, env.action_space.high) == (-1.0, 1.0)
    np.testing.assert_allclose(env.native(jnp.array([1.0, -2.0])), [0.1, -0.1], rtol=1e-6)


OWN = """
import jax, jax.numpy as jnp
from flax import struct
import envs
from envs.base import AutoReset, Step
from envs.spaces import Box, Discrete

def make(**kw):
    return envs.make_env("CartPole-v1", **kw)

def world():
    return AutoReset(make())

def broken():
    return object()

def crash():
    raise KeyError("no data")
"""


def test_own_environments(tmp_path, monkeypatch):
    (tmp_path / "own_envs.py").write_text(OWN)
    (tmp_path / "needs_more.py").write_text("import no_such_module")
    monkeypatch.chdir(tmp_path)
    assert envs.make("own_envs:make", max_steps=7).max_steps == 7
    assert registry.is_world(envs.make("own_envs:world"))
    assert registry.is_world(envs.make("own_envs:make"))
    assert "object without name, observation_space" in fails(envs.make, "own_envs:broken")
    assert "did you mean make?" in fails(envs.make, "own_envs:mak")
    assert "KeyError: 'no data'" in fails(envs.make, "own_envs:crash")
    assert "no module 'own_envx'" in fails(envs.make, "own_envx:make")
    assert "needs a module 'no_such_module'" in fails(envs.make, "needs_more:make")
    assert "form my_module:make" in fails(envs.make, "own_envs:")
    assert str(tmp_path) not in sys.path
