"""What pictures are drawn with: a canvas in units of one's own, colours, and what a film is of."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT, STRIP = 480, 384, 40  # of a frame, the caption's strip with it; multiples of 16: mp4
LEGEND = 140  # of a picture's width, where it has one
FINE = 2  # drawn so many times as large, then made small: smooth edges

# Okabe and Ito's, which colour-blind readers tell apart
ORANGE, SKY, GREEN, YELLOW = (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66)
BLUE, VERMILLION, PURPLE = (0, 114, 178), (213, 94, 0), (204, 121, 167)
WINE = (136, 34, 85)
INK, DARK, GREY = (25, 25, 30), (85, 85, 90), (150, 150, 155)
PALE, WHITE = (228, 228, 232), (255, 255, 255)

Colour: TypeAlias = tuple[int, int, int]
Edge: TypeAlias = Colour | None


class Episode(NamedTuple):
    """One episode of T steps, on the host. `ended`: terminated, time limit, or "" if it was cut."""

    seen: Any  # [T + 1, ...] what the drawing kept of each state, the one it ended in with them
    action: Any  # [T, ...]
    reward: np.ndarray  # [T]
    ended: str

    def returned(self, t: int | None = None) -> float:
        """The return of the first t steps, or of all."""
        return float(self.reward[:t].sum())

    def next_action(self, t: int) -> Any:
        """The action chosen at t; None where the episode is over."""
        import jax

        return jax.tree.map(lambda x: x[t], self.action) if t < len(self.reward) else None


class Drawing(NamedTuple):
    """How an environment is drawn, as two functions."""

    keep: Callable[..., Any]  # (env, state, obs) -> what a picture needs of them; traced
    paint: Callable[..., None]  # (canvas, episode, t): the picture of its t-th state; on the host
    fps: int = 10  # at which it is pleasant to watch
    scene: Any = None  # (episode) -> bodies.Scene, where it has bodies in space


@functools.cache
def font(size: int) -> Any:
    """matplotlib's, which is always there."""
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(path), size)


def blend(a: Any, b: Colour, share: float) -> Colour:
    """From a (0) to b (1)."""
    share = min(max(0.0, float(share)), 1.0)  # of NaN: 0
    red, green, blue = (round(x + (y - x) * share) for x, y in zip(a, b))
    return red, green, blue


class Canvas:
    """A picture whose y points up. What is not finite is not drawn."""

    def __init__(self, width: int = WIDTH, height: int = HEIGHT - STRIP):
        self.size = np.array((width, height))
        self.image = Image.new("RGB", (width * FINE, height * FINE), WHITE)
        self.pen = ImageDraw.Draw(self.image)
        self.view((0, 0), self.size)

    def view(self, low: Any, high: Any, area: Any = None) -> None:
        """Let the rectangle from low to high fill the picture, or an `area` (x, y, width, height)
        of its pixels, as far as a circle allows."""
        low, high = np.asarray(low, float), np.asarray(high, float)
        x, y, width, height = (0, 0, *self.size) if area is None else area
        self.scale = FINE * min(np.array((width, height)) / (high - low))
        self.middle, self.at = (low + high) / 2, FINE * np.array((x + width / 2, y + height / 2))

    def pixels(self, points: Any) -> np.ndarray:
        """[n, 2] in the fine picture."""
        points = np.asarray(points, float).reshape(-1, 2)
        return self.at + (points - self.middle) * (self.scale, -self.scale)

    def shape(self, points: Any, colour: Colour, edge: Edge = None, width: float = 1) -> None:
        """A filled polygon; its edge is `width` pixels wide."""
        if np.isfinite(p := self.pixels(points)).all():
            self.pen.polygon([*map(tuple, p)], colour)
            if edge:
                self.pen.line([*map(tuple, p), tuple(p[0])], edge, round(width * FINE), "curve")

    def box(self, low: Any, high: Any, colour: Colour, edge: Edge = None) -> None:
        (a, b), (c, d) = low, high
        self.shape([(a, b), (c, b), (c, d), (a, d)], colour, edge)

    def disc(self, at: Any, radius: float, colour: Colour, edge: Edge = None) -> None:
        (p,), r = self.pixels(at), radius * self.scale
        if np.isfinite([*p, r]).all():
            self.pen.ellipse([*(p - r), *(p + r)], colour, edge, FINE if edge else 0)

    def line(self, points: Any, colour: Colour, width: float = 2) -> None:
        """Through the points, round at its ends; width in pixels."""
        p, r = self.pixels(points), width * FINE / 2
        if not np.isfinite(p).all():
            return
        if len(p) > 1:
            self.pen.line([*map(tuple, p)], colour, max(1, round(2 * r)), "curve")
        for q in (p[0], p[-1]) if r > 1 else ():
            self.pen.ellipse([*(q - r), *(q + r)], colour)

    def rod(self, a: Any, b: Any, radius: float, colour: Colour, edge: Edge = None) -> None:
        """A capsule; the radius in one's own units."""
        if edge:
            self.line([a, b], edge, 2 * radius * self.scale / FINE + 2)
        self.line([a, b], colour, 2 * radius * self.scale / FINE)

    def arrow(self, a: Any, b: Any, colour: Colour, width: float = 4) -> None:
        a, b = np.asarray(a, float), np.asarray(b, float)
        if not np.isfinite([a, b]).all() or (length := np.hypot(*(b - a))) * self.scale < 2 * FINE:
            return
        along = (b - a) / length * 3 * width * FINE / self.scale
        side = np.array((-along[1], along[0])) * 0.6
        self.line([a, b - along * 0.5], colour, width)
        self.shape([b + along * 0.3, b - along * 0.7 + side, b - along * 0.7 - side], colour)

    def text(self, at: Any, words: str, size: int = 18, colour: Colour = INK, anchor="mm") -> None:
        """Size in pixels; the anchor as PIL's."""
        self.pen.text(tuple(self.pixels(at)[0]), words, colour, font(size * FINE), anchor)

    def label(
        self, x: float, y: float, words: str, size: int = 18, colour=INK, anchor="la"
    ) -> None:
        """Text at a pixel, from the upper left."""
        self.pen.text((x * FINE, y * FINE), words, colour, font(size * FINE), anchor)

    def block(self, low: Any, high: Any, colour: Colour, edge: Edge = None) -> None:
        """A rectangle between two pixels, from the upper left."""
        ends = [x * FINE for x in (*low, *high)]
        if np.isfinite(ends).all():
            self.pen.rectangle(ends, colour, edge)

    def legend(self, rows: list[tuple[str, Edge]]) -> None:
        """Words, and the colours they stand for, down the right side."""
        left = self.size[0] - LEGEND
        for i, (words, colour) in enumerate(rows):
            y = 14 + 32 * i
            if colour:
                self.block((left, y), (left + 20, y + 20), colour, INK)
            self.label(left + (28 if colour else 0), y + 10, words, 15, INK, "lm")

    def picture(self) -> Image.Image:
        return self.image.reduce(FINE)
