"""What the standard metrics mean, and which of them means progress. Needs no jax."""

PROGRESS = {
    "eval_return": "mean return of whole episodes acting by the mode, at each evaluation",
    "episode_return": "mean return of the episodes that finished while exploring (null: none did)",
}
DIAGNOSTIC = {
    "episode_length": "their mean length in steps; good or bad depends on the task",
    "episodes": "how many finished",
    "entropy": "of the policy, in nats; falls as it commits; near 0 early: it stopped exploring",
    "approx_kl": "from the policy that collected, mean over an update, in nats; 0.001 to 0.05",
    "ratio_deviation": "mean |r - 1| of the probability ratio over an update; below the clip range",
    "ratio_excursion": "the largest |r - 1| of a minibatch, mean over an update",
    "explained_variance": "1: the critic predicts its targets; 0: as good as a constant",
    "value_loss": "the critic's error, in squared (scaled) return; often rises while returns do",
    "policy_loss": "the surrogate; its level means nothing, not even when it is 0",
    "grad_norm": "before clipping",
    "finite": "1 until a loss, a parameter or a return is NaN or infinite",
}
COMPLETIONS = {
    "clip_fraction": "share of tokens whose ratio is outside the clip range",
    "kl_ref": "of a language model to what training began with, in nats a token",
    "response_length": "mean tokens of a completion, its end among them",
    "off_wish": "mean tokens between a completion's length and that which its prompt asks for",
    "solve_none": "share of prompts of whose completions none is right: they teach little",
    "solve_all": "share of prompts of which all are",
    "pass_at_group": "share of prompts of which one at least is",
}

PREFERENCES = {
    "chosen, rejected": "log π - log π_ref of a set's preferred one and of its last: both may fall",
    "labels": "comparisons that were asked for so far",
    "proxy": "what the model of rewards says of samples; `episode_return` is the gold",
    "objective, regret": "E_π[r] - β KL(π || π_ref), exactly, and what it lacks of its most",
    "tv": "total variation to what the method should come to, the largest over prompts",
    "gap": "duality gap; gap_average: of the mean policy so far; _plain: without the KL",
}


def explain() -> str:
    """The table as text."""
    rows = [
        ("Progress is these, higher is better:", PROGRESS),
        ("The rest diagnoses:", DIAGNOSTIC),
        ("Of language models also:", COMPLETIONS),
        ("Of preferences also:", PREFERENCES),
    ]
    width = max(map(len, PROGRESS | DIAGNOSTIC | COMPLETIONS | PREFERENCES))
    return "\n".join(
        f"{head}\n" + "\n".join(f"  {k:<{width}}  {v}" for k, v in table.items())
        for head, table in rows
    )
