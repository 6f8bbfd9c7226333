"""How tests compile. XLA's slow passes take most of a test's time: a program compiles in a third of
it without them. Each file of tests, each paper and notebook has its day of ten on which what runs
are made of is compiled as a person's is."""

import datetime
import zlib

# Without its fusion emitters, too, XLA would take half of what is left, but jaxlib 0.10.2 then
# computes wrongly: tests/papers/test_sac.py shows it.
FLAGS = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
TODAY = datetime.date.today().toordinal() % 10


def turn(name: str) -> bool:
    """Whether it is its day."""
    return zlib.crc32(name.encode()) % 10 == TODAY
