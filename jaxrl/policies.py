"""Policies: how to act, and how to judge what was done. Families read nothing else of them."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from jaxrl import heads
from jaxrl.core import Policy, View
from jaxrl.errors import InputError
from jaxrl.heads import Head
from jaxrl.hyper import arg, check, hyper
from jaxrl.networks import ACTIVATIONS, CNN, MLP, ActorCritic, Recurrent
from jaxrl.types import is_key, wide

TORSOS = {"mlp": MLP, "cnn": CNN}


@hyper
class Network:
    """The architecture of a policy: static, so another one is another program."""

    torso: str = arg("mlp", "what reads the observation", tuple(TORSOS))
    hidden: tuple[int, ...] = arg((64, 64), "widths of its layers", "[1, inf)")
    activation: str = arg("tanh", "between them", tuple(ACTIVATIONS))
    shared: bool = arg(False, "one trunk for actor and critic")
    memory: int = arg(0, "units of a GRU after the torso; 0: none", "[0, inf)")
    head: str = arg("auto", "the distribution of actions", heads.KINDS)

    def problem(self) -> str:
        """What is wrong between fields, in one line; "" if nothing is."""
        return "shared: a GRU is one trunk for both already" if self.shared and self.memory else ""


def policy_for(
    world, network: Network = Network(), values: int = 0, wrap: Callable = lambda net: net
) -> Policy:
    """The policy of this architecture for a world's observations and actions.

    Args:
      values: the number of objectives that the critic predicts; 0 where the reward is a scalar.
      wrap: makes another of a network without memory, such as several of it.
    """
    check(network)
    shape = getattr(world.observation_space, "shape", ())
    if network.torso == "cnn" and (len(shape) != 3 or min(shape[:2]) < 3):
        seen = f"{world.name} has {world.observation_space}"
        raise InputError(f"torso: cnn needs images [H, W, C] of at least 3 x 3; {seen}")
    head = heads.for_space(world.action_space, network.head)
    torso = partial(TORSOS[network.torso], network.hidden, network.activation)
    if network.memory:
        net = Recurrent(head.size, torso, network.memory, values)
        return recurrent(net, head, network.memory)
    return feedforward(wrap(ActorCritic(head.size, torso, network.shared, values)), head)


def choose(head: Head, out, key):
    """Actions from π(.|s), or its mode where key is None: (action, record).

    key: a key, or the noise that the head made of one.
    """
    pi = head.distribution(out)
    if is_key(key):
        key = head.noise(key, jax.eval_shape(pi.entropy).shape)
    raw = pi.mode() if key is None else head.sample(pi, key)
    return head.action(raw), dict(raw=raw, out=out, log_prob=pi.log_prob(raw))


def draw(head: Head, key, steps: int, n: int):
    """What `choose` takes for a key in each of so many steps, [steps, ...]."""
    return head.noise(key, (steps, n))


def view(head: Head, out, value, batch) -> View:
    """What `out` says of the actions in a batch, against what `batch.old` said."""
    pi, old = head.distribution(out), batch.old
    raw = batch.record["raw"]
    log_prob = pi.log_prob(raw)
    return View(
        log_ratio=log_prob - old["log_prob"],
        log_prob=log_prob,
        value=value,
        entropy=pi.entropy,
        kl=lambda: head.distribution(old["out"]).kl_divergence(pi),
        reverse_kl=lambda: pi.kl_divergence(head.distribution(old["out"])),
        record=dict(raw=raw, out=out, log_prob=log_prob),
    )


def feedforward(net, head: Head) -> Policy:
    """A network without memory: `net.apply(params, obs [M, ...]) -> (x [M, size], value)`.

    It acts on, and judges, batches of any shape: `start` has it.
    """

    def init(key, obs):
        return dict(net=net.init(key, obs), head=head.init())

    def apply(params, obs, start):
        flat = wide(jax.tree.map(lambda x: x.reshape(-1, *x.shape[start.ndim :]), obs))
        x, value = net.apply(params["net"], flat)
        out = head.output(params["head"], x, flat)
        return jax.tree.map(lambda y: y.reshape(*start.shape, *y.shape[1:]), (out, value))

    def act(params, obs, start, memory, key):
        out, value = apply(params, obs, start)
        return *choose(head, out, key), value, memory

    def judge(params, old_params, batch, key):
        return view(head, *apply(params, batch.obs, batch.start), batch)

    return Policy(init, lambda n: (), act, judge, partial(draw, head))


def recurrent(net, head: Head, units: int) -> Policy:
    """A network with memory [N, units]: `net.apply(params, obs [T, N, ...], start, memory)`."""

    def init(key, obs):
        n = jax.tree.leaves(obs)[0].shape[0]
        first = jax.tree.map(lambda x: x[None], obs)
        start = jnp.ones((1, n), bool)
        return dict(net=net.init(key, first, start, jnp.zeros((n, units))), head=head.init())

    def apply(params, obs, start, memory):
        obs = wide(obs)
        x, value, memory = net.apply(params["net"], obs, start, memory)
        return head.output(params["head"], x, obs), value, memory

    def act(params, obs, start, memory, key):
        one = jax.tree.map(lambda x: x[None], (obs, start))
        out, value, memory = apply(params, *one, memory)
        out, value = jax.tree.map(lambda x: x[0], (out, value))
        return *choose(head, out, key), value, memory

    def judge(params, old_params, batch, key):
        out, value, _ = apply(params, batch.obs, batch.start, batch.memory)
        return view(head, out, value, batch)

    return Policy(init, lambda n: jnp.zeros((n, units)), act, judge, partial(draw, head))
