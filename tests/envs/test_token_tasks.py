"""Token tasks: their verifiers against others that read the text, and what is held out."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from envs.check import check
from envs.registry import OWN
from envs.tokens import TASKS
from envs.tokens.base import BLANK, END
from jaxrl.errors import InputError

NAMES = [name for name in OWN["tokens"] if name != "tiny"]
N = 128  # problems of each kind of completion


# ---- verifiers that read text: a prompt, and a completion with its END (.) if it has one


def add(prompt, said):
    a, b = map(int, prompt[:-1].split("+"))
    return said == f"{a + b:0{len(prompt) // 2}d}"[::-1] + "."


def mul(prompt, said):
    a, b = map(int, prompt[:-1].split("*"))
    return said.endswith(":" + f"{a * b:0{len(prompt) - 2}d}"[::-1] + ".")


def chain(prompt, said):
    value = int(prompt[0])
    for sign, digit in re.findall(r"([-+*])(\d)", prompt):
        value = eval(f"{value}{sign}{digit}") % 10
    return said.endswith(f"{value}.")


def wish(prompt, said):
    text, wished = prompt[:-1].split(":")
    assert 2 <= int(wished) <= 7
    return chain(text, said)


def countdown(prompt, said):
    numbers, target = prompt[:-1].split(">")
    left = numbers.split(",")
    if not re.fullmatch(r"\d+([-+*]\d+)*\.", said):
        return False
    value = 0
    for sign, number in re.findall(r"([-+*])(\d+)", "+" + said):
        if number not in left:
            return False
        left.remove(number)
        value = eval(f"{value}{sign}{number}")
    return value == int(target)


def sort(prompt, said):
    return said == "".join(sorted(prompt[:-1])) + "."


def parity(prompt, said):
    return said.endswith(f"{prompt.count('1') % 2}.")


def brackets(prompt, said):
    text, before = prompt + said[:-1], None
    while text != before:
        before, text = text, re.sub(r"\(\)|\[\]|\{\}", "", text)
    return said.endswith(".") and text == ""


MOVES = dict(U=(-1, 0), R=(0, 1), D=(1, 0), L=(0, -1))


def maze(prompt, said):
    n = int(len(prompt) ** 0.5)
    cells = {divmod(i, n): c for i, c in enumerate(prompt) if c != "#"}
    at = next(k for k, c in cells.items() if c == "S")
    for c in said[:-1]:
        at = tuple(np.add(at, MOVES.get(c, (99, 99))))
        if at not in cells:
            return False
    return said.endswith(".") and cells[at] == "G"


def turns(prompt, said):
    """Also that the world answers as it should: with the cell a move leads to, or the same."""
    goal, at = (tuple(map(int, x)) for x in prompt.split(":"))
    fails = 0
    for i in range(0, len(said) - 2, 3):
        assert at != goal
        to = tuple(np.add(at, MOVES.get(said[i], (0, 0))))
        to = to if min(to) >= 0 and max(to) < 5 else at
        now = int(said[i + 1]), int(said[i + 2])
        assert now in (at, to)
        fails += now != to
        at = now
    assert fails < 5
    return at == goal and len(said) % 3 == 0


VERIFY = dict(add=add, mul=mul, chain=chain, countdown=countdown, sort=sort, parity=parity) | dict(
    brackets=brackets, maze=maze, turns=turns, wish=wish
)


# ---- episodes, of one program for each task


@jax.jit
def play(task, completions):
    """Problems 0, 1 ... with what is to be written, [N, L], or their solutions where it is below 0;
    and three steps more. What stands at the end and after those, and the rewards till and from it.
    """

    def one(j, completion):
        first = task.begin(j)
        solution = task.problem(task.order[task.first + j], task.difficulty).solution
        actions = jnp.where(completion < 0, solution, completion)

        def step(state, action):
            s = task.step(None, state, action)
            return s.state, (s.state.tokens, s.reward, s.terminated)

        actions = jnp.append(actions, jnp.full(3, 2))
        _, (tokens, reward, over) = jax.lax.scan(step, first, actions)
        L = task.L
        return solution, tokens[L - 1], tokens[-1], reward[:L], over[:L], reward[L:]

    return jax.vmap(one)(jnp.arange(len(completions)) % task.count, completions)


def said(task, tokens):
    """A completion's text; BLANK shows where it was written, but not after the end."""
    return "".join(task.symbols[t] for t in tokens[task.P :]).rstrip("_")


@pytest.fixture(scope="module", params=NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def task(name):
    return envs.make_env(f"tokens/{name}")


@pytest.fixture(scope="module")
def completions(task):
    """Solutions; ones with a symbol changed; ones with two places swapped; and random ones."""
    rng = np.random.default_rng(0)
    solved = np.asarray(play(task, jnp.full((4 * N, task.L), -1))[0])
    changed, swapped = solved[N : 2 * N].copy(), solved[2 * N : 3 * N].copy()
    for x, y in zip(changed, swapped):
        x[rng.integers(max((x != BLANK).sum(), 1))] = rng.integers(len(task.symbols))
        i, j = rng.integers(max((y != BLANK).sum(), 1), size=2)
        y[[i, j]] = y[[j, i]]
    random = rng.integers(len(task.symbols), size=(N, task.L))
    return np.concatenate([np.full((N, task.L), -1), changed, swapped, random])


def test_a_verifier_agrees_with_one_that_reads_text(task, name, completions):
    solution, last, after, reward, over, more = map(np.asarray, play(task, completions))
    np.testing.assert_array_equal(last[:N, task.P :], solution[:N])
    got = reward.sum(1)
    want = [VERIFY[name](task.text(x[: task.P]), said(task, x)) for x in last]
    np.testing.assert_array_equal(got, np.float32(want))
    assert got[:N].all() and got[N : 3 * N].mean() < 0.98 and got[3 * N :].mean() < 0.5
    # an episode ends once, is paid there, and nothing is written after
    assert over[:, -1].all() and (np.diff(over, axis=1) >= 0).all() and not more.any()
    np.testing.assert_array_equal(after, last)
    ends = over.argmax(1)
    assert (np.flatnonzero(reward.any(1)) == np.flatnonzero(got)).all()
    assert (reward[np.arange(len(ends)), ends] == got).all()
    assert all((x[task.P + e + 1 :] == BLANK).all() for x, e in zip(last, ends))
    written = last[np.arange(len(ends)), task.P + ends]
    assert name == "turns" or ((written == END) | (ends == task.L - 1)).all()


def test_easier_problems_are_smaller_or_fewer_and_solvable(task, name, completions):
    easy = task.replace(difficulty=jnp.float32(0.4 if name in ("parity", "turns") else 0.1))
    solved = np.full_like(completions, -1)
    (_, last, _, reward, *_), (_, hard, *_) = (
        map(np.asarray, play(t, solved)) for t in (easy, task)
    )
    assert reward.sum(1).all()
    assert (last[:, : task.P] != hard[:, : task.P]).any(1).mean() > 0.3
    words = lambda rows: len(set(map(bytes, rows[:, : task.P])))
    size = lambda rows: (rows[:, task.P :] != BLANK).sum()
    assert size(last) < size(hard) or words(last) < words(hard)

    # short completions, of what solutions have, are now and then right
    rng = np.random.default_rng(1)
    used = np.setdiff1d(last[:, task.P :], [BLANK, END])
    for row in solved:
        n = 1 + rng.integers(min(4, task.L - 1))
        row[:] = np.concatenate([rng.choice(used, n), [END], np.full(task.L - n - 1, BLANK)])
    _, last, _, reward, *_ = map(np.asarray, play(easy, solved))
    want = [VERIFY[name](task.text(x[: task.P]), said(task, x)) for x in last]
    np.testing.assert_array_equal(reward.sum(1), np.float32(want))
    assert name == "mul" or 0 < sum(want) < len(want)


@pytest.fixture(scope="module")
def sides(task):
    one = jax.jit(jax.vmap(lambda i: task.problem(i, task.difficulty).prompt))  # as `make` has it
    prompts = np.asarray(one(jnp.arange(task.space)))[task.order]
    return prompts[: task.prompts], prompts[task.prompts :]


def test_one_prompt_of_five_is_held_out(task, name, sides):
    learned, held = ({task.text(x) for x in side} for side in sides)
    assert not learned & held
    share = len(held) / (len(held) + len(learned))
    assert share == pytest.approx(0.2, abs=4 * 0.4 / np.sqrt(len(held) + len(learned)))
    assert task.examined().count == len(sides[1]) and len(task.order) == task.space
    assert 10 <= task.window <= 70


def test_what_is_held_out_has_no_linear_structure(task, sides):
    """No sum of tokens, modulo a small number, is more often held out than chance has it."""
    every, held = np.concatenate(sides), np.repeat([0, 1], [len(s) for s in sides])
    every, index = np.unique(every, axis=0, return_index=True)
    held = held[index]
    for modulus in (2, 3, 5, 10):
        residue = every.sum(1) % modulus
        for r in range(modulus):
            n = (residue == r).sum()
            assert abs(held[residue == r].sum() - 0.2 * n) <= 4.5 * np.sqrt(0.16 * n) + 1


def test_they_keep_the_protocol(task, name):
    """The one with given tokens wholly; of all, what a step leaves is what it began with."""
    if name == "turns":
        assert check(task, steps=40) == []
    state = jax.eval_shape(task.begin, jnp.int32(0))
    after = jax.eval_shape(lambda s: task.step(None, s, jnp.int32(0)).state, state)
    types = lambda tree: [(x.shape, x.dtype, x.weak_type) for x in jax.tree.leaves(tree)]
    assert types(state) == types(after)


@pytest.mark.parametrize(
    ("name", "params", "said"),
    [
        ("mul", dict(digits=4), r"digits: 4 is outside \[1, 3\]"),
        ("maze", dict(size=3), r"size: 3 is outside \[4, 7\]"),
        ("chain", dict(difficulty=0.0), r"difficulty: 0 is outside \(0, 1\]"),
        ("sort", dict(lenght=8), "did you mean length"),
        ("add", dict(digits=1, difficulty=0.05), "difficulty: 0.05 gives too few problems"),
    ],
)
def test_what_does_not_fit_is_said(name, params, said):
    with pytest.raises(InputError, match=said) as e:
        envs.make_env(f"tokens/{name}", **params)
    assert "\n" not in str(e.value)


def test_wishes_are_of_all_lengths_and_solutions_do_not_know_them():
    task = envs.make_env("tokens/wish")
    i = jnp.arange(4000)
    p = jax.jit(jax.vmap(lambda i: task.problem(i, task.difficulty)))(i)
    wish, length = np.asarray(p.data[1]), (np.asarray(p.solution) != BLANK).sum(1)
    for n in range(2, task.L + 1):
        assert (wish == n).mean() == pytest.approx(1 / 6, abs=0.03)
        assert (length == n).mean() == pytest.approx(1 / 6, abs=0.03)
        assert length[wish == n].mean() == pytest.approx(length.mean(), abs=0.25)
    chains = {}
    for prompt, n in zip(np.asarray(p.prompt), wish):
        text, said = task.text(prompt)[:-1].split(":")
        assert int(said) == n == chains.setdefault(text, n)  # one wish each


def test_sizes_fit_their_windows():
    """The largest of each task: shapes only."""
    for name in NAMES:
        kind = TASKS[name]
        for sizes in ({k: v[end] for k, v in kind.SIZES.items()} for end in (0, 1)):
            none = jnp.zeros(1, jnp.int32)
            task = kind(name, none, none[0], none[0], 0, jnp.float32(1.0), **sizes)
            p = jax.eval_shape(task.problem, none[0], task.difficulty)
            assert p.prompt.shape == (task.P,) and p.solution.shape == (task.L,)
            assert task.window <= 70
