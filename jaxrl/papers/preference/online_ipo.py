"""Online IPO and IPO-MD. Calandriello, Guo, Munos, Rowland, Tang, Avila Pires, Richemond, Le Lan,
Valko, Liu, Joshi, Zheng, Piot 2024 (ICML), arXiv 2403.08635.

IPO's loss, of pairs that the policy itself draws and that are asked about as it learns:

    L = E_{y, y' ~ sg[π]}[(h(y_w, y_l) - 1 / (2τ))²]
    h = log π(y_w)/π_ref(y_w) - log π(y_l)/π_ref(y_l)

Its gradient is -4/τ times that of self-play, of P(π > sg[π]) - τ KL(π || π_ref), so that it comes
to the Nash policy of the game with this KL. IPO-MD draws both from a mixture of the policy and its
reference, π^(1-mix) π_ref^mix as in Nash-MD (for language models, token by token). Then it is the
mixture that comes to a Nash policy, that of τ / (1 - mix), and π to the best answer to it.

τ is `beta`. From IPO it differs in who draws. Of the paper the abstract was read, and the loss in
code by others; the gradient and both fixed points were derived here. Its `mix` is not known.
"""

from jaxrl import preferences
from jaxrl.families.preference import nash, of_pairs, preference
from jaxrl.hyper import arg, hyper
from jaxrl.papers.preference.psipo import IPO, loss

PAPER = {
    "slug": "online_ipo",
    "id": 151,
    "title": "Human Alignment of Large Language Models through Online Preference Optimisation",
    "year": 2024,
    "arxiv": "2403.08635",
    "chapter": "preference",
    "hyper": "OnlineIPO",
    "parent": "psipo",
    "changes": "pairs are drawn from the policy, or from a mixture of it and the reference",
    "claim": "it comes to the Nash policy of a game, where IPO of fixed pairs stays exploitable",
    "check": {
        "on": {"preference/game": 2_000},
        "env_params": {"length": 2},
        "hyper": {"beta": 0.1},
        "by": "-last gap",
        "says": ["last gap < psipo", "last tv < 0.1"],
    },
}


@hyper
class OnlineIPO(IPO):
    """IPO's, and what draws."""

    mix: float = arg(0.0, "share of the reference in what draws: 0 online IPO", "[0, 1)")


def mixed(logs, hp):
    return (1 - hp.mix) * logs.policy + hp.mix * logs.ref


@of_pairs
def optimum(k, hp):
    draws = nash(k, hp.replace(beta=hp.beta / (1 - hp.mix)))
    return preferences.gibbs(k.ref, preferences.win_rate(k.P, draws), hp.beta)


def make(world, network=OnlineIPO.network_for("preference")):
    return preference(world, network, loss, draw=(mixed, mixed), optimum=optimum)
