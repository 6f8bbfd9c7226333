"""jaxrl: policy optimisation where every paper is one small file over one engine.

Nothing is imported here, so that `jaxrl --help` needs no jax. Start at `jaxrl.core`.
"""

__version__ = "0.1.0"
