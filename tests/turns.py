"""What does not run, or not so, every day: tests take no longer because of what no change touched.

XLA's slow passes take most of a test's time: a program compiles in a third of it without them. Each
file of tests has its day of ten on which what runs are made of is compiled as a person's is, and
each paper's battery its day of twenty. Of notebooks, and of worlds made of brax, of which every
program takes half a minute, one each day is enough.
"""

import datetime
import zlib

# Without its fusion emitters, too, XLA would take half of what is left, but jaxlib 0.10.2 then
# computes wrongly: tests/papers/test_sac.py shows it.
FLAGS = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
TODAY = datetime.date.today().toordinal()


def turn(name: str, days: int = 10) -> bool:
    """Whether it is its day of so many."""
    return zlib.crc32(name.encode()) % days == TODAY % days
