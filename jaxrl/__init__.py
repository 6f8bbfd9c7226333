"""jaxrl: policy optimisation where every paper is one small file over one engine.

`jaxrl.train`, `jaxrl.compare` and the rest of `jaxrl.api` are imported when first asked for, so
that `jaxrl --help` needs no jax. How an algorithm is built: `jaxrl.core`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxrl.api import compare, load, resume, sweep, train, tune

__all__ = ["compare", "load", "resume", "sweep", "train", "tune"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'jaxrl' has no attribute {name!r}")
    from jaxrl import api

    return getattr(api, name)
