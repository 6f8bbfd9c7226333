"""Brax's bodies: spheres and capsules, seen from the side, from above and from in between.

A picture and the page of `jaxrl.run.render` project the same `Scene`.
"""

from typing import Any, NamedTuple

import numpy as np

from envs.draw.canvas import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PALE,
    PURPLE,
    SKY,
    VERMILLION,
    WHITE,
    YELLOW,
    Canvas,
    Colour,
    Drawing,
    Episode,
    blend,
)

PLANE, SPHERE = 0, 2  # mujoco's numbers of shapes; what else brax's models have are capsules
LIMBS = (ORANGE, SKY, GREEN, PURPLE, VERMILLION, YELLOW)
VIEWS = {"side": (0.0, 0.0), "three-quarter": (-0.6, 0.42), "top": (0.0, np.pi / 2)}  # turn, tilt


class Scene(NamedTuple):
    """Where an episode's parts are, G of them, and from where they are looked at."""

    ends: np.ndarray  # [T + 1, G, 2, 3] of each part's axis; a sphere's are the same point
    radius: np.ndarray  # [G]
    colours: list[Colour]  # [G]
    ground: bool  # whether there is one, at z = 0
    centre: np.ndarray  # [T + 1, 3] of what is in view
    size: np.ndarray  # [3] half the extent of what is in view
    tick: float  # metres between the lines of the ground
    view: str  # of VIEWS, that which shows most


def rotate(v: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Vectors by unit quaternions (w, x, y, z)."""
    w, u = q[..., :1], q[..., 1:]
    return v + 2 * np.cross(u, np.cross(u, v) + w * v)


def scene(sys: Any, pos: np.ndarray, rot: np.ndarray) -> Scene:
    """From the links' positions [T + 1, L, 3] and rotations [T + 1, L, 4]."""
    kind = np.asarray(sys.geom_type)
    parts = np.flatnonzero(kind != PLANE)
    link = np.asarray(sys.geom_bodyid)[parts] - 1  # -1: the world
    shape, at, turn = (np.asarray(x)[parts] for x in (sys.geom_size, sys.geom_pos, sys.geom_quat))
    half = np.where(kind[parts] == SPHERE, 0.0, shape[:, 1])[:, None] * (0, 0, 1)
    ends = np.stack([at + rotate(half * s, turn) for s in (-1, 1)], 1)  # [G, 2, 3] in the link
    still = np.zeros((len(pos), 1, 3)), np.tile((1.0, 0, 0, 0), (len(pos), 1, 1))
    pos, rot = (np.concatenate([x, s], 1)[:, link] for x, s in zip((pos, rot), still))
    ends = pos[:, :, None] + rotate(ends, rot[:, :, None])
    radius = shape[:, 0]
    moving = np.nan_to_num(ends[:, link >= 0])
    low, high = moving.min((1, 2)) - radius.max(), moving.max((1, 2)) + radius.max()  # [T + 1, 3]
    size, (bottom, top) = (high - low).max(0) / 2, (low.min(0), high.max(0))
    centre = np.nan_to_num(pos[:, np.argmax(link >= 0)])
    if (np.ptp(centre, axis=0) < 2 * size).all():  # it stays: so does the camera
        centre, size = np.tile((bottom + top) / 2, (len(ends), 1)), (top - bottom) / 2
    else:  # the camera goes with it, over the ground
        centre[:, 2], size[2] = (bottom + top)[2] / 2, (top - bottom)[2] / 2
    size = np.maximum(size, 0.05)
    x, y, z = np.ptp(moving, axis=1).max((0, 1))  # how far it spreads at a time
    view = "side" if y < 0.2 * max(x, z) else "top" if z < 0.2 * min(x, y) else "three-quarter"
    tick = 10.0 ** np.floor(np.log10(size.max() * 1.5))
    tick *= 5 if size.max() > 4 * tick else 1
    ground = bool((kind == PLANE).any())
    return Scene(ends, radius, colours(sys, link), ground, centre, size, tick, view)


def colours(sys: Any, link: np.ndarray) -> list[Colour]:
    """The trunk's (the first link), one for each limb, and grey for what the world holds."""
    parents, limb = list(sys.link_parents), {}

    def of(i: int) -> Colour:
        if i < 0:
            return GREY
        if i == 0:
            return BLUE
        while parents[i] > 0:
            i = parents[i]
        return LIMBS[limb.setdefault(i, len(limb)) % len(LIMBS)]

    return [of(int(i)) for i in link]


def project(points: Any, centre: np.ndarray, view: str) -> np.ndarray:
    """[..., 3] to the picture's x and y, and how far away that is."""
    turn, tilt = VIEWS[view]
    x, y, z = np.moveaxis(np.asarray(points, float) - centre, -1, 0)
    x, y = x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)
    up = z * np.cos(tilt) + y * np.sin(tilt)
    return np.stack([x, up, y * np.cos(tilt) - z * np.sin(tilt)], -1)


def window(s: Scene) -> np.ndarray:
    """Half the width and the height of what the view has to show."""
    corners = np.array(np.meshgrid(*[(-1, 1)] * 3)).reshape(3, -1).T * s.size
    return np.abs(project(corners, np.zeros(3), s.view)).max(0)[:2] * 1.12


def lines(s: Scene, t: int) -> list[np.ndarray]:
    """The ground's: in the side view one level and its ticks, otherwise a net."""
    c, reach = s.centre[t], 8 * s.size.max()
    first = np.ceil((c - reach) / s.tick) * s.tick
    xs, ys = (np.arange(first[i], c[i] + reach, s.tick) for i in (0, 1))
    if s.view == "side":
        low = -0.08 * s.size.max()
        level = [np.array([(c[0] - reach, c[1], 0), (c[0] + reach, c[1], 0)])]
        return level + [np.array([(x, c[1], 0), (x, c[1], low)]) for x in xs]
    across = [np.array([(x, c[1] - reach, 0), (x, c[1] + reach, 0)]) for x in xs]
    return across + [np.array([(c[0] - reach, y, 0), (c[0] + reach, y, 0)]) for y in ys]


def draw(canvas: Canvas, s: Scene, t: int) -> None:
    half = window(s)
    canvas.view(-half, half)
    pale = GREY if s.view == "side" else PALE
    for line in lines(s, t) if s.ground else ():
        canvas.line(project(line, s.centre[t], s.view)[:, :2], pale, 2)
    ends = project(s.ends[t], s.centre[t], s.view)  # [G, 2, 3]
    depth = ends[..., 2].mean(1)
    far = (depth - depth.min()) / max(np.ptp(depth), 2 * s.radius.max(), 1e-6)
    for g in np.argsort(-depth):
        colour = blend(s.colours[g], WHITE, 0.45 * far[g])
        canvas.rod(ends[g, 0, :2], ends[g, 1, :2], float(s.radius[g]), colour, INK)


def drawing(env: Any) -> Drawing | None:
    """Of one brax model; None for the one that has no body."""
    if not env.backend:
        return None
    upstream, made = env.upstream, []

    def seen(episode: Episode) -> Scene:
        if not made or made[0] is not episode.seen:
            x = episode.seen
            made[:] = episode.seen, scene(upstream.sys, x["pos"], x["rot"])
        return made[1]

    def keep(env, state, obs):
        x = state[0].x
        return dict(pos=x.pos, rot=x.rot)

    def paint(canvas: Canvas, episode: Episode, t: int) -> None:
        draw(canvas, seen(episode), t)

    return Drawing(keep, paint, min(50, round(1 / float(upstream.dt))), seen)
