"""Playing a run's policy before a camera: episodes, and films of them as gif, mp4 or html.

An episode is one program, a scan of the environment without its automatic reset, so that the state
it ended in is the last picture and not the next episode's first. It gives what the drawing
(`envs.draw`) keeps of every state; pictures are made on the host, one after the other.
"""

import base64
import html
import importlib.util
import io
import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from envs import draw
from envs.base import AutoReset, Step
from envs.draw import bodies
from envs.draw.canvas import HEIGHT, WIDTH, Drawing, Episode
from jaxrl.errors import InputError
from jaxrl.rollout import agents
from jaxrl.run import evaluate
from jaxrl.run.files import check_folder, replacing
from jaxrl.run.run import Setting, evaluation_keys
from jaxrl.run.train import Say

FRAMES, STEPS = 5000, 1000  # of a film at most; of an episode whose environment has no time limit
HOLD = 1.2  # seconds that the last picture of an episode stays


class Single(NamedTuple):
    """One episode of a world that is no `AutoReset`: its last state is not to be had, only what was
    observed of it. Of several agents there is a row each; the reward is their mean."""

    world: Any

    def row(self, tree):
        return tree if agents(self.world) > 1 else jax.tree.map(lambda x: x[0], tree)

    def reset(self, key):
        state, obs = self.world.reset(key, 1)
        return state, self.row(obs)

    def step(self, key, state, action):
        action = action.reshape(agents(self.world), *self.world.action_space.shape)
        state, s = self.world.step(key, state, action)
        return Step(state, self.row(s.final_obs), s.reward.mean(0), s.terminated[0], s.truncated[0])


class Film(NamedTuple):
    """What was filmed."""

    path: Path
    title: str
    paper: str
    env: str
    seed: int
    fps: int
    episodes: list[Episode]


def film(
    run: Path,
    path: Path,
    *,
    seed: int | None = None,
    best: bool = False,
    episodes: int = 1,
    steps: int | None = None,
    stochastic: bool = False,
    fps: int | None = None,
    named: Iterable[str] = (),
    say: Say = lambda line: None,
) -> Film:
    """Play a finished run's policy and write the film; its format is the path's suffix.

    Args:
      seed: whose policy; None: that with the median final return.
      best: of the checkpoint whose evaluation was best, not of the last.
      steps: where an episode is cut; None: its time limit.
      stochastic: act as it explores, not by its mode.
      fps: frames a second; None: what suits the environment.
      named: code of one's own that may be run, as in `train.reopen`.

    Raises:
      InputError: there is no such run or seed, the film would be too long, or mp4 cannot be made.
      RunError: no checkpoint is whole, or the disk fails.
    """
    check_format(path)
    s, state, index, title, _ = evaluate.one_seed(run, seed, best, stochastic, named, say)
    drawing, play = player(s, state, limit(s.world, steps, episodes), not stochastic)
    played = [play(index, key) for key in keys(s, index, episodes)]
    write(path, title, drawing, played, fps := fps or drawing.fps)
    return Film(path, title, s.job.paper, s.job.env, int(s.seeds[index]), fps, played)


def limit(world: Any, steps: int | None, episodes: int) -> int:
    """How many steps an episode may have; InputError if the film could be too long."""
    n = min(steps or world.max_steps or STEPS, world.max_steps or FRAMES)
    if steps is None and episodes == 1:
        n = min(n, FRAMES)
    if episodes * n > FRAMES:
        raise InputError(
            f"steps: {episodes} episodes of up to {n} are more than {FRAMES} frames; "
            f"--steps {FRAMES // episodes} would do"
        )
    return n


def player(
    s: Setting, states: Any, steps: int, greedy: bool
) -> tuple[Drawing, Callable[[int, jax.Array], Episode]]:
    """How a run's environment is drawn, and (row, key) -> an episode of that seed's policy."""
    env = s.world.env if isinstance(s.world, AutoReset) else Single(s.world)
    drawing, n = draw.of(env), agents(s.world)

    @jax.jit
    def roll(one, key, hp, env):
        def step(carry, key):
            state, obs, memory = carry
            key_act, key_env = jax.random.split(key)
            seen = obs if n > 1 else jax.tree.map(lambda x: x[None], obs)
            action, memory = s.algo.act(one, seen, memory, None if greedy else key_act, hp)
            action = action if n > 1 else jax.tree.map(lambda x: x[0], action)
            after = env.step(key_env, state, action)
            row = drawing.keep(env, after.state, after.obs), action
            flags = after.reward, after.terminated, after.truncated
            return (after.state, after.obs, memory), (*row, *flags)

        key_reset, key = jax.random.split(key)
        state, obs = env.reset(key_reset)
        first = drawing.keep(env, state, obs)
        carry = state, obs, s.algo.memory(n)
        return first, jax.lax.scan(step, carry, jax.random.split(key, steps))[1]

    def play(index: int, key: jax.Array) -> Episode:
        one = jax.tree.map(lambda x: x[index], states)
        first, (seen, action, reward, terminated, truncated) = jax.device_get(
            roll(one, key, s.hp, env)
        )
        over = terminated | truncated
        n = int(np.argmax(over)) + 1 if over.any() else steps
        why = "" if not over.any() else "terminated" if terminated[n - 1] else "time limit"
        seen = jax.tree.map(lambda a, x: np.concatenate([np.asarray(a)[None], x[:n]]), first, seen)
        reward = reward if reward.ndim == 1 else reward[:, 0]  # the first objective
        return Episode(seen, jax.tree.map(lambda x: x[:n], action), reward[:n], why)

    return drawing, play


def keys(s: Setting, row: int, episodes: int) -> list[jax.Array]:
    """Of a seed's episodes: none that training or an evaluation played."""
    return list(jax.random.split(evaluation_keys(s, 3)[row], episodes))


def frames(drawing: Drawing, episodes: Sequence[Episode]) -> Iterator[tuple[np.ndarray, bool]]:
    """The pictures of episodes one after the other, and whether each is its episode's last."""
    for i, e in enumerate(episodes):
        note = f"episode {i + 1} of {len(episodes)}" if len(episodes) > 1 else ""
        for t in range(len(e.reward) + 1):
            yield draw.frame(drawing, e, t, note), t == len(e.reward)


def check_format(path: Path) -> None:
    """InputError, with the mend, for a film that could not be written."""
    if path.suffix not in (".gif", ".mp4", ".html"):
        raise InputError(f"out: {path} does not end in .gif, .mp4 or .html")
    if path.suffix == ".mp4" and importlib.util.find_spec("imageio_ffmpeg") is None:
        raise InputError("format: mp4 needs imageio[ffmpeg]: pip install 'jaxrl[video]'")
    if path.parent.exists():  # else the run's own, which is not there
        check_folder(path)


def write(path: Path, title: str, drawing: Drawing, episodes: Sequence[Episode], fps: int) -> None:
    """Write a film whose format is the path's suffix; whoever is killed leaves no half of one.

    Raises:
      RunError: the disk fails.
    """
    with replacing(path, "render") as new:
        if path.suffix == ".gif":
            write_gif(new, drawing, episodes, fps)
        elif path.suffix == ".mp4":
            write_mp4(new, drawing, episodes, fps)
        else:
            page = space_page if drawing.scene else picture_page
            new.write_text(page(title, drawing, episodes, fps), encoding="utf-8")


def palette(drawing: Drawing, episodes: Sequence[Episode]) -> Image.Image:
    """The colours of a film, from a few of its pictures."""
    few = [(e, round(x * len(e.reward))) for e in episodes[:3] for x in (0, 0.33, 0.67, 1)]
    sample = np.concatenate([draw.frame(drawing, e, t, "episode 1 of 2") for e, t in few])
    image = Image.fromarray(sample)
    return image.quantize(len(image.getcolors(255) or range(255)))  # few colours make it small


def indexed(drawing: Drawing, episodes: Sequence[Episode]) -> Iterator[tuple[Image.Image, bool]]:
    """The pictures in one palette, which makes them small."""
    colours = palette(drawing, episodes)
    for picture, last in frames(drawing, episodes):
        yield Image.fromarray(picture).quantize(palette=colours, dither=Image.Dither.NONE), last


def write_gif(path: Path, drawing: Drawing, episodes: Sequence[Episode], fps: int) -> None:
    """A picture's time is a whole number of hundredths of a second, as the format has it."""
    one = 10 * round(100 / fps)
    last = [t == len(e.reward) for e in episodes for t in range(len(e.reward) + 1)]
    times = [max(one, int(1000 * HOLD)) if x else one for x in last]
    pictures = (picture for picture, _ in indexed(drawing, episodes))
    first = next(pictures)
    how = dict(append_images=pictures, duration=times, loop=0, optimize=False)
    first.save(path, "GIF", save_all=True, **how)


def write_mp4(path: Path, drawing: Drawing, episodes: Sequence[Episode], fps: int) -> None:
    import imageio_ffmpeg

    writer = imageio_ffmpeg.write_frames(str(path), (WIDTH, HEIGHT), fps=fps, quality=8)
    with warnings.catch_warnings():  # of a fork beside jax's threads: it only starts the encoder
        warnings.simplefilter("ignore", RuntimeWarning)
        writer.send(None)
    for picture, last in frames(drawing, episodes):
        for _ in range(1 + (round(HOLD * fps) if last else 0)):
            writer.send(np.ascontiguousarray(picture))
    writer.close()


def picture_page(title: str, drawing: Drawing, episodes: Sequence[Episode], fps: int) -> str:
    """The pictures themselves, in a page."""
    shots = []
    for picture, _ in indexed(drawing, episodes):
        picture.save(file := io.BytesIO(), "PNG", optimize=False)
        shots.append(base64.b64encode(file.getvalue()).decode())
    return page(title, dict(shots=shots, frames=len(shots)), fps, PICTURES)


def space_page(title: str, drawing: Drawing, episodes: Sequence[Episode], fps: int) -> str:
    """Where the bodies are, drawn by the page itself: it can be looked at from several sides."""

    def rounded(x):
        return np.nan_to_num(np.round(x, 3)).tolist()

    parts = []
    for e in episodes:
        s = drawing.scene(e)
        captions = [f"return {draw.short(e.returned(t))}" for t in range(len(e.reward) + 1)]
        captions[-1] += f", {e.ended or 'cut here'}"
        shape = dict(ends=rounded(s.ends), centre=rounded(s.centre), radius=rounded(s.radius))
        more = dict(colours=s.colours, ground=s.ground, size=s.size.tolist(), tick=s.tick)
        parts.append(shape | more | dict(captions=captions, view=s.view))
    count = sum(len(p["captions"]) for p in parts)
    return page(title, dict(episodes=parts, views=bodies.VIEWS, frames=count), fps, SPACE)


def page(title: str, data: dict, fps: int, show: str) -> str:
    """A page that needs nothing beside it."""
    text = json.dumps(data | dict(fps=fps, hold=HOLD), separators=(",", ":")).replace(
        "<", "\\u003c"
    )
    fill = dict(TITLE=html.escape(title), WIDTH=WIDTH, HEIGHT=HEIGHT, DATA=text, SHOW=show)
    out = PAGE
    for name, value in fill.items():
        out = out.replace(f"@{name}@", str(value))
    return out


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>@TITLE@</title>
<style>
:root { color-scheme: light dark; }
body { font: 16px/1.4 system-ui, sans-serif; }
body { max-width: 720px; margin: 1.5rem auto; padding: 0 1rem; }
h1 { font-size: 1.1rem; font-weight: 600; }
canvas { width: 100%; height: auto; display: block; border: 1px solid #888; background: #fff; }
.bar { display: flex; gap: .6rem; align-items: center; margin-top: .6rem; flex-wrap: wrap; }
.bar input[type=range] { flex: 1; min-width: 8rem; }
button, select { font: inherit; padding: .3rem .8rem; min-width: 5rem; }
output { font-variant-numeric: tabular-nums; min-width: 6.5rem; text-align: right; }
</style>
</head>
<body>
<h1>@TITLE@</h1>
<canvas id="canvas" width="@WIDTH@" height="@HEIGHT@" role="img" aria-label="@TITLE@"></canvas>
<div class="bar">
<button id="play" type="button">pause</button>
<input id="at" type="range" min="0" value="0" step="1" aria-label="frame">
<output id="count"></output>
<label>speed <select id="speed"><option value="0.25">1/4</option><option value="0.5">1/2</option>
<option value="1" selected>1</option><option value="2">2</option></select></label>
<span id="more"></span>
</div>
<noscript>This film is drawn by a script inside this file; the browser has scripts off.</noscript>
<script>
"use strict";
const film = @DATA@;
const get = id => document.getElementById(id);
const canvas = get("canvas"), pen = canvas.getContext("2d");
let now = 0, playing = true, due = 0;
@SHOW@
function go(t) {
  now = t;
  get("at").value = t;
  get("count").textContent = (t + 1) + " / " + film.frames;
  show(t);
}
function play(on) {
  playing = on;
  due = 0;
  get("play").textContent = on ? "pause" : "play";
}
function tick(time) {
  if (playing) {
    const wait = (now === film.frames - 1 ? film.hold : 1 / film.fps) * 1000 / get("speed").value;
    if (!due) due = time + wait;
    if (time >= due) {
      go((now + 1) % film.frames);
      due = Math.max(due, time - wait) + wait;
    }
  }
  requestAnimationFrame(tick);
}
get("at").max = film.frames - 1;
get("at").addEventListener("input", e => { play(false); go(+e.target.value); });
get("play").addEventListener("click", () => play(!playing));
get("speed").addEventListener("change", () => play(playing));
go(0);
requestAnimationFrame(tick);
</script>
</body>
</html>
"""

PICTURES = """
const images = film.shots.map(shot => {
  const image = new Image();
  image.onload = () => { if (images[now] === image) show(now); };
  image.src = "data:image/png;base64," + shot;
  return image;
});
function show(t) {
  if (images[t].complete) pen.drawImage(images[t], 0, 0);
}
"""

# the same projection as envs/draw/bodies.py
SPACE = """
const where = [];  // [episode, step] of each frame
film.episodes.forEach((e, i) => e.captions.forEach((c, t) => where.push([e, t, i])));
canvas.width *= 2;
canvas.height *= 2;
const W = canvas.width, H = canvas.height, strip = 80;
let view = film.episodes[0].view;
for (const name of Object.keys(film.views)) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = name;
  button.setAttribute("aria-pressed", name === view);
  button.addEventListener("click", () => {
    view = name;
    for (const b of get("more").children) b.setAttribute("aria-pressed", b === button);
    go(now);
  });
  get("more").append(button);
}
function project(p, c) {
  const [turn, tilt] = film.views[view], x = p[0] - c[0], y = p[1] - c[1], z = p[2] - c[2];
  const across = x * Math.cos(turn) - y * Math.sin(turn);
  const away = x * Math.sin(turn) + y * Math.cos(turn);
  return [across, z * Math.cos(tilt) + away * Math.sin(tilt),
          away * Math.cos(tilt) - z * Math.sin(tilt)];
}
function extent(size) {
  let w = 0, h = 0;
  for (const i of [-1, 1]) for (const j of [-1, 1]) for (const k of [-1, 1]) {
    const q = project([i * size[0], j * size[1], k * size[2]], [0, 0, 0]);
    w = Math.max(w, Math.abs(q[0]));
    h = Math.max(h, Math.abs(q[1]));
  }
  return [w * 1.12, h * 1.12];
}
function show(frame) {
  const [e, t, i] = where[frame], c = e.centre[t];
  const [w, h] = extent(e.size), scale = Math.min(W / 2 / w, (H - strip) / 2 / h);
  const place = p => {
    const q = project(p, c);
    return [W / 2 + q[0] * scale, strip + (H - strip) / 2 - q[1] * scale, q[2]];
  };
  const line = (a, b, colour, width) => {
    pen.strokeStyle = colour;
    pen.lineWidth = width;
    pen.lineCap = "round";
    pen.beginPath();
    pen.moveTo(a[0], a[1]);
    pen.lineTo(b[0], b[1]);
    pen.stroke();
  };
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, W, H);
  if (e.ground) {
    const most = Math.max(...e.size), reach = 8 * most, side = view === "side";
    const from = k => Math.ceil((c[k] - reach) / e.tick) * e.tick;
    const grey = side ? "#969696" : "#d8d8dc";
    if (side) line(place([c[0] - reach, c[1], 0]), place([c[0] + reach, c[1], 0]), grey, 4);
    for (let x = from(0); x < c[0] + reach; x += e.tick)
      if (side) line(place([x, c[1], 0]), place([x, c[1], -0.08 * most]), grey, 4);
      else line(place([x, c[1] - reach, 0]), place([x, c[1] + reach, 0]), grey, 3);
    for (let y = from(1); !side && y < c[1] + reach; y += e.tick)
      line(place([c[0] - reach, y, 0]), place([c[0] + reach, y, 0]), grey, 3);
  }
  const parts = e.ends[t].map(([a, b], g) => ({g, a: place(a), b: place(b)}));
  parts.sort((p, q) => q.a[2] + q.b[2] - p.a[2] - p.b[2]);
  const depths = parts.map(p => (p.a[2] + p.b[2]) / 2), near = Math.min(...depths);
  const range = Math.max(Math.max(...depths) - near, 2 * Math.max(...e.radius), 1e-6);
  parts.forEach((p, k) => {
    const fade = 0.45 * (depths[k] - near) / range;
    const colour = e.colours[p.g].map(v => Math.round(v + (255 - v) * fade));
    const wide = 2 * e.radius[p.g] * scale;
    line(p.a, p.b, "#19191e", wide + 4);
    line(p.a, p.b, "rgb(" + colour + ")", wide);
  });
  pen.fillStyle = "#e4e4e8";
  pen.fillRect(0, 0, W, strip);
  pen.fillStyle = "#19191e";
  pen.font = "38px system-ui, sans-serif";
  pen.textBaseline = "middle";
  pen.textAlign = "left";
  pen.fillText("step " + t, 24, strip / 2);
  pen.fillText(e.captions[t], 252, strip / 2);
  pen.textAlign = "right";
  if (film.episodes.length > 1)
    pen.fillText("episode " + (i + 1) + " of " + film.episodes.length, W - 24, strip / 2);
}
"""
