"""What every test runs under (a setting from outside wins), and how tests become evidence.

pytest --record      put on record which equation tests and batteries passed (`make evidence`)
"""

import os
from collections import defaultdict
from pathlib import Path

import pytest

from tests.turns import FLAGS, turn

CACHE = Path(__file__).parents[1] / ".pytest_cache" / "xla"  # a program is compiled once a machine

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "2")  # whatever cores there are
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")  # for both workers
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
if os.environ["JAX_PLATFORMS"] == "cpu":
    os.environ.setdefault("XLA_FLAGS", FLAGS)

KINDS = {"equation": "equation_tests", "battery": "battery"}  # marker -> what it is evidence of


def pytest_addoption(parser):
    parser.addoption("--record", action="store_true", help="put on record what passed")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    for item in items:
        for marker, kind in KINDS.items():
            for found in item.iter_markers(marker):  # goes to the report, from a worker too
                item.user_properties += [(kind, slug) for slug in found.args]


@pytest.fixture(scope="module")
def wholly():
    """The programs of runs are compiled as a person's are, here and in processes begun here."""
    from jaxrl.run import battery, run

    with pytest.MonkeyPatch.context() as m:
        m.setattr(run.compiled, "__defaults__", (run.WIDE | battery.WHOLE,))
        m.setenv("XLA_FLAGS", "")
        yield


@pytest.fixture(scope="module", autouse=True)
def whole_on_its_day(request):
    if turn(request.module.__name__):
        request.getfixturevalue("wholly")


@pytest.fixture(scope="module", autouse=True)
def forgotten():
    """The programs of a file go with it: all together they take gigabytes."""
    yield
    import jax

    jax.clear_caches()


class Evidence:
    """Collects, in the session that has all reports, what passed and what did not."""

    def __init__(self):
        self.passed = defaultdict(lambda: defaultdict(list))
        self.failed = set()

    def pytest_runtest_logreport(self, report):
        for kind, slug in report.user_properties:
            if kind in KINDS.values():
                if report.failed:
                    self.failed.add((slug, kind))
                elif report.when == "call" and report.passed:
                    self.passed[slug][kind].append(report.nodeid)

    def pytest_sessionfinish(self):
        from jaxrl.run import evidence

        evidence.record_tests(self.passed, self.failed)


def pytest_configure(config):
    if config.getoption("--record") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Evidence())
