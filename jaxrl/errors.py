"""The one error that a person can cause: bad input, said in one line. Needs no jax."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Names the thing, its value and what is allowed; the command prints it and exits with 2."""


def did_you_mean(kind: str, name: str, known: Iterable[str], hint: str = "") -> InputError:
    """The error for a name that no registry knows, with the nearest names that it does know."""
    near = difflib.get_close_matches(
        name.lower(), list(lower := {k.lower(): k for k in known}), 3, 0.5
    )
    guess = f"did you mean {' or '.join(lower[n] for n in near)}?" if near else hint
    return InputError(f"{kind}: no {name!r}" + (f"; {guess}" if guess else ""))
