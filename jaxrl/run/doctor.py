"""What of this machine and its packages would stop a run, and the command that mends it.

Each check is a function from what was found to rows, so that a test can feed it any machine;
`examine` looks at this one. jax is imported only there.
"""

import contextlib
import importlib
import io
import os
import shlex
import shutil
import stat
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from jaxrl.cache import OTHERS_WRITE
from jaxrl.errors import reason

LEAST_DISK, LITTLE_DISK = 100e6, 2e9  # bytes: below, a fault; below, a remark


class Row(NamedTuple):
    """One check; `ok` is None for a remark, which is not a fault."""

    check: str
    ok: bool | None
    found: str
    mend: str = ""


class Clash(NamedTuple):
    """Distributions that do harm when all `parts` are installed; `mend` may name their versions."""

    parts: tuple[str, ...]
    harm: str
    mend: str
    source: str = ""


CLASHES = (
    Clash(
        ("tensorflow-probability", "tfp-nightly"),
        "one folder for both, so distrax breaks",
        "pip uninstall -y tensorflow-probability tfp-nightly"
        " && pip install tfp-nightly=={tfp-nightly}",
        "google-deepmind/distrax#295, #301, tensorflow/probability#2009",
    ),
    Clash(
        ("qdax", "distrax"),
        "qdax brings tensorflow-probability, over the folder that distrax uses",
        "pip uninstall -y qdax tensorflow-probability tfp-nightly && pip install tfp-nightly",
        "google-deepmind/distrax#295, #301, tensorflow/probability#2009",
    ),
    Clash(
        ("pandas>=3", "rliable"),
        "rliable does not import",
        "pip install 'pandas<3' 'arch<8'",
    ),
    Clash(
        ("kinetix-env",),
        "it forces jax 0.9",
        "pip uninstall -y kinetix-env",
    ),
    Clash(
        ("pygame", "pygame-ce"),
        "one folder for both",
        "pip uninstall -y pygame pygame-ce && pip install pygame-ce=={pygame-ce}",
        "MyreMylar/pygame_gui#587",
    ),
)


def asked(requires: Iterable[str], extra: str = "") -> list[Requirement]:
    """What a distribution requires here: without extras, or what an extra adds to that."""

    def holds(r: Requirement, extra: str) -> bool:
        return r.marker is None or r.marker.evaluate({"extra": extra})

    parsed = map(Requirement, requires)
    return [r for r in parsed if holds(r, extra) and not (extra and holds(r, ""))]


def met(r: Requirement, installed: dict[str, str]) -> bool:
    """Whether a requirement's distribution is installed and inside its bounds."""
    version = installed.get(canonicalize_name(r.name))
    return version is not None and r.specifier.contains(version, prereleases=True)


def bare(r: Requirement) -> str:
    """A requirement as pip takes it, without its marker."""
    return shlex.quote(
        r.name + (f"[{','.join(sorted(r.extras))}]" if r.extras else "") + str(r.specifier)
    )


def python(version: str, requires: str) -> Row:
    """Whether the interpreter is one that jaxrl supports; `requires` as in Requires-Python."""
    if SpecifierSet(requires).contains(version, prereleases=True):
        return Row("python", True, version)
    mend = f"make an environment with another Python: {requires}"
    return Row("python", False, f"{version} is outside {requires}", mend)


def dependencies(requires: Iterable[str], installed: dict[str, str]) -> list[Row]:
    """A row for everything that jaxrl requires without extras."""
    rows = []
    for r in asked(requires):
        version = installed.get(canonicalize_name(r.name))
        if met(r, installed):
            rows.append(Row(r.name, True, str(version)))
        else:
            found = f"{version} is outside {r.specifier}" if version else "not installed"
            rows.append(Row(r.name, False, found, f"pip install {bare(r)}"))
    return rows


def clashes(installed: dict[str, str]) -> list[Row]:
    """A fault for every known clash among what is installed, or one row that says there is none."""
    rows = []
    for c in CLASHES:
        parts = [Requirement(p) for p in c.parts]
        if all(met(p, installed) for p in parts):
            who = " with ".join(f"{p.name} {installed[canonicalize_name(p.name)]}" for p in parts)
            found = f"{who}: {c.harm}" + (f" ({c.source})" if c.source else "")
            rows.append(Row("clash", False, found, c.mend.format_map(installed)))
    return rows or [Row("clash", True, f"none of the {len(CLASHES)} known")]


def whole(
    requires: Iterable[str],
    extra: str,
    installed: dict[str, str],
    look: Callable[[str], Iterable[str]],
) -> bool:
    """Whether all that an extra adds is there; `look` gives what an installed name requires."""
    return all(
        met(r, installed) and all(whole(look(r.name), e, installed, look) for e in r.extras)
        for r in asked(requires, extra)
    )


def extras(
    names: Sequence[str],
    requires: Sequence[str],
    installed: dict[str, str],
    look: Callable[[str], Iterable[str]],
) -> Row:
    """Which optional extras are whole; those that are not are a remark."""
    there = [n for n in names if whole(requires, n, installed, look)]
    missing = [n for n in names if n not in there]
    found = ", ".join(there) or "none"
    if not missing:
        return Row("extras", True, found)
    found += f"; not installed: {', '.join(missing)}"
    return Row("extras", None, found, f"pip install 'jaxrl[{','.join(missing)}]'")


def devices(
    found: Sequence[tuple[str, str]] | Exception, platforms: str, version: str, gpu: bool
) -> Row:
    """jax's devices as (platform, kind), or why there are none; `gpu`: the system sees one.

    `platforms` is JAX_PLATFORMS, `version` that of jax.
    """
    cuda = f"pip install 'jax[cuda13]=={version}' (cuda12 where the driver is older than 580)"
    unset = f"unset JAX_PLATFORMS, which is {platforms!r}"
    wanted = not {"cuda", "gpu"}.isdisjoint(platforms.split(","))
    if isinstance(found, Exception):
        mend = unset if platforms else "export JAX_PLATFORMS=cpu, to run without accelerators"
        text = f"jax does not start: {reason(found)}"
        return Row("devices", False, text, cuda if gpu and wanted else mend)
    text = ", ".join(f"{n} {platform} ({kind})" for (platform, kind), n in Counter(found).items())
    if gpu and all(platform == "cpu" for platform, _ in found):
        text += "; the system has a GPU that jax does not use"
        return Row("devices", None, text, unset if platforms and not wanted else cuda)
    return Row("devices", True, text)


def cache(path: str | None, uid: int) -> Row:
    """Whether the folder of compiled programs, which are code, can be written by `uid` alone."""
    own = "mkdir -p -m 700 ~/.cache/jaxrl && export JAX_COMPILATION_CACHE_DIR=~/.cache/jaxrl"
    if not path:
        return Row("cache", None, "not set: every process compiles anew", own)
    if "://" in path:
        return Row("cache", None, f"{path} is not a local folder: not looked at", own)
    folder = Path(path)
    if not folder.exists():
        above = next(p for p in folder.absolute().parents if p.exists())
        if above.is_dir() and os.access(above, os.W_OK | os.X_OK):
            return Row("cache", True, f"{path}, to be made")
        return Row("cache", False, f"{path} cannot be made in {above}", own)
    if not folder.is_dir():
        return Row("cache", False, f"{path} is not a folder", own)
    status = folder.stat()
    if status.st_uid != uid:
        return Row("cache", False, f"{path} belongs to another user, {status.st_uid}", own)
    mend = f"chmod 700 {shlex.quote(path)}"
    if status.st_mode & OTHERS_WRITE:
        mode = stat.S_IMODE(status.st_mode)
        return Row(
            "cache",
            False,
            f"{path} can be written by others, mode {mode:o}",
            mend + ", and delete what is in it: others may have written it",
        )
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        return Row("cache", False, f"{path} cannot be written", mend)
    return Row("cache", True, path)


def disk(path: str | Path, free: float) -> Row:
    """Whether `free` bytes where runs are written are enough."""
    amount = f"{free / 1e9:.1f} GB" if free >= 1e9 else f"{free / 1e6:.0f} MB"
    found = f"{amount} free in {path}"
    if free >= LITTLE_DISK:
        return Row("disk", True, found)
    mend = "delete old runs, or write elsewhere: jaxrl train ... --run FOLDER"
    return Row("disk", False if free < LEAST_DISK else None, found, mend)


def works(check: str, call: Callable[[], object], mend: str) -> Row:
    """Whether a call goes through; what it prints and warns of is dropped."""
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            call()
    except Exception as e:
        return Row(check, False, reason(e), mend)
    return Row(check, True, "works")


def small_program() -> None:
    """Compile, run and check a product of matrices."""
    import jax
    import jax.numpy as jnp

    total = float(jax.jit(lambda x: (x @ x).sum())(jnp.ones((8, 8))))
    if total != 512:
        raise ArithmeticError(f"the product of 8 x 8 ones sums to {total}, not 512")


def everything_installed() -> dict[str, str]:
    """Version by name of every distribution; where one is there twice, that which Python finds."""
    out: dict[str, str] = {}
    for d in metadata.distributions():
        if d.metadata["Name"]:
            out.setdefault(canonicalize_name(d.metadata["Name"]), d.version)
    return out


def system_gpu() -> bool:
    """Whether the system, not jax, sees an NVIDIA GPU."""
    try:
        seen = subprocess.run(["nvidia-smi", "-L"], capture_output=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return seen.returncode == 0 and b"GPU" in seen.stdout


def jax_devices() -> list[tuple[str, str]] | Exception:
    """jax's devices as (platform, kind), or why it has none."""
    try:
        import jax

        return [(d.platform, d.device_kind) for d in jax.devices()]
    except Exception as e:
        return e


def cache_folder() -> str | None:
    """The folder of compiled programs as jax has it, or as jax would have it if it started."""
    try:
        import jax

        return jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    except Exception:
        return os.environ.get("JAX_COMPILATION_CACHE_DIR")


def packages(installed: dict[str, str]) -> list[Row]:
    """The rows that come from package metadata."""
    look = lambda name: metadata.requires(name) or []
    try:
        own = metadata.metadata("jaxrl")
    except metadata.PackageNotFoundError:
        mend = "pip install -e . in jaxrl's folder"
        return [Row("jaxrl", False, "not installed", mend), *clashes(installed)]
    requires = look("jaxrl")
    return [
        Row("jaxrl", True, own["Version"]),
        python(".".join(map(str, sys.version_info[:3])), own["Requires-Python"] or ""),
        *dependencies(requires, installed),
        *clashes(installed),
        extras(own.get_all("Provides-Extra") or [], requires, installed, look),
    ]


def free_disk() -> Row:
    """The disk that holds ./runs, or the current folder where there is none."""
    where = Path("runs") if Path("runs").is_dir() else Path()
    return disk(where.resolve(), shutil.disk_usage(where).free)


def readable(check: str, look: Callable[[], Row], mend: str) -> Row:
    """A check of the file system; a fault where the system does not let it look."""
    try:
        return look()
    except OSError as e:
        return Row(check, False, reason(e), mend)


def examine() -> list[Row]:
    """Every check on this machine."""
    installed = everything_installed()
    pin = lambda name: f"{name}=={installed[name]}" if name in installed else name
    gpu = system_gpu()  # before jax has threads
    rows = packages(installed)
    imports = lambda m, mend: works(f"import {m}", lambda: importlib.import_module(m), mend)
    starts = imports("jax", f"pip install {pin('jax')}")
    folder = cache_folder()
    other = f"export JAX_COMPILATION_CACHE_DIR to a folder of your own, not {folder}"
    rows += [starts, readable("cache", lambda: cache(folder, os.getuid()), other)]
    if starts.ok:
        if rows[-1].ok is False:  # nothing below may run code that others left there
            importlib.import_module("jax").config.update("jax_compilation_cache_dir", None)
        platforms, version = os.environ.get("JAX_PLATFORMS", ""), installed.get("jax", "")
        rows.append(devices(jax_devices(), platforms, version, gpu))
        mend = "JAX_PLATFORMS=cpu jaxrl doctor says whether it is the device"
        rows.append(works("compile", small_program, mend))
    for module in ("distrax", "gymnax", "brax", "orbax.checkpoint"):
        again = f"pip install --force-reinstall --no-deps {pin(module.replace('.', '-'))}"
        rows.append(imports(module, f"the faults above first, then {again}"))
    rows.append(readable("disk", free_disk, "cd to a folder that exists and is yours"))
    return rows


def table(rows: Sequence[Row]) -> str:
    """A line a row: ok, remark or FAULT, the check, what was found, and what mends it."""
    word = {True: "ok", None: "remark", False: "FAULT"}
    width = max(len(r.check) for r in rows)
    return "\n".join(
        f"{word[r.ok]:6}  {r.check:{width}}  {r.found}" + (f"  mend: {r.mend}" if r.mend else "")
        for r in rows
    )
