"""The pages of runs and comparisons: what was asked, what came out, how to do it again."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxrl.errors import InputError, RunError
from jaxrl.run import compare, record, report
from jaxrl.run import job as jobs
from jaxrl.run.document import Code, Heading, Part, Picture, Row, Table, Text, as_html, markdown
from jaxrl.run.files import write_whole
from jaxrl.run.stats import describe
from jaxrl.run.sweep import RECORD
from jaxrl.run.sweep import load as load_sweep
from jaxrl.run.train import Say
from jaxrl.run.tune import JOURNAL, merit
from jaxrl.run.tune import RECORD as TUNED
from jaxrl.run.tune import load as load_search


class Films(NamedTuple):
    """Whether films that are not there are to be made, by which code of one's own, and who is told
    of one that cannot be."""

    make: bool = False
    named: Sequence[str] = ()
    say: Say = lambda line: None


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


def again(meta: dict, otherwise: Sequence[str]) -> list[Part]:
    """How something was made: its command and its versions.

    Args:
      meta: {argv, versions, revision, devices, resumed} as they were recorded.
      otherwise: a command that does the same, for what was not made by one.
    """
    sessions = [s.get("argv") or [""] for s in (meta, *meta.get("resumed", []))]
    by_command = all(Path(argv[0]).stem == "jaxrl" for argv in sessions)
    commands = [argv[1:] for argv in sessions] if by_command else [otherwise]
    said = "\n".join(shlex.join(["jaxrl", *map(str, command)]) for command in commands)
    versions = ", ".join(f"{k} {v}" for k, v in meta.get("versions", {}).items())
    revision = f", revision {meta['revision']}" if meta.get("revision") else ""
    devices = f"; on {', '.join(map(str, meta['devices']))}" if meta.get("devices") else ""
    made = Text(f"{versions}{revision}{devices}.")
    return [Heading("To do it again"), Code(said), made]


FILMED = 500  # steps of a page's film, at most


def film(folder: Path, films: Films) -> Path | None:
    """The film that a run's pages show: its own, of the run as it is now; made where `films` says
    so. What `jaxrl render` wrote may show anything."""
    path = folder / "report.gif"
    if path.exists() and path.stat().st_mtime >= (folder / "summary.json").stat().st_mtime:
        return path
    if films.make:
        from jaxrl.run import render

        try:
            return render.film(folder, path, steps=FILMED, named=films.named, say=films.say).path
        except (InputError, RunError) as e:
            films.say(f"no film: {e}")
    return None


def comparison(folder: Path, films: Films = Films()) -> dict[str, str]:
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
    for env in dict.fromkeys(r["env"] for r in fine):
        here = [(r["paper"], film(Path(r["folder"]), films)) for r in fine if r["env"] == env]
        if shots := [Picture(path, paper) for paper, path in here if path]:
            parts += [Heading(f"At work on {env}"), Row(shots)]
    if fine:
        first = [Path(r["folder"]) for r in fine if r["env"] == fine[0]["env"]]
        differ, same = settings(first)
        parts += [Heading(f"Settings on {fine[0]['env']}")]
        parts += [differ] if differ.rows else []
        parts += [Text("The same for all: " + ", ".join(same) + ".")]
        meta = record.load_json(first[0] / "meta.json")
        parts += again(meta, command(asked))
    title = f"{' against '.join(asked['methods'])}"
    written = write(folder, title, parts)
    return files | {"report": written["html"], "markdown": written["markdown"]}


def command(asked: dict) -> list[str]:
    """The command that asks for a comparison."""
    flags = [x for k, v in asked["run"].items() for x in (f"--{k.replace('_', '-')}", str(v))]
    return ["compare", *asked["methods"], "--env", *asked["envs"], *flags]


def summary(asked: dict) -> str:
    run = asked["run"]
    said = ", ".join(f"{k} {v}" for k, v in run.items())
    return f"{len(asked['methods'])} methods on {', '.join(asked['envs'])}; for each {said}."


def result(s: dict) -> Table:
    """What came out of a run, from its summary."""
    rows = [
        ["acting by its mode", describe(s["final_return"])],
        ["acting as it explores", describe(s["final_return_stochastic"])],
        ["steps of each seed", f"{s['steps']:,}"],
        ["steps per second, all seeds", f"{s['env_steps_per_second']:,.0f}"],
        ["compiling", f"{s['compile_seconds']:.1f} s"],
    ]
    return Table(["final return", ""], rows)


def run(folder: Path, films: Films = Films()) -> dict[str, str]:
    """Write the page of a finished run."""
    s = record.load_summary(folder)
    lost = [[f["seed"], f["iteration"], f["metric"]] for f in s.get("frozen", [])]
    _, settled = settings([folder])
    parts: list[Part] = [
        Picture(folder / "curve.png", "Return against steps; 95 % interval over seeds."),
        result(s),
    ]
    if shot := film(folder, films):
        caption = f"An episode of the median seed's policy, to {FILMED} steps at most."
        parts.append(Picture(shot, caption))
    if lost:
        parts += [Heading("Frozen seeds"), Table(["seed", "at iteration", "lost to"], lost)]
    meta = record.load_json(folder / "meta.json")
    config = str(folder / "config.toml")
    anew = again(meta, ["train", s["paper"], "--env", s["env"], "--config", config])
    parts += [Heading("Settings"), Text(", ".join(settled) + "."), *anew]
    title = f"{Path(s['paper']).name} on {s['env']}, {s['seeds']} seeds"
    return write(folder, title, parts)


def points(rows: list[dict]) -> Table:
    """Every point of a search, the best first."""
    names = list(rows[0]["point"])
    order = sorted(rows, key=merit, reverse=True)
    return Table([*names, *HEAD[2:5]], [[*r["point"].values(), *middle(r)] for r in order])


def grid(asked: dict) -> list[str]:
    """The command that asks for a sweep."""
    run = asked["tables"]["run"]
    flags = [x for k in ("env", "seeds", "seed", "steps") for x in (f"--{k}", str(run[k]))]
    for how in ("vary", "static"):
        for name, values in asked[how].items():
            flags += [f"--{how}", f"{name}={jobs.text(values)}"]
    return ["sweep", asked["method"], *flags]


def sweep(folder: Path) -> dict[str, str]:
    """Draw a sweep and write its page: {picture, report, markdown} paths."""
    found = load_sweep(folder)
    rows, best, asked = found["rows"], found["best"], found["asked"]
    job = asked["tables"]["run"]
    picture = folder / "sweep.png"
    report.sensitivity(picture, rows, best["point"])
    point = ", ".join(f"{k} = {v}" for k, v in best["point"].items())
    parts: list[Part] = [
        Text(
            f"{len(rows)} points, {job['seeds']} seeds each, {job['steps']:,} steps of each seed. "
            f"The best is {point}. On seeds that were used for nothing else its final return is "
            f"{describe(best['fresh'])}; the {figure(best['iqm'])} of the table is what it was "
            "chosen by, and flatters it."
        ),
        Picture(picture, "Final return with the other parameters at the best point; 95 % bands."),
        Heading("Every point"),
        points(rows),
        *again(found, grid(asked)),
    ]
    written = write(folder, f"A sweep of {Path(job['paper']).name} on {job['env']}", parts)
    return dict(picture=str(picture), report=written["html"], markdown=written["markdown"])


def trials(found: dict) -> Table:
    """Every trial of a search, the best first."""
    failed = any("why" in r for r in found["trials"])
    head, rows = ["trial", *found["best"]["point"], *HEAD[2:5], *["failed"] * failed], []
    for r in sorted(found["trials"], key=merit, reverse=True):
        cells = [figure(x) if isinstance(x, float) else jobs.text([x]) for x in r["point"].values()]
        rows.append([str(r["number"]), *cells, *middle(r), *[r.get("why", "")] * failed])
    return Table(head, rows)


def verdict(found: dict) -> list[str]:
    """What is to be quoted of a search, in lines."""
    best, default, vs = found["best"]["fresh"], found["default"]["fresh"], found["against"]
    lines = [f"the best, on fresh seeds: {describe(best)}"]
    lines += [f"the defaults, on the same: {describe(default)}"]
    if vs:
        ends = "[{}, {}]".format(*map(figure, vs["ci95"]))
        p = figure(vs["probability_of_improvement"], 2)
        lines += [f"the best less the defaults: {figure(vs['difference'])} {ends}, P(better) {p}"]
    return lines


def tune(folder: Path) -> dict[str, str]:
    """Draw a search and write its page: {picture, report, markdown, journal} paths."""
    found = load_search(folder)
    rows, best, asked = found["trials"], found["best"], found["asked"]
    job, vary = asked["tables"]["run"], asked["static"] | asked["vary"]
    picture = folder / "tune.png"
    report.tune(picture, rows, best, found["default"]["point"], vary)
    said = [f"{k} = {jobs.text(v)}" for k, v in vary.items()]
    lost = sum("why" in r for r in rows)
    size = ["--batch", str(asked["batch"]), "--trials", str(len(rows))]
    search = ["tune", *grid(asked)[1:], *size]
    parts: list[Part] = [
        Text(
            f"{len(rows)} trials, {lost} of them failed, each {job['steps']:,} steps of "
            f"{job['seeds']} seeds, over {'; '.join(said)}. Trial {best['number']} is the "
            f"best; the {figure(best['iqm'])} of the table is what it was chosen by, and flatters "
            "it. On seeds that were used for nothing else, with 95 % intervals:"
        ),
        Table(
            ["", *HEAD[2:5]],
            [["best", *middle(best["fresh"])], ["defaults", *middle(found["default"]["fresh"])]],
        ),
        Text(verdict(found)[-1] + "."),
        Picture(picture, "Final return of each trial, the best in orange; dotted: the defaults."),
        Heading("Every trial"),
        trials(found),
        Heading("To train the best"),
        Code(found["command"]),
        *again(found, search),
    ]
    written = write(folder, f"A search with {Path(job['paper']).stem} on {job['env']}", parts)
    files = dict(picture=str(picture), report=written["html"], markdown=written["markdown"])
    return files | dict(journal=str(folder / JOURNAL))


def of(folder: Path, films: Films = Films()) -> dict[str, str]:
    """Write the page of whatever a folder holds. InputError if it holds nothing finished."""
    if (folder / compare.RECORD).exists():
        return comparison(folder, films)
    if (folder / RECORD).exists():
        return sweep(folder)
    if (folder / TUNED).exists():
        return tune(folder)
    if (folder / "summary.json").exists():
        return run(folder, films)
    kinds = "run, comparison, sweep or search"
    raise InputError(f"report: {folder} is not a folder of a finished {kinds}")
