"""Classic control: carts, poles, pendulums and hills. Arrows are the action that is chosen."""

import jax.numpy as jnp
import numpy as np

from envs.draw.canvas import (
    BLUE,
    DARK,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PALE,
    VERMILLION,
    Canvas,
    Drawing,
    Episode,
)


def turned(angle: float) -> np.ndarray:
    """The unit vector that stands upright, turned left by the angle."""
    return np.array((-np.sin(angle), np.cos(angle)))


def push(canvas: Canvas, at: np.ndarray, force: float) -> None:
    """An arrow beside what is pushed, -1 to 1."""
    canvas.arrow(at, at + (force, 0), VERMILLION, 5)


def keep_cartpole(env, state, obs):
    p = env.params
    return dict(x=state.x, theta=state.theta, length=2 * p.length, edge=p.x_threshold)


def cartpole(canvas: Canvas, episode: Episode, t: int) -> None:
    seen = {k: v[t] for k, v in episode.seen.items()}
    x, edge, pole = float(seen["x"]), float(seen["edge"]), float(seen["length"])
    half = edge + 0.4
    canvas.view((-half, -1.2), (half, max(2 * half * 0.7 - 1.2, pole + 0.6)))
    canvas.line([(-half, 0), (half, 0)], GREY, 2)
    for side in (-edge, edge):  # beyond which the episode ends
        canvas.line([(side, -0.25), (side, 0.25)], DARK, 3)
    canvas.box((x - 0.35, -0.2), (x + 0.35, 0.2), BLUE, INK)
    canvas.rod((x, 0.12), (x, 0.12) + pole * turned(-seen["theta"]), 0.06, ORANGE, INK)
    canvas.disc((x, 0.12), 0.05, INK)
    if (action := episode.next_action(t)) is not None:
        side = 1 if action == 1 else -1
        push(canvas, np.array((x + 0.42 * side, 0.0)), 0.5 * side)


def keep_pendulum(env, state, obs):
    return dict(theta=state.theta, length=env.params.l)


def pendulum(canvas: Canvas, episode: Episode, t: int) -> None:
    theta, length = float(episode.seen["theta"][t]), float(episode.seen["length"][t])
    canvas.view((-1.3 * length, -1.3 * length), (1.3 * length, 1.3 * length))
    ring = [length * turned(a) for a in np.linspace(0, 2 * np.pi, 90)]
    canvas.line(ring, PALE, 2)
    canvas.line([(0, length * 1.04), (0, length * 1.16)], GREEN, 5)  # the aim
    canvas.rod((0, 0), length * turned(theta), 0.08 * length, ORANGE, INK)
    canvas.disc((0, 0), 0.05 * length, INK)
    if (action := episode.next_action(t)) is not None:
        torque = float(np.clip(np.reshape(action, -1)[0], -1, 1))
        arc = [0.45 * length * turned(a) for a in np.linspace(0, 2.2 * torque, 24)]
        if abs(torque) > 0.03:
            canvas.line(arc, VERMILLION, 5)
            canvas.arrow(arc[-2], arc[-1] + (arc[-1] - arc[-2]) * 2, VERMILLION, 5)


def keep_acrobot(env, state, obs):
    lengths = jnp.array([env.params.link_length_1, env.params.link_length_2])
    return dict(angles=jnp.stack([state.joint_angle1, state.joint_angle2]), lengths=lengths)


def acrobot(canvas: Canvas, episode: Episode, t: int) -> None:
    (a, b), (first, second) = episode.seen["angles"][t], episode.seen["lengths"][t]
    reach = first + second
    canvas.view((-1.12 * reach, -1.12 * reach), (1.12 * reach, 1.12 * reach))
    for x in 1.5 * reach * np.linspace(-1, 1, 38):  # above it the episode ends
        canvas.line([(x, 1.0), (x + 0.08, 1.0)], GREEN, 3)
    elbow = -first * turned(a)
    canvas.rod((0, 0), elbow, 0.09, BLUE, INK)
    canvas.rod(elbow, elbow - second * turned(a + b), 0.09, ORANGE, INK)
    for joint in ((0, 0), elbow):
        canvas.disc(joint, 0.05, INK)
    if (action := episode.next_action(t)) is not None and action != 1:
        side = 1 if action == 2 else -1
        arc = [
            elbow + 0.36 * turned(np.pi + a + s) for s in np.linspace(-0.9 * side, 0.9 * side, 20)
        ]
        canvas.line(arc, VERMILLION, 4)
        canvas.arrow(arc[-2], arc[-1] + (arc[-1] - arc[-2]) * 2, VERMILLION, 4)


def keep_car(env, state, obs):
    p = env.params
    road = jnp.array([p.min_position, p.max_position, p.goal_position])
    return dict(x=state.position, road=road)


def mountain_car(canvas: Canvas, episode: Episode, t: int) -> None:
    x, (low, high, goal) = float(episode.seen["x"][t]), episode.seen["road"][t]
    height = lambda x: 0.55 + 0.45 * np.sin(3 * x)
    road = np.linspace(low, high, 120)
    canvas.view((low - 0.02, -0.1), (high + 0.02, 1.3))
    under = [(low, -9), *zip(road, height(road)), (high, -9)]
    canvas.shape(under, PALE)
    canvas.line([*zip(road, height(road))], DARK, 3)
    top = height(goal) + 0.2
    canvas.line([(goal, height(goal)), (goal, top)], INK, 3)
    canvas.shape([(goal, top), (goal + 0.1, top - 0.04), (goal, top - 0.08)], GREEN, INK)
    along = np.array((1.0, 1.35 * np.cos(3 * x)))
    along /= np.hypot(*along)
    up = np.array((-along[1], along[0]))
    at = np.array((x, height(x)))
    body = [
        at + a * along + b * up for a, b in ((-0.09, 0.03), (0.09, 0.03), (0.09, 0.1), (-0.09, 0.1))
    ]
    canvas.shape(body, BLUE, INK)
    for side in (-0.055, 0.055):
        canvas.disc(at + side * along + 0.03 * up, 0.03, INK)
    if (action := episode.next_action(t)) is not None:
        discrete = np.issubdtype(np.asarray(action).dtype, np.integer)
        force = float(np.clip(action - 1 if discrete else np.reshape(action, -1)[0], -1, 1))
        if abs(force) > 0.03:
            start = at + np.array((0.11 * np.sign(force), 0.0)) + 0.12 * up
            canvas.arrow(start, start + (0.18 * force, 0.0), VERMILLION, 5)


TABLE = {
    "CartPole-v1": Drawing(keep_cartpole, cartpole, 50),
    "Pendulum-v1": Drawing(keep_pendulum, pendulum, 20),
    "Acrobot-v1": Drawing(keep_acrobot, acrobot, 15),
    "MountainCar-v0": Drawing(keep_car, mountain_car, 30),
    "MountainCarContinuous-v0": Drawing(keep_car, mountain_car, 30),
}
