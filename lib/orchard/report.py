"""The HTML report: ``reports/index.html`` says what ran, what failed, and how every claim came out.

It is read from the files that notebooks leave in ``reports/<slug>/<profile>/``: ``<notebook>.json`` (verdicts and
figures, written by the notebook's last cell), ``<notebook>.ipynb`` (the executed copy) and
``executions/<notebook>.json`` (time, memory, failure). Pages hold no scripts and load nothing from a network: styles
and figures are inside, formulas are drawn as vectors.
"""

from __future__ import annotations

import base64
import html
import json
import math
import re
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchard.notebooks.execution import write_atomically
from orchard.notebooks.suite import EXECUTIONS

SYMBOLS = {"supported": "✓", "refuted": "✗", "inconclusive": "?", "gate not met": "⊘", "out of reach here": "–"}
EMBEDDED_BYTES = 2_000_000  # a larger drawing is embedded as its PNG
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclass
class Entry:
    """One notebook in one setting: what it wrote, and how its execution went; either may be missing."""

    name: str
    result: dict[str, Any] = field(default_factory=dict)
    execution: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None
    page: Path | None = None  # HTML of the executed copy, or the copy itself

    @property
    def error(self) -> str | None:
        """Why it failed, or None."""
        return self.problem or (None if self.execution.get("ok", True) else self.execution.get("error") or "failed")


@dataclass
class Group:
    """One paper in one setting: the notebooks of a folder ``<slug>/<profile>``."""

    folder: Path
    entries: list[Entry]

    @property
    def title(self) -> str:
        return f"{self.folder.parent.name} · {self.folder.name}"

    @property
    def verdicts(self) -> list[dict[str, Any]]:
        """Verdicts of all its notebooks in the order of the claims' numbers."""
        found = [verdict for entry in self.entries for verdict in entry.result.get("verdicts", [])]
        return sorted(
            found, key=lambda verdict: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", verdict["id"])]
        )


def build(reports: Path | None = None) -> Path:
    """Write ``index.html`` and a page per executed notebook into the folder ``reports``; returns the path of the index.

    Args:
        reports: ``$ORCHARD_OUTPUT``, else ``reports`` under the project's root, by default.

    Raises:
        OrchardError: a page cannot be written.
    """
    if reports is None:
        from orchard.series import reports_folder

        reports = reports_folder()
    groups = collect(reports)
    for group in groups:
        for entry in group.entries:
            copy = group.folder / f"{entry.name}.ipynb"
            if copy.exists():
                entry.page = _render_notebook(copy, entry, group, reports)
    index = reports / "index.html"
    write_atomically(index, _index(groups, reports))
    return index


def collect(reports: Path) -> list[Group]:
    """What lies in the folder ``reports``, by paper and profile."""
    groups = []
    for folder in sorted(folder for folder in reports.glob("*/*") if folder.is_dir()):
        results, executions = folder.glob("*.json"), (folder / EXECUTIONS).glob("*.json")
        names = {path.stem for path in [*results, *executions, *folder.glob("*.ipynb")]}
        if names:
            groups.append(Group(folder, [_entry(folder, name) for name in sorted(names)]))
    return groups


def _entry(folder: Path, name: str) -> Entry:
    entry = Entry(name)
    for attribute, path in (("result", folder / f"{name}.json"), ("execution", folder / EXECUTIONS / f"{name}.json")):
        if path.exists():
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
                for verdict in content.get("verdicts", []):
                    verdict["id"], verdict["verdict"]
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                entry.problem = f"{path.name} cannot be read ({type(error).__name__}: {error}); run the notebook again"
            else:
                setattr(entry, attribute, content)
    return entry


# -------------------------------------------------------------------- the index


def _index(groups: Sequence[Group], reports: Path) -> str:
    entries = [entry for group in groups for entry in group.entries]
    failed = [(group, entry) for group in groups for entry in group.entries if entry.error]
    body = ["<h1>Orchard: what was reproduced, and what it says</h1>"]
    written = time.strftime("%Y-%m-%d %H:%M")
    if not entries:
        body.append(f'<p class="soft">Written {written}.</p>')
        body.append("<p>No notebook has been executed yet: <code>orchard reproduce</code> does all of them.</p>")
        return page("Orchard", body)
    count = f"{len(entries)} notebook{'s' * (len(entries) != 1)}, {len(failed) or 'none'} failed"
    body.append(f'<p class="soft">{count}. Written {written}.</p>')
    if len(groups) > 1:
        items = "".join(f'<li><a href="#{_anchor(group)}">{_text(group.title)}</a></li>' for group in groups)
        body.append(f"<nav><ul>{items}</ul></nav>")
    if failed:
        body.append('<section class="failures"><h2>Failed notebooks</h2>')
        for group, entry in failed:
            body.append(
                f"<h3>{_link(entry, reports, f'{group.title} · {entry.name}')}</h3><pre>{_text(entry.error)}</pre>"
            )
        body.append("</section>")
    for group in groups:
        body += _group(group, reports)
    return page("Orchard", body)


def _group(group: Group, reports: Path) -> Iterable[str]:
    yield f'<section id="{_anchor(group)}"><h2>{_text(group.title)}</h2>'
    data = {
        str(facts["data"]) for entry in group.entries for facts in (entry.result, entry.execution) if "data" in facts
    }
    when = max((str(entry.execution.get("finished", "")) for entry in group.entries), default="")
    facts = [f"data: {', '.join(sorted(data)) or 'unknown'}", *([when] if when else [])]
    yield f'<p class="soft">{_text(" · ".join(facts))}</p>'
    verdicts = group.verdicts
    if verdicts:
        yield f"<h3>Claims</h3>{_counts(verdicts)}{_verdict_table(verdicts)}"
    yield f"<h3>Notebooks</h3>{_notebook_table(group, reports)}"
    figures = [
        figure
        for entry in group.entries
        for name in dict.fromkeys(entry.result.get("figures", []))
        if (figure := _figure(group, entry, str(name), reports))
    ]
    if figures:
        yield f'<h3>Figures</h3><div class="figures">{"".join(figures)}</div>'
    provenance = {entry.name: entry.result["provenance"] for entry in group.entries if entry.result.get("provenance")}
    if provenance:
        text = json.dumps(provenance, indent=1, ensure_ascii=False)
        yield f"<details><summary>Provenance</summary><pre>{_text(text)}</pre></details>"
    yield "</section>"


def _counts(verdicts: Sequence[dict[str, Any]]) -> str:
    counts = Counter(verdict["verdict"] for verdict in verdicts)
    items = "".join(f"<li>{_verdict(name)}: {counts[name]}</li>" for name in SYMBOLS if counts[name])
    return f'<ul class="counts">{items}</ul>'


def _verdict(name: str) -> str:
    """A verdict as symbol, word and colour."""
    return f'<span class="verdict {_text(name.split(" ")[0])}">{SYMBOLS.get(name, "")} {_text(name)}</span>'


def _verdict_table(verdicts: Sequence[dict[str, Any]]) -> str:
    from orchard.claims import format_effect

    rows = []
    for verdict in verdicts:
        claim = verdict.get("claim", {})
        numbers = [math.nan if verdict.get(key) is None else float(verdict[key]) for key in ("effect", "low", "high")]
        published = (
            f'<br><span class="soft">published: {_text(claim["published"])}</span>' if claim.get("published") else ""
        )
        scale = f'<br><span class="soft">at {_text(verdict["scale"])}</span>' if verdict.get("scale") else ""
        metric = f'<br><span class="soft">{_text(claim["metric"])}</span>' if claim.get("metric") else ""
        rows.append(
            f'<tr><td class="keep">{_text(verdict["id"])}</td><td>{_text(claim.get("text", ""))}{published}</td>'
            f"<td>{_verdict(verdict['verdict'])}{scale}</td><td>{_text(format_effect(*numbers))}{metric}</td>"
            f'<td class="keep">{_text(verdict.get("rule", ""))}</td><td>{_text(verdict.get("reason", ""))}</td></tr>'
        )
    head = "<th></th><th>claim</th><th>verdict</th><th>measured [95 % interval]</th><th>rule</th><th>why</th>"
    return _table(head, rows, "wide")


def _notebook_table(group: Group, reports: Path) -> str:
    rows = []
    for entry in group.entries:
        facts = entry.execution
        status = (
            '<span class="verdict failed">✗ failed</span>' if entry.error else "✓ executed" if facts else "results only"
        )
        seconds = f"{facts['seconds']:.1f}" if facts else "–"
        memory = f"{facts['peak_memory'] / 2**20:,.0f}" if facts else "–"
        rows.append(
            f'<tr><td>{_link(entry, reports, entry.name)}</td><td class="keep">{status}</td>'
            f'<td class="number">{seconds}</td><td class="number">{memory}</td></tr>'
        )
    head = '<th>notebook</th><th></th><th class="number">seconds</th><th class="number">peak memory (MiB)</th>'
    return _table(head, rows)


def _table(head: str, rows: Sequence[str], kind: str = "") -> str:
    table = f'<table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    return f'<div class="scroll">{table}</div>'


def _figure(group: Group, entry: Entry, name: str, reports: Path) -> str | None:
    """A figure with the picture inside the page; None if its files are missing."""
    stem = group.folder / "figures" / name
    svg, png, table = (stem.with_name(f"{stem.name}.{suffix}") for suffix in ("svg", "png", "csv"))
    source = svg if svg.exists() and (svg.stat().st_size <= EMBEDDED_BYTES or not png.exists()) else png
    if not source.exists():
        return None
    kind = "svg+xml" if source == svg else "png"
    picture = f"data:image/{kind};base64,{base64.b64encode(source.read_bytes()).decode()}"
    title = _text(name.replace("_", " "))
    data = f' · <a href="{_href(table, reports)}">data</a>' if table.exists() else ""
    profile = _text(entry.result.get("profile", group.folder.name))
    caption = f"<figcaption>{title}, profile {profile} ({_link(entry, reports, entry.name)}{data})</figcaption>"
    return f'<figure><img alt="{title}" src="{picture}">{caption}</figure>'


# ---------------------------------------------------------------- notebook pages


def _render_notebook(copy: Path, entry: Entry, group: Group, reports: Path) -> Path:
    """An executed copy as an HTML page beside it; the copy itself where nbconvert is missing or cannot read it."""
    try:
        body = notebook_body(copy)
    except ImportError:
        return copy
    except Exception as error:  # a copy that is not a notebook must not cost the reader the rest of the report
        entry.problem = entry.problem or f"{copy.name} cannot be shown ({type(error).__name__}: {error})"
        return copy
    target = copy.with_suffix(".html")
    up = "../" * len(target.parent.relative_to(reports).parts)
    link = f'<a href="{up}index.html#{_anchor(group)}">report</a>'
    nav = f'<nav>{link} · {_text(group.title)} · <a href="{_href(copy, target.parent)}">{_text(copy.name)}</a></nav>'
    write_atomically(target, page(f"{group.title} · {entry.name}", [nav, '<main class="notebook">', body, "</main>"]))
    return target


def notebook_body(path: Path) -> str:
    """The cells of a notebook as HTML without scripts; formulas are drawn as inline SVG."""
    import warnings

    from bs4 import BeautifulSoup
    from jinja2 import pass_context
    from nbconvert import HTMLExporter
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    from orchard import formula

    class Renderer(IPythonRenderer):
        def inline_math(self, body: str) -> str:
            return formula.inline(body)

        def block_math(self, body: str) -> str:
            return formula.block(body)

        def latex_environment(self, name: str, body: str) -> str:
            return formula.block(f"\\begin{{{name}}}{body}\\end{{{name}}}")

    class Exporter(HTMLExporter):
        @pass_context
        def markdown2html(self, context: Any, source: str) -> str:
            attachments = context.get("cell", {}).get("attachments", {})
            renderer = Renderer(escape=False, attachments=attachments, exclude_anchor_links=True)
            return str(MarkdownWithMath(renderer=renderer).render(source))

    exporter = Exporter(template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True)
    shown = ["text/html", "text/markdown", "image/svg+xml", "image/png", "image/jpeg", "text/latex", "text/plain"]
    exporter.config.NbConvertBase.display_data_priority = shown
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        body, _ = exporter.from_filename(str(path))
    soup = BeautifulSoup(body, "html.parser")
    for element in soup.select("script, link, iframe, object, embed"):
        element.decompose()
    for image in soup.select("img"):
        if not str(image.get("src", "")).startswith("data:"):
            image.replace_with(f"[picture: {image.get('alt') or image.get('src')}]")
    return str(soup)


# ------------------------------------------------------------------------- pages


def page(title: str, body: Iterable[str]) -> str:
    """A complete page with its style inside."""
    style = (Path(__file__).parent / "templates" / "report.css").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{_text(title)}</title><style>{style}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def _text(value: object) -> str:
    return html.escape(str(value), quote=True)


def _anchor(group: Group) -> str:
    return _text(f"{group.folder.parent.name}-{group.folder.name}")


def _href(path: Path, base: Path) -> str:
    from urllib.parse import quote

    return quote(path.relative_to(base).as_posix())


def _link(entry: Entry, reports: Path, text: str) -> str:
    return f'<a href="{_href(entry.page, reports)}">{_text(text)}</a>' if entry.page else _text(text)
