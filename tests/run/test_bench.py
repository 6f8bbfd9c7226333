"""The bench: the same work for everybody, honest ratios, and the same physics for peers."""

import json
import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental.compilation_cache import compilation_cache

import envs
from jaxrl.cli import main
from jaxrl.errors import RunError
from jaxrl.families import on_policy
from jaxrl.run import bench, bench_floors, bench_peers, bench_startup
from jaxrl.run import job as jobs
from jaxrl.run.run import build, execute, set_up

TINY = dict(  # updates x steps stay below the 200 of a Pendulum episode
    e=bench.Item("Pendulum-v1", 4, 8, 4, 2, 3, 1e-3, False),
    f=bench.Item("CartPole-v1", 4, 8, 2, 3, 3, 1e-3, True, memory=8),
)


SOFT = bench.Soft("Pendulum-v1", 12, 2, 3, batch_size=8, buffer_size=64, learning_starts=9)


@pytest.fixture
def tiny(monkeypatch):
    for name, item in TINY.items():
        monkeypatch.setitem(bench.ITEMS, name, item)
    monkeypatch.setitem(bench.ITEMS, "g", SOFT)


def test_items_resolve_as_their_table_says():
    said = dict(a=(512, 976), b=(65_536, 24), c=(8192, 40), d=(20_480, 8), e=(8192, 60))
    for name, (rows, updates) in said.items():
        job = bench.ITEMS[name].job(8)
        assert (job.hyper.steps_per_iteration, job.iterations, job.seeds) == (rows, updates, 8)
        assert job.network.hidden == (64, 64) and job.network.activation == "tanh"
        assert not job.network.shared
    assert bench.ITEMS["f"].job(1).network.memory == 64
    soft = bench.ITEMS["g"].job(8)
    assert (soft.paper, soft.hyper.steps_per_iteration, soft.iterations) == ("sac", 1, 20_000)
    assert soft.network.hidden == (64, 64) and soft.network.activation == "relu"


def test_a_row(tiny, monkeypatch):
    def slow(s, program, see=lambda chunk: None):
        return execute(s, program, lambda chunk: see(chunk._replace(seconds=1.5)))

    monkeypatch.setattr(bench, "execute", slow)
    r = bench.row("e", 2, 2, False)
    assert (r["item"], r["seeds"], r["steps"], r["rounds"]) == ("e", 2, 96, 2)
    assert r["ratio_to"] == {} and len(r["final_return"]) == 2
    assert set(r["floors"]) == {"environment", "rollout", "gradient"}
    assert all(x > 0 for x in (*r["floors"].values(), r["compile_seconds"], r["program_mib"]))
    assert all(len(x) == 2 for x in r["seconds"].values())
    assert r["seconds"]["jaxrl"] == [3 * 1.5] * 2  # a chunk an iteration
    assert r["steps_per_second"] == round(2 * 96 / 4.5, 1)
    (line,) = bench.lines([r])
    assert len(line) == len(bench.HEAD) and line[4] == ""


@pytest.mark.parametrize("name", TINY)
def test_floors_do_the_work_of_a_run(tiny, name, monkeypatch):
    """As many gradient steps over minibatches of the same shape, as many environment steps."""
    seen = {}

    def spy(module):
        real, shapes = module.total_loss, seen.setdefault(module, set())

        def total_loss(*args):
            loss = real(*args)

            def watched(params, old, b, key, hp):
                shapes.add((b.obs.shape, b.advantage.shape))
                return loss(params, old, b, key, hp)

            return watched

        monkeypatch.setattr(module, "total_loss", total_loss)

    spy(on_policy)
    spy(bench_floors)
    s, item = set_up(bench.ITEMS[name].job(2)), TINY[name]
    last = execute(s, build(s))
    base = bench_floors.floors(s)
    params, opt = base["gradient"]()
    count = lambda state: optax.tree.get_all_with_path(state, "count")[0][1].tolist()
    assert (
        count(opt) == count(last.inner.opt) == [item.updates * item.epochs * item.minibatches] * 2
    )
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, last.inner.params)
    size = (8, 2) if item.memory else (8,)
    assert {adv for _, adv in seen[bench_floors]} == {size}
    assert seen[bench_floors] == seen[on_policy]

    stage, batch, _ = base["rollout"]()
    assert batch.advantage is None and batch.value.shape == batch.next_value.shape == (2, 8, 4)
    if name == "e":  # no episode of it ends so soon
        assert (stage.episodes.length == item.updates * item.num_steps).all()
        state, _ = base["environment"]()
        assert (state.time == item.updates * item.num_steps).all()


def test_the_floors_of_sac_do_the_work_of_a_run(tiny):
    """Gradient steps begin with the iteration that has learning_starts steps: the fifth."""
    s = set_up(SOFT.job(2))
    last, base = execute(s, build(s)), bench_floors.floors(s)
    params, opt = base["gradient"]()
    count = lambda state: optax.tree.get_all_with_path(state, "count")[0][1].tolist()
    assert count(opt["actor"]) == count(last.inner.opt["actor"]) == [(12 - 4) * 3] * 2
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, last.inner.params)
    stage, batch, _ = base["rollout"]()
    assert (stage.episodes.length == 12).all() and batch.reward.shape == (2, 1, 2)
    part = bench_floors.of_sac(s).minibatch(jax.tree.map(lambda x: x[0], last.inner), s.hp, s.world)
    assert part.obs.shape == part.next_obs.shape == (8, 3) and part.reward.shape == (8,)
    np.testing.assert_allclose(part.discount, 0.99)


def test_the_floors_of_grpo_do_the_work_of_a_run():
    """As many steps of the optimiser, and as many tokens."""
    s = set_up(bench.Words("tokens/tiny", 3, prompts=4, group=4).job(2))
    last, base = execute(s, build(s)), bench_floors.floors(s)
    count = lambda state: optax.tree.get_all_with_path(state, "count")[0][1].tolist()
    for name in ("gradient", "plain"):
        params, opt = base[name]()
        assert count(opt) == count(last.inner.opt) == [3, 3]
        assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, last.inner.params)
    assert base["rollout"]().shape == base["environment"]().shape == (2,)
    took = dict(rollout=[1.0, 3.0, 2.0], gradient=[1.0], plain=[4.0])
    rows = 2 * 3 * 16  # of 2 tokens after 1
    assert bench.tokens_a_second(s, took)["tokens_per_second"] == dict(
        rollout=rows * 2 / 2, gradient=rows * 2, plain=rows * 2 / 4
    )


def test_ratios_are_of_neighbours_in_time(tiny, monkeypatch):
    order = []

    def entrant(name, seconds):
        queue = iter(seconds)
        return bench.Entrant(lambda: order.append(name) or next(queue), 1.0, [0.0])

    floors = dict(environment=0.5, rollout=1.0, gradient=2.0)
    monkeypatch.setattr(bench, "ours", lambda s: entrant("ours", [2.0, 4.0, 8.0]))
    monkeypatch.setattr(
        bench, "peers_of", lambda *_: dict(rejax=entrant("rejax", [6.0, 2.0, 24.0]))
    )
    monkeypatch.setattr(bench, "floors", lambda s: {k: lambda x=x: x for k, x in floors.items()})
    monkeypatch.setattr(bench, "timed", lambda f: f())
    r = bench.row("e", 1, 3, True)
    assert order == ["ours", "rejax"] * 3
    assert r["ratio_to"] == dict(rejax=3.0) and r["ratio_range"] == dict(rejax=[0.5, 3.0])
    assert (r["of_floor"], r["of_floor_range"]) == (0.75, [0.375, 1.5])
    assert r["floors"] == {k: x / 3 for k, x in floors.items()}
    assert r["steps_per_second"] == 96 / 4
    assert r["peers"]["rejax"]["steps_per_second"] == 96 / 6


def test_compiling_is_measured_without_the_cache(tmp_path):
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {n: getattr(jax.config, n) for n in names}
    try:
        for n, x in zip(names, (str(tmp_path), 0.0)):
            jax.config.update(n, x)
        compilation_cache.reset_cache()
        f = lambda x: jnp.sin(x) * 3 + 1
        program, seconds, mib = bench.measured(f, np.ones(1024, np.float32))
        assert not list(tmp_path.iterdir()) and seconds > 0
        assert mib >= 2 * 1024 * 4 / 2**20 and program(np.zeros(1024, np.float32))[0] == 1
        jax.jit(f).lower(np.ones(512, np.float32)).compile()
        assert list(tmp_path.iterdir())  # and afterwards the cache is as it was
    finally:
        for n, x in before.items():
            jax.config.update(n, x)
        compilation_cache.reset_cache()


# ---- peers -----------------------------------------------------------------------------------


def test_the_adapter_has_our_physics_step_by_step():
    env = envs.make_env("CartPole-v1")
    five = bench_peers.FiveValues(env)
    params, step = five.default_params, jax.jit(five.step)
    obs, state = five.reset(jax.random.key(0), params)
    plain, ends = env.reset(jax.random.key(0))[0], 0
    for t in range(60):
        action = jnp.int32(t % 7 > 1)
        s = env.step(jax.random.key(t), plain, action)
        obs, state, reward, done, info = step(jax.random.key(t), state, action, params)
        assert (reward, info) == (s.reward, {}) and done == s.terminated | s.truncated
        if done:
            ends += 1
            assert (np.abs(obs) <= 0.05).all() and not np.allclose(obs, s.obs)
            plain = state
        else:
            np.testing.assert_allclose(obs, s.obs, rtol=1e-5, atol=1e-6)  # one is jitted
            plain = s.state
    assert ends >= 2 and params.max_steps_in_episode == 500


def test_the_adapter_begins_again_at_the_time_limit():
    env = envs.make_env("Pendulum-v1", max_steps=5)
    five = bench_peers.FiveValues(env)
    obs, state = five.reset(jax.random.key(0), five.default_params)
    done = []
    for t in range(10):
        obs, state, _, d, _ = five.step(jax.random.key(t), state, jnp.zeros(()), None)
        done.append(bool(d))
    assert done == [False, False, False, False, True] * 2


def test_the_adapter_speaks_of_spaces_as_gymnax_does():
    from gymnax.environments import spaces

    five = bench_peers.FiveValues(envs.make_env("CartPole-v1"))
    action, seen = five.action_space(None), five.observation_space(None)
    assert isinstance(action, spaces.Discrete) and action.n == 2
    assert isinstance(seen, spaces.Box) and seen.shape == (4,)
    box = bench_peers.FiveValues(envs.make_env("Pendulum-v1")).action_space(None)
    assert (box.low, box.high, box.shape) == (-1.0, 1.0, (1,))


def test_rejax_s_sac_does_the_same_amount(tiny):
    pytest.importorskip("rejax")
    s = set_up(SOFT.job(2))
    trainer = bench_peers.rejax(SOFT)
    last = jax.jit(lambda key: trainer.train(trainer.init(key)))(jax.random.key(0))
    count = optax.tree.get_all_with_path(last.actor_ts.opt_state, "count")[0][1]
    assert count == (12 - 4) * 3 and last.global_step == SOFT.steps
    params = jax.eval_shape(s.algo.init, s.keys[0], s.hp, s.world).inner.params
    assert bench.size(trainer.parameters(last)) == bench.size(params) - 1  # log α is not of theirs


def test_rejax_does_the_same_amount(tiny):
    pytest.importorskip("rejax")
    item, s = TINY["e"], set_up(TINY["e"].job(2))
    trainer = bench_peers.rejax(item)
    last = jax.jit(lambda key: trainer.train(trainer.init(key)))(jax.random.key(0))
    count = optax.tree.get_all_with_path(last.actor_ts.opt_state, "count")[0][1]
    assert count == item.updates * item.epochs * item.minibatches
    assert last.global_step == item.steps
    size = bench.size(jax.eval_shape(s.algo.init, s.keys[0], s.hp, s.world).inner.params)
    assert bench.size(trainer.parameters(last)) == size
    found = bench.rejax(item, s)
    assert len(found.final_return) == 2 and found.parameters == size and found.run() > 0


def test_who_is_not_there_is_said_in_one_line(monkeypatch, capsys, tiny):
    monkeypatch.setattr(bench_peers, "find_spec", lambda name: None)
    monkeypatch.setattr(bench, "row", lambda *_: ROW)
    code, out, err = call(["--items", "e", "--rounds", 1], capsys)
    assert code == 0 and "steps/s" in out
    assert err == "peer rejax is not installed: pip install 'jaxrl[bench]'\n"
    assert bench.peers_of(TINY["e"], set_up(TINY["e"].job(1)), print) == {}


# ---- the command -----------------------------------------------------------------------------

ROW = dict(item="e", env="Pendulum-v1", seeds=1, steps_per_second=5.0, ratio_to={}, of_floor=0.5)
ROW |= dict(floors=dict(environment=1, rollout=1, gradient=1), compile_seconds=1.0)
ROW |= dict(final_return=[1.0], peers={})


def call(argv, capture):
    with pytest.raises(SystemExit) as stop:
        main(["bench", *map(str, argv)])
    return stop.value.code, *capture.readouterr()


@pytest.mark.parametrize(
    "seeds", (["--seeds", 1, 8], ["--seeds", "1,8"], ["--seeds", 1, "--seeds", 8])
)
def test_items_and_seeds_may_be_several(seeds, monkeypatch, capfd, tmp_path):
    asked, file = [], tmp_path / "bench.json"
    monkeypatch.setattr(bench, "row", lambda *args: asked.append(args[:4]) or ROW)
    argv = ["--items", "a,b", *seeds, "--rounds", 2, "--no-peers", "--json", "--quiet"]
    code, out, _ = call([*argv, "--out", file], capfd)
    assert code == 0
    assert asked == [(i, n, 2, False) for i in "ab" for n in (1, 8)]
    assert json.loads(out) == json.loads(file.read_text())
    said = json.loads(out)
    assert len(said["rows"]) == 4 and {"machine", "devices", "versions", "revision"} < set(said)
    text = json.dumps(said)
    assert os.uname().nodename not in text and str(tmp_path) not in text


BAD = [
    (["--items", "a,z"], "items: no 'z'; there are a, b, c, d, e, f"),
    (["--seeds", 1, 0], "seeds: 0 is outside [1, 65536]"),
    (["--seeds", 65537], "seeds: 65537 is outside [1, 65536]"),
    (["--seeds", "1,x"], "seeds: 'x' is not a whole number"),
    (["--rounds", 0], "rounds: 0 is outside [1, inf)"),
    (["--out", "nowhere/x.json"], "out: nowhere is not a folder to write to"),
]


@pytest.mark.parametrize(("argv", "said"), BAD)
def test_bad_input_is_one_line_before_anything_is_computed(argv, said, monkeypatch, capsys):
    monkeypatch.setattr(bench, "row", lambda *_: pytest.fail("computed"))
    code, out, err = call(argv, capsys)
    assert (code, out, err.count("\n")) == (2, "", 1) and said in err


# ---- processes -------------------------------------------------------------------------------


def test_a_process_is_watched_until_it_writes_and_to_its_end(tmp_path):
    file = tmp_path / "file"
    code = "import sys, time; open(sys.argv[1], 'w').write('x'); b = b'x' * 2**26; time.sleep(0.5)"
    words = [sys.executable, "-S", "-c", code, str(file)]
    seconds, peak = bench_startup.watched(words, file, tmp_path)
    assert seconds > 0 and 64 < peak < 128  # what this process has is no part of it


def test_a_process_that_fails_is_said_in_one_line(tmp_path):
    words = [sys.executable, "-S", "-c", "raise SystemExit('no such thing')"]
    with pytest.raises(RunError, match="ended with 1: no such thing"):
        bench_startup.watched(words, tmp_path / "file", tmp_path)


def test_our_process_gets_the_item_and_two_updates(tiny, tmp_path):
    words, file = bench_startup.ours("f", tmp_path)
    tables = jobs.read(tmp_path / "config.toml")
    job, item = jobs.resolve(**tables), TINY["f"].job(1)
    assert job.iterations == 2 and (job.hyper, job.network) == (item.hyper, item.network)
    assert words[3:5] == ["train", "ppo"] and file == tmp_path / "run" / "metrics.jsonl"


@pytest.mark.slow
def test_startup(tiny):
    found = bench_startup.startup("e", 1, False)
    assert set(found) == {"jaxrl"} and all(x > 0 for x in found["jaxrl"].values())
