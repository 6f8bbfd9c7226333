"""A token run from its start to its page: the start is fitted once, kept, and told of."""

import json

import jax
import numpy as np
import pytest

import envs
from jaxrl.cli.app import main
from jaxrl.completions import model
from jaxrl.errors import InputError
from jaxrl.families.tokens import Tokens
from jaxrl.run import pretrain

NETWORK = Tokens.network_for("").replace(hidden=(32, 32))
RUN = ["train", "grpo", "--env", "tokens/add", "--hidden", "32,32"]
SMALL = ["--prompts", "16", "--group", "4", "--steps", "512", "--seeds", "2", "--evals", "1"]


def do(*argv: str) -> None:
    """A command that ends well."""
    with pytest.raises(SystemExit) as stopped:
        main(list(argv))
    assert not stopped.value.code


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A cache of this test's own."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def world():
    return envs.make("tokens/add")


@pytest.fixture(scope="module")
def run(home, tmp_path_factory):
    """A finished run of two seeds."""
    folder = tmp_path_factory.mktemp("runs") / "grpo"
    do(*RUN, *SMALL, "--run", str(folder), "--quiet")
    return folder


def test_a_start_solves_a_part(home, world, run):
    """It was made for the run, it lies in the cache, and its pass@1 is what was asked for."""
    path = pretrain.place(world, NETWORK)
    assert path.is_relative_to(home) and path.exists()
    about = json.loads(str(np.load(path)["about"]))
    low, high = pretrain.BETWEEN
    assert low <= about["sampled"] <= high
    started = pretrain.started(world, NETWORK)
    like = jax.eval_shape(
        model(world, NETWORK).init, jax.random.key(0), jax.numpy.ones((1, 1), int)
    )
    assert jax.tree.structure(started.env.start) == jax.tree.structure(like)


def test_a_summary_tells_of_start_and_end_seed_by_seed(run):
    summary = json.loads((run / "summary.json").read_text())
    names = {"sampled", "greedy", "pass_at_8", "pass_at_16", "tempered"}
    for when in ("start", "final"):
        assert set(summary[when]) == names
        assert all(len(x["per_seed"]) == 2 for x in summary[when].values())
        got = {k: np.array(x["per_seed"]) for k, x in summary[when].items()}
        assert (got["sampled"] <= got["tempered"]).all()
        assert (got["sampled"] <= got["pass_at_16"]).all()
    low, high = pretrain.BETWEEN
    start = np.array(summary["start"]["sampled"]["per_seed"])
    assert ((low - 0.1 < start) & (start < high + 0.1)).all()


def test_a_run_goes_on_bit_for_bit(run, tmp_path, home):
    half, whole = tmp_path / "half", json.loads((run / "summary.json").read_text())
    do(*RUN, *SMALL, "--steps", "256", "--run", str(half), "--quiet")
    do("resume", str(half), "--steps", "512")
    resumed = json.loads((half / "summary.json").read_text())
    assert resumed["state_sha256"] == whole["state_sha256"]
    assert resumed["start"] == whole["start"] and resumed["final"] == whole["final"]


def test_what_it_samples_can_be_read(run, capfd):
    do("render", str(run), "--episodes", "2", "--json")
    said = json.loads(capfd.readouterr().out)
    assert len(said["groups"]) == 2 and all(len(g) == 4 for g in said["groups"])
    page = (run / "render.html").read_text()
    for g in said["groups"]:
        assert len({c["prompt"] for c in g}) == 1 and g[0]["prompt"] in page
        for c in g:  # the reward is the verifier's: a sum's digits, the last first
            a, b = map(int, c["prompt"].rstrip("=").split("+"))
            want = f"{a + b:03}"[::-1] + "."
            assert c["reward"] == float(c["text"] == want)
            assert len(c["advantage"]) == len(c["text"])


def test_a_start_that_cannot_be_is_refused(world, monkeypatch):
    monkeypatch.setattr(pretrain, "MOST", 64)
    with pytest.raises(InputError, match=r"pretrain: tokens/add: pass@1 is 0.* after 64 steps"):
        pretrain.fitted(world, NETWORK, (0.99, 0.995))


def test_a_file_that_is_no_start_is_refused(world, tmp_path):
    like = dict(a=np.zeros(2, np.float32))
    pretrain.save(tmp_path / "x.npz", dict(a=np.zeros(3, np.float32)), {})
    with pytest.raises(InputError, match=r"start: .*x.npz: \['a'\] is float32\[3\], needed is"):
        pretrain.load(tmp_path / "x.npz", like)
    (tmp_path / "y.npz").write_text("no")
    with pytest.raises(InputError, match="start: .*y.npz"):
        pretrain.load(tmp_path / "y.npz", like)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["pretrain", "CartPole-v1"], "CartPole-v1 has no prompts"),
        (["pretrain", "tokens/add", "--low", "0.5", "--high", "0.4"], "low: 0.5 is not below"),
        (["pretrain", "tokens/add", "--env-param", "digits=9"], "digits: 9 is outside [1, 4]"),
        (["pretrain", "tokens/add", "--hidden", "64,32"], "hidden: (64, 32)"),
        (["train", "grpo", "--env", "CartPole-v1"], "CartPole-v1 has no prompts"),
    ],
)
def test_what_does_not_fit_is_one_line(argv, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    err = capsys.readouterr().err
    assert stopped.value.code == 2 and said in err and len(err.strip().splitlines()) == 1
