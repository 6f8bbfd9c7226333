"""Optimisers built from hyperparameters where they are used, and the pieces of second-order steps.

Only an optimiser's state is kept. The pieces work on any pytree of arrays and under vmap: counts
are static, and nothing branches on a traced value.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxrl.hyper import at
from jaxrl.types import Params


def adam(hp: Any, t: Any = 0) -> optax.GradientTransformation:
    """Adam at iteration t's learning rate, after clipping the gradient's global norm (inf: off).

    It sees one vector of all parameters: one kernel to compile and to run, not one for each leaf.
    """
    return clipped(hp, optax.adam(at(hp.lr, t, hp), eps=1e-5))


def sgd(hp: Any, t: Any = 0) -> optax.GradientTransformation:
    """Plain gradient descent, of which theory speaks, otherwise as `adam`."""
    return clipped(hp, optax.sgd(at(hp.lr, t, hp)))


def clipped(hp: Any, step: optax.GradientTransformation) -> optax.GradientTransformation:
    """A step after clipping, on one vector."""
    return optax.flatten(optax.chain(optax.clip_by_global_norm(hp.max_grad_norm), step))


def norm(tree: Params) -> jax.Array:
    """The norm of all leaves together, as `adam` computes it to clip: at no further cost."""
    return optax.tree.norm(jnp.concatenate([x.ravel() for x in jax.tree.leaves(tree)]))


def stopping(hp: Any, t: Any = 0) -> optax.GradientTransformation:
    """`adam` until a gradient is exactly 0, as past a bound in the loss; then nothing moves."""
    inner = adam(hp, t)

    def init(params):
        return inner.init(params), jnp.bool_(True)

    def update(updates, state, params=None):
        going = state[1] & (norm(updates) > 0)
        updates, opt = inner.update(updates, state[0], params)
        return jax.tree.map(lambda x: jnp.where(going, x, 0.0), updates), (opt, going)

    return optax.GradientTransformation(init, update)


def fisher_vector_product(kl: Callable[[Params], jax.Array], params: Params) -> Callable:
    """v -> F v at `params`, without ever forming F.

      Fᵢⱼ = ∂²/∂θᵢ∂θⱼ E[KL(π_old(.|s) || π(.|s))] at θ = θ_old

    See "Trust Region Policy Optimization" by Schulman et al. (https://arxiv.org/abs/1502.05477),
    appendix C.1; this is the generic product mentioned at its end. The backward pass is linearised
    once, so that a product costs about what a gradient does.

    Args:
      kl: mean KL as a function of the parameters. It must be 0 at `params`, else its Hessian is
        not the Fisher matrix and may have negative eigenvalues.
      params: θ_old.
    """
    return jax.linearize(jax.grad(kl), params)[1]


def conjugate_gradient(
    A: Callable[[Params], Params], b: Params, iters: int, tol: float = 1e-10
) -> Params:
    """x ≈ A⁻¹ b for a symmetric positive definite A, from x = 0, with r = p = b.

      α = rᵀr / pᵀAp,    x <- x + α p,    r' = r - α A p,    p <- r' + (r'ᵀr' / rᵀr) p

    See "An Introduction to the Conjugate Gradient Method Without the Agonizing Pain" by Shewchuk
    (1994), section B2. The count is fixed, which keeps vmapped rows in step.

    Args:
      A: x -> A x.
      iters: steps; as many as A has distinct eigenvalues give A⁻¹ b exactly.
      tol: x stays where it is once rᵀr <= tol bᵀb: there α is rounding, or 0 / 0 where b = 0.
    """
    dot, add = optax.tree.vdot, optax.tree.add_scale
    bb = dot(b, b)

    def step(_, carry):
        x, r, p, rr = carry
        Ap = A(p)
        going = rr > tol * bb
        alpha = jnp.where(going, rr / dot(p, Ap), 0.0)
        x, r = add(x, alpha, p), add(r, -alpha, Ap)
        new = dot(r, r)
        return x, r, add(r, jnp.where(going, new / rr, 0.0), p), new

    return jax.lax.fori_loop(0, iters, step, (optax.tree.zeros_like(b), b, b, bb))[0]


def line_search(
    accept: Callable[[Params], jax.Array], x: Params, step: Params, tries: int, shrink: float = 0.5
) -> tuple[Params, jax.Array]:
    """The first of x + α step, α = 1, c, c², ..., that `accept` takes: (it, α), else (x, 0).

    Args:
      accept: parameters -> bool. A comparison with NaN is False, so it refuses them.
      tries: how many α are tried.
      shrink: c.
    """

    def move(alpha):
        return optax.tree.add_scale(x, alpha, step)

    def going(carry):
        i, _, ok = carry
        return ~ok & (i < tries)

    def body(carry):
        i, alpha, _ = carry
        alpha = jnp.where(i == 0, 1.0, alpha * shrink)
        return i + 1, alpha, accept(move(alpha))

    _, alpha, ok = jax.lax.while_loop(going, body, (0, jnp.float32(1.0), jnp.bool_(False)))
    taken = jax.tree.map(lambda new, old: jnp.where(ok, new, old), move(alpha), x)
    return taken, jnp.where(ok, alpha, 0.0)
