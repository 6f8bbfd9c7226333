"""jaxrl worker --queue DIR: do what comparisons, sweeps and claims ask for in a folder."""

from pathlib import Path

import click

from jaxrl.cli.options import Whole
from jaxrl.cli.output import speaker
from jaxrl.errors import InputError

TWICE = "allow it to jobs; may be given twice"


@click.command()
@click.option("--queue", "folder", metavar="DIR", help="the folder of jobs, the same for all")
@click.option("--lease", type=float, default=60, show_default=True, help="seconds; see below")
@click.option("--wait", is_flag=True, help="stay when nothing is left to do")
@click.option("--paper", "papers", multiple=True, metavar="FILE.py", help=TWICE)
@click.option("--env", "envs", multiple=True, metavar="MODULE:MAKE", help=TWICE)
@click.option("--slurm", type=Whole(), metavar="N", help="start N workers on Slurm, by submitit")
@click.option("--slurm-param", "params", multiple=True, metavar="NAME=VALUE", help="timeout_min=60")
@click.option("--quiet", is_flag=True, help="no progress")
def command(folder, lease, wait, papers, envs, slurm, params, quiet):
    """Do the jobs that jaxrl compare, sweep and claims put into a folder with --queue.

    Start as many as there are machines that share the file system, at any time. It ends when
    nothing is left and nobody waits for more. The job of a worker that is killed is done again
    after its --lease; a result is there once. SIGTERM and Ctrl-C put its job back. --slurm-param
    is as submitit has it, and may be given again: slurm_partition=gpu.
    """
    if not folder:
        raise InputError("queue: none given; jaxrl worker --queue DIR")
    if not 1 <= lease <= 86400:
        raise InputError(f"lease: {lease} is outside [1, 86400]")
    if params and slurm is None:
        raise InputError(f"slurm_param: {params[0]} without --slurm N")
    named = [*(str(Path(p).resolve()) for p in papers), *envs]
    from jaxrl.run import worker

    say = speaker(quiet)
    if slurm is not None:
        jobs = worker.start(slurm, params, folder, lease, wait, named)
        say(f"{len(jobs)} workers: {', '.join(job.job_id for job in jobs)}")
        return
    count = worker.work(folder, lease, wait, named, say)
    say(f"{count} jobs; nothing is left in {folder}")
