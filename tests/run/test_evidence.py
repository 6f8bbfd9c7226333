"""Status is computed from what is on record for this version of a file."""

import json
import shutil

import pytest

from jaxrl.run import catalogue, evidence, page

PAPER = "jaxrl/papers/on_policy/ppo.py"
TEST = "tests/papers/test_ppo.py"


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout that holds PPO, a test of it, and no evidence."""
    for file in (PAPER, TEST, "jaxrl/papers/index.json"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(catalogue.ROOT / file, tmp_path / file)
    (tmp_path / "experiments/results/claims").mkdir(parents=True)
    monkeypatch.setattr(catalogue, "ROOT", tmp_path)
    monkeypatch.setattr(catalogue, "PAPERS", tmp_path / "jaxrl/papers")
    return tmp_path


def ppo():
    return next(e for e in evidence.entries() if e["slug"] == "ppo")


def claim(checkout, verdict, version=None):
    statement = dict(
        says="a > b", metric="a", method="ppo", baseline="b", n=16, difference=1.0, ci95=[0.5, 2.0],
        verdict=verdict, method_iqm=2.0, baseline_iqm=1.0,
    )  # fmt: skip
    version = version or evidence.sha256(catalogue.find("ppo"))
    record = dict(statement, statements=[statement], recorded="2026-01-01", file_sha256=version)
    (checkout / "experiments/results/claims/ppo.json").write_text(json.dumps(record))


TESTS = [f"{TEST}::test_the_clip_is_equation_7_and_its_gradient_stops_where_it_should"]


def test_status_goes_with_the_evidence(checkout):
    assert ppo()["status"] == "partial: equation test, battery, claim"
    evidence.record_tests({"ppo": {"equation_tests": TESTS}}, set())
    assert ppo()["status"] == "partial: battery, claim"
    evidence.record_tests({"ppo": {"battery": TESTS}}, set())
    assert ppo()["status"] == "partial: claim"
    claim(checkout, "not reproduced")
    assert ppo()["status"] == "not reproduced"
    claim(checkout, "reproduced")
    assert ppo()["status"] == "works"
    assert ppo()["evidence"]["equation_tests"] == TESTS
    assert {"metric", "method", "baseline", "n", "difference", "ci95", "verdict", "recorded"} < set(
        ppo()["evidence"]["claim"]
    )
    evidence.record_tests({}, {("ppo", "battery")})  # it failed
    assert ppo()["status"] == "partial: battery"


def test_another_version_of_the_file_has_no_evidence(checkout):
    evidence.record_tests({"ppo": {"equation_tests": TESTS, "battery": TESTS}}, set())
    claim(checkout, "reproduced")
    assert ppo()["status"] == "works"
    file = checkout / PAPER
    file.write_text(file.read_text().replace("return -clipped(", "return clipped("))
    assert ppo()["status"] == "partial: equation test, battery, claim"
    claim(checkout, "reproduced", version="0" * 64)
    assert ppo()["evidence"]["claim"] is None


def test_a_test_that_is_gone_is_no_evidence(checkout):
    evidence.record_tests({"ppo": {"equation_tests": [*TESTS, f"{TEST}::test_of_old"]}}, set())
    assert ppo()["evidence"]["equation_tests"] == TESTS
    (checkout / TEST).unlink()
    assert ppo()["evidence"]["equation_tests"] == []


def test_every_system_is_listed():
    entries = evidence.entries()
    assert (
        len(entries) == len({e["slug"] for e in entries}) == len({e["id"] for e in entries}) == 372
    )
    assert all(e["status"] == "planned" for e in entries if e["file"] is None)
    for slug, paper in catalogue.papers().items():
        assert paper["file"] == f"jaxrl/papers/{paper['chapter']}/{slug}.py"
        assert paper["slug"] == slug
    own = [p for p in catalogue.papers().values() if not p.get("reference")]
    rows = {row["slug"]: row for row in catalogue.index()}
    for paper in own:  # what a file says of itself is what the index says
        for field in ("id", "title", "chapter"):
            assert paper[field] == rows[paper["slug"]][field], (paper["slug"], field)


def test_the_page_is_as_it_was_generated():
    """`jaxrl papers --write` after evidence or papers changed."""
    assert (catalogue.ROOT / "PAPERS.md").read_text() == page.text()
