"""jaxrl evaluate RUN: play a finished run's policy."""

from pathlib import Path

import click

from jaxrl.cli.options import Whole, env_param, named, only_json
from jaxrl.cli.output import speaker


@click.command()
@click.argument("run")
@click.option("--episodes", type=Whole(), default=100, show_default=True, help="of each seed")
@click.option("--seed", type=Whole(), default=1, show_default=True, help="of the episodes")
@click.option("--stochastic", is_flag=True, help="act as it explores, not by its mode")
@click.option("--gymnasium", metavar="NAME", help="play Gymnasium's own environment instead")
@env_param("other physics than it trained in, such as gravity=12")
@click.option("--best", is_flag=True, help="the checkpoint whose evaluation was best, not the last")
@named
@click.option("--json", "as_json", is_flag=True, help="print the result as JSON, and nothing else")
def command(run, episodes, seed, stochastic, gymnasium, env_params, best, own, as_json):
    """Play the last policy of every seed of a run, in its environment or in Gymnasium's.

    Prints the return over complete episodes beside the figure that training ended with.
    """
    with only_json(as_json) as emit:
        from jaxrl.run import evaluate, record
        from jaxrl.run.stats import describe

        evaluate.check(episodes, seed, gymnasium, env_params)
        trained = record.load_summary(Path(run))
        s, state = evaluate.load(Path(run), best, own, speaker())
        how = dict(episodes=episodes, seed=seed, greedy=not stochastic)
        result = evaluate.play(s, state, dict(env_params), gymnasium, **how)
        changed = "".join(f", {k}={v}" for k, v in env_params)
        where = s.job.env + changed if gymnasium is None else f"gymnasium:{gymnasium}"
        before = trained["final_return_stochastic" if stochastic else "final_return"]
        emit(dict(run=run, paper=s.job.paper, env=where, final_return=result, trained=before))
    if not as_json:
        for name, r in ((where, result), (f"{s.job.env}, at the end of training", before)):
            click.echo(f"{name}: return {describe(r)}; {r['episodes']} episodes each")
