"""Whether another revision's engine learns the same: final returns of the items of `jaxrl bench`.

    python experiments/equal.py REVISION [--items a,c,e] [--seeds 16]

What makes it faster must not make it learn otherwise. This revision and that one train the same
jobs; the difference of their interquartile means, with its interval, goes to
results/bench/equal.json.
"""

import argparse
import dataclasses
import json
import subprocess
import tempfile
from pathlib import Path

from jaxrl.run import bench, record, stats
from jaxrl.run.bench_startup import training
from jaxrl.run.files import write_whole

ABOUT = "final returns of this revision's engine less those of another's"
HOME = Path(__file__).parents[1]
RECORD = HOME / "experiments" / "results" / "bench" / "equal.json"


def returns(root: Path, item: str, seeds: int, folder: Path) -> list[float]:
    """The final return of each seed by the code under a root."""
    folder.mkdir()
    job = dataclasses.replace(bench.ITEMS[item].job(seeds), seed_mode="vmap")  # as both know it
    words, run = training(job, folder)
    subprocess.run(words, cwd=root, check=True)
    return record.load_summary(run)["final_return"]["per_seed"]


def main() -> None:
    parser = argparse.ArgumentParser(description=ABOUT)
    parser.add_argument("revision")
    parser.add_argument("--items", default="a,c,e")
    parser.add_argument("--seeds", type=int, default=16)
    asked = parser.parse_args()
    found = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    with tempfile.TemporaryDirectory() as scratch:
        old = Path(scratch) / "old"
        subprocess.run(["git", "clone", "-q", str(HOME), str(old)], check=True)
        subprocess.run(["git", "checkout", "-q", asked.revision], cwd=old, check=True)
        for item in asked.items.split(","):
            roots = dict(new=HOME, old=old)
            x = {
                k: returns(r, item, asked.seeds, Path(scratch) / (item + k))
                for k, r in roots.items()
            }
            gap, interval = stats.difference(x["new"], x["old"])
            print(f"{item}: {gap:+.2f} [{interval[0]:+.2f}, {interval[1]:+.2f}]", flush=True)
            about = dict(old=asked.revision, new=record.revision(), versions=record.versions())
            found[item] = about | dict(difference=gap, interval=interval, returns=x)
            write_whole(RECORD, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
