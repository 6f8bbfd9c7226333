"""Optimisers built from hyperparameters where they are used; only their state is kept."""

from typing import Any

import optax

from jaxrl.hyper import at


def adam(hp: Any, t: Any = 0) -> optax.GradientTransformation:
    """Adam at iteration t's learning rate, after clipping the gradient's global norm (inf: off)."""
    return optax.chain(
        optax.clip_by_global_norm(hp.max_grad_norm), optax.adam(at(hp.lr, t, hp), eps=1e-5)
    )
