"""Fifty jobs, three workers, killed at random moments: every result once, and nothing lost.

    python experiments/workers.py [--seed 0] [--every 6 20]

`jaxrl compare --queue` asks for fifty tiny runs. Three workers do them; again and again, after a
number of seconds that is uniform between the two of `--every`, one of them, drawn at random, is
killed with -9, and another is started. Each run must end in the state that it has in the same
comparison without a queue, with the same returns. That one is run first, so that programs are
compiled already.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from jaxrl.run import queue, record

FILE = Path(__file__).parent / "results" / "scale" / "workers.json"
WORKERS, LEASE = 3, 5.0
TINY = "num_envs=4,num_steps=16,minibatches=2,epochs=2,hidden=16"
METHODS = [f"ppo:{TINY},eps={eps / 100:g}" for eps in range(5, 55, 5)]
ENVS = ["CartPole-v1", "Catch-bsuite", "UmbrellaChain-bsuite", "probe/match", "probe/delay"]
ASKED = [*METHODS, "--env", *ENVS, "--seeds", "1", "--steps", "6400", "--evals", "2"]


def start(log: Path, *words: str) -> subprocess.Popen:
    """Start a command of the kit."""
    with log.open("a") as file:
        call = [sys.executable, "-c", "from jaxrl.cli import main; main()", *words]
        return subprocess.Popen(call, stdout=file, stderr=file)


def compare(work: Path, name: str, *more: str) -> subprocess.Popen:
    return start(work / f"{name}.log", "compare", *ASKED, "--run", str(work / name), *more)


def worker(work: Path) -> subprocess.Popen:
    words = ("worker", "--queue", str(work / "queue"), "--lease", str(LEASE))
    return start(work / "workers.log", *words)


def done(process: subprocess.Popen, log: Path) -> None:
    """Wait for a command; what it said is the error of this one if it failed."""
    if code := process.wait():
        raise SystemExit(f"{log.name}: exit code {code}\n{log.read_text()[-2000:]}")


def killed(work: Path, dice: random.Random, every: tuple[float, float]) -> tuple[list, float]:
    """Have workers do all jobs while one after the other is killed: the job, or "", that each kill
    hit, and the seconds that it all took."""
    place, hits = work / "queue", []
    asking = compare(work, "many", "--queue", str(place))
    while not (place / "todo").is_dir() or len(queue.listed(place / "todo")) < 50:
        if asking.poll() is not None:
            done(asking, work / "many.log")
        time.sleep(0.1)
    began = time.monotonic()
    workers = [worker(work) for _ in range(WORKERS)]
    while asking.poll() is None:
        try:
            asking.wait(dice.uniform(*every))
            break
        except subprocess.TimeoutExpired:
            i = dice.randrange(WORKERS)
        if workers[i].poll() is None:
            doing = queue.listed(place / "doing")
            mine = [p for p in doing if f"-{workers[i].pid}-" in p.stem.split("@")[3]]
            workers[i].send_signal(signal.SIGKILL)
            hits.append(queue.Taken.of(mine[0]).name if mine else "")
        elif workers[i].returncode:
            done(workers[i], work / "workers.log")
        workers[i].wait()
        workers[i] = worker(work)
        print(f"{len(hits)} kills, {len(list((place / 'done').iterdir()))} results", flush=True)
    done(asking, work / "many.log")
    seconds = time.monotonic() - began
    for process in workers:
        done(process, work / "workers.log")
    return hits, seconds


def summaries(folder: Path) -> dict[str, dict]:
    """The summary of every run of a comparison by where it is."""
    found = {str(p.parent.relative_to(folder)): p.parent for p in folder.rglob("summary.json")}
    return {name: record.load_summary(path) for name, path in sorted(found.items())}


def examine(work: Path) -> dict:
    """What is in the queue, against the comparison that had none."""
    place = work / "queue"
    outs = {p.stem: json.loads(p.read_text()) for p in (place / "done").iterdir()}
    many, alone = summaries(work / "many"), summaries(work / "alone")
    same = lambda key: sum(many[name][key] == alone[name][key] for name in alone if name in many)
    rows = [
        json.loads((work / n / "comparison.json").read_text())["rows"] for n in ("many", "alone")
    ]
    returns = [[r["final_return"] for r in table] for table in rows]
    log = (work / "workers.log").read_text()
    return dict(
        jobs=len(alone),
        results=len(outs),
        errors=sum("error" in out for out in outs.values()),
        begun=Counter(out["tries"] for out in outs.values()),
        state_equal=same("state_sha256"),
        final_return_equal=same("final_return"),
        rows_equal=returns[0] == returns[1],
        left_in_todo_or_doing=sum(len(queue.listed(place / n)) for n in ("todo", "doing")),
        results_that_came_second=log.count("another's result was first"),
    )


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--every", type=float, nargs=2, default=(6.0, 20.0))
    said = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        done(compare(work, "alone"), work / "alone.log")
        hits, seconds = killed(work, random.Random(said.seed), tuple(said.every))
        found = examine(work)
    out = dict(
        command=f"jaxrl compare {' '.join(ASKED)} --queue DIR",
        workers=WORKERS,
        lease=LEASE,
        seed=said.seed,
        seconds_between_kills=list(said.every),
        kills=len(hits),
        kills_that_hit_a_job=sum(map(bool, hits)),
        seconds=round(seconds, 1),
        **found,
        versions=record.versions(),
        revision=record.revision(),
        machine=record.machine(),
    )
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(json.dumps(out, indent=1) + "\n")
    print(json.dumps({k: v for k, v in out.items() if k != "versions"}, indent=1))


if __name__ == "__main__":
    main()
