"""One run over 1, 2, 4 and 8 devices, and over two processes of which one is killed.

    python experiments/devices.py            both, onto record
    python experiments/devices.py gradients  what the first part finds, as JSON

The first part needs eight devices, and starts itself with as many virtual ones. The gradient is
that of a whole rollout (one epoch, one minibatch): Adam's first moment after one step is a tenth
of it. The second trains, checkpoints, kills one process in the middle, and lets `jaxrl supervise`
start both again; the end is compared, bit for bit, with that of a run left alone.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

HOME = Path(__file__).parent / "results" / "scale"
COUNTS = (1, 2, 4, 8)
MOVES = re.compile(r" (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)\(")
TINY = dict(num_envs=16, num_steps=8, minibatches=1, epochs=1, groups=8, max_grad_norm=np.inf)
TWO = "--env CartPole-v1 --steps 40960 --hidden 16 --evals 8 --checkpoint-every 5 --devices all"


def gradients(env: str = "CartPole-v1", paper: str = "ppo", seeds: int = 1) -> dict:
    """Of each number of devices: how far a gradient is from that of one, relative to its largest
    entry; what moves between devices, by how many operations; bytes that a device needs."""
    from functools import partial

    import jax
    import jax.numpy as jnp

    from jaxrl.run.checkpoint import by_path
    from jaxrl.run.job import resolve
    from jaxrl.run.run import QUICK, advance, compiled, of_device, over_rows, set_up, traced

    out, first = {}, None
    for count in COUNTS:
        run = dict(paper=paper, env=env, seeds=seeds, steps=128, devices=max(count, seeds))
        s = set_up(resolve(run=run, env_params={}, network=dict(hidden=(16,)), hyper=TINY))
        rest, i = (s.hp, s.world), jnp.int32(0)
        begin, step = over_rows(s.algo.init, s), over_rows(partial(advance, s.algo, 1), s)
        like = jax.eval_shape(begin, s.keys, *rest)
        program = compiled(traced(step, like, i, i, *rest, s=s), QUICK)
        state = compiled(traced(begin, s.keys, *rest, s=s), QUICK)(s.keys, *rest)
        state, metrics = program(state, i, jnp.int32(1), *rest)
        moments = [x for path, x in by_path(state.inner.opt).items() if path.endswith(".mu")]
        found = 10 * np.concatenate([np.ravel(x) for x in moments])
        first = found if first is None else first
        made = getattr(program, "program", program)
        out[count] = dict(
            layout=list(s.layout),
            gradient_norm=float(np.linalg.norm(found)),
            apart=float(np.abs(found - first).max() / np.abs(first).max()),
            episodes=float(np.sum(metrics["episodes"])),
            moves=dict(Counter(MOVES.findall(made.as_text()))),
            device_bytes=of_device(program),
        )
    return out


def virtual(count: int, *words: str) -> dict:
    """This script's part in a process with so many virtual devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
    env = os.environ | dict(XLA_FLAGS=flags, JAX_PLATFORMS="cpu")
    env.pop("JAX_NUM_CPU_DEVICES", None)
    words = (sys.executable, "-m", "experiments.devices", *words)
    done = subprocess.run(words, capture_output=True, text=True, env=env)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def supervised(folder: Path, run: str = TWO, kill_at: int = 0) -> dict:
    """Two processes under `jaxrl supervise`; process 1 is killed once `kill_at` iterations are on
    the disk (0: never). The summary, and what the supervisor said."""
    words = f"supervise --processes 2 -- jaxrl train ppo {run} --distributed --quiet --run {folder}"
    command = [sys.executable, "-c", "from jaxrl.cli import main; main()", *words.split()]
    env = os.environ | dict(JAX_NUM_CPU_DEVICES="1")
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=env)
        while kill_at and process.poll() is None:
            done = [int(p.parent.name) for p in folder.glob("ckpt/*/manifest.json")]
            if max(done, default=0) >= kill_at:
                os.kill(rank(folder, 1), signal.SIGKILL)
                break
            time.sleep(0.02)
        code = process.wait()
        log.seek(0)
        said = log.read()
    if code:
        raise RuntimeError(said[-2000:])
    summary = json.loads((folder / "summary.json").read_text())
    lost = [line for line in said.splitlines() if line.startswith("supervise:")]
    return dict(summary=summary, said=lost)


def rank(folder: Path, number: int) -> int:
    """The process id of a rank of a run."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
            env = (path / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if str(folder).encode() in words and f"JAXRL_PROCESS={number}".encode() in env:
            return int(path.name)
    raise RuntimeError(f"no process {number} of {folder}")


def same(one: Path, other: Path) -> bool:
    """Whether the metrics of two runs are bit for bit the same."""
    with np.load(one / "metrics.npz") as x, np.load(other / "metrics.npz") as y:
        return {*x} == {*y} and all(np.array_equal(x[k], y[k], equal_nan=True) for k in x)


def main() -> None:
    from jaxrl.run import record

    if sys.argv[1:2] == ["gradients"]:
        print(json.dumps(gradients(*sys.argv[2:4])))
        return
    found: dict = dict(versions=record.versions(), machine=record.machine())
    found["gradients"] = {
        f"{paper} on {env}": virtual(8, "gradients", env, paper)
        for paper, env in (("ppo", "CartPole-v1"), ("ppo", "Pendulum-v1"), ("a2c", "CartPole-v1"))
    }
    with tempfile.TemporaryDirectory() as place:
        alone, killed = Path(place, "alone"), Path(place, "killed")
        x, y = supervised(alone), supervised(killed, kill_at=10)
        found["two_processes"] = dict(
            run=TWO,
            devices=x["summary"]["devices"],
            said=[line.replace(place, "") for line in y["said"]],
            final_return=[r["summary"]["final_return"]["iqm"] for r in (x, y)],
            same_state=x["summary"]["state_sha256"] == y["summary"]["state_sha256"],
            same_metrics=same(alone, killed),
        )
    HOME.mkdir(parents=True, exist_ok=True)
    (HOME / "devices.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
