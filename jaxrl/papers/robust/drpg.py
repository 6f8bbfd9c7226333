"""DRPG: Double-Loop Robust Policy Gradient. Wang, Ho, Petrik 2023 (ICML), arXiv 2212.10439.

Maximise Φ(π) = min_{p∈P} J(π, p), the worst return of a set of kernels around the nominal one:
  inner loop   ξ <- Proj_P(ξ - β ∇_ξ J(π_t, p_ξ))   until it is within   ε_t = ε₀ γᵗ   of Φ(π_t),
  outer step   π_{t+1} = Proj_Δ(π_t + α ∇_π J(π_t, p_t)),   of the probabilities themselves;
  ∇_π J = d(s) Q(s,a) / (1 - γ),   ∇_p J = d(s) π(a|s) γ V(s') / (1 - γ).
P is a ball in L1 of each row p(.|s,a), of each state's rows together, or of the parameters of a
tilted kernel (`jaxrl/robust.py`). The inner loop goes on while max_{ξ'∈P} ⟨∇_ξ J, ξ - ξ'⟩ > ε_t.

From policy gradients it differs in the kernel that the gradient is under, and in nothing else.

The kit has rewards, the paper costs. Checked: both gradients; the projections against a QP, worst
cases and optima against LPs; that the inner loop's measure bounds what is left of it, but for a
mismatch of occupancies; the released code (gradients, support, tilt by features; its ε is fixed,
its inner loops begin anew). Not checked: the text, but for its abstract. Features are one-hot here.
"""

import jax
import jax.numpy as jnp

from jaxrl.families.exact import Exact, exact, expected_return, logits, nominal, optimum
from jaxrl.hyper import arg, hyper
from jaxrl.policies import Network
from jaxrl.robust import SETS, best, evaluate, furthest, simplex

PAPER = {
    "slug": "drpg",
    "id": 48,
    "title": "Policy Gradient in Robust MDPs with Global Convergence Guarantee",
    "year": 2023,
    "arxiv": "2212.10439",
    "chapter": "robust",
    "hyper": "DRPG",
    "parent": "reinforce",
    "changes": "the gradient is taken under the worst kernel of a set, which an inner loop finds",
    "claim": "its worst case reaches the robust optimum, which the nominal gradient's does not",
    "check": {
        "on": {"tabular/random": 300, "tabular/inventory": 300},
        "tune": {"lr": [0.1, 0.3, 1.0]},
        "by": "-last gap",
        "arms": {
            "nominal": {"hyper": {"share": 0.0}},
            "states": {"hyper": {"kernels": "states"}, "tune": {"lr": [0.03, 0.1, 0.3]}},
            "tilted": {"hyper": {"kernels": "tilted", "kappa": 0.1, "step": 0.3}},
            "untilted": {"hyper": {"kernels": "tilted", "kappa": 0.1, "step": 0.3, "share": 0.0}},
        },
        "says": [
            "last gap < 0.001",
            "last gap < nominal - 0.02",
            "last gap of states < 0.05",
            "last gap of tilted < untilted",
        ],
    },
    "battery": {"hyper": {"step": 0.3}},
}


@hyper
class DRPG(Exact):
    lr: float = arg(0.3, "α, step size of the policy", "[0, inf)")
    step: float = arg(10.0, "β, step size of the inner loop", "[0, inf)")
    kernels: str = arg("rows", "the set: L1 of a row (s, a), of a state, tilted", tuple(SETS))
    kappa: float = arg(1.0, "κ, radius of the set", "[0, inf)")
    share: float = arg(1.0, "of κ, what is learned against; 0: the nominal kernel", "[0, 1]")
    tolerance: float = arg(0.1, "ε₀, of the first inner loop", "[0, inf)")
    inner: int = arg(10, "most steps of an inner loop", "[1, inf)")


def worst(xi, pi, mdp, kappa, tolerance, steps, hp):
    """The inner loop: ξ, how far J may still fall along its gradient, and the steps taken."""
    kernels = SETS[hp.kernels]
    J = lambda xi: expected_return(mdp.replace(P=kernels.kernel(xi, mdp)), pi, hp.gamma)

    def look(xi):
        value, g = jax.value_and_grad(J)(xi)
        rounding = 8 * jnp.finfo(value.dtype).eps * jnp.abs(value)
        return xi, g, furthest(kernels, g, xi, mdp, kappa) - rounding

    def descend(carry):
        xi, g, _, n = carry
        xi = kernels.project(jax.tree.map(lambda x, g: x - hp.step * g, xi, g), mdp, kappa)
        return *look(xi), n + 1

    going = lambda carry: (carry[2] > tolerance) & (carry[3] < steps)
    xi, _, left, n = jax.lax.while_loop(going, descend, (*look(xi), 0))
    return xi, left, n


def improve(params, mdp, t, hp):
    pi, kappa, tolerance = params["pi"], hp.share * hp.kappa, hp.tolerance * hp.gamma**t
    xi, left, n = worst(params["xi"], pi, mdp, kappa, tolerance, hp.inner, hp)
    under = mdp.replace(P=SETS[hp.kernels].kernel(xi, mdp))
    pi = jax.vmap(simplex)(pi + hp.lr * jax.grad(nominal, 1)(under, pi, hp))
    metrics = dict(inner_gap=left, inner_steps=jnp.float32(n), nominal=nominal(mdp, pi, hp))
    return dict(pi=pi, xi=xi), metrics


def start(key, mdp, hp):
    return dict(pi=jax.nn.softmax(logits(key, mdp, hp)), xi=SETS[hp.kernels].centre(mdp))


def judge(mdp, pi, hp):
    """Φ(π) at the whole radius; of a tilted set, what a long inner loop finds."""
    kernels = SETS[hp.kernels]
    if kernels.backup:
        return mdp.rho @ evaluate(kernels, mdp, pi, hp.gamma, hp.kappa)
    xi, _, _ = worst(kernels.centre(mdp), pi, mdp, hp.kappa, 0.0, 200, hp)
    return nominal(mdp.replace(P=kernels.kernel(xi, mdp)), pi, hp)


def most(mdp, hp):
    """The robust optimum; of a tilted set the nominal one, which is no less."""
    kernels = SETS[hp.kernels]
    return mdp.rho @ best(kernels, mdp, hp.gamma, hp.kappa) if kernels.backup else optimum(mdp, hp)


def make(world, network=Network()):
    return exact(improve, lambda params, mdp: params["pi"], start=start, judge=judge, most=most)
