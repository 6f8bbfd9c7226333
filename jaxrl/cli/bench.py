"""jaxrl bench: how fast it is here, against other libraries and against the floor."""

import json
from pathlib import Path
from typing import Any

import click

from jaxrl.cli.options import Several, Spread, Whole, only_json
from jaxrl.cli.output import columns, speaker, writable

NUMBERS = Several(Whole())


@click.command(cls=Spread, spread=("--items", "--seeds"))
@click.option(
    "--items", multiple=True, metavar="a,b,...", help="which work  [default: all, a to g]"
)
@click.option("--seeds", type=NUMBERS, multiple=True, metavar="N [N ...]", help="[default: 1]")
@click.option("--rounds", type=Whole(), default=5, show_default=True, help="turns of each entrant")
@click.option("--peers/--no-peers", default=True, show_default=True, help="rejax, brax.training")
@click.option("--startup", is_flag=True, help="processes too: start to first update, peak memory")
@click.option("--json", "as_json", is_flag=True, help="print the result, and nothing else")
@click.option("--quiet", is_flag=True, help="no progress")
@click.option("--out", metavar="FILE", help="write the result there too, as JSON")
def command(items, seeds, rounds, peers, startup, as_json, quiet, out):
    """Measure seven pieces of work: steps a second, compiling, memory, the return reached.

    Beside other libraries where they are installed (pip install 'jaxrl[bench]'), in turns, and
    beside what no implementation can do without: the environment alone, the rollout alone, the
    gradient alone. A ratio above 1: ours is faster. jaxrl bench --items a,b,c --seeds 1 8 --json
    """
    with only_json(as_json) as emit:
        from jaxrl.run import bench, bench_peers
        from jaxrl.run.files import write_whole

        items = [x for text in items for x in text.split(",")] or list(bench.ITEMS)
        seeds = [n for several in seeds for n in several] or [1]
        bench.check(items, seeds, rounds)
        file, say = out and writable(Path(out)), speaker(quiet)
        for line in bench_peers.missing() if peers else ():
            say(line)
        rows: list[dict] = []
        result: dict[str, Any] = bench.about() | dict(rows=rows)

        def keep() -> None:
            if file:
                write_whole(file, json.dumps(result, indent=1) + "\n")

        for i, n in ((i, n) for i in items for n in seeds):
            rows.append(bench.row(i, n, rounds, peers, say))
            keep()
        if startup:
            from jaxrl.run.bench_startup import startup as start

            result["startup"] = {i: start(i, rounds, peers, say) for i in items}
            keep()
        emit(result)
    if not as_json:
        for line in columns([bench.HEAD, *bench.lines(rows)]):
            click.echo(line)
        for item, found in result.get("startup", {}).items():
            for kind, x in found.items():
                first = f"first update after {x['cold']:.1f} s, {x['warm']:.1f} s with a warm cache"
                click.echo(f"{item}: {kind}: {first}; peak {x['peak_mib']:,.0f} MiB")
