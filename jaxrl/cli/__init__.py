"""The jaxrl command. This module and `app` need no jax: help and mistyped names answer at once."""

from jaxrl.cli.app import main

__all__ = ["main"]
