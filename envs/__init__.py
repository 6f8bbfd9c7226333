"""Environments on the accelerator. `import envs` and checking names need no jax."""

from envs.registry import check_name, kind, make, make_env, names

__all__ = ["check_name", "kind", "make", "make_env", "names"]
