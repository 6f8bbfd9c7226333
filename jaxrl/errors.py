"""What a person is told in one line, with the exit code of the command. Needs no jax."""

import difflib
from collections.abc import Iterable
from typing import Any

NO_CHECKPOINT, DIVERGED, STORAGE, LOST = 3, 4, 5, 6  # exit codes of a run that cannot go on


class InputError(ValueError):
    """Names the thing, its value and what is allowed; the command prints it and exits with 2."""


class Refused(InputError):
    """What this process is not to do, or cannot; another may."""


class InUse(InputError):
    """Another process writes the folder just now."""


class RunError(Exception):
    """Why a run stopped before its end, and how it goes on; the command exits with `code`."""

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code = code


def reason(e: BaseException) -> str:
    """An exception in one line: its type, and the first line of what it says."""
    return ": ".join([type(e).__name__, *str(e).splitlines()[:1]])


def brief(path: Any) -> str:
    """A path as a line can hold it: of a long one, the two ends."""
    text = str(path)
    return text if len(text) <= 240 else f"{text[:80]}...{text[-80:]}"


def did_you_mean(kind: str, name: Any, known: Iterable[str], hint: str = "") -> InputError:
    """The error for a name that no registry knows, with the nearest names that it does know."""
    near = difflib.get_close_matches(
        str(name).lower(), list(lower := {k.lower(): k for k in known}), 3, 0.5
    )
    guess = f"did you mean {' or '.join(lower[n] for n in near)}?" if near else hint
    return InputError(f"{kind}: no {name!r}" + (f"; {guess}" if guess else ""))
