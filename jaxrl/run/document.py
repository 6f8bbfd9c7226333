"""A page that is written twice: as Markdown, and as one HTML file that needs nothing beside it."""

import base64
import html
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote


class Heading(NamedTuple):
    text: str


class Text(NamedTuple):
    text: str


class Code(NamedTuple):
    text: str


class Table(NamedTuple):
    head: Sequence[Any]
    rows: Sequence[Sequence[Any]]

    def _repr_markdown_(self) -> str:
        return table(self)


class Picture(NamedTuple):
    """A picture, or a film: png, gif, mp4, or a page in itself (html)."""

    path: Path
    caption: str


class Row(NamedTuple):
    """Pictures side by side."""

    pictures: Sequence[Picture]


Part = Heading | Text | Code | Table | Picture | Row

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff;
       max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #ddd; text-align: left;
         vertical-align: top; }
.wide { overflow-x: auto; }
pre { background: #f5f5f5; padding: .7rem 1rem; overflow-x: auto; font-size: .85rem; }
figure { margin: 1rem 0; } img, video { max-width: 100%; }
iframe { width: 100%; height: 40rem; border: 0; }
.row { display: grid; grid-template-columns: repeat(auto-fill, minmax(16rem, 1fr)); gap: 1rem; }
figcaption { color: #555; font-size: .9rem; }
"""


def cell(x: Any) -> str:
    """Text that stays within a cell of a Markdown table."""
    return " ".join(str(x if x is not None else "").split()).replace("|", "\\|")


def table(t: Table) -> str:
    """A Markdown table."""
    lines = [t.head, ["---"] * len(t.head), *t.rows]
    return "\n".join(f"| {' | '.join(map(cell, line))} |" for line in lines)


def link(p: Picture, beside: Path) -> str:
    """A picture, or the way to a film that Markdown cannot show, from the folder it stands in."""
    show = "" if p.path.suffix in (".html", ".mp4") else "!"
    return f"{show}[{cell(p.caption)}]({quote(os.path.relpath(p.path, beside), '/=,+:')})"


def figure(p: Picture) -> str:
    """A picture or a film, inside the page."""
    data, kind = p.path.read_bytes(), p.path.suffix.removeprefix(".")
    caption, inside = html.escape(p.caption), base64.b64encode(data).decode()
    match kind:
        case "html":
            page = html.escape(data.decode())
            show = f'<iframe title="{caption}" sandbox="allow-scripts" srcdoc="{page}"></iframe>'
        case "mp4":
            show = f'<video controls loop src="data:video/mp4;base64,{inside}"></video>'
        case _:
            show = f'<img alt="{caption}" src="data:image/{kind};base64,{inside}">'
    return f"<figure>{show}<figcaption>{caption}</figcaption></figure>"


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
            case Picture():
                out.append(link(p, beside))
            case Row(pictures):
                captions = [x.caption for x in pictures]
                out.append(table(Table(captions, [[link(x, beside) for x in pictures]])))
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
            case Picture():
                out.append(figure(p))
            case Row(pictures):
                out.append(f'<div class="row">{"".join(map(figure, pictures))}</div>')
    head = f'<meta charset="utf-8"><title>{say(title)}</title><style>{STYLE}</style>'
    body = f"<h1>{say(title)}</h1>\n" + "\n".join(out)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'
