"""How fast it is: every item of `jaxrl bench`, with 1, 8, 32 and 128 seeds, beside the peers.

    python experiments/bench.py                          measure what has no record yet; tabulate
    python experiments/bench.py --items a,b --seeds 1,8  these only
    python experiments/bench.py --tabulate               tabulate only

Run it alone on a machine, without a compilation cache. Each measurement is recorded as it ends, so
that a broken-off run goes on where it was; one of another revision or device is made again.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax

from jaxrl.run import bench
from jaxrl.run.bench_peers import missing
from jaxrl.run.bench_startup import startup
from jaxrl.run.document import Table, table
from jaxrl.run.files import write_whole

HERE = Path(__file__).parent / "results" / "bench"
RECORD = HERE / "bench.json"  # "a/8" -> row, "a/startup" -> medians, each with what measured it
ROUNDS = {1: 5, 8: 5, 32: 3, 128: 3}
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"


def records() -> dict[str, dict[str, Any]]:
    return json.loads(RECORD.read_text()) if RECORD.exists() else {}


def measure(name: str, work: Callable[[], dict], about: dict[str, Any]) -> None:
    """Do a piece of work and record it, unless that was done."""
    found = records().get(name, {})
    same = all(found.get(k) == about[k] for k in ("revision", "devices"))
    if same and not about["revision"].endswith("+"):  # a changed tree may have changed since
        return
    got = work() | about
    write_whole(RECORD, json.dumps(records() | {name: got}, indent=1) + "\n")
    jax.clear_caches()


def say(line: str) -> None:
    print(line, flush=True)


def write() -> None:
    """The tables between the marks of the page, one for each machine, revision and versions."""
    groups: dict[str, list[tuple[str, dict]]] = {}
    for name, got in sorted(records().items()):
        versions = ", ".join(f"{k} {v}" for k, v in got["versions"].items())
        where = f"{got['machine']}; {', '.join(got['devices'])}; {versions}; "
        groups.setdefault(f"{where}revision {got['revision']}", []).append((name, got))
    parts = []
    for about, found in groups.items():
        rows = [got for name, got in found if not name.endswith("startup")]
        rows.sort(key=lambda r: (r["item"], r["seeds"]))
        started = [
            [name.split("/")[0], kind, *(got[kind][k] for k in ("cold", "warm", "peak_mib"))]
            for name, got in found
            if name.endswith("startup")
            for kind in ("jaxrl", "rejax")
            if kind in got
        ]
        parts.append(about)
        if rows:
            parts.append(table(Table(bench.HEAD, bench.lines(rows))))
        if started:
            head = ["item", "process", "first update, s", "with a warm cache, s", "peak MiB"]
            parts.append(table(Table(head, started)))
    page = HERE / "README.md"
    before, rest = page.read_text().split(BEGIN)
    after = rest.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n\n" + "\n\n".join(parts) + f"\n\n{END}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", default=",".join(bench.ITEMS))
    parser.add_argument("--seeds", default=",".join(map(str, ROUNDS)))
    parser.add_argument("--rounds", type=int, help="instead of the usual 5, or 3 with many seeds")
    parser.add_argument("--tabulate", action="store_true", help="measure nothing")
    asked = parser.parse_args()
    items, seeds = asked.items.split(","), [int(n) for n in asked.seeds.split(",")]
    rounds = {n: ROUNDS.get(n, 3) if asked.rounds is None else asked.rounds for n in seeds}
    bench.check(items, seeds, min(rounds.values()))
    if not asked.tabulate:
        about = bench.about()
        for line in missing():
            say(line)
        for n in seeds:
            for i in items:
                measure(f"{i}/{n}", partial(bench.row, i, n, rounds[n], True, say), about)
        for i in items:
            measure(f"{i}/startup", partial(startup, i, 3, True, say), about)
    write()


if __name__ == "__main__":
    main()
