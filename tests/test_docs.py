"""What the pages show runs as it stands there."""

import re
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest

import envs
from envs.check import check
from jaxrl.metrics import DIAGNOSTIC, PROGRESS

ROOT = Path(__file__).parents[1]


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.S)


@pytest.mark.slow
def test_the_readme_trains_from_python():
    shown = {}
    short = blocks("README.md")[0].replace("env, 100)", "env, 3)")
    exec(short, shown)
    assert shown["metrics"]["episode_return"].shape == (8, 3)
    assert jnp.unique(shown["metrics"]["policy_loss"][:, -1]).size == 8  # each rate went its way


def test_the_environment_of_ones_own_passes_its_check(tmp_path, monkeypatch):
    (tmp_path / "my_module.py").write_text(blocks("docs/environments.md")[0])
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_module", raising=False)
    assert check("my_module:make", steps=120) == []
    assert envs.make("my_module:make").max_steps == 50


def test_links_lead_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_pages_speak_of_every_metric():
    page = (ROOT / "docs/command.md").read_text()
    assert set(re.findall(r"`(\w+)`", page)) >= set(PROGRESS)
    assert not set(PROGRESS) & set(DIAGNOSTIC)
