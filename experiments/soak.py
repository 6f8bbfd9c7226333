"""Kill, resume and evaluate without pause for an hour, beside a run that never ends.

    python experiments/soak.py [--minutes 60] [--seed 0]

Of each cycle: a run is killed with -9 at random moments and resumed, up to three times; it has to
end with the `state_sha256` and the metrics of one that was left alone, with its summary and its
picture, and its policy is evaluated. The peak memory of every process is read. Beside it one long
run trains and saves all the while; its memory is read every ten seconds, and a SIGTERM ends it.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kill import HOME, RUNS, call, command, finished, same, start, time_of, writes

from jaxrl.run import record
from jaxrl.run.bench_startup import memory_of

SOUND = ("evaluated", "whole", "state", "metrics")
LONG = "ppo --env CartPole-v1 --seeds 2 --num-envs 64 --steps 1e10 --evals 10000"


def watched(words: list[str], kill: float = 0.0, folder: Path | None = None) -> tuple[int, float]:
    """Run a command, kill it so long after it began to write (0: not): exit code, peak in MiB."""
    before, peak, since = folder and writes(folder), 0.0, 0.0
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            time.sleep(0.02)
            peak = max(peak, memory_of(process.pid, "VmHWM"))
            if kill and folder and writes(folder) != before:
                since = since or time.monotonic()
                if time.monotonic() - since > kill:
                    process.kill()
    return process.returncode, round(peak, 1)


def cycle(name: str, alone: Path, work: Path, dice: random.Random) -> dict:
    """One run from start to evaluation: how often it was killed, how it ended, its peaks."""
    folder, kills, peaks = work / "run", 0, []
    shutil.rmtree(folder, ignore_errors=True)
    words = start(RUNS[name], folder)
    while not finished(folder):
        kill = dice.uniform(0.1, time_of(alone)) if kills < 3 else 0.0
        code, peak = watched(words, kill, folder)
        kills += code == -9
        peaks.append(peak)
        if code not in (0, -9):
            return dict(name=name, kills=kills, code=code, peaks=peaks)
        words = command("resume", str(folder))
    code, peak = watched(command("evaluate", str(folder), "--episodes", "50")[:-1])
    whole = all((folder / f).is_file() for f in ("summary.json", "metrics.npz", "curve.png"))
    ended = dict(evaluated=code == 0, whole=whole, **same(alone, folder))
    return dict(name=name, kills=kills, peaks=peaks, evaluate_peak=peak, **ended)


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--minutes", type=float, default=60)
    options.add_argument("--seed", type=int, default=0)
    said = options.parse_args()
    dice, done, resident = random.Random(said.seed), [], []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for name, run in RUNS.items():
            call(start(run, work / name))
        long, began = work / "long", time.monotonic()
        words = command("train", *LONG.split(), "--checkpoint-every", "200", "--run", str(long))
        with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
            try:
                while time.monotonic() - began < 60 * said.minutes:
                    name = list(RUNS)[len(done) % len(RUNS)]
                    done.append(cycle(name, work / name, work, dice))
                    resident.append((time.monotonic() - began, memory_of(process.pid, "VmRSS")))
                    print(done[-1], resident[-1], file=sys.stderr, flush=True)
            finally:
                process.terminate()
            end = process.communicate()[1].strip().splitlines()[-1].replace(str(long), "RUN")
        iterations = int(max((p.name for p in long.glob("ckpt/*")), key=int))
    rows = [
        dict(
            run=name,
            cycles=len(mine := [d for d in done if d["name"] == name]),
            kills=sum(d["kills"] for d in mine),
            sound=sum(
                all(d.get(k) for k in ("evaluated", "whole", "state", "metrics")) for d in mine
            ),
            peak_mib_first=max(mine[0]["peaks"]),
            peak_mib_last=max(mine[-1]["peaks"]),
            peak_mib_most=max(p for d in mine for p in d["peaks"]),
        )
        for name in RUNS
    ]
    beside = dict(
        command=f"jaxrl train {LONG} --checkpoint-every 200",
        iterations=iterations,
        resident_mib=[[round(t), round(x, 1)] for t, x in resident],
        exit_code=process.returncode,
        said=end,
    )
    about = dict(minutes=said.minutes, seed=said.seed, versions=record.versions())
    about |= dict(machine=record.machine(), revision=record.revision())
    HOME.mkdir(parents=True, exist_ok=True)
    text = json.dumps(dict(rows=rows, beside=beside, **about), indent=1)
    (HOME / "soak.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
