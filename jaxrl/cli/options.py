"""Flags from dataclass fields, and the types they parse to."""

import contextlib
import dataclasses
import functools
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from jaxrl.errors import InputError


def title(param: click.Parameter | None) -> str:
    """What an error calls a parameter."""
    return (param and param.name) or "value"


class Whole(click.ParamType):
    """An int; 1e6 is one."""

    name = "int"

    def __init__(self, words: tuple[str, ...] = ()):
        self.words = words  # that are taken too, as they are

    def convert(self, value, param, ctx):
        if value in self.words:
            return value
        try:
            number = float(value)
            if number.is_integer():
                return int(number)
        except (ValueError, OverflowError):
            pass
        also = "".join(f" or {word}" for word in self.words)
        raise InputError(f"{title(param)}: {value!r} is not a whole number{also}")


class Number(click.ParamType):
    """A float, or a schedule a:b where the field takes one."""

    name = "float"

    def __init__(self, schedules: bool = False):
        self.schedules = schedules

    def convert(self, value, param, ctx):
        from jaxrl.run.job import schedule

        try:
            return schedule(value) if self.schedules else float(value)
        except ValueError as e:
            also = " or a schedule a:b" if self.schedules else ""
            raise InputError(f"{title(param)}: {value!r} is not a number{also}") from e


class Several(click.ParamType):
    """Numbers between commas."""

    name = "numbers"

    def __init__(self, item: click.ParamType):
        self.item = item

    def convert(self, value, param, ctx):
        parts = value.split(",") if isinstance(value, str) else value
        return tuple(self.item.convert(x, param, ctx) for x in parts)


class Assignment(click.ParamType):
    """NAME=NUMBER."""

    name = "name=number"

    def convert(self, value, param, ctx):
        name, equals, number = value.partition("=")
        try:
            return name, float(number) if not number.lstrip("+-").isdigit() else int(number)
        except ValueError as e:
            raise InputError(f"{title(param)}: {value!r} is not NAME=NUMBER") from e


def env_param(about: str) -> Any:
    """The option --env-param, with what it is there for."""
    return click.option(
        "--env-param",
        "env_params",
        type=Assignment(),
        multiple=True,
        metavar="NAME=NUMBER",
        help=about,
    )


class Spread(click.Command):
    """A command whose flags in `spread` take several values, as if each had the flag before it."""

    def __init__(self, *args, spread: tuple[str, ...], **rest):
        super().__init__(*args, **rest)
        self.spread = spread

    def parse_args(self, ctx, args):
        out, flag = [], None
        for a in args:
            if a in self.spread:
                flag = a
                continue
            flag = None if a.startswith("-") else flag
            out += [flag, a] if flag else [a]
        return super().parse_args(ctx, out)


def check_names(paper: str, env: str) -> None:
    """InputError for a mistyped paper or environment, before jax is imported."""
    import envs as registry
    from jaxrl.run import catalogue

    catalogue.find(paper.partition(":")[0])
    if not env:
        raise InputError("env: none given; jaxrl envs lists them")
    registry.check_name(env)


def kind(field: dataclasses.Field) -> click.ParamType:
    """How a field's flag is parsed."""
    text = str(field.type)
    if "Linear" in text:
        return Number(schedules=True)
    whole = Whole(field.metadata.get("words", ()))
    for type_, param in ((float, Number()), (int, whole), (str, click.STRING)):
        if field.type is type_:
            return param
    return Several(Number() if "float" in text else Whole())


def flag(field: dataclasses.Field, default: Any) -> click.Option:
    """The option of an `arg`; not given, it is None, so that a file or a preset may speak."""
    from jaxrl.run.job import to_toml

    name, default = field.name.replace("_", "-"), to_toml(default)
    if isinstance(default, tuple):
        default = ",".join(map(str, default))
    bounds = field.metadata.get("bounds") or ""
    inside = bounds if isinstance(bounds, str) else " | ".join(bounds)
    text = "; ".join(x for x in (field.metadata.get("doc"), inside) if x)
    text += f"  [default: {default}]" if default != "" else ""
    if field.type is bool:
        return click.Option([f"--{name}/--no-{name}", field.name], default=None, help=text)
    return click.Option([f"--{name}", field.name], type=kind(field), default=None, help=text)


@contextlib.contextmanager
def only_json(wanted: bool) -> Iterator[Any]:
    """Give a function that prints an object; where `wanted`, nothing else reaches standard output
    (libraries print there when they are imported)."""
    if not wanted:
        yield lambda x: None
        return
    sys.stdout.flush()
    real = os.dup(1)
    os.dup2(2, 1)
    try:
        with os.fdopen(os.dup(real), "w") as out:
            yield lambda x: print(json.dumps(x, indent=1), file=out, flush=True)
    finally:
        sys.stdout.flush()
        os.dup2(real, 1)
        os.close(real)


DISTRIBUTED = click.Option(
    ["--distributed"],
    is_flag=True,
    help="be one of several processes (docs/scale.md)",
)


def queued(command: Any) -> Any:
    """The option by which workers do what a command asks for."""
    about = "let workers do it: jaxrl worker --queue DIR"
    return click.option("--queue", metavar="DIR", help=about)(command)


SINKS = [
    click.Option(
        ["--sink", "sink"],
        multiple=True,
        metavar="wandb|trackio",
        help="where curves go besides TensorBoard; may be given twice",
    ),
    click.Option(["--per-seed"], is_flag=True, help="a curve for each seed, not one of all"),
]


def sunk(command: click.Command) -> click.Command:
    """Give a command the options that make `jaxrl.run.sinks.Sinks`."""
    command.params += SINKS
    return command


def named(command: Any) -> Any:
    """The options that allow code of one's own, which a run's config.toml names, to be run."""
    paper = click.option("--paper", metavar="FILE.py", help="allow the run's own paper, this file")
    env = click.option("--env", metavar="MODULE:MAKE", help="allow the run's own environment")

    @functools.wraps(command)
    def with_own(*, paper, env, **rest):
        own = [str(Path(paper).resolve())] if paper else []
        return command(**rest, own=[*own, *([env] if env else [])])

    return paper(env(with_own))
