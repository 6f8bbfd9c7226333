"""A job: everything that says what a run computes, and nothing else. Written as config.toml."""

import dataclasses
import json
import math
import re
import tomllib
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jaxrl.errors import InputError, Refused, did_you_mean
from jaxrl.hyper import Linear, arg, check, hyper, replace
from jaxrl.policies import Network
from jaxrl.run import catalogue

EVERY_DEVICE = -1  # --devices all
EVERY = re.compile(r"\d{1,9}|\d{1,6}(\.\d+)?m")


@hyper
class Job:
    """A paper on an environment, for some seeds and steps: all static."""

    paper: str
    env: str = arg("", "a name of `jaxrl envs`, or my_module:make")
    seeds: int = arg(1, "how many, in one program", "[1, 65536]")
    seed: int = arg(0, "the first of them", "[0, 4294967295]")
    steps: int = arg(
        500_000,
        "environment steps of one seed, 1e6 is fine; of token runs completions, 131072 of them",
        "[1, 1000000000000]",
    )
    evals: int = arg(10, "evaluations on the way, at most one an iteration", "[1, 10000]")
    eval_episodes: int = arg(
        32, "episodes of each, and of the final one; of token runs 512", "[20, 100000]"
    )
    seed_mode: str = arg(
        "auto",
        "all seeds at once (vmap), or one after the other, each bitwise its own single run (map)",
        ("auto", "vmap", "map"),
    )
    devices: int = arg(
        0,
        "that share seeds, and if they are more environments; all: -1; 0: for seeds alone",
        "[-1, 65536]",
        words=("all",),
    )
    checkpoint_every: str = arg("5m", "so many iterations, or minutes as 5m")
    keep: int = arg(3, "checkpoints, besides the one whose evaluation was best", "[1, 10000]")
    on_nan: str = arg(
        "stop",
        "stop, or freeze that seed alone as it last was",
        ("stop", "freeze"),
    )
    env_params: dict = dataclasses.field(default_factory=dict)
    network: Network = Network()
    hyper: Any = None

    @property
    def title(self) -> str:
        """What pages and lines call it; of a file its name, since where it lies is nobody's."""
        return f"{Path(self.paper).name} on {self.env}"

    @property
    def iterations(self) -> int:
        return self.steps // self.hyper.steps_per_iteration

    @property
    def save_iterations(self) -> int:
        """Iterations between two checkpoints; 0 where minutes are counted."""
        return 0 if self.checkpoint_every.endswith("m") else int(self.checkpoint_every)

    @property
    def save_minutes(self) -> float:
        """Minutes between two checkpoints; inf where iterations are counted."""
        return math.inf if self.save_iterations else float(self.checkpoint_every[:-1])

    def problem(self) -> str:
        """What is wrong between fields, in one line; "" if nothing is."""
        each = self.hyper.steps_per_iteration
        every = self.checkpoint_every
        if not EVERY.fullmatch(every) or float(every.rstrip("m")) == 0:
            return f"checkpoint_every: {every!r} is not a number of iterations, or minutes as 5m"
        if self.seed + self.seeds > 2**32:
            return f"seed: {self.seed} + {self.seeds} seeds is outside [0, 2**32]"
        if self.devices > 0 and self.seeds % self.devices and self.devices % self.seeds:
            return (
                f"devices: {self.devices} neither divides nor is a multiple of seeds = {self.seeds}"
            )
        if not 1 <= self.iterations < 2**31:
            few = "less than one iteration" if not self.iterations else "more than 2**31 iterations"
            return f"steps: {self.steps} is {few} of {each} steps"
        return ""


def resolve(*, run: dict, env_params: dict, network: dict, hyper: dict) -> Job:
    """A checked job from what the person said; what they did not say has the defaults of the
    environment's class. InputError, in one line, for anything that is not allowed."""
    import envs

    for name in ("paper", "env"):
        if not run.get(name):
            raise InputError(f"{name}: none given; jaxrl {name}s lists them")
        if not isinstance(run[name], str):
            raise InputError(f"{name}: {run[name]!r} is not a name")
    known = [f.name for f in dataclasses.fields(Job) if "doc" in f.metadata]  # a person's to set
    for name in run:
        if name not in (*known, "paper"):
            raise did_you_mean("run", name, known)
    kind = envs.kind(run["env"])
    _, cls = catalogue.load(run["paper"])
    hp = replace(cls.for_env(kind), **hyper)
    net = replace(cls.network_for(kind), **network)
    run = getattr(cls, "RUN", {}) | run  # a family may have defaults of its own
    if run.get("devices") == "all":
        run = run | dict(devices=EVERY_DEVICE)
    return check(Job(**run, env_params=env_params, network=net, hyper=hp))


TABLES = ("run", "env_params", "network", "hyper")


def nothing() -> dict[str, dict]:
    """The tables of somebody who said nothing."""
    return {name: {} for name in TABLES}


def to_tables(job: Job) -> dict[str, dict]:
    """The job as the tables of its config.toml."""
    run = {f.name: getattr(job, f.name) for f in dataclasses.fields(job)}
    tables = {name: run.pop(name) for name in TABLES[1:]}
    for name in ("network", "hyper"):
        fields = [f.name for f in dataclasses.fields(tables[name]) if f.name != "horizon"]
        tables[name] = {k: to_toml(getattr(tables[name], k)) for k in fields}
    return {"run": run, **tables}


# what may change on resuming
FREE = ("steps", "evals", "eval_episodes", "devices", "checkpoint_every", "keep")


def changed(tables: dict[str, dict], since: dict[str, dict]) -> str:
    """What a run's tables say otherwise than its checkpoint's, in one line; "" if nothing."""
    now = json.loads(json.dumps(tables))  # lists for tuples
    of = dict(run=Job, network=Network, hyper=catalogue.load(tables["run"]["paper"])[1])
    plain = lambda cls: {f.name: to_toml(f.default) for f in dataclasses.fields(cls)}
    unsaid = {table: plain(cls) for table, cls in of.items()}  # of fields that are newer than it
    for table in TABLES:
        for key in sorted(
            {*now[table], *since.get(table, {})} - set(FREE if table == "run" else ())
        ):
            new = now[table].get(key)
            old = since.get(table, {}).get(key, unsaid.get(table, {}).get(key))
            if old != new:
                return f"{key}: {new} in config.toml, but the run began with {old}"
    return ""


def to_toml(x: Any) -> Any:
    """A field as TOML can hold it: a schedule is "a:b"."""
    return f"{x.start}:{x.end}" if isinstance(x, Linear) else x


def from_toml(name: str, x: Any) -> Any:
    """A field as its class wants it."""
    if isinstance(x, str) and (":" in x or x == "inf"):
        try:
            return schedule(x)
        except ValueError as e:
            raise InputError(f"{name}: {x!r} is not a number or a schedule a:b") from e
    return tuple(x) if isinstance(x, list) else x


def method(text: str) -> tuple[str, dict, dict]:
    """The paper, hyperparameters and network of SLUG, or of SLUG:eps=0.1,hidden=64+64."""
    slug, _, said = text.partition(":")
    out: dict[str, dict] = {"hyper": {}, "network": {}}
    for part in filter(None, said.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise InputError(f"{text}: {part!r} is not NAME=VALUE")
        table, key, kind = setting(slug, key)
        out[table][key] = typed(key, value, kind)
    return slug, out["hyper"], out["network"]


def setting(slug: str, name: str) -> tuple[str, str, Any]:
    """The table ("hyper" or "network"), the name and the type of a paper's setting."""
    name = name.strip().replace("-", "_")
    cls, known = catalogue.load(slug)[1], {}
    for table, of in (("network", type(cls.network_for(""))), ("hyper", cls)):
        fields = [f for f in dataclasses.fields(of) if f.name != "horizon"]
        known |= {f.name: (table, f.name, f.type) for f in fields}
    if name not in known:
        raise did_you_mean(slug, name, known)
    return known[name]


def said(method_: str, settings: dict[str, Any]) -> dict[str, dict]:
    """The tables of a method and of settings by their names, whichever table they are of."""
    import envs

    slug, hp, network = method(method_)
    tables = dict(run=dict(paper=catalogue.absolute(slug)), network=network, hyper=hp)
    own = {f.name for f in dataclasses.fields(Job) if "doc" in f.metadata}
    # lr.start, as a search has it
    inner = {name: settings[name] for name in settings if "." in name}
    settings = {name: x for name, x in settings.items() if name not in inner}
    for name, value in settings.items():
        value = getattr(value, "tolist", lambda v=value: v)()  # of numpy's and jax's
        table, key, kind = ("run", name, int) if name in own else setting(slug, name)
        tables[table][key] = whole(value) if kind is int else from_toml(key, value)
    for name, value in inner.items():
        root, _, leaf = name.partition(".")
        _, root, _ = setting(slug, root)
        plain = catalogue.load(slug)[1].for_env(envs.kind(settings["env"]))
        x = tables["hyper"].get(root, getattr(plain, root))
        if not isinstance(x, Linear) or leaf not in ("start", "end"):
            raise InputError(f"{slug}: no {name!r}; {root} is {to_toml(x)}")
        tables["hyper"][root] = x.replace(**{leaf: float(value)})
    return tables


def whole(x: Any) -> Any:
    """An int where a person writes 1e6; anything else as it is."""
    return int(x) if isinstance(x, float) and x.is_integer() else x


def text(x: Any) -> str:
    """Values as a person types them: 0.1,0.2 and 64+64 for a tuple."""
    if isinstance(x, str):
        return x
    x = getattr(x, "tolist", lambda: x)()  # of numpy's and jax's
    x = x if isinstance(x, list | tuple | range) else [x]
    parts = ["+".join(map(str, v)) if isinstance(v, tuple | list) else str(to_toml(v)) for v in x]
    return ",".join(parts).replace("True", "true").replace("False", "false")


def typed(name: str, text: str, kind: Any) -> Any:
    """A setting's value from what a person types."""
    x = from_toml(name, literal(text))
    return (x,) if typing.get_origin(kind) is tuple and not isinstance(x, tuple) else x


def literal(text: str) -> Any:
    """A value as a person types it: a number, true, false, 64+64 for several, else the text."""
    if "+" in text and re.fullmatch(r"[\d+]+", text):
        return [literal(x) for x in text.split("+")]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return {"true": True, "false": False}.get(text, text)


def schedule(text: str) -> float | Linear:
    """A number, or the schedule that "a:b" means. ValueError for anything else."""
    start, colon, end = text.partition(":")
    return Linear(float(start), float(end)) if colon else float(start)


def read(path: Path) -> dict[str, dict]:
    """The tables of a config.toml, checked for their names."""
    try:
        said = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise InputError(f"config: {path}: {getattr(e, 'strerror', None) or e}") from e
    for name, table in said.items():
        if name not in TABLES:
            raise did_you_mean("config", name, TABLES, f"it has {', '.join(TABLES)}")
        if not isinstance(table, dict):
            raise InputError(f"config: {name}: {table!r} is not a table")
    tables = nothing() | said
    for name in ("network", "hyper"):
        tables[name] = {k: from_toml(k, v) for k, v in tables[name].items()}
    return tables


def refuse_code(tables: dict[str, dict], named: Iterable[str]) -> dict[str, dict]:
    """The tables of a file, if the paper and the environment are the kit's or `named` by the
    person. Any other would run code because a file says so: InputError."""
    for key, sign in (("paper", ".py"), ("env", ":")):
        value = tables["run"].get(key)
        if isinstance(value, str) and sign in value and value not in named:
            raise Refused(f"{key}: {value} is code that a file names; allow it by --{key} {value}")
    return tables
