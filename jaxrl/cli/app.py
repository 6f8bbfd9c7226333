"""The command's frame: which commands there are, and what a person sees when something is wrong.

Exit codes: 0 done, 1 a defect of ours (a traceback), 2 bad input, 3 no whole checkpoint, 4 a NaN,
5 the disk, 6 another process; 130 Ctrl-C, 143 SIGTERM. All but 1 with one line.
"""

import gc
import importlib
import os
import sys
import traceback

import click

from jaxrl import __version__
from jaxrl.cache import keep_programs
from jaxrl.errors import DIVERGED, InputError, RunError, did_you_mean

COMMANDS = {
    "train": "train a paper on an environment, many seeds in one program",
    "compare": "train several papers at the same budget: a table, a picture, a page",
    "sweep": "train a paper at every point of a grid, in one program",
    "tune": "search a paper's hyperparameters with Optuna, in batches of one program",
    "worker": "do what comparisons, sweeps and claims put into a queue",
    "resume": "go on with a run that was stopped or killed, or make one longer",
    "supervise": "start a command again when a process is lost, from the last checkpoint",
    "evaluate": "play a finished run's policy, here or in Gymnasium's own environment",
    "render": "show a run's policy at work: gif, mp4, or an html that opens offline",
    "export": "write a run's policy as arrays, or as a program that needs no jaxrl",
    "report": "write the page of a run or a comparison, as HTML and Markdown",
    "dataset": "record steps as a file to learn from offline; look into one; read Minari's",
    "pretrain": "fit the policy that token runs of a task begin from",
    "envs": "list the environments",
    "papers": "list the papers, and what is on record of each",
    "claims": "run the experiment behind a paper's claim, and record it",
    "check-paper": "run the battery over a paper, the kit's or your own",
    "check-env": "check an environment's spaces, flags, resets and final observations",
    "bench": "measure speed against other libraries and against the floor",
    "doctor": "check versions, devices, known clashes, the cache and the disk",
}
BAD_INPUT, INTERRUPTED = 2, 130
SHARED = (DIVERGED, 130, 143)  # codes with which all of several processes end
GARBAGE = 1_000_000  # objects between two collections: at 700 they take a sixth of a start


class Lazy(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx):
        return list(COMMANDS)

    def get_command(self, ctx, name):
        module = importlib.import_module(f"jaxrl.cli.{name.replace('-', '_')}")
        return module.command

    def resolve_command(self, ctx, args):
        if args[0] not in COMMANDS:
            raise did_you_mean("command", args[0], COMMANDS, "jaxrl --help lists them")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx, formatter):
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(
    cls=Lazy, no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, prog_name="jaxrl")
def app():
    """Policy optimisation where every paper is one small file over one engine.

    Try: jaxrl train ppo --env CartPole-v1 --seeds 16 --steps 5e5
    """


def main(argv: list[str] | None = None) -> None:
    """Run the command; every error that the input caused is one line on standard error."""
    keep_programs()
    gc.set_threshold(GARBAGE)
    try:
        code = app.main(argv, prog_name="jaxrl", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as e:
        click.echo(e.ctx.get_help())
        code = 0
    except (InputError, click.ClickException) as e:
        message = e.format_message() if isinstance(e, click.ClickException) else str(e)
        click.echo("jaxrl: " + " ".join(message.split()), err=True)
        code = BAD_INPUT
    except RunError as e:
        click.echo(f"jaxrl: {e}", err=True)
        code = e.code
    except (KeyboardInterrupt, click.Abort):
        click.echo("jaxrl: interrupted", err=True)
        code = INTERRUPTED
    except Exception:
        if not together():
            raise
        traceback.print_exc()
        code = 1
    code = code if isinstance(code, int) else 0
    if code and code not in SHARED and together():
        sys.stdout.flush()
        os._exit(code)  # at its end jax would wait for the others, who wait for this one
    sys.exit(code)


def together() -> bool:
    """Whether this is one of several processes."""
    jax = sys.modules.get("jax")
    return bool(jax and jax.distributed.is_initialized())
