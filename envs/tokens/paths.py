"""Ways through a maze, written at once, and over a board, written a move a turn."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from envs.moves import MOVES
from envs.tokens.base import BLANK, END, ZERO, Problem, Task, drawn, ended, numbered, up_to

LETTERS = "URDL"  # of MOVES
FAR = 10**6


def doors(n: int) -> np.ndarray:
    """Where each move leads from each cell of a board, row by row; n * n is outside: [n * n, 4]."""
    y, x = np.divmod(np.arange(n * n), n)
    x, y = x[:, None] + MOVES[:, 0], y[:, None] + MOVES[:, 1]
    return np.where((x >= 0) & (x < n) & (y >= 0) & (y < n), y * n + x, n * n)


def grown(key: jax.Array, n: int, start: jax.Array) -> jax.Array:
    """The open cells of a maze, [n * n] bool: from the start, one after the other is opened that
    has one open neighbour, by chance, while there is any. So one way leads between any two."""
    chance, to = jax.random.uniform(key, (n * n,)), doors(n)

    def grow(_, cells):
        beside = jnp.append(cells, False)[to].sum(-1)
        may = ~cells & (beside == 1)
        new = jnp.where(may, chance, -1.0).argmax()
        return cells.at[new].set(cells[new] | may.any())

    return jax.lax.fori_loop(0, n * n, grow, jnp.arange(n * n) == start)


def steps_to(cells: jax.Array, goal: jax.Array, most: int) -> jax.Array:
    """How many steps each open cell is from the goal; FAR, where more than `most`."""
    to = doors(int(len(cells) ** 0.5))

    def relax(_, d):
        return jnp.where(cells, jnp.minimum(d, jnp.append(d, FAR)[to].min(-1) + 1), FAR)

    return jax.lax.fori_loop(0, most, relax, jnp.where(jnp.arange(len(cells)) == goal, 0, FAR))


@struct.dataclass
class Maze(Task):
    """A maze of `size` * `size` cells, row by row: # is a wall, S the start, G the goal; moves up,
    right, down and left (URDL) that lead from S to G, and END there. Every walk that does so
    without touching a wall or leaving the board is right. The solution is the shortest."""

    size: int = struct.field(pytree_node=False, default=5)
    SYMBOLS = "#-SG" + LETTERS
    SIZES = {"size": (4, 7)}

    @property
    def P(self):
        return self.size**2

    @property
    def L(self):
        return 3 * self.size

    def problem(self, i, difficulty):
        n, to = self.size, jnp.asarray(doors(self.size))
        most = 2 * n  # steps to the goal
        k_start, k_maze, k_goal = jax.random.split(drawn(i), 3)
        start = jax.random.randint(k_start, (), 0, n * n)
        cells = grown(k_maze, n, start)
        d = steps_to(cells, start, most)
        may = (d >= 1) & (d <= up_to(most, difficulty))
        goal = jnp.where(may, jax.random.uniform(k_goal, may.shape), -1.0).argmax()
        d = steps_to(cells, goal, most)

        def walk(cell, _):
            move = jnp.append(d, FAR)[to[cell]].argmin()
            return to[cell, move], move

        _, moves = jax.lax.scan(walk, start, length=self.L - 1)
        wall, floor, here, there = self.codes("#-SG")
        prompt = jnp.where(cells, floor, wall).at[start].set(here).at[goal].set(there)
        return Problem(prompt, ended(self.codes(LETTERS)[moves], d[start]))

    def score(self, state):
        to, prompt = jnp.asarray(doors(self.size)), state.tokens[: self.P]
        wall, _, here, there = self.codes("#-SG")
        shut = jnp.append(prompt == wall, True)

        def read(carry, token):
            cell, good, over = carry
            is_move, is_end = token == self.codes(LETTERS), token == END
            new = jnp.where(is_move.any(), to[cell, is_move.argmax()], cell)
            fine = is_end | (is_move.any() & ~shut[new])
            after = jnp.where(fine, new, cell), good & fine, is_end
            return jax.tree.map(lambda old, x: jnp.where(over, old, x), carry, after), None

        begun = (prompt == here).argmax(), jnp.bool_(True), jnp.bool_(False)
        cell, good, over = jax.lax.scan(read, begun, state.tokens[self.P :])[0]
        return (good & over & (prompt[cell] == there)).astype(jnp.float32)


@struct.dataclass
class Turns(Task):
    """04:23 to U13R13R14... : a board of `size` * `size` cells; row and column of the goal, and of
    where one stands. The policy writes a move, the world answers with the row and the column that
    it led to, and so on in turns. About one move in four fails, at most `size` - 1 of them: one
    must look. An episode ends on the goal, which is right, with END or when the window is full.
    What is no move, or leads off the board, leaves one where one is. The solution goes up or down
    first, and has no END. Which moves fail hangs on the prompt and the turn."""

    size: int = struct.field(pytree_node=False, default=5)
    SYMBOLS = "0123456:" + LETTERS
    SIZES = {"size": (3, 7)}
    P = property(lambda self: 5)

    @property
    def turns(self) -> int:
        return 3 * (self.size - 1)  # the longest way, and what fails

    @property
    def L(self):
        return 3 * self.turns

    @property
    def space(self):
        return self.size**2 * (self.size**2 - 1)

    def led(self, cell: jax.Array, move: jax.Array, fails: jax.Array) -> jax.Array:
        """The cell where a move leads to; one that is not among the four, nowhere."""
        n = self.size
        new = jnp.asarray(doors(n))[cell, jnp.clip(move, 0, 3)]
        stays = fails | (move < 0) | (move > 3) | (new == n * n)
        return jnp.where(stays, cell, new)

    def problem(self, i, difficulty):
        n = up_to(self.size, difficulty, 2)  # the corner of the board that is used
        start, goal = jnp.divmod(numbered(i, self.space, n**2 * (n**2 - 1)), n**2 - 1)
        goal += goal >= start
        start, goal = (x // n * self.size + x % n for x in (start, goal))
        slips = jax.random.bernoulli(drawn(self.size**2 * start + goal), 0.25, (self.turns,))
        fails = slips & (slips.cumsum() < self.size)

        def turn(cell, fails):
            row, column = jnp.divmod(cell, self.size)
            up, left = row - goal // self.size, column - goal % self.size
            move = jnp.where(up != 0, jnp.where(up > 0, 0, 2), jnp.where(left > 0, 3, 1))
            new = self.led(cell, move, fails)
            tokens = jnp.append(self.codes(LETTERS)[move], self.shown(new))
            done = cell == goal
            return jnp.where(done, cell, new), jnp.where(done, BLANK, tokens)

        _, solution = jax.lax.scan(turn, start, fails)
        prompt = jnp.concatenate([self.shown(goal), self.codes(":"), self.shown(start)])
        return Problem(prompt, solution.ravel(), fails)

    def shown(self, cell: jax.Array) -> jax.Array:
        """The tokens of a cell's row and column."""
        return ZERO + jnp.stack(jnp.divmod(cell, self.size))

    def turn(self, state) -> tuple[jax.Array, jax.Array]:
        """Which turn the next token is of, and its place there: 0 the move, 1 and 2 the answer."""
        return jnp.divmod(state.at + 1 - self.P, 3)

    def mine(self, state):
        return self.turn(state)[1] == 0

    def given(self, state):
        turn, place = self.turn(state)
        at = self.P + 3 * turn  # the answer before it, or the prompt, says where one stands
        row, column, move = jax.lax.dynamic_slice(state.tokens, (at - 2,), (3,))
        cell = (row - ZERO) * self.size + column - ZERO
        return self.shown(self.led(cell, move - self.codes("U")[0], state.data[turn]))[place - 1]

    def ends(self, state, token):
        there = (state.tokens[state.at] == state.tokens[0]) & (token == state.tokens[1])
        return (token == END) | ((self.turn(state)[1] == 2) & there)

    def score(self, state):
        there = jax.lax.dynamic_slice(state.tokens, (state.at - 1,), (2,)) == state.tokens[:2]
        return (there.all() & self.mine(state)).astype(jnp.float32)
