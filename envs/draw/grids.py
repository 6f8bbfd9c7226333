"""Grids of cells (x, y), y down: walls, goals, what lies about, and the way that was gone."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from envs.draw.canvas import (
    BLUE,
    DARK,
    GREEN,
    GREY,
    INK,
    LEGEND,
    ORANGE,
    PALE,
    PURPLE,
    SKY,
    VERMILLION,
    WHITE,
    YELLOW,
    Canvas,
    Drawing,
    Episode,
    blend,
)
from envs.rooms import GOALS, walls


def floor(canvas: Canvas, colours: np.ndarray, side: int = 0) -> None:
    """Cells [w, h, 3] in their colours; `side` pixels on the right stay free."""
    w, h = colours.shape[:2]
    canvas.view((-0.1, 0.1 - h), (w + 0.1, 0.1), (4, 0, canvas.size[0] - 8 - side, canvas.size[1]))
    for x, y in np.ndindex(w, h):
        canvas.box((x, -y), (x + 1, -y - 1), blend(colours[x, y], WHITE, 0.0), WHITE)


def plain(w: int, h: int) -> np.ndarray:
    return np.tile(np.array(PALE), (w, h, 1))


def middle(cell: Any) -> np.ndarray:
    """Of a cell, on the canvas."""
    return np.array((cell[0] + 0.5, -cell[1] - 0.5))


def goal(canvas: Canvas, cell: Any) -> None:
    """A diamond."""
    at = middle(cell)
    canvas.shape([at + d for d in ((0, 0.4), (0.4, 0), (0, -0.4), (-0.4, 0))], GREEN, INK)


def agent(canvas: Canvas, cells: np.ndarray, t: int) -> None:
    """A disc where it is, at the end of the way it came."""
    canvas.line([middle(c) for c in cells[: t + 1]], BLUE, 3)
    canvas.disc(middle(cells[t]), 0.3, BLUE, WHITE)


THINGS = ("key", "ball", "box")


def thing(canvas: Canvas, at: np.ndarray, kind: int) -> None:
    """A key, a ball or a box: told apart by shape as well as by colour."""
    if kind == 0:
        canvas.line([at + (-0.05, 0), at + (0.3, 0)], INK, 6)
        for x in (0.18, 0.3):
            canvas.line([at + (x, 0), at + (x, -0.14)], INK, 6)
        canvas.disc(at + (-0.15, 0), 0.16, YELLOW, INK)
        canvas.disc(at + (-0.15, 0), 0.06, INK)
    elif kind == 1:
        canvas.disc(at, 0.27, VERMILLION, INK)
    else:
        canvas.box(at - 0.26, at + 0.26, PURPLE, INK)
        canvas.line([at + (-0.26, 0.08), at + (0.26, 0.08)], INK, 2)


def keep_fetch(env, state, obs):
    cell, things, mission = state
    return dict(cell=cell, things=things, mission=mission)


def fetch(canvas: Canvas, episode: Episode, t: int) -> None:
    seen, mission = episode.seen, int(episode.seen["mission"][t])
    floor(canvas, plain(5, 5), LEGEND)
    for kind, cell in enumerate(seen["things"][t]):
        if kind == mission:
            at = middle(cell)
            canvas.box(at - 0.47, at + 0.47, WHITE, GREEN)
            canvas.box(at - 0.45, at + 0.45, WHITE, GREEN)
    agent(canvas, seen["cell"], t)
    for kind, cell in enumerate(seen["things"][t]):
        thing(canvas, middle(cell), kind)
    canvas.legend([("mission:", None), (f"the {THINGS[mission]}", None)])


def keep_cell(env, state, obs):
    return dict(cell=state)


def rooms(canvas: Canvas, episode: Episode, t: int) -> None:
    colours = plain(*walls().shape)
    colours[walls()] = DARK
    floor(canvas, colours)
    for cell in GOALS:
        goal(canvas, cell)
    agent(canvas, episode.seen["cell"], t)


def keep_cover(env, state, obs):
    cell, covered, _ = state
    return dict(cell=cell, covered=covered, weight=env.weight)


def cover(canvas: Canvas, episode: Episode, t: int) -> None:
    seen = episode.seen
    weight = seen["weight"][t] / seen["weight"][t].max()
    share = (seen["weight"][t] * seen["covered"][t]).sum() / seen["weight"][t].sum()
    colours = np.array([[blend(WHITE, DARK, 0.1 + 0.6 * x) for x in row] for row in weight])
    floor(canvas, colours, LEGEND)
    for x, y in np.argwhere(
        seen["covered"][t]
    ):  # a frame of colour: what is below stays to be seen
        canvas.box((x + 0.1, -y - 0.1), (x + 0.9, -y - 0.9), ORANGE)
        canvas.box((x + 0.24, -y - 0.24), (x + 0.76, -y - 0.76), blend(colours[x, y], WHITE, 0.0))
    agent(canvas, seen["cell"], t)
    rows = [("little", blend(WHITE, DARK, 0.1)), ("much weight", blend(WHITE, DARK, 0.7))]
    canvas.legend([*rows, ("covered", ORANGE), (f"covers {100 * share:.0f} %", None)])


def tabular(env: Any) -> Drawing | None:
    """Of the tables whose rows are cells; None for the others."""
    P, r, end = (np.asarray(x) for x in (env.P, env.r, env.end))
    if P.ndim != 3:  # several tables in one
        return None
    wide = {"tabular/maze": 6, "tabular/cliff": 4, "tabular/forbidden": 5}
    w = (wide | {"tabular/chain": min(len(r), 10)}).get(env.name)
    if not w:
        return None
    h = -(-len(r) // w)
    entered = P.sum(1) * (1 - np.eye(len(r)))  # from any other cell
    wall = (entered.sum(0) == 0) & (np.asarray(env.rho) == 0)
    bad = r.mean(1) < np.median(r.mean(1)) - 1e-6 if env.name == "tabular/cliff" else wall & False
    if env.name == "tabular/forbidden":
        bad = np.asarray(env.c)[0].mean(1) > 0

    def paint(canvas: Canvas, episode: Episode, t: int) -> None:
        colours = plain(w, h)
        for s in range(w * h):
            if s >= len(r):
                colours[s % w, s // w] = WHITE
            elif wall[s] or bad[s]:
                colours[s % w, s // w] = DARK if wall[s] else ORANGE
        floor(canvas, colours)
        for s in np.flatnonzero(end):
            goal(canvas, (s % w, s // w))
        if env.name == "tabular/chain":
            for s in range(len(r)):
                canvas.text((s % w + 0.82, -(s // w) - 0.2), str(s), 13, GREY)
        cells = np.stack([episode.seen % w, episode.seen // w], -1)
        agent(canvas, cells, t)

    return Drawing(lambda env, state, obs: state, paint, 4)


def keep_map(env, state, obs):
    """Of gymnax's mazes, whose cells are (row, column)."""
    return dict(cell=state.pos[::-1], goal=state.goal[::-1], open=env.upstream.env_map)


def maze(canvas: Canvas, episode: Episode, t: int) -> None:
    seen = episode.seen
    colours = plain(*seen["open"][t].T.shape)
    colours[~seen["open"][t].T.astype(bool)] = DARK
    floor(canvas, colours)
    goal(canvas, seen["goal"][t])
    agent(canvas, seen["cell"], t)


def keep_lake(env, state, obs):
    lake = env.upstream.desc
    row, column = state.position // lake.shape[1], state.position % lake.shape[1]
    return dict(cell=jnp.stack([column, row]), lake=lake)


def lake(canvas: Canvas, episode: Episode, t: int) -> None:
    tiles = np.asarray(episode.seen["lake"][t]).T
    colours = plain(*tiles.shape)
    floor(canvas, colours)
    for cell in np.argwhere(tiles == 2):
        canvas.disc(middle(cell), 0.42, SKY, INK)
    for cell in np.argwhere(tiles == 3):
        goal(canvas, cell)
    agent(canvas, episode.seen["cell"], t)


FETCH, ROOMS = Drawing(keep_fetch, fetch, 4), Drawing(keep_cell, rooms, 4)
COVER = Drawing(keep_cover, cover, 4)
TABLE = {
    "FourRooms-misc": Drawing(keep_map, maze, 8),
    "MetaMaze-misc": Drawing(keep_map, maze, 8),
    "FrozenLake-misc": Drawing(keep_lake, lake, 4),
}
