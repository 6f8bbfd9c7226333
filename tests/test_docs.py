"""What the pages show runs as it stands there."""

import ast
import inspect
import re
import sys
from pathlib import Path

import click
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
import jaxrl
from envs.check import check
from jaxrl import core, hyper
from jaxrl.cli.app import COMMANDS, app
from jaxrl.metrics import DIAGNOSTIC, PROGRESS
from jaxrl.run import catalogue
from jaxrl.run.battery import examine

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
page = pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.S)


@pytest.mark.slow
def test_the_readme_trains_from_python():
    shown = {}
    short = blocks("README.md")[1].replace("env, 100)", "env, 3)")
    exec(short, shown)
    assert shown["metrics"]["episode_return"].shape == (8, 3)
    assert jnp.unique(shown["metrics"]["policy_loss"][:, -1]).size == 8  # each rate went its way


def test_the_readme_shows_the_paper_as_it_is():
    file = catalogue.path(catalogue.find("ppo"))
    assert blocks("README.md")[3].strip() in file.read_text()


def test_the_environment_of_ones_own_passes_its_check(tmp_path, monkeypatch):
    (tmp_path / "my_module.py").write_text(blocks("docs/environments.md")[0])
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_module", raising=False)
    assert check("my_module:make", steps=120) == []
    assert envs.make("my_module:make").max_steps == 50


def test_the_family_of_a_page_is_sound_and_learns(tmp_path):
    file = tmp_path / "my_family.py"
    file.write_text(blocks("docs/families.md")[0])
    assert examine(str(file)) == []

    module, cls = catalogue.load(str(file))
    env = envs.make("CartPole-v1")
    hp = hyper.replace(cls.for_env("classic"), num_steps=200)
    algo = module.make(env, cls.network_for("classic"))
    run = jax.jit(lambda key: core.train(algo, key, hp, env, 8)[1]["episode_return"])
    returns = np.asarray(run(jax.random.key(0)))
    assert returns[0] < 60 < 100 < returns[-1]


def anchors(page: Path) -> set[str]:
    """What a heading of a page can be linked by."""
    heads = re.findall(r"^#+ (.*)", page.read_text(), re.M)
    return {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in heads}


@page
def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\(([^)#]+)(?:#([^)]*))?\)", page.read_text()):
        assert (page.parent / target).exists(), target
        assert not anchor or anchor in anchors(page.parent / target), anchor


def test_every_command_has_its_page():
    assert {p.stem for p in (ROOT / "docs/commands").glob("*.md")} == set(COMMANDS)
    index = (ROOT / "docs/command.md").read_text()
    for name in COMMANDS:
        assert f"(commands/{name}.md)" in index
        assert (ROOT / f"docs/commands/{name}.md").read_text().startswith(f"# jaxrl {name}\n")


def flags(name: str, first: str) -> set[str]:
    """What a command's help lists; of `train`, with what the paper adds that comes first (another
    word: ppo); of a group, of all in it."""
    ctx = click.Context(app)
    command = app.get_command(ctx, name)
    if name == "train":
        command = command.get_command(ctx, first if first in catalogue.papers() else "ppo")
    parts = command.commands.values() if name == "dataset" else [command]  # make, info, import
    known = [x for c in parts for p in c.params for x in (*p.opts, *p.secondary_opts)]
    return {"--help", *known}


@page
def test_the_flags_of_a_page_are_the_commands(page):
    text = page.read_text().replace("\\\n", " ")  # a line that goes on
    text = text.replace(" -- ", "\n")  # before a command within a command
    for name, rest in re.findall(r"jaxrl ([a-z-]+)\b([^\n`]*)", text):
        if name in COMMANDS:
            said = set(re.findall(r"(?<!\S)\[?(--[a-z][\w-]*)", rest.partition(" # ")[0]))
            assert said <= flags(name, (rest.split() or [""])[0]), f"jaxrl {name}{rest}"


@page
def test_the_calls_of_a_page_fit_the_functions(page):
    for block in filter(re.compile(r"jaxrl\.\w+\(").search, blocks(str(page.relative_to(ROOT)))):
        for call in (x for x in ast.walk(ast.parse(block)) if isinstance(x, ast.Call)):
            name = ast.unparse(call.func).removeprefix("jaxrl.")
            if name in jaxrl.__all__ and ast.unparse(call.func) != name:
                named = {str(k.arg): None for k in call.keywords}
                inspect.signature(getattr(jaxrl, name)).bind(*call.args, **named)


def test_the_pages_speak_of_every_metric():
    page = (ROOT / "docs/command.md").read_text()
    assert set(re.findall(r"`(\w+)`", page)) >= set(PROGRESS)
    assert not set(PROGRESS) & set(DIAGNOSTIC)
