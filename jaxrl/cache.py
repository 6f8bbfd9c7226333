"""Where the command keeps compiled programs, so that the next process need not compile them."""

import hashlib
import os
import platform
import stat
from pathlib import Path

OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def keep_programs() -> None:
    """Name a folder of this user's alone to jax, which is not imported yet: programs are code.

    It is made if it is not there. Where the environment names one, or where others can write it,
    that stays. What took a fifth of a second to compile is kept.
    """
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    try:
        folder = home() / "jaxrl" / f"xla-{processor()}"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        return
    if status.st_uid == os.getuid() and not status.st_mode & OTHERS_WRITE:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)


def home() -> Path:
    """Where programs of this user keep what they can make again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def processor() -> str:
    """A name for what the processor can do: a program made on another may not run on it."""
    try:
        with open("/proc/cpuinfo") as lines:  # long where there are many cores, all alike
            able = next(x for x in lines if x.startswith(("flags", "Features"))).rstrip()
    except (OSError, StopIteration):
        able = platform.processor()
    return hashlib.sha256(f"{platform.machine()} {able}".encode()).hexdigest()[:8]
