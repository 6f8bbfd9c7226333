"""Generation: what a token costs with a key-value cache and without, as completions get longer.

    python experiments/generation.py

Writes results/bench/generation.json and its picture. Completions of 16 to 256 tokens after a prompt
of 8, by the default transformer; each length with and without in turn, the median of some rounds.
Run it alone on a machine.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from envs.tokens.base import Problem, Task
from jaxrl.completions import decode, model
from jaxrl.families.tokens import Tokens
from jaxrl.run import bench
from jaxrl.run.files import write_whole

HERE = Path(__file__).parent / "results" / "bench"
ROWS, LENGTHS, PLAIN, ROUNDS = 256, (16, 32, 64, 128, 256), (16, 32, 64), 5


@struct.dataclass
class Long(Task):
    """Completions of a length; what they say is no matter."""

    length: int = struct.field(pytree_node=False, default=16)
    SYMBOLS = "0123456789+="

    @property
    def P(self):
        return 8

    @property
    def L(self):
        return self.length

    def problem(self, i, difficulty):
        digits = i // 10 ** jnp.arange(self.P) % 10
        return Problem(digits + 2, jnp.ones(self.length, jnp.int32))


def world(length: int) -> Long:
    numbers = jnp.arange(ROWS)
    return Long("long", numbers, jnp.int32(0), jnp.int32(ROWS), ROWS, jnp.float32(1), length=length)


def main() -> None:
    took: dict[str, dict[int, list[float]]] = {"cached": {}, "plain": {}}
    key, numbers = jax.random.key(0), jnp.arange(ROWS)
    programs = {}
    for L in LENGTHS:
        game = world(L)
        net = model(game, Tokens.network_for(""))
        params = net.init(key, jnp.zeros((1, 1), jnp.int32))
        for way in took:
            if way == "cached" or L in PLAIN:
                f = lambda p, key, game=game, net=net, way=way: (
                    decode(net, p, game, numbers, key, cached=way == "cached").state.tokens
                )
                programs[way, L] = jax.jit(f).lower(params, key).compile(), params
                took[way][L] = []
    for _ in range(ROUNDS + 1):  # the first warms up
        for (way, L), (program, params) in programs.items():
            took[way][L].append(bench.timed(program, params, key))
    each = {
        way: {str(L): float(np.median(x[1:])) / L / ROWS for L, x in of.items()}
        for way, of in took.items()
    }
    found = dict(
        rows=ROWS,
        rounds=ROUNDS,
        seconds_per_token=each,
        token_at_64_over_16=each["cached"]["64"] / each["cached"]["16"],
        faster_at_64=each["plain"]["64"] / each["cached"]["64"],
    )
    write_whole(HERE / "generation.json", json.dumps(found | bench.about(), indent=1) + "\n")
    picture(each, HERE / "generation.png")
    print(json.dumps(found, indent=1))


def picture(each: dict, path: Path) -> None:
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(6, 4), layout="constrained")
    for way, label in dict(plain="without a cache", cached="with a cache").items():
        x = [int(n) for n in each[way]]
        ax.loglog(x, [1e6 * y for y in each[way].values()], "o-", label=label)
    ax.set_xticks(LENGTHS, [str(n) for n in LENGTHS])
    ax.minorticks_off()
    ax.set(xlabel="tokens of a completion", ylabel=f"µs a token, {ROWS} completions side by side")
    ax.legend()
    fig.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
