"""Kill runs at random moments, resume them, and compare every bit of how they end.

    python experiments/kill.py [NAME ...] [--kills 20] [--seed 0]

A run is started, killed with -9, resumed, killed again, and so on until it is finished; then the
next, until there were so many kills. A kill comes at a moment that is uniform over how long the
run trains, counted from when it began to write its folder. Each run must end with the
`state_sha256` and the metrics of one that was left alone. Each NAME, or all, gets a new record.
"""

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from jaxrl.run import record

HOME = Path(__file__).parent / "results" / "reliability"
SMALL = "--seeds 2 --num-envs 8 --num-steps 32 --minibatches 4 --hidden 32 --evals 5"
RUNS = {
    "ppo": f"ppo --env CartPole-v1 {SMALL} --steps 1.5e6",
    "ppo, recurrent with normalisers": f"ppo --env CartPole-v1 {SMALL} --memory 16 --normalise-obs "
    "--normalise-reward --steps 4e5",
    "pdppo, a second critic": f"pdppo --env factory/lot-sizing {SMALL} --steps 1e6",
    "single_stream_po, a table of prompts": "single_stream_po --env tokens/add --seeds 2 "
    "--prompts 64 --accumulate 1 --hidden 32,32 --evals 5 --steps 6e4",
}


def command(*words: str) -> list[str]:
    return [sys.executable, "-c", "from jaxrl.cli import main; main()", *words, "--quiet"]


def start(run: str, folder: Path) -> list[str]:
    """The command that begins a run."""
    return command("train", *run.split(), "--checkpoint-every", "25", "--run", str(folder))


def call(words: list[str]) -> None:
    """Run a command to its end."""
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(words[2:])}: {done.returncode}: {done.stderr}")


def writes(folder: Path) -> float:
    """When a process began to write a run's folder; 0 if none has."""
    file = folder / "config.toml"
    return file.stat().st_mtime if any(folder.glob("ckpt/*/manifest.json")) else 0.0


def finished(folder: Path) -> bool:
    return (folder / "summary.json").exists()


def killed(words: list[str], folder: Path, after: float) -> bool:
    """Start a command and kill it so long after it began to write; False if it ended before."""
    before = writes(folder)
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        while writes(folder) == before and process.poll() is None:
            time.sleep(0.01)
        try:
            process.wait(after)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        if process.wait() > 0 and process.stderr:
            raise SystemExit(process.stderr.read())
        return process.returncode < 0


def same(a: Path, b: Path) -> dict[str, bool]:
    """Whether two finished runs ended alike: their state, and every metric of every iteration."""
    shas = [record.load_summary(f)["state_sha256"] for f in (a, b)]
    x, y = record.load_arrays(a), record.load_arrays(b)
    metrics = x.keys() == y.keys() and all(
        np.array_equal(x[k], y[k], equal_nan=x[k].dtype.kind == "f") for k in x
    )
    return dict(state=shas[0] == shas[1], metrics=bool(metrics))


def experiment(name: str, run: str, kills: int, dice: random.Random, work: Path) -> dict:
    """Kill one kind of run so often."""
    alone = work / "alone"
    call(start(run, alone))
    trains = time_of(alone)
    count, runs, moments = 0, [], []
    while count < kills:
        folder = work / f"killed-{len(runs)}"
        words = start(run, folder)
        while not finished(folder):
            if count < kills and killed(words, folder, dice.uniform(0, trains)):
                count += 1
                moments.append(last(folder))
            elif not finished(folder):
                call(words)
            words = command("resume", str(folder))
        runs.append(same(alone, folder))
        shutil.rmtree(folder)
        print(f"{name}: {count} kills, {len(runs)} runs", flush=True)
    return dict(
        command=f"jaxrl train {run} --checkpoint-every 25",
        kills=count,
        runs=len(runs),
        state_equal=sum(r["state"] for r in runs),
        metrics_equal=sum(r["metrics"] for r in runs),
        seconds_alone=round(trains, 1),
        killed_after_iterations=moments,
        state_sha256=record.load_summary(alone)["state_sha256"],
    )


def time_of(run: Path) -> float:
    """Seconds from when a run began to write its folder to its last checkpoint."""
    last = max(p.stat().st_mtime for p in run.glob("ckpt/*/manifest.json"))
    return last - writes(run)


def last(folder: Path) -> int:
    """Iterations that a run had written down when it was killed."""
    lines = record.lines_until(folder / "metrics.jsonl", 2**31).splitlines()
    return json.loads(lines[-1])["iteration"] if lines else 0


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("names", nargs="*", metavar="NAME")
    options.add_argument("--kills", type=int, default=20)
    options.add_argument("--seed", type=int, default=0)
    said = options.parse_args()
    dice, file = random.Random(said.seed), HOME / "kill.json"
    rows = json.loads(file.read_text())["rows"] if file.exists() else {}
    about = dict(seed=said.seed, versions=record.versions(), machine=record.machine())
    about |= dict(revision=record.revision())
    for name in said.names or RUNS:
        run = RUNS[name]
        with tempfile.TemporaryDirectory() as work:
            rows[name] = experiment(name, run, said.kills, dice, Path(work)) | about
    HOME.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(dict(rows=rows), indent=1) + "\n")


if __name__ == "__main__":
    main()
