"""How tests compile. XLA's slow passes take most of a test's time: a program compiles in a fifth of
it without them. Each file of tests, each paper and notebook has its day of ten on which what runs
are made of is compiled as a person's is."""

import datetime
import zlib
from importlib.metadata import version

from packaging.version import Version

FLAGS = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
if Version(version("jaxlib")) < Version("0.11"):
    FLAGS += " --xla_cpu_use_fusion_emitters=false"  # as `jaxrl.run.battery.OLDER`

TODAY = datetime.date.today().toordinal() % 10


def turn(name: str) -> bool:
    """Whether it is its day."""
    return zlib.crc32(name.encode()) % 10 == TODAY
