import re
from pathlib import Path

from gearnn.evaluation.report import (
    Entry,
    Line,
    Picture,
    Report,
    Section,
    Table,
    png_picture,
    svg_picture,
    write_report,
)


def page(tmp_path: Path, **parts: object) -> str:
    section = Section(key="one", title="One", **parts)  # type: ignore[arg-type]
    write_report(tmp_path / "r.html", Report(title="T", subtitle="s", verdict=["v"], sections=[section]))
    return (tmp_path / "r.html").read_text()


def test_the_page_loads_nothing_from_anywhere(tmp_path: Path) -> None:
    html = page(tmp_path, figures=[png_picture(b"png", "caption")])
    addresses = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert addresses == ["#one", "data:image/png;base64,cG5n"]
    assert "<script" not in html
    assert "@import" not in html


def test_names_of_users_are_text_and_never_markup(tmp_path: Path) -> None:
    cells = [Entry(text="<b>&", note='"quoted"', missing=True)]
    html = page(tmp_path, texts=["<script>"], tables=[Table(heading=["<i>"], rows=[Line(cells=cells)])])
    assert "&lt;b&gt;&amp;" in html
    assert "&lt;script&gt;" in html
    assert 'class="missing" title="&#34;quoted&#34;"' in html


def test_figures_on_one_page_do_not_share_ids() -> None:
    svg = '<svg><clipPath id="a"/><g clip-path="url(#a)"/><use href="#a"/><use href="#other"/></svg>'
    first, second = (svg_picture(svg, "", key).content for key in ("f", "g"))
    assert first == '<svg><clipPath id="f-a"/><g clip-path="url(#f-a)"/><use href="#f-a"/><use href="#other"/></svg>'
    assert 'id="g-a"' in second
    assert Picture(content="x", caption="y").caption == "y"
