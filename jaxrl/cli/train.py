"""jaxrl train SLUG|FILE.py: every hyperparameter of the paper is a flag."""

import dataclasses
from pathlib import Path

import click

from jaxrl.cli.options import DISTRIBUTED, SINKS, Assignment, flag, only_json
from jaxrl.errors import InputError
from jaxrl.metrics import explain
from jaxrl.run import catalogue

OUTPUT = [
    click.Option(["--run", "folder"], help="where to write  [default: runs/ENV/PAPER/TIME]"),
    click.Option(["--config"], help="a config.toml whose values stand where no flag does"),
    click.Option(
        ["--env-param", "env_params"],
        type=Assignment(),
        multiple=True,
        metavar="NAME=NUMBER",
        help="physics of the environment, such as gravity=12",
    ),
    *SINKS,
    DISTRIBUTED,
    click.Option(["--json", "as_json"], is_flag=True, help="print the summary, and nothing else"),
    click.Option(["--quiet"], is_flag=True, help="no progress"),
]


class Sections(click.Command):
    """A command whose help groups its options."""

    sections: dict[str, list[click.Option]]

    def format_options(self, ctx, formatter):
        for title, options in self.sections.items():
            with formatter.section(title):
                formatter.write_dl([r for o in options if (r := o.get_help_record(ctx))])


def named(args: list[str]) -> list[str]:
    """The environments that arguments name, as --env NAME or --env=NAME."""
    after = [value for option, value in zip(args, args[1:]) if option == "--env"]
    return after + [a.removeprefix("--env=") for a in args if a.startswith("--env=")]


def shown(field: dataclasses.Field) -> bool:
    """Whether a field is a person's to set: it is documented, and not set by the run."""
    return "doc" in field.metadata and field.name != "horizon"


class Papers(click.Group):
    """One subcommand a paper, made from its hyperparameter class when it is asked for."""

    def list_commands(self, ctx):
        return list(catalogue.papers())

    def format_commands(self, ctx, formatter):
        formatter.write("\n" + explain() + "\n")

    def resolve_command(self, ctx, args):
        if args[0].startswith("-"):
            raise InputError(f"paper: none before {args[0]}; jaxrl train SLUG {args[0]} ...")
        catalogue.find(args[0])
        if "--distributed" in args:  # before a paper's file is loaded, which may compute
            from jaxrl.run import ranks

            ranks.join()
        ctx.meta["env"] = env = next(iter(named(args)), "")
        if env:  # a mistyped name is said before jax is imported
            import envs

            envs.check_name(env)
        return args[0], self.get_command(ctx, args[0]), args[1:]

    def get_command(self, ctx, name):
        import envs
        from jaxrl.run.job import Job

        _, cls = catalogue.load(name)
        paper, env = catalogue.find(name), ctx.meta.get("env")
        kind = envs.kind(env) if env else ""
        job = Job(paper=name, env=env, network=cls.network_for(kind), hyper=cls.for_env(kind))
        flags = {
            table: [flag(f, getattr(x, f.name)) for f in dataclasses.fields(x) if shown(f)]
            for table, x in (("run", job), ("hyper", job.hyper), ("network", job.network))
        }
        whose = f"those of {kind} environments" if kind else "a class of environments' with --env"
        text = f"{paper['title']}.\n\nClaim: {paper['claim']}.\n\nDefaults are {whose}."
        command = Sections(
            name,
            params=[o for options in (OUTPUT, *flags.values()) for o in options],
            callback=lambda **given: run(name, given, flags),
            help=text,
            epilog="jaxrl train --help says what each metric means.",
        )
        command.sections = {
            "Run": flags["run"] + OUTPUT,
            "Hyperparameters": flags["hyper"],
            "Network": flags["network"],
        }
        return command


def run(paper: str, given: dict, flags: dict[str, list[click.Option]]) -> None:
    """Resolve what was given over the configuration file over the defaults, then train."""
    from jaxrl.run import job as jobs
    from jaxrl.run import ranks
    from jaxrl.run.sinks import Sinks

    sinks = Sinks(given["sink"], given["per_seed"])
    tables = jobs.read(Path(given["config"])) if given["config"] else jobs.nothing()
    tables["run"]["paper"] = catalogue.absolute(paper)
    env = given["env"] or ""
    jobs.refuse_code(tables, [tables["run"]["paper"], env])
    tables["env_params"] |= dict(given["env_params"])
    for table, options in flags.items():
        said = {o.name: given[o.name] for o in options if given[o.name] is not None}
        tables[table] |= said
    with only_json(given["as_json"] and ranks.first()) as emit:
        emit(start(jobs.resolve(**tables), given["folder"], given["quiet"], sinks))


def start(job, folder: str | None, quiet: bool, sinks) -> dict:
    """Train with progress on standard error; end by naming the folder and the picture."""
    from jaxrl.cli.progress import shown
    from jaxrl.run import ranks, record
    from jaxrl.run.run import set_up
    from jaxrl.run.train import train

    target = record.new_folder(folder, job) if ranks.first() else Path(folder or ".")
    setting = set_up(job)
    with shown(job, quiet or not ranks.first()) as (see, say):
        summary = train(job, target, setting, see, say, sinks)
    told(summary, target, say)
    return summary


def told(summary: dict, folder: Path, say) -> None:
    """Say what came out, and where it is."""
    from jaxrl.run.stats import describe

    say(
        f"final_return {describe(summary['final_return'])}; "
        f"{summary['env_steps_per_second']:,.0f} steps/s, "
        f"compiled in {summary['compile_seconds']:.1f} s"
    )
    say(f"run      {folder}\npicture  {folder / 'curve.png'}")


command = Papers(
    "train",
    help="Train a paper: jaxrl train SLUG|FILE.py --env ENV --seeds N --steps N.\n\n"
    "jaxrl papers lists them, jaxrl train SLUG --help shows a paper's hyperparameters.",
    no_args_is_help=True,
    context_settings={"ignore_unknown_options": True, "max_content_width": 120},
)
