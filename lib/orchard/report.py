"""The HTML report: ``reports/index.html`` says what ran, what failed, and how every claim came out.

It is read from the files that notebooks leave in ``reports/<slug>/<profile>/``: ``<notebook>.json`` (verdicts and
figures, written by the notebook's last cell), ``<notebook>.ipynb`` (the executed copy) and
``executions/<notebook>.json`` (time, memory, failure). Pages are made from ``templates/report``; they hold no scripts and load
nothing from a network: styles and figures are inside, formulas are drawn as vectors.
"""

from __future__ import annotations

import base64
import json
import math
import re
import time
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from orchard.claims import tally
from orchard.notebooks.execution import write_atomically
from orchard.notebooks.suite import EXECUTIONS

SYMBOLS = {"supported": "✓", "refuted": "✗", "inconclusive": "?", "gate not met": "⊘", "out of reach here": "–"}
EMBEDDED_BYTES = 2_000_000  # a larger drawing is embedded as its PNG
TEMPLATES = Path(__file__).parent / "templates" / "report"


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
class Drawing:
    """A figure with the picture as a data URL, and the table it draws, if that is there."""

    entry: Entry
    title: str
    profile: str
    picture: str
    table: Path | None


@dataclass
class Group:
    """One paper in one setting: the notebooks of a folder ``<slug>/<profile>``."""

    folder: Path
    entries: list[Entry]

    @property
    def title(self) -> str:
        return f"{self.folder.parent.name} · {self.folder.name}"

    @property
    def anchor(self) -> str:
        return f"{self.folder.parent.name}-{self.folder.name}"

    @property
    def data(self) -> str:
        """The data sets that its notebooks name."""
        facts = [facts for entry in self.entries for facts in (entry.result, entry.execution)]
        return ", ".join(sorted({str(found["data"]) for found in facts if "data" in found})) or "unknown"

    @property
    def profile(self) -> str:
        """The profile of its results, as far as they say."""
        return next((str(entry.result["profile"]) for entry in self.entries if "profile" in entry.result), "")

    @property
    def finished(self) -> str:
        """When its last notebook was."""
        return max((str(entry.execution.get("finished", "")) for entry in self.entries), default="")

    @cached_property
    def verdicts(self) -> list[dict[str, Any]]:
        """Verdicts of all its notebooks in the order of the claims' numbers."""
        found = [{"claim": {}, **verdict} for entry in self.entries for verdict in entry.result.get("verdicts", [])]
        return sorted(
            found, key=lambda verdict: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", verdict["id"])]
        )

    @property
    def counts(self) -> list[tuple[str, int]]:
        """How many claims came out how."""
        return list(tally(self.verdicts).items())

    @property
    def figures(self) -> list[Drawing]:
        """The figures that its notebooks saved."""
        return [
            drawing
            for entry in self.entries
            for name in dict.fromkeys(entry.result.get("figures", []))
            if (drawing := _drawing(self, entry, str(name)))
        ]

    @property
    def provenance(self) -> str:
        """Where its results come from, as JSON."""
        found = {entry.name: facts for entry in self.entries if (facts := entry.result.get("provenance"))}
        return json.dumps(found, indent=1, ensure_ascii=False) if found else ""


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
                entry.page, problem = page(copy)
                entry.problem = entry.problem or problem
    index = reports / "index.html"
    entries = [entry for group in groups for entry in group.entries]
    failed = [(group, entry) for group in groups for entry in group.entries if entry.error]
    text = _page(
        "index.html", reports, title="Orchard", groups=groups, entries=entries, failed=failed, symbols=SYMBOLS,
        written=time.strftime("%Y-%m-%d %H:%M"),
    )  # fmt: skip
    write_atomically(index, text)
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


def _drawing(group: Group, entry: Entry, name: str) -> Drawing | None:
    """A figure by its name; None if its files are missing."""
    stem = group.folder / "figures" / name
    svg, png, table = (stem.with_name(f"{stem.name}.{suffix}") for suffix in ("svg", "png", "csv"))
    source = svg if svg.exists() and (svg.stat().st_size <= EMBEDDED_BYTES or not png.exists()) else png
    if not source.exists():
        return None
    kind = "svg+xml" if source == svg else "png"
    picture = f"data:image/{kind};base64,{base64.b64encode(source.read_bytes()).decode()}"
    profile = str(entry.result.get("profile", group.folder.name))
    return Drawing(entry, name.replace("_", " "), profile, picture, table if table.exists() else None)


def page(copy: Path) -> tuple[Path, str | None]:
    """An executed copy ``<slug>/<profile>/<notebook>.ipynb`` as an HTML page beside it, made anew where it is older than its copy.

    Returns:
        The page, or the copy itself where nbconvert is missing or cannot read it; and why it cannot.
    """
    target = copy.with_suffix(".html")
    made_of = [copy, *TEMPLATES.iterdir(), Path(__file__)]
    if target.exists() and target.stat().st_mtime_ns > max(path.stat().st_mtime_ns for path in made_of):
        return target, None
    try:
        body = notebook_body(copy)
    except ImportError:
        return copy, None
    except Exception as error:  # a copy that is not a notebook must not cost the reader the rest of the report
        return copy, f"{copy.name} cannot be shown ({type(error).__name__}: {error})"
    group = Group(copy.parent, [])
    title = f"{group.title} · {copy.stem}"
    write_atomically(target, _page("notebook.html", copy.parent, title=title, group=group, copy=copy, body=body))
    return target, None


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


def _page(template: str, base: Path, **values: Any) -> str:
    """A complete page; ``base`` is the folder that its links start from."""

    def href(path: Path) -> str:
        return quote(path.relative_to(base).as_posix())

    return str(_environment().get_template(template).render(href=href, measured=_measured, **values))


@lru_cache(maxsize=1)
def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader

    return Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True)


def _measured(verdict: dict[str, Any]) -> str:
    from orchard.claims import format_effect

    numbers = [math.nan if verdict.get(key) is None else float(verdict[key]) for key in ("effect", "low", "high")]
    return format_effect(*numbers)
