"""Films of policies: what is in a picture, how many there are, and what is refused."""

import importlib.util
import json
import re
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import envs
from envs import draw
from envs.adapters.common import quiet
from envs.base import AutoReset, Randomise
from envs.draw import bodies
from envs.draw.canvas import BLUE, HEIGHT, ORANGE, STRIP, VERMILLION, WIDTH, Episode
from envs.registry import is_world
from jaxrl.cli import main
from jaxrl.errors import InputError
from jaxrl.run import evaluate, record, render
from jaxrl.run import job as jobs
from jaxrl.run.train import train

SHAPE = (HEIGHT, WIDTH, 3)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of two seeds that learned next to nothing."""
    folder = tmp_path_factory.mktemp("run") / "run"
    hyper = dict(num_envs=4, num_steps=8, minibatches=2, epochs=1)
    what = dict(paper="ppo", env="CartPole-v1", seeds=2, seed=5, steps=128, evals=1)
    network = dict(hidden=(4,))
    train(jobs.resolve(run=what, env_params={}, network=network, hyper=hyper), folder)
    return folder


def call(argv, capfd):
    """(exit code, standard output, standard error) of the command in this process."""
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in argv])
    out, err = capfd.readouterr()
    return stop.value.code, out, err


def played(world, steps=12, key=0):
    """A drawing and an episode of random actions in a world."""

    def act(one, obs, memory, key, hp):
        return jax.tree.map(lambda x: x[None], world.action_space.sample(key)), memory

    s = SimpleNamespace(world=world, hp=(), algo=SimpleNamespace(act=act, memory=lambda n: ()))
    drawing, play = render.player(s, (), steps, greedy=False)  # pyright: ignore
    return drawing, play(0, jax.random.key(key))


def episode(seen, action=None, reward=None, ended="terminated"):
    """One made by hand."""
    n = len(jax.tree.leaves(seen)[0]) - 1
    action = np.zeros(n, int) if action is None else action
    return Episode(seen, action, np.ones(n) if reward is None else reward, ended)


def centroid(picture, colour):
    """The mean (x, y) of the pixels of a colour."""
    y, x = np.nonzero((picture == colour).all(-1))
    return np.array([x.mean(), y.mean()])


@pytest.mark.parametrize("name", ["CartPole-v1", "Breakout-MinAtar", "rooms/four"])
def test_a_film_has_a_picture_of_every_state_from_the_first_to_the_last(name):
    drawing, e = played(envs.make(name), steps=9)
    pictures = [p for p, _ in render.frames(drawing, [e])]
    assert len(pictures) == len(e.reward) + 1 == 10
    assert all(p.shape == SHAPE and p.dtype == np.uint8 for p in pictures)
    assert all((a != b).any() for a, b in zip(pictures, pictures[1:]))
    assert [last for _, last in render.frames(drawing, [e])] == [False] * 9 + [True]


def test_the_last_state_is_the_one_it_ended_in_and_not_the_next_episodes_first():
    _, e = played(envs.make("CartPole-v1"), steps=200)
    beyond = np.abs(e.seen["theta"]) > np.deg2rad(12)
    assert e.ended == "terminated" and len(e.reward) == e.reward.sum() < 200
    assert beyond[-1] and not beyond[:-1].any()
    _, e = played(envs.make("CartPole-v1", max_steps=4), steps=200)
    assert (e.ended, len(e.reward)) == ("time limit", 4)
    _, e = played(envs.make("CartPole-v1"), steps=4)
    assert (e.ended, len(e.reward)) == ("", 4)


def cartpole(x, theta):
    full = lambda v: np.full(len(x), v, np.float32)
    return episode(dict(x=x, theta=theta, length=full(1.0), edge=full(2.4)), np.zeros(len(x) - 1))


def test_a_cart_that_moves_moves_in_pixels_and_its_pole_leans_as_it_does():
    x = np.linspace(-2, 2, 9, dtype=np.float32)
    e = cartpole(x, np.zeros_like(x))
    drawing = draw.of(envs.make("CartPole-v1").env)
    at = np.array([centroid(draw.frame(drawing, e, t), BLUE) for t in range(9)])
    slope, offset = np.polyfit(x, at[:, 0], 1)
    assert np.abs(at[:, 0] - (slope * x + offset)).max() < 1.0
    assert np.ptp(at[:, 1]) < 1.0
    assert abs(offset - WIDTH / 2) < 1.5 and 4.8 * slope < WIDTH  # zero is the middle; all fits
    for angle in (-0.3, 0.3):  # Gymnasium's positive angle leans right
        e = cartpole(np.zeros(2, np.float32), np.full(2, angle, np.float32))
        picture = draw.frame(drawing, e, 1)
        lean = centroid(picture, ORANGE) - centroid(picture, BLUE)
        assert np.sign(lean[0]) == np.sign(angle) and lean[1] < -20


def test_an_arrow_is_the_action_chosen_and_the_last_picture_has_none():
    e = cartpole(np.zeros(3, np.float32), np.zeros(3, np.float32))._replace(action=np.array([0, 1]))
    drawing = draw.of(envs.make("CartPole-v1").env)
    left, right, last = (draw.frame(drawing, e, t) for t in range(3))
    assert centroid(left, VERMILLION)[0] < WIDTH / 2 < centroid(right, VERMILLION)[0]
    assert not (last == VERMILLION).all(-1).any()


def test_a_randomised_pole_is_drawn_as_long_as_it_is():
    def longer(key, env):
        return env.replace(physics=env.physics | dict(length=jnp.float32(0.9)))

    _, e = played(AutoReset(Randomise(envs.make_env("CartPole-v1"), longer)), steps=3)
    np.testing.assert_allclose(e.seen["length"], 1.8)


def test_minatar_cells_have_their_channels_colours():
    seen = np.zeros((2, 10, 10, 4), np.float32)
    seen[:, 9, 0, 0] = seen[:, 0, 9, 3] = 1  # the paddle lower left, a brick upper right
    drawing = draw.of(envs.make("Breakout-MinAtar").env)
    board = draw.frame(drawing, episode(seen), 0)[STRIP:, : WIDTH - 140]
    height, width, _ = board.shape
    paddle, brick = centroid(board, BLUE), centroid(board, VERMILLION)
    assert paddle[0] < width / 8 and paddle[1] > 7 / 8 * height
    assert brick[0] > 7 / 8 * width and brick[1] < height / 8


def test_what_no_drawing_knows_shows_its_values_as_bars():
    drawing = draw.of(envs.make("probe/match-continuous").env)
    e = episode(np.array([[1.0], [0.5], [-1.0]]), np.array([[0.25], [-1.0]]))
    tall = [(draw.frame(drawing, e, t) == BLUE).all(-1).sum() for t in range(3)]
    assert tall[0] == pytest.approx(2 * tall[1], rel=0.03) and tall[2] == 0
    assert (draw.frame(drawing, e, 2) == VERMILLION).all(-1).sum() == pytest.approx(
        tall[0], rel=0.03
    )


def test_a_world_of_ones_own_is_drawn_as_observed_up_to_the_observation_it_ended_in():
    class Own:
        """Not an AutoReset."""

        def __init__(self, world):
            self.inner = world
            self.action_space, self.max_steps = world.action_space, world.max_steps

        def reset(self, key, n):
            return self.inner.reset(key, n)

        def step(self, key, state, action):
            return self.inner.step(key, state, action)

    jax.tree_util.register_pytree_node(Own, lambda o: ((o.inner,), None), lambda _, x: Own(*x))
    drawing, e = played(Own(envs.make("CartPole-v1")), steps=100)
    assert e.ended == "terminated" and abs(e.seen[-1][2]) > np.deg2rad(12)
    assert draw.frame(drawing, e, 1).shape == SHAPE


SOME_BRAX = ["brax/ant", "brax/reacher", "brax/fast"]  # a load takes a second
EXTRA = ("brax", "playground", "jaxmarl")
NAMES = [n for n in envs.names() if not n.startswith(EXTRA)] + SOME_BRAX


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_every_environment_is_drawn_even_where_it_diverged():
    """Ones, then NaN, stand for its states: what is kept is there, and can be painted."""
    for name in NAMES:
        with quiet():
            made = envs.make_env(name)
        env = render.Single(made) if is_world(made) else made
        drawing = draw.of(env)

        def begin(key, env=env, drawing=drawing, space=made.action_space):
            return drawing.keep(env, *env.reset(key)), space.sample(key)

        seen, action = jax.eval_shape(begin, jax.random.key(0))
        action = jax.tree.map(lambda x: np.ones((1, *x.shape), x.dtype), action)
        for value in (1, np.nan):
            fill = lambda x, v=value: np.full(
                (2, *x.shape), v if x.dtype.kind == "f" else 1, x.dtype
            )
            e = episode(jax.tree.map(fill, seen), action)
            assert draw.frame(drawing, e, 0).shape == SHAPE, name
        assert draw.frame(drawing, e, 1).shape == SHAPE, name


def test_bodies_are_where_brax_puts_them():
    """Against brax's own arithmetic."""
    from brax import math as brax_math
    from brax.base import Transform

    rng = np.random.default_rng(0)
    with quiet():
        sys = envs.make_env("brax/ant").env.env.upstream.sys
    q = rng.normal(size=(2, 9, 4))
    pos, rot = rng.normal(size=(2, 9, 3)), q / np.linalg.norm(q, axis=-1, keepdims=True)
    s = bodies.scene(sys, pos, rot)
    shapes = [i for i in range(sys.ngeom) if sys.geom_type[i] != 0]
    for g, i in enumerate(shapes):
        half = sys.geom_size[i][1] * (sys.geom_type[i] == 3)
        link = Transform(*(jnp.asarray(x[1, sys.geom_bodyid[i] - 1]) for x in (pos, rot)))
        for end, sign in enumerate((-1.0, 1.0)):
            along = jnp.array([0.0, 0.0, sign * half])
            local = sys.geom_pos[i] + brax_math.rotate(along, sys.geom_quat[i])
            there = link.pos + brax_math.rotate(local, link.rot)
            np.testing.assert_allclose(s.ends[1, g, end], there, atol=1e-5)
    assert s.view == "three-quarter" and s.ground


def alone(page):
    """Whether a page names no other place."""
    return not re.search(r"https?:|//[a-z]|@import|<link|<script src|url\(|fetch\(", page)


def test_a_page_of_bodies_needs_nothing_else(tmp_path):
    with quiet():
        env = envs.make_env("brax/ant")
    drawing, (n, links) = draw.of(env), (5, 9)
    x = np.linspace(0, 3, n)[:, None, None] * (1.0, 0, 0) + np.zeros((n, links, 3))
    e = episode(dict(pos=x, rot=np.tile((1.0, 0, 0, 0), (n, links, 1))))
    render.write(tmp_path / "a.html", "ant </script>", drawing, [e, e], 20)
    page = (tmp_path / "a.html").read_text()
    assert alone(page) and "http" not in page
    assert page.count("</script>") == 1 and "ant &lt;/script&gt;" in page
    film = json.loads(re.search(r"const film = (.*);\n", page)[1])  # pyright: ignore
    assert film["frames"] == 2 * n and set(film["views"]) == {"side", "three-quarter", "top"}
    moved = np.array(film["episodes"][1]["ends"])
    np.testing.assert_allclose(moved[-1] - moved[0], np.broadcast_to((3.0, 0, 0), moved[0].shape))
    assert np.isfinite(np.array(film["episodes"][0]["centre"])).all()


def test_a_page_of_pictures_holds_them(tmp_path):
    drawing, e = played(envs.make("rooms/four"), steps=4)
    render.write(tmp_path / "a.html", "rooms", drawing, [e], 4)
    page = (tmp_path / "a.html").read_text()
    film = json.loads(re.search(r"const film = (.*);\n", page)[1])  # pyright: ignore
    for shot in film["shots"]:  # letters at random
        page = page.replace(shot, "")
    assert alone(page)
    assert film["frames"] == len(film["shots"]) == 5


def test_a_gif_of_a_run(run, capfd):
    code, out, _ = call(["render", run], capfd)
    assert code == 0
    per_seed = record.load_summary(run)["final_return"]["per_seed"]
    assert f"seed {5 + int(np.argmin(per_seed))}, the median final return" in out  # lower of two
    assert str(run / "render.gif") in out
    code, out, _ = call(
        ["render", run, "--json", "--seed", 6, "--steps", 7, "--episodes", 2], capfd
    )
    said = json.loads(out)
    assert code == 0 and said["seed"] == 6 and said["file"] == str(run / "render.gif")
    assert said["episodes"] == [{"return": 7.0, "length": 7, "ended": "cut"}] * 2
    with Image.open(run / "render.gif") as film:
        assert getattr(film, "n_frames", 1) == 2 * 8 and film.size == (WIDTH, HEIGHT)
        film.seek(3)
        shown = np.asarray(film.convert("RGB"), float)
    s, state = evaluate.load(run)
    drawing, play = render.player(s, state, 7, greedy=True)
    e = play(1, render.keys(s, 1, 2)[0])
    truth = draw.frame(drawing, e, 3, "episode 1 of 2")
    assert np.abs(shown - truth).mean() < 1.0  # its palette is near enough


def test_the_film_is_of_the_policy_that_was_evaluated(run):
    s, state = evaluate.load(run)
    cut = s._replace(world=envs.make("CartPole-v1", max_steps=60))
    _, play = render.player(cut, state, 60, greedy=True)
    mine = [len(play(0, k).reward) for k in render.keys(s, 0, 20)]
    theirs = evaluate.play_here(cut, state, 200, 1, greedy=True)["per_seed"][0]
    assert np.mean(mine) == pytest.approx(theirs, abs=4 * np.std(mine) / np.sqrt(20) + 1e-3)


def test_the_median_seed():
    assert evaluate.median_seed([3.0, 1.0, 2.0]) == 2
    assert evaluate.median_seed([4.0, None, 1.0, 2.0, 3.0]) == 3
    assert evaluate.median_seed([None, None]) == 0


BAD = [
    (["--format", "avi"], "format: 'avi' is not gif, mp4 or html"),
    (["--out", "film.avi"], "out: film.avi does not end in .gif, .mp4 or .html"),
    (["--out", "film"], "out: film does not end in .gif, .mp4 or .html"),
    (["--out", "film.gif", "--format", "html"], "out: film.gif is not a .html"),
    (["--out", "there.gif"], "out: there.gif exists"),
    (["--out", "no/film.gif"], "out: no is not a folder to write to"),
    (["--out", "x" * 300 + ".gif"], "out: xxx"),
    (["--seed", 4], "seed: 4 is outside [5, 6]"),
    (["--seed", 7], "seed: 7 is outside [5, 6]"),
    (["--seed", "x"], "seed: 'x' is not a whole number"),
    (["--episodes", 0], "episodes: 0 is outside [1, 100]"),
    (["--steps", 0], "steps: 0 is outside [1, 5000]"),
    (["--fps", 51], "fps: 51 is outside [1, 50]"),
    (["--episodes", 100], "100 episodes of up to 500 are more than 5000 frames; --steps 50"),
]


@pytest.mark.parametrize(("argv", "said"), BAD, ids=[" ".join(map(str, b[0]))[:40] for b in BAD])
def test_bad_input_is_one_line_before_anything_is_played(
    argv, said, run, capfd, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(render, "player", None)
    Path("there.gif").touch()
    code, out, err = call(["render", run, *argv], capfd)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err
    assert [p.name for p in tmp_path.iterdir()] == ["there.gif"]


def test_no_run_is_one_line(capfd, tmp_path):
    code, _, err = call(["render", tmp_path / "nowhere"], capfd)
    assert code == 2 and err.endswith("nowhere is not the folder of a finished run\n")


def test_mp4_says_what_it_needs(run, capfd, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(evaluate, "load", None)
    code, _, err = call(["render", run, "--format", "mp4"], capfd)
    assert (code, err.count("\n")) == (2, 1) and "pip install 'jaxrl[video]'" in err


def test_mp4(tmp_path):
    reader = pytest.importorskip("imageio_ffmpeg")
    drawing, e = played(envs.make("rooms/four"), steps=4)
    render.write(tmp_path / "a.mp4", "rooms", drawing, [e], 4)
    count, seconds = reader.count_frames_and_secs(str(tmp_path / "a.mp4"))
    assert count == 5 + round(4 * render.HOLD) and seconds == pytest.approx(count / 4, abs=0.3)


def test_a_film_that_fails_leaves_no_half_of_it(tmp_path, monkeypatch):
    drawing, e = played(envs.make("rooms/four"), steps=4)
    real = draw.frame

    def frame(drawing, episode, t, note=""):
        if t == 3 and not note:
            raise InputError("cut")
        return real(drawing, episode, t, note)

    monkeypatch.setattr(draw, "frame", frame)
    with pytest.raises(InputError):
        render.write(tmp_path / "a.gif", "rooms", drawing, [e], 4)
    assert list(tmp_path.iterdir()) == []
