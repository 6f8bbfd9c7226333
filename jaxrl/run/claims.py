"""Claims: a paper's statement against its baseline, at equal budget and equal tuning.

    "check": {
        "on": {"CartPole-v1": 100_000, "Acrobot-v1": 200_000},     environment: steps of one seed
        "tune": {"lr": [1e-3, 2.5e-3, 5e-3]},                      the grid of every arm
        "by": "final_return",                                      what chooses its point
        "arms": {"unclipped": {"hyper": {"eps": "inf"}}, "a2c": {"paper": "a2c"}},
        "seeds": 16,                                               of each arm (this, if unsaid)
        "says": ["final_return > unclipped", "max kl < 0.015", "final_return > a2c - 0.05"],
    }

What is unsaid is as `CHECK` of the hyperparameters' class has it, if it has one.
The paper itself, with the defaults of the environment's class, is the first arm; where no others
are named there is its parent. An arm may name another `paper`, `hyper` and `network` values, a
`tune` of its own with as many points, and `steps`, where its family counts something else; `hyper`,
`network` and `env_params` beside `on` are every arm's. Each arm's point is chosen on each
environment by the mean of `by` (the final return, or a metric as below, with a minus where less is
better) over seeds that are used for nothing else (from 1000), and its runs are reported on fresh
ones (from 0). The grid is one vmapped program.

A statement is `[max|mean|last|final] METRIC [of ARM] < or > ARM-or-NUMBER [+ or - MARGIN] [on
ENV]`, of the paper itself where no arm is named. METRIC is `final_return` (by the mode, complete
episodes) or a training metric, reduced over a run's iterations (last: its last tenth), or after
`final` what the method's own examination says at the end; `mean episode_return` is the area under
the learning curve. Over several environments returns are normalised
(`envs/scores.py`). It holds if the whole 95 % interval of the difference does: interquartile means,
seeds drawn anew within each environment and arm.
"""

import datetime
import json
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from envs.registry import environment
from envs.scores import RANGES
from jaxrl.errors import InputError, did_you_mean
from jaxrl.run import arms, catalogue, evidence, record
from jaxrl.run import job as jobs
from jaxrl.run import queue as queues
from jaxrl.run.arms import EMPTY, Arm, Asked
from jaxrl.run.files import write_whole
from jaxrl.run.stats import difference, finite, improvement, iqm

SEEDS = 16
QUICK = dict(seeds=4, steps=20)  # a look: so many seeds, one in so many steps
KEYS = ("on", "env_params", "hyper", "network", "tune", "by", "arms", "seeds", "says")
RETURNS = ("final_return", "episode_return", "eval_return")
GRAMMAR = re.compile(
    r"(?:(?P<reduce>max|mean|last|final) )?(?P<metric>\w+)(?: of (?P<of>\w+))?"
    r" (?P<relation>[<>]) (?P<against>[\w.-]+)"
    r"(?: (?P<sign>[+-]) (?P<margin>[\d.e-]+))?(?: on (?P<env>\S+))?"
)


class Statement(NamedTuple):
    """What is said to be more or less than what."""

    text: str
    of: str  # the arm whose it is
    metric: str  # "final_return", or a reduction and a metric
    relation: str  # < or >
    against: str | float  # an arm, or a number
    margin: float
    envs: tuple[str, ...]

    @property
    def is_return(self) -> bool:
        return self.metric.split()[-1] in RETURNS


class Claim(NamedTuple):
    """A paper's check, read."""

    slug: str
    paper: dict
    on: dict[str, int]
    arms: dict[str, Arm]  # the paper's own first
    says: list[Statement]
    by: str = "final_return"  # what an arm's point is chosen by; less is better after a minus
    seeds: int = SEEDS
    env_params: Mapping[str, Any] = EMPTY


def read(slug: str) -> Claim:
    """The claim of a paper (a slug or a file). InputError, in one line, for what is not one."""
    paper = catalogue.find(slug)
    check, own = paper.get("check"), paper["slug"]
    if isinstance(check, dict):
        check = getattr(catalogue.load(slug)[1], "CHECK", {}) | check
    if not isinstance(check, dict) or not {"on", "says"} <= set(check):
        raise InputError(f"claim: {own} has no check with its environments (on) and says")
    for key in check:
        if key not in (known := KEYS):
            raise did_you_mean(f"claim: {own}: check", key, known)
    values = lambda table: {k: jobs.from_toml(k, v) for k, v in table.items()}

    def arm(said: dict) -> Arm:
        return Arm(
            slug if said.get("paper", own) == own else said["paper"],
            values(check.get("hyper", {}) | said.get("hyper", {})),
            values(check.get("network", {}) | said.get("network", {})),
            {k: [jobs.from_toml(k, x) for x in v] for k, v in said.get("tune", tune).items()},
            int(said.get("steps", 0)),
        )

    tune = check.get("tune", {})
    others = check.get("arms", {paper.get("parent"): {"paper": paper.get("parent")}})
    arms = {own: arm({})} | {name: arm(said) for name, said in others.items()}
    sizes = {name: int(np.prod([len(v) for v in a.tune.values()])) for name, a in arms.items()}
    if len(set(sizes.values())) > 1:
        raise InputError(f"claim: {own}: arms are tuned over different numbers of points: {sizes}")
    on = {env: int(steps) for env, steps in check["on"].items()}
    says = [statement(own, text, tuple(on), arms) for text in check["says"]]
    by = check.get("by", "final_return")
    if by != "final_return" and not re.fullmatch(r"-?(max|mean|last|final) \w+", by):
        raise InputError(
            f"claim: {own}: by: {by!r} is not final_return or [-]max|mean|last|final METRIC"
        )
    seeds, params = int(check.get("seeds", SEEDS)), values(check.get("env_params", {}))
    return Claim(own, paper, on, arms, says, by, seeds, params)


def statement(slug: str, text: str, envs: tuple[str, ...], arms: dict[str, Arm]) -> Statement:
    """A statement from its text."""
    if not (found := GRAMMAR.fullmatch(text)):
        raise InputError(f"claim: {slug}: {text!r} is not `METRIC < or > ARM-or-NUMBER`")
    said = found.groupdict()
    against: str | float = said["against"]
    if against not in arms:
        try:
            against = float(against)
        except ValueError as e:
            raise did_you_mean(f"claim: {slug}: arm", str(against), arms) from e
    if said["env"] and said["env"] not in envs:
        raise did_you_mean(f"claim: {slug}: on", said["env"], envs)
    metric = " ".join(x for x in (said["reduce"], said["metric"]) if x)
    if (said["reduce"] is None) != (said["metric"] == "final_return"):
        raise InputError(f"claim: {slug}: {text!r}: max, mean, last or final of what?")
    if (of := said["of"] or slug) not in arms:
        raise did_you_mean(f"claim: {slug}: arm", of, arms)
    margin = float((said["sign"] or "") + (said["margin"] or "0"))
    where = (said["env"],) if said["env"] else envs
    out = Statement(text, of, metric, said["relation"], against, margin, where)
    if out.is_return and len(out.envs) > 1:
        for env in sorted(env for env in envs if not env.endswith(".npz")):  # one may be made later
            span(env)
    return out


def span(env: str) -> tuple[float, float]:
    """The range of an environment's returns, or of a dataset's environment. InputError for none."""
    if (inner := environment(env)) not in RANGES:
        raise InputError(f"claim: envs/scores.py has no range for {inner}")
    return RANGES[inner]


def judge(says: Statement, done: dict[str, dict[str, dict]]) -> dict:
    """Whether a statement holds, from the scores of each arm on each environment."""

    def of(arm: str) -> np.ndarray:
        rows = []
        for env in says.envs:
            x = np.array(done[env][arm]["scores"][says.metric], float)  # null becomes nan
            if says.is_return and len(says.envs) > 1:
                low, high = span(env)
                x = (x - low) / (high - low)
            rows.append(x)
        return np.stack(rows)

    method = of(says.of)
    if isinstance(says.against, str):
        baseline = of(says.against)
        gap, (low, high) = difference(method, baseline)
        better = improvement(method, baseline)
        level = finite(iqm(baseline.ravel()))
    else:
        gap, (low, high) = difference(method, np.full_like(method, says.against))
        better, level = float((method > says.against).mean()), says.against
    holds = low > says.margin if says.relation == ">" else high < says.margin
    scale = "normalised " if says.is_return and len(says.envs) > 1 else ""
    return dict(
        says=says.text,
        metric=scale + says.metric,
        method=says.of,
        baseline=says.against,
        n=int(method.shape[1]),
        envs=list(says.envs),
        method_iqm=finite(iqm(method.ravel())),
        baseline_iqm=level,
        worst_seed=finite(method.min() if says.relation == ">" else method.max()),
        difference=finite(gap),
        ci95=finite([low, high]),
        margin=says.margin,
        probability_of_improvement=better,
        verdict="reproduced" if holds else "not reproduced",
    )


def home(claim: Claim) -> Path:
    """Where a claim is recorded: with the checkout's results, or beside a person's own file."""
    if not catalogue.inside(claim.paper):
        return catalogue.path(claim.paper).with_suffix(".claim.json")
    return evidence.results() / "claims" / f"{claim.slug}.json"


def asked(claim: Claim, quick: bool) -> dict[tuple[str, str], Asked]:
    """What a claim measures, by environment and arm."""
    seeds, out = QUICK["seeds"] if quick else claim.seeds, {}
    for env, steps in claim.on.items():
        for name, arm in claim.arms.items():
            metrics = {s.metric for s in claim.says if name in (s.of, s.against)}
            metrics |= {"final_return", claim.by.removeprefix("-")}
            own = arm.steps or steps
            budget = min(own, max(own // QUICK["steps"], 20_000)) if quick else own
            out[env, name] = Asked(arm, env, budget, seeds, metrics, claim.by, claim.env_params)
    return out


def missing(wanted: Collection[Asked], quick: bool) -> list[queues.Task]:
    """The jobs of what was not measured yet."""
    return [arms.task(x, quick) for x in wanted if quick or not x.place.exists()]


def submit(slugs: Collection[str], queue: str | Path, quick: bool = False) -> None:
    """Put all that these claims measure into a queue, so that none waits for the one before."""
    wanted = [x for slug in slugs for x in asked(read(slug), quick).values()]
    queues.submit(queues.opened(queue), missing(wanted, quick))


def from_workers(queue: str | Path, wanted: list[Asked], quick: bool, say: Any) -> Iterator[dict]:
    """What workers measured, kept as `once` keeps it."""
    place, tasks = queues.opened(queue), missing(wanted, quick)
    queues.submit(place, tasks, again=False)
    outs = dict(zip((t.name for t in tasks), queues.gather(place, tasks, say)))
    for x in wanted:
        if out := outs.get(arms.task(x, quick).name):
            got = queues.value(out)
            if quick:
                yield got
                continue
            arms.keep(x.place, got)
        yield arms.once(x)


def run(
    slug: str,
    *,
    quick: bool = False,
    say: Callable[[str], Any] = lambda line: None,
    queue: str | Path | None = None,
) -> dict:
    """Run a claim and record it; what was measured already is not measured again.

    quick: a few seeds and steps, to see that it runs. It is no evidence and is not recorded.
    queue: a folder, from which workers take what is to be measured.
    """
    claim = read(slug)
    for env in claim.on if any(s.is_return and len(s.envs) > 1 for s in claim.says) else ():
        span(env)
    target = home(claim)
    began, version = time.time(), evidence.sha256(claim.paper)
    wanted = asked(claim, quick)
    done: dict[str, dict[str, dict]] = {}
    if queue is None:
        results = ((arms.measure if quick else arms.once)(x) for x in wanted.values())
    else:
        results = from_workers(queue, list(wanted.values()), quick, say)
    for ((env, name), x), got in zip(wanted.items(), results):
        got["scores"] = {k: v for k, v in got["scores"].items() if k in x.metrics}
        done.setdefault(env, {})[name] = got
        shown = iqm(np.array(got["scores"]["final_return"], float))
        say(f"{env}: {name} {got['tuned']}: final_return {shown:.3g}")
    statements = [judge(s, done) for s in claim.says]
    holds = all(s["verdict"] == "reproduced" for s in statements)
    out = dict(
        slug=claim.slug,
        claim=claim.paper["claim"],
        **statements[0] | dict(verdict="reproduced" if holds else "not reproduced"),
        statements=statements,
        recorded=datetime.date.today().isoformat(),
        file_sha256=version,
        seeds=QUICK["seeds"] if quick else claim.seeds,
        arms=done,
        versions=record.versions(),
        revision=record.revision(),
        machine=record.machine(),
        wall_seconds=sum(a["wall_seconds"] for e in done.values() for a in e.values()),
    )
    text = json.dumps(out, indent=1, allow_nan=False)
    if not quick:
        write_whole(target, text + "\n")
    say(f"{time.time() - began:.0f} s")
    return json.loads(text)
