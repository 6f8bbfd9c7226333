"""A dataset: steps that were recorded, as a file of plain arrays. Needs NumPy and no jax.

    obs, action, reward, terminated, truncated   [M, ...]: a row a step, trajectory by trajectory
    ends, final_obs                              [E], [E, ...]: each trajectory's last row, and the
                                                 observation after it, before any reset
    about                                        a JSON text: where and by whom it was recorded

A trajectory ends where its episode did (terminated or truncated) or where recording stopped. An
observation that is a dictionary is `obs/KEY` and `final_obs/KEY`. Actions are as `envs.make` takes
them, a box of them within [-1, 1]. No pickle is read, and `about` can name only the kit's own
environments, so a file runs no code.
"""

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxrl.errors import InputError

ROOT = Path(__file__).parents[1]  # of the checkout, where a relative path may lie too
RANDOM = "random/"  # random/ENV: steps of the uniformly random policy, recorded when it is made
FLAGS = ("terminated", "truncated")


class Dataset(NamedTuple):
    obs: Any  # [M, ...], an array or a dictionary of them; so is final_obs
    action: np.ndarray  # [M, ...]
    reward: np.ndarray  # [M] or [M, K]
    terminated: np.ndarray  # [M] bool
    truncated: np.ndarray  # [M] bool
    ends: np.ndarray  # [E] int64
    final_obs: Any  # [E, ...]

    @property
    def returns(self) -> np.ndarray:
        """The return of each trajectory, [E] or [E, K]."""
        begins = np.concatenate([[0], self.ends[:-1] + 1])
        return np.add.reduceat(self.reward.astype(float), begins, axis=0)

    @property
    def complete(self) -> np.ndarray:
        """Whether each trajectory is a whole episode, [E] bool."""
        return (self.terminated | self.truncated)[self.ends]


def named(name: str) -> bool:
    """Whether an environment's name is that of a dataset."""
    return name.endswith(".npz") or name.startswith(RANDOM)


def environment(name: str) -> str:
    """The environment that a dataset was recorded in; the name itself of what is no dataset."""
    if name.endswith(".npz"):
        return home(path := find(name), about(path))
    inner = name.removeprefix(RANDOM)
    if inner != name and named(inner):
        raise InputError(f"env: {name}: {inner} is a dataset already")
    return inner


def find(name: str) -> Path:
    """A dataset's file, relative to the working folder or else to the checkout."""
    for path in (Path(name), ROOT / name):
        if path.is_file():
            return path
    raise InputError(f"dataset: {name}: no such file; jaxrl dataset make writes one")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---- the file --------------------------------------------------------------------------------


def arrays(path: Path, *only: str) -> dict[str, np.ndarray]:
    """The arrays of an .npz, all or a few. InputError, in one line, where they cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {k: file[k] for k in (only or file.files) if k in file.files}
    except Exception as e:  # whatever a library makes of crafted files
        why = "an array cannot be read" if zipfile.is_zipfile(path) else "not an .npz"
        raise InputError(f"dataset: {path}: {getattr(e, 'strerror', None) or why}") from e


def described(path: Path, text: Any) -> dict:
    """The `about` of a file, checked for what is read of it."""
    try:
        said = json.loads(str(text))
        env, params = said["env"], said["env_params"]
        numbers = all(isinstance(x, int | float) for x in params.values())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as e:
        raise InputError(f"dataset: {path}: about does not name an environment") from e
    if not isinstance(env, str) or not numbers or named(env):
        raise InputError(f"dataset: {path}: about does not name an environment")
    known, makers = said.get("references") or {}, said.get("makers") or []
    number = lambda x: x is None or isinstance(x, int | float) and not isinstance(x, bool)
    if not isinstance(known, dict) or not all(map(number, known.values())):
        raise InputError(f"dataset: {path}: the references in about are not numbers")
    if not isinstance(makers, list) or not all(
        isinstance(m, dict)
        and isinstance(m.get("paper"), str)
        and isinstance(m.get("rows"), int)
        and isinstance(m.get("steps") or 0, int)
        for m in makers
    ):
        raise InputError(f"dataset: {path}: about does not say who made it")
    return said


def about(path: Path) -> dict:
    """What a file says of itself."""
    return described(path, arrays(path, "about").get("about"))


def home(path: Path, about: dict) -> str:
    """The environment that a file names. InputError where it is code: a file may not run any."""
    if ":" in (env := about["env"]):
        how = f"envs.recorded.load({str(path)!r}, env) plays in one's own"
        raise InputError(f"dataset: {path}: {env} is code that a file names; {how}")
    return env


def read(path: Path) -> tuple[Dataset, dict]:
    """A dataset and what it says of itself. InputError, in one line, for what is wrong with it."""
    found = arrays(path)
    said = described(path, found.pop("about", None))
    parts: dict[str, Any] = {}
    for name, x in found.items():
        field, slash, key = name.partition("/")
        whole = parts.get(field)
        if slash and (field not in ("obs", "final_obs") or not isinstance(whole, dict | None)):
            raise InputError(f"dataset: {path}: it has {name}, which nothing is read as")
        if slash:
            parts.setdefault(field, {})[key] = x
        elif whole is not None:
            raise InputError(f"dataset: {path}: it has {name}, and parts of it too")
        else:
            parts[field] = x
    if missing := [k for k in Dataset._fields if k not in parts]:
        raise InputError(f"dataset: {path}: it has no {missing[0]}")
    data = Dataset(**{k: parts[k] for k in Dataset._fields})
    if problem := wrong(data):
        raise InputError(f"dataset: {path}: {problem}")
    return data, said


def leaves(x: Any, name: str) -> dict[str, np.ndarray]:
    """An observation's arrays by their names in the file."""
    return {f"{name}/{k}": v for k, v in x.items()} if isinstance(x, dict) else {name: x}


def flat(data: Dataset) -> dict[str, np.ndarray]:
    """Every array by its name in the file."""
    return {k: v for field, x in data._asdict().items() for k, v in leaves(x, field).items()}


def wrong(data: Dataset) -> str:
    """What is wrong with the arrays of a dataset, in a few words; "" if nothing is."""
    M, E = len(np.atleast_1d(data.reward)), len(np.atleast_1d(data.ends))
    if not M:
        return "it has no rows"
    if not E:
        return "it has no trajectory"
    for name, x in flat(data).items():
        size = E if name.startswith(("ends", "final_obs")) else M
        if x.shape[:1] != (size,):
            return f"{name} has shape {x.shape}, expected ({size}, ...)"
        kind = "b" if name in FLAGS else "i" if name == "ends" else "f" if name == "reward" else ""
        if x.dtype.kind not in (kind or "biuf"):
            return f"{name} has type {x.dtype}"
        if not np.isfinite(x).all():
            return f"{name} is not finite everywhere"
    if data.terminated.ndim != 1 or data.truncated.ndim != 1 or data.ends.ndim != 1:
        return "terminated, truncated and ends are not rows of numbers"
    if set(leaves(data.obs, "")) != set(leaves(data.final_obs, "")):
        return "obs and final_obs have different keys"
    done = np.flatnonzero(data.terminated | data.truncated)
    rising = (np.diff(data.ends) > 0).all() and data.ends[0] >= 0
    if not rising or data.ends[-1] != M - 1 or not np.isin(done, data.ends).all():
        return f"ends do not split {M} rows where episodes were cut"
    return ""


def write(path: Path, data: Dataset, about: dict) -> None:
    """Write a dataset. OSError if it cannot be."""
    np.savez_compressed(path, allow_pickle=False, about=np.array(json.dumps(about)), **flat(data))


# ---- rows ------------------------------------------------------------------------------------


def each(f: Any, *xs: Any) -> Any:
    """f of an observation's arrays, whether it is one or a dictionary of them."""
    if isinstance(xs[0], dict):
        return {k: f(*(x[k] for x in xs)) for k in xs[0]}
    return f(*xs)


def trajectories(steps: dict[str, Any], rows: int) -> Dataset:
    """What n copies did side by side, [T, n, ...], one after the other; the first so many rows."""
    T, n = steps["reward"].shape[:2]

    def lay(x):
        return np.asarray(x).swapaxes(0, 1).reshape(T * n, *x.shape[2:])[:rows]

    data = {k: each(lay, x) for k, x in steps.items()}
    cut = data["terminated"] | data["truncated"]
    cut[T - 1 :: T] = True  # recording stopped
    cut[-1] = True
    ends = np.flatnonzero(cut)
    over = data["terminated"][ends]

    def last(x):  # after a terminal physics may have diverged, and nothing is learned from it
        fine = np.isfinite(x[ends]) | ~over.reshape(-1, *(1,) * (x.ndim - 1))
        return np.where(fine, x[ends], 0).astype(x.dtype)

    return Dataset(**data | dict(ends=ends, final_obs=each(last, data["final_obs"])))


def joined(parts: list[Dataset]) -> Dataset:
    """Several datasets as one."""
    first = np.cumsum([0, *(len(p.reward) for p in parts[:-1])])
    parts = [p._replace(ends=p.ends + i) for p, i in zip(parts, first)]
    stacked = [each(lambda *x: np.concatenate(x), *field) for field in zip(*parts)]
    return Dataset(*stacked)


def best(data: Dataset, share: float) -> Dataset:
    """The share of whole episodes with the highest returns (at least one), in their order."""
    if not 0 < share <= 1:
        raise InputError(f"best: {share} is outside (0, 1]")
    whole = np.flatnonzero(data.complete)
    if not len(whole):
        raise InputError("best: no trajectory of the dataset is a whole episode")
    returns = data.returns.reshape(len(data.ends), -1)[whole, 0]
    keep = np.sort(whole[np.argsort(-returns, kind="stable")[: int(np.ceil(share * len(whole)))]])
    begins = np.concatenate([[0], data.ends[:-1] + 1])
    rows = np.concatenate([np.arange(int(begins[i]), int(data.ends[i]) + 1) for i in keep])
    ends = np.cumsum(data.ends[keep] - begins[keep] + 1) - 1
    picked = {k: each(lambda x: x[rows], getattr(data, k)) for k in Dataset._fields[:5]}
    return Dataset(**picked, ends=ends, final_obs=each(lambda x: x[keep], data.final_obs))


def ahead(data: Dataset) -> tuple[Any, np.ndarray]:
    """The next observation of each row, and the next action; of a trajectory's last row its own."""

    def obs(x, last):
        out = np.roll(x, -1, 0)
        out[data.ends] = last
        return out

    action = np.roll(data.action, -1, 0)
    action[data.ends] = data.action[data.ends]
    return each(obs, data.obs, data.final_obs), action
