"""The papers there are, read from their `PAPER` literals: no file is run, no jax imported."""

import ast
import functools
import importlib
import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from jaxrl.errors import InputError, did_you_mean

PAPERS = Path(__file__).parent.parent / "papers"
ROOT = PAPERS.parent.parent  # of the checkout, or what the package is installed in
# of its hyper class
FAMILY = ("for_env", "network_for", "smallest", "steps_per_iteration", "horizon")
FIELDS = ("slug", "title", "chapter", "hyper", "claim")  # every PAPER has them


def literal(path: Path) -> dict:
    """The PAPER of a file. InputError if it has none, or one that is not a literal."""
    try:
        tree = ast.parse(path.read_text())
    except (OSError, SyntaxError, UnicodeDecodeError) as e:
        raise InputError(f"paper: {path}: {getattr(e, 'strerror', None) or e}") from e
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == "PAPER":
            raise InputError(f"paper: {path}: PAPER has a type; write PAPER = {{...}}")
        if isinstance(node, ast.Assign) and any(
            getattr(t, "id", "") == "PAPER" for t in node.targets
        ):
            try:
                paper = ast.literal_eval(node.value)
            except (ValueError, TypeError) as e:
                raise InputError(f"paper: {path}: PAPER is not a literal") from e
            if not isinstance(paper, dict):
                raise InputError(f"paper: {path}: PAPER is not a dictionary")
            if missing := [f for f in FIELDS if f not in paper]:
                raise InputError(f"paper: {path}: PAPER lacks {', '.join(missing)}")
            own = path.is_relative_to(PAPERS)
            return paper | {"file": str(path.relative_to(ROOT) if own else path.resolve())}
    raise InputError(f"paper: {path} has no PAPER")


def path(paper: dict) -> Path:
    """Where a paper's file is."""
    return ROOT / paper["file"]  # a person's own is absolute already


def inside(paper: dict) -> bool:
    """Whether a paper is the kit's and not a person's own."""
    return path(paper).is_relative_to(PAPERS)


def index() -> list[dict]:
    """{id, slug, title, chapter} of every system that the kit is to hold, in order of id."""
    return json.loads((PAPERS / "index.json").read_text())


def files() -> dict[str, Path]:
    """The file of every paper of the kit by slug, sorted by chapter: <chapter>/<slug>.py."""
    return {p.stem: p for p in sorted(PAPERS.glob("*/*.py")) if p.name != "__init__.py"}


def papers() -> dict[str, dict]:
    """Every paper of the kit by slug, sorted by chapter."""
    return {slug: literal(file) for slug, file in files().items()}


def find(slug: str) -> dict:
    """The PAPER of a slug, or of a file where the slug ends in .py."""
    if slug.endswith(".py"):
        return literal(Path(slug))
    known = files()
    if slug not in known:
        raise did_you_mean("paper", slug, known, "jaxrl papers lists them")
    return literal(known[slug])  # that one alone: another's being half-written is no matter


def several(papers: str | Sequence[str]) -> None:
    """InputError for fewer than two papers."""
    if isinstance(papers, str) or len(papers) < 2:
        count = 1 if isinstance(papers, str) else len(papers)
        raise InputError(f"compare: {count} papers; two or more are needed")


def absolute(slug: str) -> str:
    """A slug, or a file by the path that finds it from any folder."""
    return str(Path(slug).resolve()) if slug.endswith(".py") else slug


@functools.cache
def run_file(path: Path) -> ModuleType:
    """The module of a person's own paper, run once; what it raises is said in one line."""
    spec = importlib.util.spec_from_file_location(f"jaxrl_own_{path.stem}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as e:
        raise InputError(f"paper: {path.name}: {type(e).__name__}: {e}") from e
    return module


def load(slug: str) -> tuple[ModuleType, type]:
    """A paper's module (with its `make`) and its hyperparameter class."""
    paper = find(slug)
    if slug.endswith(".py"):
        module = run_file(Path(slug).resolve())
    else:
        module = importlib.import_module(f"jaxrl.papers.{paper['chapter']}.{slug}")
    for name in ("make", paper["hyper"]):
        if not hasattr(module, name):
            raise InputError(f"paper: {paper['file']} defines no {name}")
    cls = getattr(module, paper["hyper"])
    if missing := [name for name in FAMILY if not hasattr(cls, name)]:
        raise InputError(f"paper: {paper['hyper']} has no {missing[0]}: extend a family's class")
    return module, cls
