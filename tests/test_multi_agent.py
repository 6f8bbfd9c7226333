"""Teams: rows of agents through a rollout, an evaluation and a film, and who sees what."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

import envs
from envs.base import Transition
from envs.spaces import Box, Discrete
from jaxrl.cli import main
from jaxrl.errors import InputError
from jaxrl.families import multi_agent
from jaxrl.families.on_policy import OnPolicy
from jaxrl.networks import MLP, ActorCritic
from jaxrl.papers.multi_agent import decentralized_po, ippo, mappo
from jaxrl.policies import Network, policy_for
from jaxrl.rollout import begin, evaluate, rollout
from jaxrl.run import render
from jaxrl.run.run import try_out

KEY = jax.random.key(0)
A, LENGTH = 3, 4


@struct.dataclass
class Tags:
    """Episodes of `LENGTH` steps of a team of A: agent i of episode e earns i + a tenth of its
    action a step. Its observation is the episode's number and the time."""

    name = "tags"
    agents = A
    max_steps = LENGTH
    action_space = Discrete(3)
    observation_space = dict(
        obs=Box(0.0, 1e6, (2,)), agent=Box(0.0, 1.0, (A,)), privileged=Box(0.0, 1e6, (1,))
    )

    def see(self, number, time):
        n = len(number)
        rows = lambda x: jnp.repeat(x.astype(jnp.float32), A, 0)
        obs = rows(jnp.stack([number, time], 1))
        return dict(obs=obs, agent=jnp.tile(jnp.eye(A), (n, 1)), privileged=rows(number[:, None]))

    def reset(self, key, n):
        state = jnp.arange(n), jnp.zeros(n, jnp.int32)
        return state, self.see(*state)

    def step(self, key, state, action):
        number, time = state
        over = time + 1 >= LENGTH
        reward = jnp.tile(jnp.arange(A), len(number)) + 0.1 * action
        after = jnp.where(over, number + 100, number), jnp.where(over, 0, time + 1)
        none, cut = jnp.zeros(len(action), bool), jnp.repeat(over, A)
        ended = self.see(number, time + 1)
        return after, Transition(self.see(*after), reward, none, cut, ended)


def test_a_rollout_has_a_row_for_each_agent():
    world: Any = Tags()
    policy = policy_for(world, Network(hidden=()))
    hp: Any = OnPolicy(num_envs=2, num_steps=6)

    def run(key):
        stage = begin(policy, key, hp, world)
        params = policy.init(key, stage.obs)
        return rollout(policy, params, stage, key, hp, world, hp.num_steps)

    stage, b, metrics = jax.jit(run)(KEY)
    assert b.reward.shape == (6, 2 * A) and stage.start.shape == (2 * A,)
    np.testing.assert_array_equal(b.obs["agent"].argmax(-1), np.tile(np.arange(A), (6, 2)))
    np.testing.assert_array_equal(b.obs["obs"][0, :, 0], [0, 0, 0, 1, 1, 1])
    np.testing.assert_allclose(b.reward, np.tile(np.arange(A), (6, 2)) + 0.1 * b.action, rtol=1e-6)
    first = np.asarray(b.reward[:LENGTH], float).sum(0)  # of each row's first episode
    assert metrics["episodes"] == 2 * A
    assert metrics["episode_return"] == pytest.approx(first.mean(), rel=1e-5)
    assert metrics["episode_length"] == LENGTH


def test_an_evaluation_counts_episodes_and_means_over_agents():
    play = lambda obs, memory, key: (jnp.full(len(memory), 2), memory + 1)
    got = evaluate(play, jnp.zeros(5 * A), Tags(), KEY, 5)
    assert {k: x.shape for k, x in got.items()} == dict.fromkeys(got, (5,))
    np.testing.assert_allclose(got["return"], LENGTH * (1 + 0.2), rtol=1e-6)
    assert (got["length"] == LENGTH).all() and got["complete"].all()


def test_what_is_local_sees_nothing_of_the_others():
    world: Any = Tags()
    obs = jax.tree.map(lambda x: x + 0.5, world.reset(KEY, 2)[1])
    other = obs | dict(privileged=obs["privileged"] + 3.0)
    value = lambda policy, p, obs: policy.act(p, obs, jnp.zeros(6, bool), (), KEY)[2]
    for policy, differs in (
        (policy_for(world, Network(hidden=())), True),
        (multi_agent.local(policy_for(world, Network(hidden=()))), False),
        (multi_agent.separate(world, Network(hidden=())), False),
    ):
        p = policy.init(KEY, obs)
        same = np.array_equal(value(policy, p, obs), value(policy, p, other))
        assert same != differs


def test_separate_agents_act_and_are_judged_each_by_its_own_network():
    world: Any = Tags()
    policy, obs = multi_agent.separate(world, Network(hidden=(4,))), world.reset(KEY, 2)[1]
    obs = {k: x for k, x in obs.items() if k != "privileged"}
    p = policy.init(KEY, obs)
    order = np.array([4, 0, 5, 2, 1, 3])  # as minibatches come
    mixed = jax.tree.map(lambda x: x[order], obs)
    _, record, value, _ = policy.act(p, mixed, jnp.zeros(6, bool), (), KEY)
    net: Any = ActorCritic(3, functools.partial(MLP, (4,), "tanh"))
    for i in range(A):
        mine = order % A == i
        one = jax.tree.map(lambda x, i=i: x[i], p["net"])
        out, v = net.apply(one, jax.tree.map(lambda x, mine=mine: x[mine], mixed))
        np.testing.assert_allclose(record["out"][mine], out, atol=1e-6)
        np.testing.assert_allclose(value[mine], v, atol=1e-6)
    gaps = [np.ptp(x, 0).max() for x in jax.tree.leaves(p["net"]) if x.ndim > 2]
    assert min(gaps) > 0  # they begin apart


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("ippo --env CartPole-v1", "CartPole-v1 has one agent; agents/spread has several"),
        ("mappo --env CartPole-v1", "CartPole-v1 has one agent; agents/spread has several"),
        ("decentralized_po --env agents/spread --memory 8", "memory: 8; networks of separate"),
        ("dqn --env agents/spread", "agents/spread has 3 agents; this method is of one"),
        ("bc --env random/agents/spread", "agents/spread is a world of its own"),
    ],
)
def test_what_does_not_fit_is_said_in_a_line(argv, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["train", *argv.split(), "--run", "out"])
    out, err = capsys.readouterr()
    assert (stop.value.code, out, err.count("\n")) == (2, "", 1)
    assert said in err and list(tmp_path.iterdir()) == []


def test_a_team_of_one_s_own_is_tried_out_and_filmed():
    try_out("mine:make", Tags())
    one = render.Single(Tags())
    state, obs = one.reset(KEY)
    assert obs["obs"].shape == (A, 2)
    s = one.step(KEY, state, jnp.array([0, 1, 2]))
    assert s.obs["obs"].shape == (A, 2) and s.reward == pytest.approx(1.1)
    assert s.terminated.shape == s.truncated.shape == ()


def test_every_paper_of_teams_makes_its_algorithm():
    world = envs.make("agents/spread")
    for paper in (ippo, mappo, decentralized_po):
        assert paper.make(world).memory(4) == ()
    with pytest.raises(InputError):
        multi_agent.team(envs.make("CartPole-v1"))
