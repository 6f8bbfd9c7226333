"""What is on record of each paper, for this very version of its file. Needs no jax.

    experiments/results/tests.json           equation tests and battery: `make evidence`
    experiments/results/claims/<slug>.json   claims: `jaxrl claims SLUG`

A record holds the sha256 of the paper's file. Of another version of the file it is no evidence, so
that a change of one line makes a paper `partial` until its evidence is renewed.
"""

import datetime
import hashlib
import json
import re
from pathlib import Path
from typing import Any

from jaxrl.errors import InputError
from jaxrl.run import catalogue

WORKS, NOT_REPRODUCED, PLANNED = "works", "not reproduced", "planned"


def sha256(paper: dict) -> str:
    """Of a paper's file."""
    return hashlib.sha256(catalogue.path(paper).read_bytes()).hexdigest()


def results() -> Path:
    """The checkout's recorded results. InputError where the kit runs from no checkout."""
    folder = catalogue.ROOT / "experiments" / "results"
    if not folder.is_dir():
        raise InputError("experiments: they and their results belong to a checkout; this is none")
    return folder


def read(name: str) -> dict:
    """A record under the results; {} if there is none, or no checkout."""
    file = catalogue.ROOT / "experiments" / "results" / name
    return json.loads(file.read_text()) if file.is_file() else {}


def defined(test: str) -> bool:
    """Whether a recorded test, tests/x.py::name, is still there."""
    file, _, name = test.partition("::")
    path = catalogue.ROOT / file
    name = re.escape(name.partition("[")[0])
    return path.is_file() and bool(re.search(rf"^def {name}\(", path.read_text(), re.M))


def record_tests(passed: dict[str, dict[str, list[str]]], failed: set[tuple[str, str]]) -> None:
    """Write what a test session showed.

    Args:
      passed: by slug, "equation_tests" and "battery": the tests that passed.
      failed: (slug, kind) of those that did not, whose record is taken back.
    """
    file = results() / "tests.json"
    found, today = read("tests.json"), datetime.date.today().isoformat()
    known = catalogue.papers()
    for slug, kinds in passed.items():
        for kind, tests in kinds.items():
            version = sha256(known[slug])
            found.setdefault(slug, {})[kind] = dict(
                tests=sorted(tests), file_sha256=version, recorded=today
            )
    for slug, kind in failed:
        found.get(slug, {}).pop(kind, None)
    found = {slug: found[slug] for slug in sorted(found) if slug in known}
    file.write_text(json.dumps(found, indent=1) + "\n")


def of(paper: dict | None) -> dict[str, Any]:
    """{equation_tests, battery, claim} on record for this version of a paper's file."""
    out: dict[str, Any] = dict(equation_tests=[], battery=False, claim=None)
    if paper is None:
        return out
    slug, version = paper["slug"], sha256(paper)
    tests = {
        kind: [t for t in found["tests"] if defined(t)]
        for kind, found in read("tests.json").get(slug, {}).items()
        if found["file_sha256"] == version
    }
    out["equation_tests"] = tests.get("equation_tests", [])
    out["battery"] = bool(tests.get("battery"))
    claim = read(f"claims/{slug}.json")
    if claim.get("file_sha256") == version:
        out["claim"] = {k: v for k, v in claim.items() if k not in ("arms", "versions")}
    return out


def status(paper: dict | None, evidence: dict) -> str:
    """Computed, never typed: works, not reproduced, partial: <what is missing>, planned."""
    if paper is None:
        return PLANNED
    needless = paper.get("reference") and "check" not in paper
    missing = [
        *([] if evidence["equation_tests"] else ["equation test"]),
        *([] if evidence["battery"] else ["battery"]),
        *([] if evidence["claim"] or needless else ["claim"]),
    ]
    if missing:
        return f"partial: {', '.join(missing)}"
    reproduced = not evidence["claim"] or evidence["claim"]["verdict"] == "reproduced"
    return WORKS if reproduced else NOT_REPRODUCED


def entry(row: dict, paper: dict | None) -> dict:
    """A system and what is known of it."""
    evidence = of(paper)
    more = {k: (paper or {}).get(k) for k in ("year", "arxiv", "changes", "claim")}
    return dict(
        id=row.get("id"),
        **{k: row[k] for k in ("slug", "title", "chapter")},
        file=paper and paper["file"],
        status=status(paper, evidence),
        **{k: v for k, v in more.items() if v is not None},
        evidence=evidence,
    )


def entries() -> list[dict]:
    """Every system of the index, in order of id."""
    known = catalogue.papers()
    return [entry(row, known.get(row["slug"])) for row in catalogue.index()]


def references() -> list[dict]:
    """The methods that no listed paper owns but others are measured against."""
    return [entry(p, p) for p in catalogue.papers().values() if p.get("reference")]
