"""PAPERS.md, written from the papers' literals and what is on record of them."""

from collections import Counter

from jaxrl.run import catalogue, evidence
from jaxrl.run.document import Table, table

HEAD = """# The papers

Written by `jaxrl papers --write`; nothing here is typed. A paper *works* if its equation tests and
the battery pass and its claim was reproduced, all on record for this version of its file; *not
reproduced* if the claim was run and did not come out; *partial* says which evidence is missing. How
evidence is made: [docs/papers.md](docs/papers.md).
"""
COLUMNS = ("paper", "year", "file", "what it changes", "claim", "measured", "status")


def number(x: float | None, digits: int = 3) -> str:
    """A number of a record; null was NaN or infinite."""
    return "?" if x is None else f"{x:.{digits}g}"


def measured(claim: dict | None) -> str:
    """Each statement's numbers."""
    if not claim:
        return ""
    parts = []
    for s in claim["statements"]:
        low, high = s["ci95"]
        mark = "" if s["verdict"] == "reproduced" else " **no**"
        parts.append(
            f"{s['says']}: {number(s['method_iqm'])} against {number(s['baseline_iqm'])}, "
            f"difference {number(s['difference'])} [{number(low)}, {number(high)}]{mark}"
        )
    return f"{'; '.join(parts)} ({claim['n']} seeds, {claim['recorded']})"


def rows(entries: list[dict]) -> str:
    """A table of entries."""
    lines = []
    for e in entries:
        title = f"{e['slug']}: {e['title']}"
        if e.get("arxiv"):
            title += f" (arXiv {e['arxiv']})"
        name = e["file"].rpartition("/")[2] if e["file"] else ""
        link = f"[{name}]({e['file']})" if e["file"] else ""
        found = measured(e["evidence"]["claim"])
        lines.append(
            (title, e.get("year"), link, e.get("changes"), e.get("claim"), found, e["status"])
        )
    return table(Table(COLUMNS, lines))


def text() -> str:
    """The whole page."""
    entries = evidence.entries()
    count = Counter(e["status"].partition(":")[0] for e in entries)
    total = ", ".join(f"{n} {status}" for status, n in count.most_common())
    lines = [HEAD, f"{len(entries)} systems: {total}.", ""]
    chapters = dict.fromkeys(e["chapter"] for e in entries)
    for chapter in sorted(chapters, key=lambda c: c != "on_policy"):  # the first to be built
        lines += [f"## {chapter}", "", rows([e for e in entries if e["chapter"] == chapter]), ""]
    lines += ["## References", "", "What others are measured against.", ""]
    return "\n".join([*lines, rows(evidence.references()), ""])


def write() -> None:
    """Renew the checkout's PAPERS.md."""
    evidence.results()
    (catalogue.ROOT / "PAPERS.md").write_text(text())
