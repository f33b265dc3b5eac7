"""One HTML page that needs nothing beside it: sections of texts, tables and figures, put into a template."""

import base64
import re
from dataclasses import dataclass, field
from pathlib import Path

_TEMPLATE = Path(__file__).parents[1] / "templates" / "report.html"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A cell of a table.

    Attributes:
        text: what stands there.
        note: shown when pointed at, such as the MLflow run of a figure.
        missing: whether it says why there is no figure.
    """

    text: str
    note: str = ""
    missing: bool = False


@dataclass(frozen=True, kw_only=True)
class Line:
    """A row of a table."""

    cells: list[Entry]
    emphasis: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table with its headings."""

    heading: list[str]
    rows: list[Line]
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure: an ``<svg>`` or ``<img>`` element, and what it shows."""

    content: str
    caption: str


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page.

    Attributes:
        key: its anchor.
        title: its heading.
    """

    key: str
    title: str
    texts: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    figures: list[Picture] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Report:
    """The whole page.

    Attributes:
        title: what was measured.
        subtitle: on what, by which plan.
        verdict: the answer, in a sentence or two.
        sections: the rest.
    """

    title: str
    subtitle: str
    verdict: list[str]
    sections: list[Section]


def write_report(path: Path, report: Report) -> None:
    """Write the page; it loads nothing from anywhere."""
    from jinja2 import Environment

    environment = Environment(autoescape=True, trim_blocks=True)
    path.write_text(environment.from_string(_TEMPLATE.read_text()).render(report=report))


def svg_picture(svg: str, caption: str, key: str) -> Picture:
    """An SVG element as a figure; its ids are prefixed with a key, because several share a page."""
    prefix = f"{key}-"
    ids = set(re.findall(r'id="([^"]+)"', svg))
    svg = re.sub(r'id="([^"]+)"', lambda m: f'id="{prefix}{m[1]}"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", lambda m: f"url(#{prefix}{m[1]})" if m[1] in ids else m[0], svg)
    svg = re.sub(r'href="#([^"]+)"', lambda m: f'href="#{prefix}{m[1]}"' if m[1] in ids else m[0], svg)
    return Picture(content=svg, caption=caption)


def png_picture(png: bytes, caption: str) -> Picture:
    """A PNG as a figure."""
    data = base64.b64encode(png).decode()
    return Picture(content=f'<img alt="" src="data:image/png;base64,{data}">', caption=caption)
