"""What reinforcement learning adds to a language model's start, on held-out prompts, by ten seeds.

    python experiments/tokens.py [NAME ...]     run these (all that have no record yet)
    python experiments/tokens.py --table        write results/tokens/README.md from the records

The start is reported at the best of several temperatures too: what a method reaches below that is
sharpening, not learning. pass@16 says what a policy can do at all.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from jaxrl.run.document import Table, table
from jaxrl.run.files import write_whole
from jaxrl.run.record import machine

HERE = Path(__file__).parent / "results" / "tokens"
STUDIES = {
    "add": "grpo --env tokens/add --seeds 10",
    "countdown": "grpo --env tokens/countdown --seeds 10 --steps 262144",
    "add-3": "grpo --env tokens/add --env-param digits=3 --seeds 10 --steps 262144",
}
STARTS = {"add-3": "tokens/add --env-param digits=3 --low 0.05 --high 0.15"}  # others: the usual
SAID = ("sampled", "greedy", "pass_at_16", "tempered")
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"


def study(name: str) -> None:
    """Run one in a process of its own and record it."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, began = Path(scratch) / "run", time.time()
        python = [sys.executable, "-c", "from jaxrl.cli import main; main()"]
        apart = os.environ | dict(XDG_CACHE_HOME=scratch)  # a person's own start stays as it is
        said = [f"train {STUDIES[name]}"]
        if name in STARTS:
            said.insert(0, f"pretrain {STARTS[name]}")
        for words in said:
            more = ["--run", str(folder), "--quiet"] if words == said[-1] else []
            subprocess.run([*python, *shlex.split(words), *more], check=True, env=apart)
        record = dict(
            command="; ".join(f"jaxrl {words}" for words in said),
            wall_seconds=round(time.time() - began, 1),
            machine=machine(),
            revision=json.loads((folder / "meta.json").read_text())["revision"],
            summary=json.loads((folder / "summary.json").read_text()),
            config=(folder / "config.toml").read_text(),
        )
        HERE.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "curve.png", HERE / f"{name}.png")
        write_whole(HERE / f"{name}.json", json.dumps(record, indent=1) + "\n")


def rows(name: str) -> list[list[str]]:
    """The start and the end of one study."""
    record = json.loads((HERE / f"{name}.json").read_text())
    s = record["summary"]
    out = []
    for when in ("start", "final"):
        cells = []
        for metric in SAID:
            low, high = s[when][metric]["ci95"]
            cells.append(f"{s[when][metric]['mean']:.3f} [{low:.3f}, {high:.3f}]")
        out.append([f"[{name}]({name}.png)" if when == "start" else "", when, *cells])
    how = f"{s['seeds']} x {s['iterations']} iterations in {record['wall_seconds']:.0f} s"
    out[0] += [how]
    out[1] += [f"`{record['command']}`"]
    return out


def write_page() -> None:
    """Put the table between the marks of the page."""
    page = HERE / "README.md"
    before, rest = page.read_text().split(BEGIN)
    head = ["task", "", *SAID, "run"]
    lines = [row for name in STUDIES if (HERE / f"{name}.json").exists() for row in rows(name)]
    made = table(Table(head, lines))
    page.write_text(f"{before}{BEGIN}\n\n{made}\n\n{END}{rest.split(END)[1]}")


def main() -> None:
    names = sys.argv[1:] or [name for name in STUDIES if not (HERE / f"{name}.json").exists()]
    if names != ["--table"]:
        for name in names:
            study(name)
    write_page()


if __name__ == "__main__":
    main()
