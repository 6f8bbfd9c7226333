"""A lost process is no end: all are ended, and started again from the last checkpoint."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from jaxrl.cli import main
from jaxrl.errors import InputError, RunError
from jaxrl.run import supervise as module
from jaxrl.run.signals import handled
from jaxrl.run.supervise import Task, supervise, task

ROOT = Path(__file__).parents[2]

# A command whose process i does at its nth start what plan.json says at [n][i], word by word
FAKE = """
import json, os, pathlib, signal, sys, time
here = pathlib.Path(__file__).parent
run, me = here / "run", int(os.environ.get("JAXRL_PROCESS", 0))
log = here / f"starts-{me}"
count = len(log.read_text().splitlines()) if log.exists() else 0
env = {k: v for k, v in os.environ.items() if k.startswith("JAXRL_")}
there = sorted(os.listdir(run)) if run.exists() else []
log.open("a").write(json.dumps([sys.argv[1:], env, there]) + "\\n")

def save(n):
    (run / "ckpt" / n).mkdir(parents=True, exist_ok=True)
    (run / "ckpt" / n / "manifest.json").touch()

def polite(number, frame):
    save("7")
    sys.exit(128 + number)

for word in json.loads((here / "plan.json").read_text())[count][me].split():
    act, _, what = word.partition(":")
    if act == "save":
        save(what)
    if act == "litter":
        run.mkdir(exist_ok=True)
        (run / "config.toml").touch()
        (run / "ckpt" / "0").mkdir(parents=True)  # not finished
    if act == "say":
        print(what, file=sys.stderr)
    if act == "on-signal":
        handler = polite if what == "save" else signal.SIG_IGN
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, handler)
    if act == "ready":
        (here / f"ready-{me}").touch()
    if act == "until":
        while not (here / what).exists():
            time.sleep(0.01)
    if act == "wait":
        time.sleep(60)
    if act == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if act == "exit":
        sys.exit(int(what))
"""


@pytest.fixture
def fake(tmp_path):
    """A function that supervises the fake: (exit code, lines said); see `starts`."""
    (tmp_path / "fake.py").write_text(FAKE)

    def call(plan, processes=1, restarts=3, words=("train", "ppo", "--distributed"), grace=0.3):
        (tmp_path / "plan.json").write_text(json.dumps(plan))
        said, run = [], tmp_path / "run"
        launch = lambda w: [sys.executable, "-S", str(tmp_path / "fake.py"), *w]
        asked = Task(list(words), ["resume", str(run)], run)
        try:
            code = supervise(asked, processes, restarts, said.append, launch, grace)
        except RunError as e:
            code = e.code
            said.append(str(e))
        return code, said

    return call


def starts(folder, process=0):
    """[words, environment, what the folder held] of each start."""
    return [json.loads(x) for x in (folder / f"starts-{process}").read_text().splitlines()]


def test_a_process_that_is_killed_goes_on_from_its_checkpoint(fake, tmp_path):
    code, said = fake([["save:0 save:5 kill"], ["save:9"]])
    assert code == 0
    assert said == [
        "supervise: the process was lost to SIGKILL; it goes on from 5 iterations; restart 1 of 3"
    ]
    run = str(tmp_path / "run")
    assert [s[0] for s in starts(tmp_path)] == [["train", "ppo", "--distributed"], ["resume", run]]
    assert starts(tmp_path)[0][1] == {}  # a plain run is told nothing


def test_without_a_checkpoint_it_begins_anew_in_an_empty_folder(fake, tmp_path):
    code, said = fake([["litter exit:1"], ["exit:0"]])
    assert code == 0 and "ended with code 1; no checkpoint is finished: it begins anew" in said[0]
    assert [(s[0][0], s[2]) for s in starts(tmp_path)] == [("train", []), ("train", [])]


def test_a_folder_that_was_there_before_is_not_emptied(fake, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/mine").touch()
    assert fake([["exit:1"], ["exit:2"]])[0] == 2
    assert starts(tmp_path)[1][2] == ["mine"]


def test_of_a_cluster_the_first_process_alone_empties(fake, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_PROCID", "1")
    fake([["litter exit:1"], ["exit:0"]])
    assert starts(tmp_path)[1][2] == ["ckpt", "config.toml"]


def test_one_lost_process_ends_all_and_all_start_again(fake, tmp_path):
    lost = "say:what-went-wrong until:ready-0 kill"
    code, said = fake([["save:4 on-signal:ignore ready wait", lost], ["", ""]], processes=2)
    assert code == 0
    assert said[0] == "[1] what-went-wrong"
    assert said[1].startswith("supervise: process 1 was lost to SIGKILL; it goes on from 4")
    first, second = starts(tmp_path, 0), starts(tmp_path, 1)
    assert len(first) == len(second) == 2
    for n, (a, b) in enumerate(zip(first, second)):
        assert a[0] == b[0] and a[0][0] == ("resume" if n else "train")
        assert (a[1]["JAXRL_PROCESS"], b[1]["JAXRL_PROCESS"]) == ("0", "1")
        assert a[1]["JAXRL_PROCESSES"] == "2"
        assert a[1]["JAXRL_COORDINATOR"] == b[1]["JAXRL_COORDINATOR"]
        host, _, port = a[1]["JAXRL_COORDINATOR"].partition(":")
        assert host == "127.0.0.1" and 0 < int(port) < 2**16


def test_restarts_are_counted_from_the_last_progress(fake, tmp_path):
    further = [[f"save:{n} kill"] for n in (1, 2, 3)]
    code, said = fake([*further, [""]], restarts=1)
    assert code == 0 and all("restart 1 of 1" in line for line in said)


def test_restarts_without_progress_end(fake, tmp_path):
    code, said = fake([["save:2 kill"]] * 4, restarts=2)
    assert len(starts(tmp_path)) == 3
    assert code == 128 + signal.SIGKILL
    run = tmp_path / "run"
    assert said[-1].endswith(
        f"2 restarts got no further; jaxrl supervise -- jaxrl resume {run} goes on"
    )


@pytest.mark.parametrize("code", [2, 3, 4, 5])
def test_what_would_come_again_is_not_tried_again(code, fake, tmp_path):
    got, said = fake([[f"save:1 exit:{code}"]])
    assert got == code and len(starts(tmp_path)) == 1
    assert [("not started again" in line) for line in said] == ([] if code == 2 else [True])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_is_passed_on_and_waited_for(number, code, fake, tmp_path):
    before = signal.getsignal(number)

    def stop():
        while not ((tmp_path / "ready-0").exists() and (tmp_path / "ready-1").exists()):
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=stop)
    thread.start()
    got, said = fake([["on-signal:save ready wait", "on-signal:save ready wait"]], processes=2)
    thread.join()
    assert got == code and (tmp_path / "run/ckpt/7/manifest.json").exists()
    assert f"stopped by {number.name}; jaxrl supervise -- jaxrl resume" in said[-1]
    assert len(starts(tmp_path)) == 1 and signal.getsignal(number) == before


def test_a_comparison_goes_on_by_its_own_words():
    words = "compare ppo spo --env CartPole-v1 --run runs/c".split()
    assert task(["jaxrl", *words]) == Task(words, words, Path("runs/c"))
    words = ["resume", "--quiet", "runs/x", "--steps", "1e6"]
    assert task(["jaxrl", *words]) == Task(words, words, Path("runs/x"))


def test_a_training_goes_on_by_resume_with_the_code_it_was_allowed():
    train = "train ./mine.py --env my:make --run=r --sink wandb --lr 1 --distributed --quiet"
    again = "resume r --paper ./mine.py --env my:make --sink wandb --distributed --quiet"
    assert task(["jaxrl", *train.split()]).again == again.split()
    assert task("jaxrl train ppo --run r --env CartPole-v1".split()).again == ["resume", "r"]


def test_progress_is_seen_in_every_run_and_in_a_record_that_grows(tmp_path):
    from jaxrl.run import checkpoint, sweep, tune

    assert ("manifest.json", *module.RECORDS) == (checkpoint.MANIFEST, sweep.RECORD, tune.RECORD)
    assert module.reached(tmp_path / "none") == (0, 0)
    for name in ("a/ckpt/5", "a/ckpt/12", "b/x/ckpt/7", "b/x/ckpt/9.refused"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "manifest.json").touch()
    (tmp_path / "a/ckpt/40").mkdir()  # not finished
    (tmp_path / "sweep.json").write_text("{}")
    assert module.reached(tmp_path) == (12 + 7, 2)
    assert module.saved(tmp_path / "a") and not module.saved(tmp_path)


BAD = [
    ([], "command: 'nothing' is not jaxrl train"),
    (["--", "python", "x.py"], "command: 'python x.py' is not jaxrl train"),
    (["--", "jaxrl", "envs"], "command: 'jaxrl envs' is not jaxrl train"),
    (["--", "jaxrl", "train", "ppo", "--env", "CartPole-v1"], "add --run DIR"),
    (["--", "jaxrl", "resume"], "Missing argument 'RUN'"),
    (["--processes", "0", "--", "jaxrl", "resume", "r"], "processes: 0 is outside [1, inf)"),
    (["--restarts", "-1", "--", "jaxrl", "resume", "r"], "restarts: -1 is outside [0, inf)"),
    (["--processes", "2", "--", "jaxrl", "resume", "r"], "processes: 2 need a command with --dis"),
    (["--restart", "1"], "No such option"),
]


@pytest.mark.parametrize(("argv", "said"), BAD, ids=[b[1] for b in BAD])
def test_bad_input_is_one_line_and_nothing_starts(argv, said, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["supervise", *argv])
    out, err = capfd.readouterr()
    assert (stop.value.code, out, err.count("\n")) == (2, "", 1)
    assert said in err and list(tmp_path.iterdir()) == []


def test_the_folder_must_be_named():
    with pytest.raises(InputError, match="jaxrl sweep names no folder to go on in; add --run DIR"):
        task(["jaxrl", "sweep", "ppo", "--env", "CartPole-v1"])


def test_a_signal_that_comes_twice_at_once_is_one(monkeypatch):
    """A cluster tells the run and its supervisor, who passes it on."""
    from jaxrl.run import guard

    as_ever = {signal.SIGINT: signal.default_int_handler}  # in the background it is ignored
    with handled(as_ever), guard.signals() as caught:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert caught == [signal.SIGINT] * 2
        monkeypatch.setattr(guard, "TOGETHER", 0.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.slow
def test_a_training_that_is_killed_ends_as_one_that_was_not(tmp_path):
    small = "--seeds 2 --num-envs 4 --num-steps 8 --minibatches 2 --hidden 8 --evals 2 --quiet"
    words = f"train ppo --env CartPole-v1 {small} --steps 3e4 --checkpoint-every 50 --run".split()
    call = [sys.executable, "-c", "from jaxrl.cli import main; main()"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    alone, run = tmp_path / "alone", tmp_path / "run"
    with pytest.raises(SystemExit) as stop:
        main([*words, str(alone)])
    assert stop.value.code == 0
    watched = [*call, "supervise", "--", "jaxrl", *words, str(run)]
    with subprocess.Popen(watched, env=env, stderr=subprocess.PIPE, text=True) as process:
        while not (run / "ckpt/50/manifest.json").exists() and process.poll() is None:
            time.sleep(0.005)
        os.kill(int((run / "lock").read_text().split()[1]), signal.SIGKILL)
        said = process.stderr.read()
    assert process.returncode == 0
    assert "supervise: the process was lost to SIGKILL; it goes on from" in said
    ends = [json.loads((f / "summary.json").read_text())["state_sha256"] for f in (alone, run)]
    assert ends[0] == ends[1]
    assert len(json.loads((run / "meta.json").read_text())["resumed"]) == 1


def test_a_supervisor_needs_no_jax():
    code = "import sys, jaxrl.cli.supervise, jaxrl.run.supervise as s; "
    code += "s.task(['jaxrl', 'resume', 'x']); sys.exit('jax' in sys.modules)"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=env).returncode == 0
