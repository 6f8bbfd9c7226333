"""What `judge` says of a batch is what `act` said when it acted, and what the closed forms say."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from envs.spaces import Box, Discrete, MultiDiscrete
from jaxrl.errors import InputError
from jaxrl.policies import Network, policy_for
from jaxrl.types import Batch

KEY = jax.random.key(0)
T, N = 5, 4


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def world(action, observation=Box(-1.0, 1.0, (3,))):  # noqa: B008
    return SimpleNamespace(name="w", observation_space=observation, action_space=action)


def numbers(policy, obs, seed=0):
    """Parameters from numpy: nothing is compiled, and π is far from uniform."""
    flat, structure = jax.tree.flatten(jax.eval_shape(policy.init, KEY, obs))
    noise = [0.5 * normal(seed + i, *x.shape) for i, x in enumerate(flat)]
    return jax.tree.unflatten(structure, noise)


def collect(policy, params, obs, start, memory, key):
    """`act` step by step, as in a rollout: (actions, records, values), [T, N, ...]."""

    def step(memory, x):
        obs, start, key = x
        action, record, value, memory = policy.act(params, obs, start, memory, key)
        return memory, (action, record, value)

    keys = jax.random.split(key, start.shape[0])
    return jax.lax.scan(step, memory, (obs, start, keys))[1]


BOX = Box(-1.0, 1.0, (2,))
CASES = {
    "discrete": (world(Discrete(4)), Network(hidden=(8,))),
    "masked": (world(Discrete(4)), Network(hidden=(8,))),
    "multi": (world(MultiDiscrete((3, 2))), Network(hidden=(8,), shared=True)),
    "gaussian": (world(BOX), Network(hidden=(8,))),
    "squashed": (world(BOX), Network(hidden=(8,), head="squashed")),
    "recurrent": (world(BOX), Network(hidden=(8,), memory=6, head="squashed")),
    "recurrent_masked": (world(Discrete(4)), Network(hidden=(8,), memory=6)),
}


@pytest.mark.parametrize("name", CASES)
def test_judging_what_was_done_finds_what_was_recorded(name):
    policy = policy_for(*CASES[name], values=2 if name == "gaussian" else 0)
    sequences = "recurrent" in name
    obs = jnp.asarray(normal(1, T, N, 3))
    if "masked" in name:
        ok = np.random.default_rng(2).random((T, N, 4)) < 0.5
        ok[..., 1] = True
        obs = dict(action_mask=jnp.asarray(ok), x=obs)
    start = np.zeros((T, N), bool)
    start[0, :2] = start[3, 1] = True  # the others go on with an episode begun before
    memory = jnp.asarray(normal(3, N, 6)) if sequences else ()
    first = jax.tree.map(lambda x: x[0], obs)
    params, other = numbers(policy, first), numbers(policy, first, 50)

    @jax.jit
    def run(params, other, key):
        action, record, value = collect(policy, params, obs, start, memory, key)
        batch = Batch(obs, action, record, start, old=record)
        if not sequences:  # rows
            batch = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch)
        batch = batch.replace(memory=memory)
        same = policy.judge(params, params, batch, None)
        moved = policy.judge(other, params, batch, None)
        asked = lambda w: {k: getattr(w, k)() for k in ("entropy", "kl", "reverse_kl")}
        facts = [w._asdict() | asked(w) for w in (same, moved)]
        swapped = batch.replace(old=moved.record)
        again = policy.judge(other, params, swapped, None)
        back = policy.judge(params, params, swapped, None).kl()  # KL(moved || same)
        return action, record, value, *facts, (again.log_ratio, again.kl()), back

    action, record, value, same, moved, again, back = run(params, other, KEY)
    np.testing.assert_allclose(moved["reverse_kl"], back, rtol=1e-4, atol=1e-5)

    def rows(x):
        return np.asarray(x).reshape(same["log_prob"].shape + x.shape[2:])

    shape = (T, N) if sequences else (T * N,)
    for k in ("log_ratio", "log_prob", "entropy", "kl", "reverse_kl"):
        assert same[k].shape == moved[k].shape == shape, k
    assert same["value"].shape == (shape + (2,) if name == "gaussian" else shape)
    # under the parameters that acted: nothing has changed
    np.testing.assert_allclose(same["log_prob"], rows(record["log_prob"]), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(same["log_ratio"], 0, atol=1e-4)
    np.testing.assert_allclose(same["kl"], 0, atol=1e-5)
    np.testing.assert_allclose(same["value"], rows(value), rtol=1e-4, atol=1e-5)
    # the record has the form of what `act` records, and round-trips
    assert jax.tree.structure(same["record"]) == jax.tree.structure(record)
    for x, y in zip(jax.tree.leaves(same["record"]), jax.tree.leaves(record)):
        assert x.dtype == y.dtype
        np.testing.assert_allclose(x, rows(y), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(again[0], 0, atol=1e-5)
    np.testing.assert_allclose(again[1], 0, atol=1e-5)
    # under others: the ratio and the divergence from old to new, by scipy
    gap = np.asarray(moved["log_prob"]) - rows(record["log_prob"])
    assert np.abs(gap).max() > 0.1
    np.testing.assert_allclose(moved["log_ratio"], gap, rtol=1e-4, atol=1e-4)
    old, new = jax.tree.map(rows, record["out"]), jax.tree.map(np.asarray, moved["record"]["out"])
    np.testing.assert_allclose(moved["kl"], kl(old, new, name), rtol=1e-3, atol=1e-4)
    if "masked" in name:
        assert np.take_along_axis(ok, np.asarray(action)[..., None], -1).all()
    raw = np.asarray(record["raw"])
    squashed = isinstance(old, dict) and name != "gaussian"
    np.testing.assert_allclose(action, np.tanh(raw) if squashed else raw, rtol=1e-4, atol=1e-6)


def kl(old, new, name):
    """KL(old || new) in float64."""
    if isinstance(old, dict):
        a, s, b, r = (x[k].astype(np.float64) for x in (old, new) for k in ("loc", "scale"))
        return (np.log(r / s) + (s**2 + (a - b) ** 2) / (2 * r**2) - 0.5).sum(-1)
    p, q = (np.exp(x.astype(np.float64) - x.max(-1, keepdims=True)) for x in (old, new))
    each = stats.entropy(p, q, axis=-1)
    return each.sum(-1) if name == "multi" else each


def test_recurrent_start_resets_the_memory():
    """Mava#951: a memory that outlives its episode."""
    policy = policy_for(*CASES["recurrent"])
    obs = jnp.asarray(normal(1, N, 3))
    params, act = numbers(policy, obs), jax.jit(partial(policy.act, key=None))
    memory = jnp.asarray(normal(2, N, 6))
    np.testing.assert_array_equal(policy.memory(N), np.zeros((N, 6)))
    start = jnp.array([True, False, True, False])
    kept, fresh = act(params, obs, start, memory), act(params, obs, start, policy.memory(N))
    for x, y in zip(jax.tree.leaves(kept), jax.tree.leaves(fresh)):
        x, y = np.asarray(x).reshape(N, -1), np.asarray(y).reshape(N, -1)
        np.testing.assert_allclose(x[::2], y[::2], rtol=1e-5, atol=1e-6)
    assert (np.abs(kept[3] - fresh[3]).max(-1) > 1e-3).tolist() == [False, True, False, True]


@pytest.mark.parametrize("name", ["discrete", "multi", "squashed"])
def test_without_a_key_the_mode_is_taken(name):
    policy = policy_for(*CASES[name])
    obs = jnp.asarray(normal(1, 64, 3))
    params, start = numbers(policy, obs), jnp.zeros(64, bool)
    action, record, _, memory = jax.jit(partial(policy.act, key=None))(params, obs, start, ())
    out = jax.tree.map(np.asarray, record["out"])
    want = np.tanh(out["loc"]) if isinstance(out, dict) else out.argmax(-1)
    np.testing.assert_allclose(action, want, rtol=1e-5, atol=1e-6)
    sampled, *_ = jax.jit(policy.act)(params, obs, start, (), KEY)
    assert (np.asarray(sampled) != np.asarray(action)).any() and memory == ()


def test_at_first_a_policy_is_almost_indifferent():
    """The last layer's gain is 0.01, so that what is learned decides and not the draw."""
    policy = policy_for(*CASES["discrete"])
    obs = jnp.asarray(normal(1, N, 3))
    params = jax.jit(policy.init)(KEY, obs)
    _, record, value, _ = policy.act(params, obs, jnp.ones(N, bool), (), KEY)
    np.testing.assert_allclose(record["log_prob"], np.log(1 / 4), atol=0.05)
    assert np.abs(value).max() > 0.05  # the critic's gain is 1


@pytest.mark.parametrize(
    "action, network, words",
    [
        (Discrete(2), Network(torso="vit"), ["torso", "vit", "mlp, cnn"]),
        (Discrete(2), Network(activation="sin"), ["activation", "sin", "tanh, relu"]),
        (Discrete(2), Network(torso="cnn"), ["cnn", "w has Box(3,)"]),
        (Discrete(2), Network(head="squashed"), ["'squashed'", "Discrete(2)"]),
    ],
)
def test_errors_name_the_part_and_what_is_allowed(action, network, words):
    with pytest.raises(InputError) as error:
        policy_for(world(action), network)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)
