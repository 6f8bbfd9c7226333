"""What every test runs under; a setting from outside wins."""

import os
from pathlib import Path

CACHE = Path(__file__).parents[1] / ".pytest_cache" / "xla"  # a program is compiled once a machine

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
