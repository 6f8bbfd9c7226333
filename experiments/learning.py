"""What PPO learns with one default per class of environment: runs, records, tables.

    python experiments/learning.py [NAME ...]     run these (all that have no record yet)
    python experiments/learning.py --table        write results/README.md from the records

Each record under experiments/results/learning/ has the full command, seeds, budget, versions and
result, and stands beside its learning curve.
"""

import json
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
RECORDS = RESULTS / "learning"

# name: (arguments of jaxrl train ppo, the bar for the interquartile mean)
STUDIES: dict[str, tuple[str, float | None]] = {
    "cartpole": ("--env CartPole-v1 --seeds 16 --steps 5e5", 490.0),
    "acrobot": ("--env Acrobot-v1 --seeds 10 --steps 3e5", -90.0),
    "pendulum": ("--env Pendulum-v1 --seeds 10 --steps 3e5", None),
    "mountaincar_continuous": ("--env MountainCarContinuous-v0 --seeds 10 --steps 3e5", None),
    "memory_chain_recurrent": ("--env MemoryChain-bsuite --seeds 10 --steps 2e5 --memory 64", None),
    "memory_chain_feedforward": ("--env MemoryChain-bsuite --seeds 10 --steps 2e5", None),
    "asterix": ("--env Asterix-MinAtar --seeds 10 --steps 1e6", None),
    "breakout": ("--env Breakout-MinAtar --seeds 10 --steps 1e6", None),
    "freeway": ("--env Freeway-MinAtar --seeds 10 --steps 1e6", None),
    "seaquest": ("--env Seaquest-MinAtar --seeds 10 --steps 1e6", None),
    "space_invaders": ("--env SpaceInvaders-MinAtar --seeds 10 --steps 1e6", None),
    "inverted_pendulum": ("--env brax/inverted_pendulum --seeds 8 --steps 1e6", None),
    "hopper": ("--env brax/hopper --seeds 8 --steps 3e6", None),
    "ant": ("--env brax/ant --seeds 8 --steps 2e6", None),
    "halfcheetah": ("--env brax/halfcheetah --seeds 8 --steps 2e6", None),
    "breakout_cnn": (
        "--env Breakout-MinAtar --seeds 5 --steps 1e6 --torso cnn --hidden 128",
        None,
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


def machine() -> str:
    """What it ran on, without its name."""
    import os

    return f"{os.cpu_count()} CPU cores, {platform.machine()}, {platform.system()}"


def study(name: str) -> dict:
    """Run one study in a process of its own and record it."""
    arguments, bar = STUDIES[name]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        command = f"jaxrl train ppo {arguments}"
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
            bar=bar,
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


def table() -> str:
    """The records as one Markdown table."""
    rows = []
    for name in STUDIES:
        path = RECORDS / f"{name}.json"
        if not path.exists():
            rows.append(f"| {name} | not run | | | | | |")
            continue
        r = json.loads(path.read_text())
        s = r["summary"]
        f, g = s["final_return"], s["final_return_stochastic"]
        low, high = f["ci95"]
        bar = (
            ""
            if r["bar"] is None
            else f" (bar {r['bar']:g}: {'met' if f['iqm'] >= r['bar'] else 'missed'})"
        )
        rows.append(
            f"| [{name}](learning/{name}.png) | {s['env']} | {s['seeds']} x {s['steps']:,} | "
            f"{f['iqm']:.1f} [{low:.1f}, {high:.1f}]{bar} | {f['min']:.1f} | {g['iqm']:.1f} | "
            f"{s['env_steps_per_second']:,.0f} | `{r['command']}` |"
        )
    head = (
        "| study | environment | seeds x steps | by the mode: IQM [95 %] | worst seed "
        "| as it explores | steps/s | command |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    return "\n".join([head, *rows])


def main(arguments: list[str]) -> None:
    if "--table" not in arguments:
        unknown = [a for a in arguments if a not in STUDIES]
        if unknown:
            sys.exit(f"study: no {unknown[0]!r}; there is {', '.join(STUDIES)}")
        todo = arguments or [n for n in STUDIES if not (RECORDS / f"{n}.json").exists()]
        for name in todo:
            f = study(name)["summary"]["final_return"]
            print(f"{name}: {f['iqm']} {f['ci95']} worst {f['min']}", flush=True)
    page = RESULTS / "README.md"
    begin, end = "<!-- learning: begin -->", "<!-- learning: end -->"
    text = page.read_text()
    before, after = text.split(begin)[0], text.split(end)[1]
    page.write_text(f"{before}{begin}\n\n{table()}\n\n{end}{after}")


if __name__ == "__main__":
    main(sys.argv[1:])
