"""The HTML report: ``reports/index.html`` says what ran and what failed, ``reports/<slug>/index.html`` how a paper's claims came out.

It is read from the files that notebooks leave in ``reports/<slug>/<profile>/``: ``<notebook>.json`` (verdicts and
figures, written by the notebook's last cell), ``<notebook>.ipynb`` (the executed copy) and
``executions/<notebook>.json`` (time, memory, failure); and from the papers' cards. Pages are made from
``templates/report``; they hold no scripts and load nothing from a network: styles and figures are inside, formulas are
drawn as vectors.
"""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

from orchard.card import Card, read_card
from orchard.claims import MEANING, described, in_order, tally
from orchard.notebooks.execution import write_atomically
from orchard.notebooks.suite import EXECUTIONS
from orchard.paths import root

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
    file: Path  # the drawing itself
    table: Path | None


@dataclass
class Group:
    """One paper in one setting: the notebooks of a folder ``<slug>/<profile>``."""

    folder: Path
    entries: list[Entry]

    @property
    def title(self) -> str:
        return f"{self.folder.parent.name} · {self.folder.name}"

    @cached_property
    def card(self) -> Card:
        """What its paper's card says."""
        return read_card(root() / "papers" / self.folder.parent.name)

    @property
    def profile(self) -> str:
        """The profile of its results, as far as they say."""
        return next((str(entry.result["profile"]) for entry in self.entries if "profile" in entry.result), "")

    @property
    def facts(self) -> dict[str, str]:
        """Where its results come from, in words: scale, data, machine, commit, versions, when its last notebook was finished."""
        written = [facts for entry in self.entries for facts in (entry.result, entry.execution)]
        found = [entry.result.get("provenance", {}) for entry in self.entries]
        versions = [{"Python": facts.get("python"), "torch": facts.get("packages", {}).get("torch")} for facts in found]
        values = {
            "scale": {str(verdict["scale"]) for verdict in self.verdicts if verdict.get("scale")},
            "data": {str(facts["data"]) for facts in written if "data" in facts},
            "machine": machines(found),
            "commit": {str(commit) for facts in found for commit in facts.get("git", ())},
            "made with": {f"{name} {number}" for facts in versions for name, number in facts.items() if number},
            "finished": {max((str(entry.execution.get("finished", "")) for entry in self.entries), default="")},
        }
        return {name: ", ".join(sorted(value)) or "unknown" for name, value in values.items()}

    @cached_property
    def verdicts(self) -> list[dict[str, Any]]:
        """Verdicts of all its notebooks in the order of the claims' numbers, each with what is said of it in words."""
        found = [{"claim": {}, "reason": "", **v} for entry in self.entries for v in entry.result.get("verdicts", [])]
        return [verdict | {"said": described(verdict)} for verdict in in_order(found)]

    @property
    def tables(self) -> list[tuple[str, list[dict[str, Any]]]]:
        """Findings, and apart from them the claims that are a formula of the paper, computed again."""
        apart = [verdict for verdict in self.verdicts if verdict["claim"].get("kind") == "arithmetic"]
        findings = [verdict for verdict in self.verdicts if verdict not in apart]
        named = [("Findings", findings), ("Arithmetic: formulas of the paper, computed again", apart)]
        return [(name, verdicts) for name, verdicts in named if verdicts]

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


def build(reports: Path | None = None) -> Path:
    """Write ``index.html``, a page per paper and one per executed notebook into ``reports``; returns the path of the index.

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
    shared = {"symbols": SYMBOLS, "meaning": MEANING, "written": time.strftime("%Y-%m-%d %H:%M")}
    papers = {slug: list(found) for slug, found in groupby(groups, key=lambda group: group.folder.parent.name)}
    for slug, found in papers.items():
        content = _page("paper.html", reports / slug, title=found[0].card.name, groups=found, **shared)
        write_atomically(reports / slug / "index.html", content)
    index = reports / "index.html"
    write_atomically(index, _page("index.html", reports, title="Orchard", groups=groups, papers=papers, **shared))
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
    file = svg if svg.exists() else png
    return Drawing(entry, name.replace("_", " "), profile, picture, file, table if table.exists() else None)


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

    return str(_environment().get_template(template).render(href=href, prose=_prose, **values))


@lru_cache(maxsize=1)
def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader

    return Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True)


def _prose(text: str) -> Any:
    """A paragraph of a card as HTML: code, bold, emphasis. Its links start from elsewhere, so only their words stay."""
    from markupsafe import Markup, escape

    html = str(escape(re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)))
    for mark, tag in (("`", "code"), (r"\*\*", "b"), (r"\*", "em")):
        html = re.sub(rf"{mark}(\S|\S.*?\S){mark}", rf"<{tag}>\1</{tag}>", html, flags=re.DOTALL)
    return Markup(html)


def machines(provenances: Iterable[Mapping[str, Any]]) -> set[str]:
    """The machines that notebooks name, each with its device where one of them knows it."""
    names = {str(name) for facts in provenances for name in facts.get("machines", ())}
    return {name for name in names if not any(other.startswith(f"{name} (") for other in names)}
