"""What PPO learns with one default per class of environment: runs, records, tables.

    python experiments/learning.py [NAME ...]     run these (all that have no record yet)
    python experiments/learning.py --table        write results/README.md from the records

Each record under experiments/results/learning/ has the full command, seeds, budget, versions and
result, and stands beside its learning curve.
"""

import json
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxrl.run.record import machine
from jaxrl.run.stats import interval

RESULTS = Path(__file__).parent / "results"
RECORDS = RESULTS / "learning"


class Study(NamedTuple):
    arguments: str  # of jaxrl train ppo
    peer: str  # a named peer's figure at the nearest budget; its source is on the page
    bar: float | None = None  # for the interquartile mean


BLINES = "gymnax-blines (1 seed, lr 5e-4 / 1e-3)"
STUDIES = {
    "cartpole": Study(
        "--env CartPole-v1 --seeds 16 --steps 5e5", "CleanRL 490.0 ± 6.1 at 500k (3 seeds)", 490.0
    ),
    "acrobot": Study(
        "--env Acrobot-v1 --seeds 10 --steps 3e5", "SLM-Lab -81.3 at 300k (4 seeds)", -90.0
    ),
    "pendulum": Study(
        "--env Pendulum-v1 --seeds 10 --steps 3e5", "SLM-Lab -174.9 at 300k (4 seeds)"
    ),
    "mountaincar_continuous": Study(
        "--env MountainCarContinuous-v0 --seeds 10 --steps 3e5",
        "SB3-zoo 88.3 at 20k (1 seed, tuned for it); gymnax-blines about 0 at 300k",
    ),
    "memory_chain_recurrent": Study(
        "--env MemoryChain-bsuite --seeds 10 --steps 2e5 --memory 64", "RTRRL 1.00 (best of a run)"
    ),
    "memory_chain_feedforward": Study(
        "--env MemoryChain-bsuite --seeds 10 --steps 2e5", "gymnax-blines -0.1: it cannot"
    ),
    "asterix": Study(
        "--env Asterix-MinAtar --seeds 10 --steps 1e6", f"{BLINES} 1.8 / 2.5 at 0.96M"
    ),
    "breakout": Study(
        "--env Breakout-MinAtar --seeds 10 --steps 1e6", f"{BLINES} 16.6 / 20.3 at 0.96M"
    ),
    "freeway": Study(
        "--env Freeway-MinAtar --seeds 10 --steps 1e6", f"{BLINES} 29.0 / 28.0 at 0.96M"
    ),
    "seaquest": Study("--env Seaquest-MinAtar --seeds 10 --steps 1e6", "none found"),
    "space_invaders": Study(
        "--env SpaceInvaders-MinAtar --seeds 10 --steps 1e6",
        f"{BLINES} 50.4 / 58.1 at 0.96M; PureJaxRL 70 to 75 at 1M (plot)",
    ),
    "inverted_pendulum": Study("--env brax/inverted_pendulum --seeds 8 --steps 1e6", "none found"),
    "hopper": Study(
        "--env brax/hopper --seeds 8 --steps 3e6",
        "PureJaxRL 950 to 1000 at 3M (plot, positional backend)",
    ),
    "ant": Study(
        "--env brax/ant --seeds 8 --steps 2e6",
        "brax v1's sweep of 288 runs: median 1354, best 3338 (other dynamics)",
    ),
    "halfcheetah": Study(
        "--env brax/halfcheetah --seeds 8 --steps 2e6",
        "brax v1's sweep of 288 runs: median 1273, best 3622 (other dynamics)",
    ),
    "breakout_cnn": Study(
        "--env Breakout-MinAtar --seeds 5 --steps 1e6 --torso cnn --hidden 128 --shared"
        " --seed-mode map",
        "as breakout",
    ),
}
# the same environment in Gymnasium, which the trained policies play too
GYMNASIUM = {
    "cartpole": "CartPole-v1",
    "acrobot": "Acrobot-v1",
    "pendulum": "Pendulum-v1",
    "mountaincar_continuous": "MountainCarContinuous-v0",
}
PYTHON = [sys.executable, "-c", "from jaxrl.cli import main; main()"]


def study(name: str) -> dict:
    """Run one study in a process of its own and record it."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        command = f"jaxrl train ppo {STUDIES[name].arguments}"
        began = time.time()
        call = [
            sys.executable,
            "-c",
            "from jaxrl.cli import main; main()",
            *shlex.split(command)[1:],
        ]
        subprocess.run([*call, "--run", str(folder), "--quiet"], check=True)
        again = {}
        if name in GYMNASIUM:
            play = [*PYTHON, "evaluate", str(folder), "--json", "--episodes", "100"]
            for where, more in (("here", []), ("gymnasium", ["--gymnasium", GYMNASIUM[name]])):
                out = subprocess.run([*play, *more], check=True, capture_output=True, text=True)
                again[where] = json.loads(out.stdout)["final_return"]
        record = dict(
            command=command,
            **({"hundred_episodes": again} if again else {}),
            wall_seconds=round(time.time() - began, 1),
            machine=machine(),
            revision=json.loads((folder / "meta.json").read_text())["revision"],
            summary=json.loads((folder / "summary.json").read_text()),
            config=(folder / "config.toml").read_text(),
        )
        RECORDS.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "curve.png", RECORDS / f"{name}.png")
        (RECORDS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    return record


COLUMNS = (
    "study",
    "seeds x steps",
    "by the mode: IQM [95 %]",
    "worst seed",
    "as it explores",
    "a peer",
    "steps/s",
    "command",
)


def row(name: str) -> list[str]:
    """The cells of one study."""
    path, peer, bar = RECORDS / f"{name}.json", STUDIES[name].peer, STUDIES[name].bar
    if not path.exists():
        return [name, "not run", *[""] * 3, peer, *[""] * 2]
    r = json.loads(path.read_text())
    s = r["summary"]
    mode, explores = s["final_return"], s["final_return_stochastic"]
    low, high = mode["ci95"]
    met = "" if bar is None else f", bar {bar:g} {'met' if mode['iqm'] >= bar else 'missed'}"
    return [
        f"[{name}](learning/{name}.png)",
        f"{s['seeds']} x {s['steps']:,}",
        f"{mode['iqm']:.1f} [{low:.1f}, {high:.1f}]{met}",
        f"{mode['min']:.1f}",
        f"{explores['iqm']:.1f}",
        peer,
        f"{s['env_steps_per_second']:,.0f}",
        f"`{r['command']}`",
    ]


def gymnasium_row(name: str) -> list[str]:
    """A trained policy here and in Gymnasium's environment: 100 episodes a seed in each."""
    path = RECORDS / f"{name}.json"
    played = json.loads(path.read_text()).get("hundred_episodes") if path.exists() else None
    if not played:
        return [name, "not run", "", "", ""]
    here, there = played["here"], played["gymnasium"]
    gap = np.subtract(there["per_seed"], here["per_seed"])
    low, high = interval(gap, statistic=np.mean)
    agree = "yes" if low <= 0 <= high else "no"
    cells = [f"{x['iqm']:.2f} [{x['ci95'][0]:.2f}, {x['ci95'][1]:.2f}]" for x in (here, there)]
    return [name, *cells, f"{gap.mean():.2f} [{low:.2f}, {high:.2f}]", agree]


def table(head: Sequence[str], rows: list[list[str]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def write_page() -> None:
    """Put the tables between the marks of the results page."""
    page = RESULTS / "README.md"
    head = ("study", "here", "in Gymnasium", "difference over seeds", "0 lies within")
    tables = table(COLUMNS, [row(n) for n in STUDIES])
    tables += "\n\nThe trained policies in Gymnasium's own environments, 100 episodes a seed:\n\n"
    tables += table(head, [gymnasium_row(n) for n in GYMNASIUM])
    begin, end = "<!-- learning: begin -->", "<!-- learning: end -->"
    text = page.read_text()
    before, after = text.split(begin)[0], text.split(end)[1]
    page.write_text(f"{before}{begin}\n\n{tables}\n\n{end}{after}")


def main(arguments: list[str]) -> None:
    if "--table" not in arguments:
        unknown = [a for a in arguments if a not in STUDIES]
        if unknown:
            sys.exit(f"study: no {unknown[0]!r}; there is {', '.join(STUDIES)}")
        todo = arguments or [n for n in STUDIES if not (RECORDS / f"{n}.json").exists()]
        for name in todo:
            f = study(name)["summary"]["final_return"]
            print(f"{name}: {f['iqm']} {f['ci95']} worst {f['min']}", flush=True)
    write_page()


if __name__ == "__main__":
    main(sys.argv[1:])
