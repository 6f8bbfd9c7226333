"""The queue: a job is begun by one, done again where its worker is gone, and its result is once."""

import contextlib
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from jaxrl.errors import DIVERGED, STORAGE, InputError, InUse, RunError
from jaxrl.run import arms, claims, compare, queue, record, sweep, worker
from jaxrl.run.queue import Task

TINY = "num_envs=4,num_steps=8,minibatches=2,epochs=1,hidden=8"
RUN = dict(seeds=2, seed=0, steps=320, evals=1, eval_episodes=20, on_nan="stop")
quiet = lambda line: None


def jobs(n):
    return [Task("fake", f"job {i}", dict(i=i)) for i in range(n)]


@pytest.fixture
def place(tmp_path):
    return queue.opened(tmp_path / "q")


@pytest.fixture
def fake(monkeypatch):
    """Make jobs of the kind `fake` do this; the log of all that were begun."""

    def make(do=lambda spec: spec["i"] ** 2):
        log = []

        def perform(spec, named, say):
            log.append(spec["i"])
            return do(spec)

        monkeypatch.setitem(worker.KINDS, "fake", perform)
        return log

    return make


def at_once(n, do):
    """What n threads give that begin at the same moment."""
    gate, out = threading.Barrier(n), []

    def run(i):
        gate.wait()
        out.append(do(i))

    threads = [threading.Thread(target=run, args=(i,)) for i in range(n)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return out


def files(place, *folders):
    return [p.name for f in folders for p in (place / f).iterdir()]


def test_one_of_many_begins_a_job(place):
    for round_ in range(20):
        queue.submit(place, [Task("fake", f"round {round_}", {})])
        got = at_once(8, lambda i: queue.take(place, f"w{i}", 60.0))
        (taken,) = filter(None, got)
        assert taken.tries == 1
        assert queue.finish(place, taken, dict(result=0))


def test_many_workers_do_each_job_once(place, fake):
    log, tasks = fake(), jobs(60)
    queue.submit(place, tasks)
    queue.submit(place, tasks)  # asked for twice is once
    counts = at_once(5, lambda i: worker.work(place, 5.0, say=quiet))
    assert sorted(log) == list(range(60)) and sum(counts) == 60
    outs = queue.gather(place, tasks, quiet)
    assert [queue.value(out) for out in outs] == [i**2 for i in range(60)]
    assert {out["tries"] for out in outs} == {1}
    assert files(place, "todo", "doing", "waiting") == []


def test_the_job_of_a_worker_that_is_gone_is_done_again_and_the_first_result_stands(place):
    (task,) = jobs(1)
    queue.submit(place, [task])
    queue.take(place, "gone", 60.0)
    first = queue.Taken.of(queue.listed(place / "doing")[0])
    assert queue.restore(place) == [] and queue.take(place, "other", 60.0) is None
    old = time.time() - 61
    os.utime(first.path, (old, old))  # as if nobody had touched it for longer than its lease
    assert queue.restore(place) == [task.name]
    second = queue.take(place, "other", 60.0)
    assert second.tries == 2
    assert queue.finish(place, second, dict(result="second"))
    assert not queue.finish(place, first, dict(result="late"))
    assert queue.value(queue.outcome(place, task.name)) == "second"
    assert files(place, "todo", "doing") == []


def test_a_result_that_came_while_the_job_waited_again_is_the_result(place, fake):
    log, (task,) = fake(), jobs(1)
    queue.submit(place, [task])
    late = queue.take(place, "stalled", 60.0)
    queue.put_back(place, late, "given up")
    assert queue.finish(place, late, dict(result="late"))
    assert worker.work(place, say=quiet) == 0 and log == []
    assert queue.value(queue.outcome(place, task.name)) == "late"
    assert files(place, "todo", "doing") == []


def test_a_lease_is_kept_while_the_job_goes_on(place):
    queue.submit(place, jobs(2))
    lost, held = (queue.take(place, "me", 0.6) for _ in range(2))
    with queue.kept(held.path, 0.6):
        time.sleep(1.5)
        assert queue.restore(place) == [lost.name]
    time.sleep(0.8)
    assert queue.restore(place) == [held.name]


def test_a_lease_begins_when_the_job_does(place):
    queue.submit(place, jobs(1))
    (path,) = queue.listed(place / "todo")
    os.utime(path, (1, 1))  # asked for long ago
    assert queue.take(place, "me", 60.0) and queue.restore(place) == []


def test_a_job_that_no_worker_survives_ends(place):
    (task,) = jobs(1)
    queue.submit(place, [task])
    for tries in range(1, queue.TRIES + 1):
        taken = queue.take(place, "me", 60.0)
        assert taken.tries == tries
        os.utime(taken.path, (1, 1))
        queue.restore(place)
    assert queue.take(place, "me", 60.0) is None
    out = queue.outcome(place, task.name)
    with pytest.raises(
        RunError, match=f"begun {queue.TRIES} times; the last time its worker was killed"
    ):
        queue.value(out)
    queue.submit(place, [task], again=False)
    assert queue.take(place, "me", 60.0) is None
    queue.submit(place, [task])  # a person asks again
    assert queue.take(place, "me", 60.0).tries == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [(InputError("lr: -1"), 2), (RunError("seed 3: NaN", DIVERGED), 4), (RunError("none", 3), 3)],
)
def test_what_is_the_jobs_fault_is_its_end(place, fake, error, code):
    def fail(spec):
        raise error

    log, tasks = fake(fail), jobs(1)
    queue.submit(place, tasks)
    assert worker.work(place, say=quiet) == 1 and log == [0]
    (out,) = queue.gather(place, tasks, quiet)
    assert out["code"] == code
    with pytest.raises(type(error), match=str(error)) as raised:
        queue.value(out)
    assert getattr(raised.value, "code", 2) == code


def test_a_defect_is_tried_a_few_times(place, fake, capsys):
    log, tasks = fake(lambda spec: 1 // 0), jobs(1)
    queue.submit(place, tasks)
    worker.work(place, say=quiet)
    assert len(log) == queue.TRIES and "ZeroDivisionError" in capsys.readouterr().err
    (out,) = queue.gather(place, tasks, quiet)
    assert "the last time ZeroDivisionError" in out["error"]


def test_a_full_disk_ends_the_worker_and_not_the_job(place, fake):
    def fail(spec):
        raise RunError("no space", STORAGE)

    fake(fail)
    queue.submit(place, jobs(1))
    with pytest.raises(RunError, match="no space"):
        worker.work(place, say=quiet)
    assert queue.take(place, "me", 60.0).tries == 1  # that one did not count


def test_a_folder_in_use_is_tried_later(place, fake):
    calls = []

    def busy(spec):
        calls.append(spec["i"])
        if spec["i"] == 0 and calls.count(0) == 1:
            raise InUse("run: being written")
        return "done"

    fake(busy)
    queue.submit(place, jobs(2))
    assert worker.work(place, 0.4, say=quiet) == 2
    assert calls == [0, 1, 0]  # the other first
    assert {out["tries"] for out in queue.gather(place, jobs(2), quiet)} == {1}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_puts_the_job_back(place, fake, number):
    def stopped(spec):
        os.kill(os.getpid(), number)
        time.sleep(10)

    fake(stopped)
    queue.submit(place, jobs(1))
    before = signal.getsignal(number)
    with pytest.raises(RunError, match=f"stopped by {number.name}") as raised:
        worker.work(place, say=quiet)
    assert raised.value.code == 128 + number
    assert signal.getsignal(number) is before
    assert queue.take(place, "me", 60.0).tries == 1


def test_workers_stay_while_somebody_waits(place, fake):
    """A sweep asks for its best point only when the grid is done."""
    log, seen = fake(), []
    thread = threading.Thread(target=lambda: seen.append(worker.work(place, 1.0, say=quiet)))
    with queue.waiting(place):
        thread.start()
        time.sleep(0.6)
        queue.submit(place, jobs(1))
        assert queue.value(queue.gather(place, jobs(1), quiet, 0.1)[0]) == 0
        assert thread.is_alive()
    thread.join(5)
    assert seen == [1] and log == [0]


def test_what_a_job_says_is_not_trusted(place, tmp_path):
    """Code is refused unless it is named, and a folder that is no comparison's is left alone."""
    mine = tmp_path / "mine.py"
    mine.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nPAPER = {{}}\n")
    precious = tmp_path / "CartPole-v1" / "ppo"
    precious.mkdir(parents=True)
    (precious / "thesis.txt").touch()
    spec = dict(folder=str(tmp_path), env="CartPole-v1", run=RUN, sinks=[], per_seed=False)
    table = dict(hyper={}, network={}, env_params={}, run=dict(paper=str(mine), env="CartPole-v1"))
    arm = dict(paper=str(mine), hyper={}, network={}, tune={}, steps=0)
    code = [
        Task("unit", "paper", spec | dict(method=f"{mine}:lr=1")),
        Task("unit", "env", spec | dict(method="ppo", env="mine:make")),
        Task("program", "sweep", dict(tables=table)),
        Task("arm", "claim", dict(arm=arm, env="CartPole-v1")),
        Task("unit", "elsewhere", spec | dict(method="ppo", cwd=str(tmp_path / "away"))),
        Task("unit", "other code", spec | dict(method="ppo", code="0")),
    ]
    wrong = [Task("unit", "no comparison", spec | dict(method="ppo")), Task("eval", "no kind", {})]
    queue.submit(place, [*code, *wrong])
    lines = []
    with pytest.raises(InputError, match="allow it by --|is not here|other code"):
        worker.work(place, say=lines.append)
    text = "\n".join(lines)
    assert text.count("is code that a file names") == 4
    assert "holds no comparison with this ppo on CartPole-v1" in text
    assert "job: kind: no 'eval'" in text
    assert {p.stem.split("@")[1] for p in queue.listed(place / "todo")} == {"0"}
    assert len(queue.listed(place / "todo")) == len(code)  # another may do them
    assert (precious / "thesis.txt").exists() and not (tmp_path / "ran").exists()
    for task in code[1:]:
        next(place.glob(f"todo/{task.name}@*")).unlink()
    assert worker.work(place, named=[str(mine)], say=quiet) == 1  # a person allows it
    assert "holds no comparison" in queue.outcome(place, code[0].name)["error"]


def test_what_is_no_queue_is_said_in_one_line(tmp_path):
    (tmp_path / "thesis.txt").touch()
    for folder, make, words in (
        (tmp_path, True, "is no queue, and holds thesis.txt"),
        (tmp_path, False, "is no queue"),
        (tmp_path / "nowhere", False, "is no queue"),
        (tmp_path / "thesis.txt", True, "thesis.txt: "),
        (tmp_path / ("x" * 300), True, "^queue: .{80}[.]{3}x{80}: File name too long$"),
    ):
        with pytest.raises(InputError, match=words):
            queue.opened(folder, make)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


@contextlib.contextmanager
def working(place):
    """A worker in a thread."""
    thread = threading.Thread(target=worker.work, args=(place, 5.0), kwargs=dict(say=quiet))
    with queue.waiting(place):  # so that it does not leave before it is asked for anything
        thread.start()
        yield
    thread.join()


def test_a_comparison_by_workers_is_the_one_without(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = lambda job: contextlib.nullcontext((quiet, quiet))
    methods = [f"ppo:{TINY}", "ecrm_pg"]
    about = (methods, ["CartPole-v1"], RUN)
    alone = compare.compare(*about, Path("alone"), shown)["rows"]
    with working(queue.opened("q")):
        out = compare.compare(*about, Path("many"), shown, queue="q")
    kept = ("paper", "env", "error", "final_return", "frozen", "against")
    assert [{k: r.get(k) for k in kept} for r in out["rows"]] == [
        {k: r.get(k) for k in kept} for r in alone
    ]
    assert "has no tables" in alone[1]["error"] and len(alone[0]["final_return"]["per_seed"]) == 2
    runs = [Path(f, "CartPole-v1", f"ppo_{TINY}") for f in ("alone", "many")]
    a, b = (record.load_summary(run)["state_sha256"] for run in runs)
    assert a == b
    assert {p.name for p in Path("many").iterdir()} == {p.name for p in Path("alone").iterdir()}


def test_a_run_that_was_killed_in_its_first_checkpoint_is_begun_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(compare, "train", lambda *a, **k: "begun")
    monkeypatch.setattr(compare, "resume", lambda *a, **k: "gone on with")
    (unit,) = compare.plan([f"ppo:{TINY}"], ["CartPole-v1"], RUN, tmp_path)
    do = lambda: compare.run_unit(unit, None, quiet, compare.Sinks())
    half, whole = (unit.folder / "ckpt" / n for n in ("0", "9"))
    half.mkdir(parents=True)
    assert do() == "begun" and not half.exists()
    for point in (half, whole):
        point.mkdir(parents=True)
    (whole / "manifest.json").touch()
    assert do() == "gone on with" and half.exists()


def test_a_sweep_by_workers_asks_what_it_would_do_itself(tmp_path, monkeypatch):
    """Every value comes through a file as it was: schedules, tuples, infinity."""
    monkeypatch.chdir(tmp_path)
    seen = []

    def program(asked, choice, limit, say):
        seen.append((asked, choice, limit))
        return [[p["eps"] + len(choice["hidden"]) - p["lr"].start] * 2 for p in asked.points]

    def again(asked, point, limit, say):
        seen.append((asked, point, limit))
        return dict(iqm=1.5)

    monkeypatch.setattr(sweep, "program", program)
    monkeypatch.setattr(sweep, "again", again)
    monkeypatch.setattr("jaxrl.run.pages.sweep", lambda folder: {})
    run = dict(env="CartPole-v1", seeds=2, steps=1e4, evals=1) | dict(steps=10_000)
    vary, static = ["lr=1e-3:0,1e-4:0", "eps=0.1,0.3"], ["hidden=8+8,4", "activation=tanh,relu"]
    asked = sweep.plan("ppo:num-envs=4,vf_clip=inf", run, vary, static)
    alone = sweep.sweep(asked, Path("alone"), 7)
    here, seen[:] = list(seen), []
    with working(queue.opened("q")):
        out = sweep.sweep(asked, Path("many"), 7, queue="q")
    assert len(here) == 5  # four programs, and the best again
    assert sorted(map(repr, seen)) == sorted(map(repr, here))
    assert {**out, "argv": 0} == {**alone, "argv": 0}


def test_a_claim_by_workers_asks_what_it_would_measure_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    calls = []

    def measure(asked):
        calls.append(asked)
        scores = {m: [float(len(repr(asked.arm))), 2.0] for m in asked.metrics}
        return dict(scores=scores, tuned={}, wall_seconds=1.0)

    monkeypatch.setattr(arms, "measure", measure)
    monkeypatch.setattr(claims, "home", lambda claim: tmp_path / "claim.json")
    varying = ("measured", "recorded", "wall_seconds", "revision")  # git may take too long
    alone = claims.run("spo", quick=True)
    here, calls[:] = list(calls), []
    with working(queue.opened("q")):
        claims.submit(["spo"], "q", quick=True)
        out = claims.run("spo", quick=True, queue="q")
    assert len(here) > 2 and sorted(map(repr, calls)) == sorted(map(repr, here))
    assert {k: v for k, v in out.items() if k not in varying} == {
        k: v for k, v in alone.items() if k not in varying
    }
    calls.clear()
    with working(queue.opened("q")):
        full = claims.run("spo", queue="q")
    assert len(calls) == len(here) and json.loads((tmp_path / "claim.json").read_text()) == full
    assert claims.run("spo")["arms"] == full["arms"] and len(calls) == len(here)  # it is kept


def test_submitit_starts_workers(place):
    """Its local executor: other processes, as Slurm's are."""
    task = Task("unit", "nowhere", dict(folder=str(place), method="ppo", env="nowhere", run={}))
    queue.submit(place, [task])
    (started,) = worker.start(1, ["timeout_min=5"], place, 60.0, cluster="local")
    assert started.result() == 1
    assert "holds no comparison" in queue.outcome(place, task.name)["error"]
    for count, params, words in (
        (1, ["timeout"], "'timeout' is not NAME=VALUE"),
        (1, ["slurm_gpu=1"], "slurm_param: NameError"),
        (0, [], "slurm: 0 is outside"),
    ):
        with pytest.raises(InputError, match=words):
            worker.start(count, params, place, cluster="local")
