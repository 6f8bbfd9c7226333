"""The pages of runs and comparisons: what was asked, what came out, how to do it again."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxrl.errors import InputError
from jaxrl.run import compare, record, report
from jaxrl.run import job as jobs
from jaxrl.run.document import Code, Heading, Part, Picture, Table, Text, as_html, markdown
from jaxrl.run.files import write_whole
from jaxrl.run.stats import describe
from jaxrl.run.sweep import RECORD


def write(folder: Path, title: str, parts: Sequence[Part], name: str = "report") -> dict[str, str]:
    """Write a page into a folder, twice: {html, markdown} paths."""
    out = {}
    for kind, suffix, text in (
        ("html", ".html", as_html(title, parts)),
        ("markdown", ".md", markdown(title, parts, folder)),
    ):
        out[kind] = str(folder / (name + suffix))
        write_whole(folder / (name + suffix), text)
    return out


def figure(x: float | None, digits: int = 4) -> str:
    return "-" if x is None else f"{x:.{digits}g}"


def middle(x: dict) -> list[str]:
    """A summary over seeds as three cells."""
    ends = "-" if x["ci95"][0] is None else "[{}, {}]".format(*map(figure, x["ci95"]))
    return [figure(x["iqm"]), ends, figure(x["min"])]


HEAD = (
    *("paper", "environment", "return (IQM)", "95 % interval", "worst seed"),
    *("P(better than the first)", "steps/s", "compile s"),
)


def lines(rows: list[dict]) -> list[list[str]]:
    """A comparison's rows in words, as under `HEAD`."""
    out = []
    for r in rows:
        if r["error"]:
            out.append([r["paper"], r["env"], r["error"], *[""] * 5])
            continue
        x, vs = r["final_return"], r["against"]
        better = figure(vs["probability_of_improvement"], 2) if vs else ""
        lost = f", {len(r['frozen'])} frozen" if r["frozen"] else ""
        speed, compiling = f"{r['steps_per_second']:,.0f}", f"{r['compile_seconds']:.1f}"
        mid, ends, worst = middle(x)
        out.append([r["paper"], r["env"], mid + lost, ends, worst, better, speed, compiling])
    return out


def settings(folders: Sequence[Path]) -> tuple[Table, list[str]]:
    """The settings in which runs differ, and those which they share."""
    tables = []
    for folder in folders:
        said = jobs.read(folder / "config.toml")
        tables.append({k: v for name in jobs.TABLES for k, v in said[name].items()})
    names = list(dict.fromkeys(k for t in tables for k in t))
    shown = [[str(jobs.to_toml(t.get(k, ""))) for t in tables] for k in names]
    rows = [[k, *row] for k, row in zip(names, shown) if len(set(row)) > 1]
    same = [f"{k} = {row[0]}" for k, row in zip(names, shown) if len(set(row)) == 1]
    return Table(["setting", *(f.name for f in folders)], rows), same


def again(folder: Path) -> list[Part]:
    """How a run was made: its command and its versions."""
    meta = record.load_json(folder / "meta.json")
    argv = meta.get("argv") or ["jaxrl"]
    command = shlex.join(["jaxrl", *map(str, argv[1:])])
    versions = ", ".join(f"{k} {v}" for k, v in meta.get("versions", {}).items())
    revision = f", revision {meta['revision']}" if meta.get("revision") else ""
    devices = ", ".join(map(str, meta.get("devices", [])))
    return [Heading("To do it again"), Code(command), Text(f"{versions}{revision}; on {devices}.")]


def comparison(folder: Path) -> dict[str, str]:
    """Draw a comparison and write its page: {picture, report, markdown} paths."""
    found = compare.load(folder)
    rows, asked = found["rows"], found["asked"]
    fine = [r for r in rows if not r["error"]]
    parts: list[Part] = [Text(summary(asked))]
    files = {}
    if fine:
        curves: dict[str, dict[str, Any]] = {}
        for r in fine:
            arrays = record.load_arrays(Path(r["folder"]))
            curves.setdefault(r["env"], {})[r["paper"]] = report.curve(arrays)
        scale = compare.scale(rows)
        picture = folder / "comparison.png"
        report.comparison(picture, curves, compare.overall(rows, scale), scale.words)
        caption = (
            "Curves: return while exploring, interquartile mean over seeds, 95 % band. Points: "
            f"final return by the mode, interquartile mean, 95 % interval; {scale.words}."
        )
        parts.append(Picture(picture, caption))
        files["picture"] = str(picture)
    parts += [
        Heading("Final return"),
        Table(HEAD, lines(rows)),
        Text(
            "IQM: the interquartile mean over seeds of the mean return of whole episodes, acting "
            "by the mode; 95 % percentile bootstrap over seeds. P: the probability that a seed "
            f"does better than one of {asked['methods'][0]} on the same environment, ties half."
        ),
    ]
    if fine:
        first = [Path(r["folder"]) for r in fine if r["env"] == fine[0]["env"]]
        differ, same = settings(first)
        parts += [Heading(f"Settings on {fine[0]['env']}")]
        parts += [differ] if differ.rows else []
        parts += [Text("The same for all: " + ", ".join(same) + ".")]
        parts += again(Path(fine[0]["folder"]))
    title = f"{' against '.join(asked['methods'])}"
    written = write(folder, title, parts)
    return files | {"report": written["html"], "markdown": written["markdown"]}


def summary(asked: dict) -> str:
    run = asked["run"]
    said = ", ".join(f"{k} {v}" for k, v in run.items())
    return f"{len(asked['methods'])} methods on {', '.join(asked['envs'])}; for each {said}."


def run(folder: Path) -> dict[str, str]:
    """Write the page of a finished run."""
    s = record.load_summary(folder)
    result = [
        ["acting by its mode", describe(s["final_return"])],
        ["acting as it explores", describe(s["final_return_stochastic"])],
        ["steps of each seed", f"{s['steps']:,}"],
        ["steps per second, all seeds", f"{s['env_steps_per_second']:,.0f}"],
        ["compiling", f"{s['compile_seconds']:.1f} s"],
    ]
    lost = [[f["seed"], f["iteration"], f["metric"]] for f in s.get("frozen", [])]
    _, settled = settings([folder])
    parts: list[Part] = [
        Picture(folder / "curve.png", "Return against steps; 95 % interval over seeds."),
        Table(["final return", ""], result),
    ]
    if lost:
        parts += [Heading("Frozen seeds"), Table(["seed", "at iteration", "lost to"], lost)]
    parts += [Heading("Settings"), Text(", ".join(settled) + "."), *again(folder)]
    return write(folder, f"{s['paper']} on {s['env']}, {s['seeds']} seeds", parts)


def sweep(folder: Path) -> dict[str, str]:
    """Draw a sweep and write its page: {picture, report, markdown} paths."""
    found = record.load_json(folder / RECORD)
    if "best" not in found:
        raise InputError(f"sweep: {folder} is not the folder of a finished sweep")
    rows, best, asked = found["rows"], found["best"], found["asked"]
    job = asked["tables"]["run"]
    picture = folder / "sweep.png"
    report.sensitivity(picture, rows, best["point"])
    names = list(best["point"])
    point = ", ".join(f"{k} = {v}" for k, v in best["point"].items())
    order = sorted(rows, key=lambda r: -np.inf if r["iqm"] is None else r["iqm"], reverse=True)
    lines = [[*(r["point"][k] for k in names), *middle(r)] for r in order]
    versions = ", ".join(f"{k} {v}" for k, v in found["versions"].items())
    parts: list[Part] = [
        Text(
            f"{len(rows)} points, {job['seeds']} seeds each, {job['steps']:,} steps of each seed. "
            f"The best is {point}. On seeds that were used for nothing else its final return is "
            f"{describe(best['fresh'])}; the {figure(best['iqm'])} of the table is what it was "
            "chosen by, and flatters it."
        ),
        Picture(picture, "Final return with the other parameters at the best point; 95 % bands."),
        Heading("Every point"),
        Table([*names, *HEAD[2:5]], lines),
        Heading("To do it again"),
        Code(shlex.join(["jaxrl", *map(str, found["argv"][1:])])),
        Text(f"{versions}, revision {found['revision']}."),
    ]
    written = write(folder, f"A sweep of {job['paper']} on {job['env']}", parts)
    return dict(picture=str(picture), report=written["html"], markdown=written["markdown"])


def of(folder: Path) -> dict[str, str]:
    """Write the page of whatever a folder holds. InputError if it holds nothing finished."""
    if (folder / compare.RECORD).exists():
        return comparison(folder)
    if (folder / RECORD).exists():
        return sweep(folder)
    if (folder / "summary.json").exists():
        return run(folder)
    raise InputError(f"report: {folder} is not a folder of a finished run, comparison or sweep")
