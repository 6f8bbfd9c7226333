"""A page that is written twice: as Markdown, and as one HTML file that needs nothing beside it."""

import base64
import html
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple


class Heading(NamedTuple):
    text: str


class Text(NamedTuple):
    text: str


class Code(NamedTuple):
    text: str


class Table(NamedTuple):
    head: Sequence[Any]
    rows: Sequence[Sequence[Any]]


class Picture(NamedTuple):
    path: Path
    caption: str


Part = Heading | Text | Code | Table | Picture

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff;
       max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #ddd; text-align: left;
         vertical-align: top; }
.wide { overflow-x: auto; }
pre { background: #f5f5f5; padding: .7rem 1rem; overflow-x: auto; font-size: .85rem; }
figure { margin: 1rem 0; } img { max-width: 100%; } figcaption { color: #555; font-size: .9rem; }
"""


def cell(x: Any) -> str:
    """Text that stays within a cell of a Markdown table."""
    return " ".join(str(x if x is not None else "").split()).replace("|", "\\|")


def table(t: Table) -> str:
    """A Markdown table."""
    lines = [t.head, ["---"] * len(t.head), *t.rows]
    return "\n".join(f"| {' | '.join(map(cell, line))} |" for line in lines)


def markdown(title: str, parts: Sequence[Part], beside: Path) -> str:
    """The page as Markdown, its pictures by their paths from the folder it stands in."""
    out = [f"# {title}"]
    for p in parts:
        match p:
            case Heading(text):
                out.append(f"## {text}")
            case Text(text):
                out.append(text)
            case Code(text):
                out.append(f"```\n{text}\n```")
            case Table():
                out.append(table(p))
            case Picture(path, caption):
                out.append(f"![{caption}]({os.path.relpath(path, beside)})")
    return "\n\n".join(out) + "\n"


def as_html(title: str, parts: Sequence[Part]) -> str:
    """The page as one HTML file, its pictures inside it; names are escaped."""
    say = html.escape
    out = []
    for p in parts:
        match p:
            case Heading(text):
                out.append(f"<h2>{say(text)}</h2>")
            case Text(text):
                out.append(f"<p>{say(text)}</p>")
            case Code(text):
                out.append(f"<pre>{say(text)}</pre>")
            case Table(head, rows):
                line = lambda tag, row: "".join(f"<{tag}>{say(str(x))}</{tag}>" for x in row)
                body = "".join(f"<tr>{line('td', row)}</tr>" for row in rows)
                top = f"<tr>{line('th', head)}</tr>"
                out.append(f'<div class="wide"><table>{top}{body}</table></div>')
            case Picture(path, caption):
                data = base64.b64encode(path.read_bytes()).decode()
                kind = path.suffix.removeprefix(".")
                image = f'<img alt="{say(caption)}" src="data:image/{kind};base64,{data}">'
                out.append(f"<figure>{image}<figcaption>{say(caption)}</figcaption></figure>")
    head = f'<meta charset="utf-8"><title>{say(title)}</title><style>{STYLE}</style>'
    body = f"<h1>{say(title)}</h1>\n" + "\n".join(out)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'
