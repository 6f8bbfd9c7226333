"""Saving and loading a state: orbax for the arrays, a manifest of sha256 sums over its files.

Orbax returns a flipped bit without a word, so every file is checked before it is read. Nothing that
is loaded can run code.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import jax

from jaxrl.errors import InputError

MANIFEST = "manifest.json"


def sums(folder: Path) -> dict[str, str]:
    """sha256 of every file below a folder, by relative path."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def save(folder: Path, state: Any) -> None:
    """Write a pytree of arrays to a new folder; it is complete once its manifest is there."""
    import orbax.checkpoint as ocp

    folder = folder.absolute()
    with ocp.StandardCheckpointer() as writer:
        writer.save(folder, state)
    (folder / MANIFEST).write_text(json.dumps(sums(folder), indent=1))


def load(folder: Path, like: Any) -> Any:
    """The state that was saved, in the structure of `like` (shapes and types suffice).

    Raises:
      InputError: no checkpoint, or one whose files are not the ones that were written.
    """
    import orbax.checkpoint as ocp

    folder = folder.absolute()
    try:
        written = dict(json.loads((folder / MANIFEST).read_text()))
    except (OSError, ValueError, TypeError) as e:
        raise InputError(f"checkpoint: {folder} is missing or was not finished") from e
    if changed := sorted(set(written.items()) ^ set(sums(folder).items())):
        raise InputError(f"checkpoint: {folder / changed[0][0]} is not the file that was written")
    with ocp.StandardCheckpointer() as reader:
        try:
            return reader.restore(folder, jax.tree.map(ocp.utils.to_shape_dtype_struct, like))
        except (ValueError, KeyError, TypeError) as e:
            raise InputError(f"checkpoint: {folder} does not fit its run's config.toml") from e
