"""jaxrl train SLUG|FILE.py: every hyperparameter of the paper is a flag."""

import dataclasses
from pathlib import Path

import click

from jaxrl.cli.options import Assignment, Whole, flag, only_json
from jaxrl.errors import InputError
from jaxrl.metrics import explain
from jaxrl.run import catalogue

WHOLE = Whole()
RUN = [
    click.Option(["--env"], help="environment: a name of `jaxrl envs`, or my_module:make"),
    click.Option(["--seeds"], type=WHOLE, help="how many, in one program  [default: 1]"),
    click.Option(["--seed"], type=WHOLE, help="the first of them  [default: 0]"),
    click.Option(
        ["--steps"],
        type=WHOLE,
        help="environment steps of one seed; 1e6 is fine  [default: 500000]",
    ),
    click.Option(["--run", "folder"], help="where to write  [default: runs/ENV/PAPER/TIME]"),
    click.Option(["--config"], help="a config.toml whose values stand where no flag does"),
    click.Option(
        ["--env-param", "env_params"],
        type=Assignment(),
        multiple=True,
        metavar="NAME=NUMBER",
        help="physics of the environment, such as gravity=12",
    ),
    click.Option(["--evals"], type=WHOLE, help="evaluations on the way  [default: 10]"),
    click.Option(
        ["--eval-episodes"], type=WHOLE, help="episodes of each and of the final one  [default: 32]"
    ),
    click.Option(
        ["--seed-mode"],
        help="vmap: all seeds at once; map: one after the other, each bitwise its own single run; "
        "auto: map for convolutions on a CPU  [default: auto]",
    ),
    click.Option(["--json", "as_json"], is_flag=True, help="print the summary, and nothing else"),
    click.Option(["--quiet"], is_flag=True, help="no progress"),
]
JOB = ("env", "seeds", "seed", "steps", "evals", "eval_episodes", "seed_mode")


class Sections(click.Command):
    """A command whose help groups its options."""

    sections: dict[str, list[click.Option]]

    def format_options(self, ctx, formatter):
        for title, options in self.sections.items():
            with formatter.section(title):
                formatter.write_dl([r for o in options if (r := o.get_help_record(ctx))])

    def format_epilog(self, ctx, formatter):
        formatter.write("\n" + explain() + "\n")


class Papers(click.Group):
    """One subcommand a paper, made from its hyperparameter class when it is asked for."""

    def list_commands(self, ctx):
        return list(catalogue.papers())

    def format_commands(self, ctx, formatter):
        with formatter.section("Papers"):
            formatter.write_dl([(k, p["title"]) for k, p in catalogue.papers().items()])

    def resolve_command(self, ctx, args):
        if args[0].startswith("-"):
            raise InputError(f"paper: none before {args[0]}; jaxrl train SLUG {args[0]} ...")
        catalogue.find(args[0])
        for flag_, value in zip(args, args[1:], strict=False):
            if flag_ == "--env":  # a mistyped name is said before jax is imported
                import envs

                envs.check_name(value)
        return args[0], self.get_command(ctx, args[0]), args[1:]

    def get_command(self, ctx, name):
        from jaxrl.policies import Network

        _, cls = catalogue.load(name)
        paper = catalogue.find(name)
        hypers = [flag(f) for f in dataclasses.fields(cls) if f.name != "horizon"]
        network = [flag(f) for f in dataclasses.fields(Network)]

        def call(**given):
            run(name, given, [o.name for o in hypers], [o.name for o in network])

        text = f"{paper['title']}.\n\nClaim: {paper['claim']}."
        command = Sections(name, params=[*RUN, *hypers, *network], callback=call, help=text)
        command.sections = {"Run": RUN, "Hyperparameters": hypers, "Network": network}
        return command


def run(paper: str, given: dict, hypers: list[str], networks: list[str]) -> None:
    """Resolve what was given over the configuration file over the defaults, then train."""
    from jaxrl.run import job as jobs

    tables = {k: {} for k in ("run", "env_params", "network", "hyper")}
    if given["config"]:
        tables = jobs.read(Path(given["config"]))
    given_now = {k: v for k, v in given.items() if v is not None}
    tables["run"] |= {"paper": paper} | {k: given_now[k] for k in JOB if k in given_now}
    tables["env_params"] |= dict(given["env_params"])
    tables["network"] |= {k: given_now[k] for k in networks if k in given_now}
    tables["hyper"] |= {k: given_now[k] for k in hypers if k in given_now}
    with only_json(given["as_json"]) as emit:
        job = jobs.resolve(**tables)
        emit(start(job, given["folder"], quiet=given["quiet"]))


def start(job, folder: str | None, quiet: bool) -> dict:
    """Train with progress on standard error; end by naming the folder and the picture."""
    from jaxrl.cli.progress import shown
    from jaxrl.run import record
    from jaxrl.run.run import set_up
    from jaxrl.run.stats import describe
    from jaxrl.run.train import train

    target = record.new_folder(folder, job)
    setting = set_up(job)
    with shown(job, quiet) as (see, say):
        summary = train(job, target, setting, see, say)
    say(
        f"final_return {describe(summary['final_return'])}; "
        f"{summary['env_steps_per_second']:,.0f} steps/s, "
        f"compiled in {summary['compile_seconds']:.1f} s"
    )
    say(f"run      {target}\npicture  {target / 'curve.png'}")
    return summary


command = Papers(
    "train",
    help="Train a paper: jaxrl train SLUG|FILE.py --env ENV --seeds N --steps N.\n\n"
    "jaxrl train SLUG --help shows the paper's hyperparameters.",
    no_args_is_help=True,
    context_settings={"ignore_unknown_options": True},
)
