"""jaxrl supervise -- jaxrl CMD ...: a lost process is no end of a run."""

import click

from jaxrl.cli.options import Whole
from jaxrl.cli.output import speaker


@click.command(context_settings={"allow_interspersed_args": False})
@click.option("--processes", type=Whole(), default=1, show_default=True, help="on this machine")
@click.option("--restarts", type=Whole(), default=3, show_default=True, help="without progress")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="-- jaxrl CMD ...")
def command(processes, restarts, words):
    """Run jaxrl train, resume, compare, sweep or tune, and start it again when a process is lost.

    It goes on from the newest whole checkpoint of the folder that the command names (--run DIR). A
    lost process, killed or ended by an error, ends the others, and all are started again; bad
    input, a NaN and a full disk would come again and end it. --restarts counts those in a row that
    saved no newer checkpoint.

    --processes N starts N of a command with --distributed on this machine. On a cluster the
    launcher starts a supervisor for each process: srun jaxrl supervise -- jaxrl train ...
    """
    from jaxrl.run.supervise import supervise, task

    return supervise(task(words), processes, restarts, speaker())
