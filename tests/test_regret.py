"""The study of regrets (experiments/regret.py): what it reads, and that it draws."""

import jax
import numpy as np

import envs
from experiments import regret
from jaxrl.core import train
from jaxrl.hyper import cast
from jaxrl.papers.theory import best_of_both_worlds_po as paper
from jaxrl.run.stats import slope


def test_a_study_reads_the_run_s_own_regret_and_is_drawn(tmp_path):
    tiny = regret.Study(
        "tabular/switching", 300, {"Tsallis": ("best_of_both_worlds_po", dict(lr=2.0))}, True
    )
    out = regret.measure(tiny, seeds=3)
    world, hp = envs.make("tabular/switching"), cast(paper.BestOfBothWorlds(lr=2.0))
    algo, keys = paper.make(world), jax.vmap(jax.random.key)(np.arange(3))
    run = jax.jit(jax.vmap(lambda k: train(algo, k, hp, world, 300)[1]["regret"]))
    R, m = np.asarray(run(keys)), out["methods"]["Tsallis"]
    at = np.array(m["at"])
    most = np.maximum.accumulate(R, 1)[:, at - 1]
    assert at[-1] == 300 and out["seeds"] == 3
    np.testing.assert_allclose(m["regret"], most.mean(0), rtol=1e-3)
    half = len(at) // 2
    np.testing.assert_allclose(m["slope"], slope(most[:, half:], at[half:])[0], atol=1e-3)
    regret.draw("tiny", out, tmp_path / "tiny.png")
    assert (tmp_path / "tiny.png").stat().st_size > 5000
