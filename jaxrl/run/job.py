"""A job: everything that says what a run computes, and nothing else. Written as config.toml."""

import dataclasses
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxrl.errors import InputError, did_you_mean
from jaxrl.hyper import Linear, check, replace
from jaxrl.policies import Network
from jaxrl.run import catalogue


@dataclass(frozen=True)
class Job:
    """A paper on an environment, for some seeds and steps."""

    paper: str
    env: str
    seeds: int = 1  # seeds `seed`, `seed + 1`, ...
    seed: int = 0
    steps: int = 500_000  # environment steps of one seed, rounded down to whole iterations
    evals: int = 10  # evaluations during the run
    eval_episodes: int = 32  # episodes of each, and of the final one
    seed_mode: str = "auto"  # vmap, map (each seed bitwise its own single run), auto
    env_params: dict[str, float] = field(default_factory=dict)
    network: Network = Network()
    hyper: Any = None

    @property
    def iterations(self) -> int:
        return self.steps // self.hyper.steps_per_iteration


LIMITS = {"seeds": (1, 65_536), "seed": (0, 2**32 - 1), "steps": (1, 10**12), "evals": (1, 10_000)}
LIMITS["eval_episodes"] = (20, 100_000)
SEED_MODES = ("auto", "vmap", "map")


def resolve(*, run: dict, env_params: dict, network: dict, hyper: dict) -> Job:
    """A checked job from what the person said; what they did not say has the defaults of the
    environment's class. InputError, in one line, for anything that is not allowed."""
    import envs

    for name in ("paper", "env"):
        if not run.get(name):
            raise InputError(f"{name}: none given; jaxrl {name}s lists them")
    for name in run:
        if name not in {f.name for f in dataclasses.fields(Job)}:
            raise did_you_mean("run", name, [f.name for f in dataclasses.fields(Job)])
    envs.check_name(run["env"])
    _, cls = catalogue.load(run["paper"])
    kind = envs.kind(run["env"])
    hp = check(replace(cls.for_env(kind), **hyper))
    net = check(replace(cls.network_for(kind), **network))
    job = Job(**run, env_params=env_params, network=net, hyper=hp)
    for name, (low, high) in LIMITS.items():
        value = getattr(job, name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise InputError(f"{name}: {value!r} is not an int")
        if not low <= value <= high:
            raise InputError(f"{name}: {value} is outside [{low}, {high}]")
    if job.seed + job.seeds > 2**32:
        raise InputError(f"seed: {job.seed} + {job.seeds} seeds is outside [0, 2**32]")
    if job.seed_mode not in SEED_MODES:
        raise InputError(f"seed_mode: {job.seed_mode!r} is not one of {', '.join(SEED_MODES)}")
    if not job.iterations:
        each = job.hyper.steps_per_iteration
        raise InputError(f"steps: {job.steps} is less than one iteration of {each} steps")
    if job.iterations >= 2**31:
        each = job.hyper.steps_per_iteration
        raise InputError(f"steps: {job.steps} is more than 2**31 iterations of {each} steps")
    if job.evals > job.iterations:
        raise InputError(f"evals: {job.evals} is more than the {job.iterations} iterations")
    return job


def plain(x: Any) -> Any:
    """A field as TOML can hold it: a schedule is "a:b"."""
    if isinstance(x, Linear):
        return f"{x.start}:{x.end}"
    return list(x) if isinstance(x, tuple) else x


def to_tables(job: Job) -> dict[str, dict]:
    """The job as the tables of its config.toml."""
    top = {f.name: getattr(job, f.name) for f in dataclasses.fields(job)}
    tables = dict(network=top.pop("network"), hyper=top.pop("hyper"))
    values = {
        k: {f.name: plain(getattr(v, f.name)) for f in dataclasses.fields(v)}
        for k, v in tables.items()
    }
    del values["hyper"]["horizon"]
    return dict(
        run={k: v for k, v in top.items() if k != "env_params"}, env_params=job.env_params, **values
    )


def schedule(text: Any) -> Any:
    """A number, or the schedule that "a:b" means. ValueError for anything else."""
    if not isinstance(text, str):
        return text
    start, colon, end = text.partition(":")
    return Linear(float(start), float(end)) if colon else float(start)


def read(path: Path) -> dict[str, dict]:
    """The tables of a config.toml, checked for their names."""
    try:
        tables = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise InputError(f"config: {path}: {getattr(e, 'strerror', None) or e}") from e
    for name, table in tables.items():
        if name not in ("run", "env_params", "network", "hyper"):
            raise did_you_mean("config", name, ["run", "env_params", "network", "hyper"])
        if not isinstance(table, dict):
            raise InputError(f"config: {name}: {table!r} is not a table")
    tables = {k: dict(tables.get(k, {})) for k in ("run", "env_params", "network", "hyper")}
    for key, value in tables["hyper"].items():
        try:
            tables["hyper"][key] = (
                schedule(value) if isinstance(value, str) and ":" in value else value
            )
        except ValueError as e:
            raise InputError(f"{key}: {value!r} is not a number or a schedule a:b") from e
    lists = {k: tuple(v) for k, v in tables["network"].items() if isinstance(v, list)}
    tables["network"] |= lists
    return tables
