"""jaxrl doctor: will it run here, and if not, what mends it?"""

import click

from jaxrl.cli.options import only_json
from jaxrl.errors import InputError, reason


@click.command()
@click.option("--json", "as_json", is_flag=True, help="print the list of checks, and nothing else")
def command(as_json):
    """Check versions, known clashes, devices, what must import, the cache and the disk.

    A line each: ok, remark or FAULT, what was found, and the command or setting that mends it.
    Exits with 1 if anything is at fault; a remark is no fault.
    """
    with only_json(as_json) as emit:
        try:
            from jaxrl.run import doctor
        except ImportError as e:
            raise InputError(f"doctor: {reason(e)}; pip install packaging") from e
        rows = doctor.examine()
        emit([r._asdict() for r in rows])
    if not as_json:
        click.echo(doctor.table(rows))
    return 1 if any(r.ok is False for r in rows) else 0
