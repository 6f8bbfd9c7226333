"""What a token run would learn from: completions of a few prompts, each token with its advantage.

A page needs nothing beside it: text on colours, blue where a token would become more likely and
orange where less. What the world wrote, and what stands after the end, has none.
"""

import html
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrl.completions import task
from jaxrl.run import evaluate
from jaxrl.run.files import replacing
from jaxrl.run.run import evaluation_keys
from jaxrl.run.train import Say

MORE, LESS = "37 99 235", "234 88 12"  # red, green and blue of an advantage above and below 0


class Token(NamedTuple):
    """One of a completion."""

    text: str
    advantage: float | None  # None: it was given, not chosen
    probability: float  # under the policy that sampled


class Completion(NamedTuple):
    prompt: str
    tokens: list[Token]
    reward: float


class Traces(NamedTuple):
    """What was written."""

    path: Path
    title: str
    paper: str
    env: str
    seed: int
    groups: list[list[Completion]]


def read(game: Any, b: Any, prompts: int, group: int) -> list[list[Completion]]:
    """The first prompts' completions in an iteration's batch."""
    b = jax.tree.map(lambda x: np.asarray(x[: prompts * group]), b)
    P, rows = game.P, []
    for i, tokens in enumerate(b.tokens):
        chosen = np.flatnonzero(b.mask[i])
        size = 1 + max([*chosen, *np.flatnonzero(tokens[P:] != game.blank)], default=-1)
        rows.append(
            Completion(
                game.text(tokens[:P]),
                [
                    Token(
                        game.text([tokens[P + j]]),
                        float(b.advantage[i, j]) if b.mask[i, j] else None,
                        float(np.exp(b.old[i, j])),
                    )
                    for j in range(size)
                ],
                float(b.reward[i]),
            )
        )
    return [rows[i : i + group] for i in range(0, len(rows), group)]


def traces(
    run: Path,
    path: Path,
    *,
    prompts: int = 4,
    seed: int | None = None,
    best: bool = False,
    named: Iterable[str] = (),
    say: Say = lambda line: None,
) -> Traces:
    """Sample completions with a finished run's policy and write their page.

    Args:
      prompts: how many, at most an iteration's.
      seed, best, named: as `render.film` has them.

    Raises:
      InputError, RunError: as `render.film`.
    """
    s, state, index, title, _ = evaluate.one_seed(run, seed, best, True, named, say)
    one = jax.tree.map(lambda x: x[index], state)
    trace: Any = s.algo.trace
    b = jax.jit(trace)(one, evaluation_keys(s, 3)[index], s.hp, s.world)
    groups = read(task(s.world), b, min(prompts, s.hp.prompts), s.hp.group)
    with replacing(path, "render") as new:
        new.write_text(page(title, groups), encoding="utf-8")
    return Traces(path, title, s.job.paper, s.job.env, int(s.seeds[index]), groups)


def cell(token: Token, most: float) -> str:
    """A token on its colour."""
    said = f"p {token.probability:.2f}"
    if token.advantage is None:
        return f'<span class="given">{html.escape(token.text)}</span>'
    share = min(1.0, abs(token.advantage) / most) if most else 0.0
    colour = MORE if token.advantage > 0 else LESS
    style = f"background: rgb({colour} / {0.7 * share:.2f})"
    title = f"advantage {token.advantage:+.2f}, {said}"
    return f'<span style="{style}" title="{title}">{html.escape(token.text)}</span>'


def page(title: str, groups: list[list[Completion]]) -> str:
    """Groups as an HTML page."""
    every = [t.advantage for g in groups for c in g for t in c.tokens if t.advantage is not None]
    most = max(map(abs, every), default=0.0)
    parts = []
    for group in groups:
        parts.append(f"<h2>{html.escape(group[0].prompt)}</h2><table>")
        for c in group:
            A = [t.advantage for t in c.tokens if t.advantage is not None]
            mean = f"{np.mean(A):+.2f}" if A else ""
            text = "".join(cell(t, most) for t in c.tokens)
            parts.append(f"<tr><td>{c.reward:.3g}</td><td>{mean}</td><td>{text}</td></tr>")
        parts.append("</table>")
    head = "<tr><th>reward</th><th>advantage</th><th>completion</th></tr>"
    body = "\n".join(parts).replace("<table>", f"<table>{head}")
    return PAGE.replace("@TITLE@", html.escape(title)).replace("@BODY@", body)


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>@TITLE@</title>
<style>
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 1.5rem auto; }
body { padding: 0 1rem; }
h1 { font-size: 1.1rem; } h2 { font: 600 1rem ui-monospace, monospace; margin: 1.2rem 0 .3rem; }
td, th { text-align: right; padding: .1rem .8rem .1rem 0; font-variant-numeric: tabular-nums; }
th { font-weight: 500; } td:last-child, th:last-child { text-align: left; }
td:last-child { font-family: ui-monospace, monospace; white-space: pre-wrap; }
td:last-child { overflow-wrap: anywhere; }
td span { padding: 0 .12em; } .given { opacity: .55; }
</style>
</head>
<body>
<h1>@TITLE@</h1>
<p>Sampled completions, in groups of one prompt. Blue tokens would become more likely, orange ones
less; hold the pointer over one for its advantage and probability.</p>
@BODY@
</body>
</html>
"""
