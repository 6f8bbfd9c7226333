"""What the commands say, and where they write."""

import time
from pathlib import Path
from typing import Any

import click

from jaxrl.errors import InputError
from jaxrl.run.files import check_folder


def speaker(quiet: bool = False) -> Any:
    """A function that says a line on standard error; nothing where `quiet`."""
    return (lambda line: None) if quiet else (lambda line: click.echo(line, err=True))


def unused(kind: str, *papers: str) -> Path:
    """A folder for what nobody named one for."""
    names = "-".join(Path(p.partition(":")[0]).stem for p in papers)
    return Path("runs") / kind / f"{names[:60]}-{time.strftime('%Y%m%d-%H%M%S')}"


def writable(path: Path, replaces: Path | None = None) -> Path:
    """A file that may be written: InputError if there is one already, or no folder for it.

    replaces: the one that may be there.
    """
    check_folder(path)
    if path.exists() and path.absolute() != (replaces and replaces.absolute()):
        raise InputError(f"out: {path} exists")
    return path


def print_files(files: dict[str, str]) -> None:
    """What was written, on standard error."""
    for name, path in files.items():
        click.echo(f"{name:<9}{path}", err=True)


def columns(rows: list) -> list[str]:
    """Rows of cells as lines; a long last cell, an error, is not cut."""
    widths = [max(len(r[i]) for r in rows if not errs(r, i)) for i in range(len(rows[0]))]
    return ["  ".join(x.ljust(w) for x, w in zip(r, widths)).rstrip() for r in rows]


def errs(row, i: int) -> bool:
    """Whether a cell is an error, which stands over the columns after it."""
    return i == 2 and not any(row[3:])
