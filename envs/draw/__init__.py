"""How environments are drawn: `of` finds a drawing, `frame` draws one state of an episode with it.

A drawing is two functions: `keep` says, while the episode is played, what of a state a picture
needs, and `paint` makes it on the host. `TABLE` has them by class; what it does not have is drawn
as it is observed. States are found through our wrappers (`OPEN`), never through anybody else's.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from envs.adapters.brax_env import Brax
from envs.adapters.gymnax_env import Gymnax
from envs.base import Randomise, RescaleAction, TimeLimit
from envs.cover import Cover
from envs.draw import boards, bodies, control, grids
from envs.draw.canvas import DARK, HEIGHT, INK, PALE, STRIP, WIDTH, Canvas, Drawing, Episode
from envs.grid import Fetch
from envs.multi import Cheetah
from envs.robust import TimeConstrained
from envs.rooms import FourRooms
from envs.safe import Velocity
from envs.tabular import Tabular

GYMNAX = control.TABLE | boards.TABLE | grids.TABLE
TABLE: dict[type, Callable[[Any], Drawing | None]] = {
    Brax: bodies.drawing,
    Gymnax: lambda env: GYMNAX.get(env.name),
    Fetch: lambda env: grids.FETCH,
    FourRooms: lambda env: grids.ROOMS,
    Cover: lambda env: grids.COVER,
    Tabular: grids.tabular,
}
OPEN = {  # a wrapper's (env, state) -> what it wraps
    TimeLimit: lambda env, state: (env.env, state[0]),
    RescaleAction: lambda env, state: (env.env, state),
    Randomise: lambda env, state: (state[1], state[0]),
    Cheetah: lambda env, state: (env.env, state),
    Velocity: lambda env, state: (env.env, state),
    TimeConstrained: lambda env, state: (env.under(state[1]), state[0]),
}


def of(env: Any) -> Drawing:
    """The drawing of an environment; its `keep` takes the wrapped environment's states."""
    core = env
    while type(core) in OPEN:
        core = core.env
    found = TABLE.get(type(core), lambda env: None)(core)
    if found is None:
        return boards.OBSERVED

    def keep(env, state, obs):
        while type(env) in OPEN:
            env, state = OPEN[type(env)](env, state)
        return found.keep(env, state, obs)

    return found._replace(keep=keep)


def frame(drawing: Drawing, episode: Episode, t: int, note: str = "") -> np.ndarray:
    """The picture of an episode's t-th state, 0 <= t <= T: uint8 [H, W, 3].

    It bears the step and the return so far; the last says how the episode ended, others the note.
    """
    canvas = Canvas()
    drawing.paint(canvas, episode, t)
    over = t == len(episode.reward)
    strip = Canvas(WIDTH, STRIP)
    strip.box((0, 0), (WIDTH, STRIP), PALE)
    strip.label(12, STRIP / 2, f"step {t}", 19, INK, "lm")
    strip.label(126, STRIP / 2, f"return {short(episode.returned(t))}", 19, INK, "lm")
    right = (episode.ended or "cut here") if over else note
    strip.label(WIDTH - 12, STRIP / 2, right, 19, INK if over else DARK, "rm")
    whole = Image.new("RGB", (WIDTH, HEIGHT))
    whole.paste(strip.picture(), (0, 0))
    whole.paste(canvas.picture(), (0, STRIP))
    return np.asarray(whole)


def short(x: float) -> str:
    """A number to read in passing: 37, 0.62, -0.005, -1204.5."""
    if float(x).is_integer():
        return f"{x:.0f}"
    return f"{x:.1f}" if abs(x) >= 10 else f"{x:.2f}" if abs(x) >= 0.1 else f"{x:.1g}"
