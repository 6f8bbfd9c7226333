"""Every paper of the kit passes the battery.

JAXRL_BATTERY=all runs them all, as `make evidence` does. Otherwise those that changed since their
battery was put on record, and a twentieth of the rest, another one each day.
"""

import os

import pytest

from jaxrl.run import catalogue, evidence
from jaxrl.run.battery import examine
from tests.turns import turn


def today(slug: str) -> bool:
    return turn(slug, 20)


def wanted(paper: dict) -> bool:
    every = os.environ.get("JAXRL_BATTERY") == "all"
    return every or today(paper["slug"]) or not evidence.of(paper)["battery"]


@pytest.mark.parametrize(
    "slug",
    [
        pytest.param(slug, marks=pytest.mark.battery(slug))
        for slug, paper in catalogue.papers().items()
        if wanted(paper)
    ],
)
def test_the_battery(slug):
    assert examine(slug, optimise=today(slug)) == []
