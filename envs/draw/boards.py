"""Observations as pictures: channels of cells as colours, and anything else as bars.

The drawing of what no other knows (`OBSERVED`): it shows what the policy saw, and what it chose.
"""

from typing import Any

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
    WINE,
    YELLOW,
    Canvas,
    Drawing,
    Episode,
    blend,
)

COLOURS = (BLUE, ORANGE, SKY, VERMILLION, GREEN, PURPLE, YELLOW, GREY, DARK, WINE)
MINATAR = {
    "Asterix": ("player", "enemy", "trail", "gold"),
    "Breakout": ("paddle", "ball", "trail", "brick"),
    "Freeway": ("chicken", "car", *(f"speed {i}" for i in range(1, 6))),
    "Seaquest": (
        *("submarine", "its back", "its bullet", "trail", "enemy bullet", "fish"),
        *("enemy", "oxygen", "divers held", "diver"),
    ),
    "SpaceInvaders": ("cannon", "alien", "goes left", "goes right", "its bullet", "alien bullet"),
}
BARS, ROWS, BOARD = 40, 5, 64  # values drawn as bars, rows of them; cells on a board's side


def observe(env, state, obs):
    return obs


def leaves(seen: Any, name: str = "") -> dict[str, np.ndarray]:
    """The arrays of an observation [T, ...], by name."""
    if not isinstance(seen, dict):
        return {name: np.asarray(seen, float)}
    parts = [leaves(v, f"{name} {k}".strip()) for k, v in seen.items()]
    return {k: v for part in parts for k, v in part.items()}


def is_board(x: np.ndarray) -> bool:
    """Whether [T, ...] is cells [H, W], or channels of them, that are all in view."""
    cells = x.ndim in (3, 4) and max(x.shape[1:3]) <= BOARD and min(x.shape[1:3]) > 1
    return cells and (x.ndim == 3 or x.shape[3] <= len(COLOURS))


def board(canvas: Canvas, seen: np.ndarray, t: int, names: tuple = ()) -> None:
    """Cells of [T, H, W, C]: a channel fills a cell, one more over it a part of the cell."""
    seen = seen if seen.ndim == 4 else seen[..., None]
    _, h, w, count = seen.shape
    width = canvas.size[0] - (LEGEND if count > 1 else 0)
    canvas.view((-0.1, -0.1), (w + 0.1, h + 0.1), (4, 0, width - 8, canvas.size[1]))
    canvas.box((0, 0), (w, h), PALE, GREY)
    for i in range(1, max(h, w) if max(h, w) <= 20 else 0):
        canvas.line([(0, i), (w, i)] if i < h else [], WHITE, 1)
        canvas.line([(i, 0), (i, h)] if i < w else [], WHITE, 1)
    top = np.nanmax(np.abs(seen), initial=1e-9)
    for y, x in np.argwhere((seen[t] > 0).any(-1)):
        over = np.flatnonzero(seen[t, y, x] > 0)
        for rank, c in enumerate(over[:3]):
            inset = 0.04 + 0.15 * rank
            low, high = (x + inset, h - 1 - y + inset), (x + 1 - inset, h - y - inset)
            canvas.box(low, high, blend(PALE, COLOURS[c], seen[t, y, x, c] / top), INK)
    if count > 1:
        names = names or tuple(f"channel {c}" for c in range(count))
        canvas.legend([*zip(names, COLOURS)])


def bars(canvas: Canvas, parts: dict[str, np.ndarray], t: int) -> None:
    """Each value as a bar from zero; the scale is the whole episode's. Of many values, squares."""
    width, height = canvas.size
    if (rest := len(parts) - ROWS) > 0:
        canvas.label(width - 12, 10, f"and {rest} more", 15, DARK, "ra")
    rows = min(len(parts), ROWS)
    for i, (name, x) in enumerate([*parts.items()][:rows]):
        x = x.reshape(len(x), -1)
        top = float(np.nanmax(np.abs(np.where(np.isfinite(x), x, 0.0)), initial=1e-9))
        room = (height - 44) / rows
        y = 40 + i * room
        title = f"{name or 'observation'}: {x.shape[1]} value{'s' * (x.shape[1] > 1)}"
        title += f", up to {top:.3g}" if top > 1e-9 else ", always 0"
        canvas.label(12, y, title, 15, DARK)
        area = (12, y + 24, width - 24, room - 32)
        if x.shape[1] > BARS:
            squares(canvas, x[t] / top, area)
            continue
        low = -1.0 if (x < 0).any() else 0.0
        n = x.shape[1]
        left, up, across, down = area
        base = up + down * (1 / (1 - low))
        step = min(across / n, 60)
        for j, v in enumerate(x[t] / top):
            upper, lower = sorted((base, base - v * down / (1 - low)))
            colour = BLUE if v >= 0 else VERMILLION
            canvas.block(
                (left + (j + 0.12) * step, upper), (left + (j + 0.88) * step, lower), colour
            )
        canvas.block((left, base - 0.5), (left + n * step, base + 0.5), INK)


def squares(canvas: Canvas, values: np.ndarray, area: tuple) -> None:
    """Values in [-1, 1], row by row: blue above zero, vermillion below."""
    left, up, across, down = area
    n = len(values)
    side = max(2.0, np.sqrt(across * down / n) * 0.97)
    while (across // side) * (down // side) < n and side > 2:
        side *= 0.97
    columns = max(1, int(across // side))
    for j, v in enumerate(np.nan_to_num(values)):
        y, x = divmod(j, columns)
        colour = blend(PALE, BLUE if v >= 0 else VERMILLION, abs(v))
        a, b = left + x * side, up + y * side
        canvas.block((a, b), (a + side - 1, b + side - 1), colour)


def worded(action: Any) -> str:
    """An action as text."""
    if action is None:
        return "the episode is over"
    parts = []
    for name, x in leaves(action).items():
        x = x.reshape(-1)
        numbers = " ".join(f"{v:.3g}" if v == int(v) else f"{v:.2f}" for v in np.nan_to_num(x[:6]))
        parts.append(f"{name} {numbers}{' …' if len(x) > 6 else ''}".strip())
    return "action: " + ", ".join(parts)


def observed(canvas: Canvas, episode: Episode, t: int) -> None:
    """What the policy saw: a board where it is one, else bars; and the action it chose there."""
    parts = leaves(episode.seen)
    if len(parts) == 1 and is_board(only := next(iter(parts.values()))):
        board(canvas, only, t)
        return
    canvas.label(12, 10, worded(episode.next_action(t)), 18)
    bars(canvas, parts, t)


def minatar(names: tuple) -> Drawing:
    def paint(canvas: Canvas, episode: Episode, t: int) -> None:
        board(canvas, episode.seen, t, names)

    return Drawing(observe, paint, 10)


OBSERVED = Drawing(observe, observed, 5)
TABLE = {f"{game}-MinAtar": minatar(names) for game, names in MINATAR.items()}
TABLE["Pong-misc"] = minatar(("paddles", "ball", "ball before"))
