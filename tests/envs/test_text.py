"""Text tasks: what a verifier's processes do, and a run that learns from them."""

import importlib.util
import json
import sys
import textwrap

import jax
import numpy as np
import pytest

from envs.text import text
from envs.verifier import Verifier
from jaxrl.cli import main
from jaxrl.completions import LanguageModel, task
from jaxrl.errors import InputError
from jaxrl.models import load_checkpoint
from jaxrl.run.pretrain import started
from tests.language_models import folder

JUDGE = """
import os, signal, time

def verify(row, completion):
    print("not an answer")
    match completion:
        case "slow":
            time.sleep(60)
        case "stuck":
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
            time.sleep(60)
        case "large":
            return len(bytearray(10**10))
        case "gone":
            os._exit(3)
        case "wrong":
            raise LookupError("x")
        case "nan":
            return float("nan")
    return row["worth"]

def digits(row, completion):
    return sum(c.isdigit() for c in completion) / 8

def make():
    from envs.text import text
    rows = [{"prompt": f"say {a}{b}: "} for a in "abcdef" for b in "abcdef"]
    return text("long", rows, "judge_of_tests:digits", tokens=8)

def small():
    from envs.text import text
    return text("long", [{"prompt": "a"}], "judge_of_tests:digits", tokens=8)
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "judge_of_tests.py").write_text(textwrap.dedent(JUDGE))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("judge_of_tests", None)


def test_what_breaks_a_limit_is_worth_nothing_and_all_others_are_judged(here):
    verify = Verifier("judge_of_tests:verify", seconds=0.5, megabytes=600)
    bad = ["slow", "stuck", "large", "gone", "wrong", "nan"]
    said = [x for name in bad for x in ("a", name, "b")]
    rows = [{"worth": 1.0 + i} for i in range(len(said))]
    want = [0.0 if name in bad else row["worth"] for name, row in zip(said, rows)]
    np.testing.assert_array_equal(verify(rows, said), want)
    why = {"too slow": 1, "killed": 2, "too much memory": 1, "LookupError": 1, "not finite": 1}
    assert verify.failed == why
    np.testing.assert_array_equal(verify(rows, ["a"] * len(rows)), 1.0 + np.arange(len(rows)))
    np.testing.assert_array_equal(verify([], []), [])
    processes = list(verify.idle)
    assert 1 <= len(processes) <= 2
    verify.close()
    assert all(p.poll() is not None for p in processes)


@pytest.mark.parametrize(
    ("spec", "words"),
    [("judge_of_tests:nothing", "no attribute 'nothing'"), ("nowhere:f", "No module named")],
)
def test_a_function_that_is_not_there_is_said(here, spec, words):
    with pytest.raises(InputError, match=words) as error:
        Verifier(spec)
    assert "\n" not in str(error.value)


def test_a_row_without_a_prompt_is_said(here):
    with pytest.raises(InputError, match="row 1 has no prompt"):
        text("t", [{"prompt": "a"}, {"answer": "b"}], "judge_of_tests:verify", tokens=4)


def test_one_call_judges_a_batch_and_only_what_is_over(here):
    rows = [{"prompt": "x" * (1 + i % 3) + str(i)} for i in range(40)]
    unread = text("t", rows, "judge_of_tests:digits", tokens=8)
    world = started(unread, LanguageModel(model=str(folder(here / "model"))))
    game, calls = task(world), []
    assert game.action_space.n == game.vocabulary == 100
    assert game.observation_space["tokens"].high == 99
    counted = lambda rows, said: calls.append(said) or np.array([len(x) for x in said])
    game.host.verify = counted
    assert game.text(game.begin(0).tokens) == rows[int(game.order[0])]["prompt"]
    states, score = jax.vmap(game.begin)(np.arange(4)), jax.jit(jax.vmap(game.score))
    for tokens in ([5, 6, 7, 1], [6, 7, 1, 9], [7, 1, 9, 9], [1, 9, 9, 9]):  # 1 is the end
        states = jax.vmap(game.place)(states, np.array(tokens))
        got = score(states)
    assert states.over.all()
    np.testing.assert_array_equal(got, [3, 2, 1, 0])
    assert [len(said) for said in calls] == [1, 2, 3, 4]
    assert calls[-1][0] == game.host.decode([5, 6, 7, 1, 5]) and len(calls[-1][0]) == 3


@pytest.mark.slow
def test_a_run_with_adapters_learns_from_text_and_its_folder_is_read(here, capfd):
    """GRPO with LoRA writes more digits, as the verifier would have them, and what it wrote
    is read again, and by the transformers library where that is installed."""
    path = folder(here / "model")
    words = ["train", "grpo", "--env", "judge_of_tests:make", "--model", str(path), "--lora", "4"]
    words += ["--lr", "0.03", "--prompts", "16", "--steps", "4096", "--eval-episodes", "32"]
    with pytest.raises(SystemExit) as done:
        main([*words, "--run", "run", "--seeds", "2", "--evals", "1", "--quiet"])
    assert done.value.code == 0
    summary = json.loads((here / "run" / "summary.json").read_text())
    with np.load(here / "run" / "metrics.npz") as found:
        reward = found["episode_return"]
    assert (reward[:, -4:].mean(1) > reward[:, :2].mean(1) + 0.1).all()
    with pytest.raises(SystemExit) as done:
        main(["export", "run", "--env", "judge_of_tests:make", "--out", "learned", "--json"])
    assert done.value.code == 0
    assert json.loads(capfd.readouterr().out)["seed"] in (0, 1)
    before, after = load_checkpoint(path), load_checkpoint("learned")
    moved = jax.tree.map(lambda x, y: bool((x != y).any()), before.params, after.params)["params"]
    assert moved["layer_0"]["q"]["kernel"] and not moved["embed"]["embedding"]
    assert summary["seeds"] == 2
    if all(importlib.util.find_spec(name) for name in ("torch", "transformers")):
        from transformers import AutoModelForCausalLM

        assert AutoModelForCausalLM.from_pretrained("learned").num_parameters() > 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--env", "judge_of_tests:make"], "--model FOLDER says who reads it"),
        (["--env", "judge_of_tests:small", "--model", "model"], "1 prompts are too few"),
        (["--env", "tokens/add", "--model", "nowhere"], "model: nowhere is no folder"),
        (["--env", "CartPole-v1", "--model", "model"], "has no prompts"),
    ],
)
def test_what_does_not_suit_is_said_before_anything_compiles(here, capfd, words, said):
    folder(here / "model")
    with pytest.raises(SystemExit) as done:
        main(["train", "grpo", *words])
    err = capfd.readouterr().err.strip()
    assert done.value.code == 2 and said in err and err.count("\n") == 0
