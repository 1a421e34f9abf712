"""The HTML report: what it shows of results, failures and figures; that it is one page that needs nothing else."""

from __future__ import annotations

import json
import re
from datetime import date
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from orchard import formula, publish, report
from orchard.claims import Claim, decide
from orchard.errors import BadInput

PIXEL = bytes.fromhex("89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489")


def verdict(name: str, low: float, high: float, profile: str = "smoke", kind: str = "finding") -> dict[str, object]:
    claim = Claim(
        id=name, source="R1", text=f"<b>{name}</b> & more", published="42 [paper]", notebook="01_build", experiment="e",
        metric="bits per byte", comparison=">", threshold=0.0, statistic="exact", seeds=1, profile=profile,
        fixed=date(2026, 11, 23), gate="the reader is competent", control="random pairs", kind=kind,
    )  # fmt: skip
    rows = pd.DataFrame({"part": ["a", "b"], "seed": 0, "unit": 0, "value": [low, high]})
    return decide(claim, rows, "smoke", lambda: (True, "0.9 of 0.8 needed"), control=rows.assign(value=-1.0)).as_dict()


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    """Two notebooks of a paper: one with verdicts and a figure, one that failed; and one of another paper."""
    folder = tmp_path / "pear" / "smoke"
    (folder / "executions").mkdir(parents=True)
    (folder / "figures").mkdir()
    (folder / "figures" / "pareto.svg").write_text(
        '<svg height="2pt" width="100pt" xmlns="http://www.w3.org/2000/svg"/>'
    )
    (folder / "figures" / "pareto.png").write_bytes(PIXEL)
    (folder / "figures" / "pareto.csv").write_text("x,y\n1,2\n")
    verdicts = [verdict("C10", 0.1, 0.2), verdict("C9", -0.2, -0.1), verdict("C9b", 0.1, 0.2, "gpu")]
    verdicts.append(verdict("C1", 0.1, 0.2, kind="arithmetic"))
    facts = {"python": "3.11", "packages": {"torch": "2.13"}, "machines": ["EPYC", "EPYC (cpu)"]}
    facts["git"] = ["0123456789abcdef0123456789abcdef01234567", "unknown: no git"]
    result = {"slug": "pear", "notebook": "01_build", "profile": "smoke", "data": "embedded", "verdicts": verdicts,
              "figures": ["pareto", "absent"], "provenance": facts}  # fmt: skip
    (folder / "01_build.json").write_text(json.dumps(result))
    for name, error in (("01_build", None), ("02_train", "cell 4: ValueError: <no>")):
        facts = {"ok": error is None, "error": error, "seconds": 12.34, "peak_memory": 512 * 2**20, "data": "embedded"}
        (folder / "executions" / f"{name}.json").write_text(json.dumps(facts))
        prose = "# Title\n\nInline $w+1$ and\n\n$$S_t = \\frac{a}{b}$$\n\n![far](https://x.org/a.png)"
        cells = [
            nbformat.v4.new_markdown_cell(prose),
            nbformat.v4.new_code_cell("print(1)", outputs=[
                nbformat.v4.new_output("display_data", {
                    "application/vnd.jupyter.widget-view+json": {"model_id": "m"}, "text/plain": "static twin",
                }),
                nbformat.v4.new_output("display_data", {"text/html": "<script>alert(1)</script><td>5</td>"}),
                nbformat.v4.new_output("error", ename="E", evalue="v", traceback=["\x1b[31mred traceback\x1b[0m"]),
            ]),
        ]  # fmt: skip
        nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / f"{name}.ipynb")
    other = tmp_path / "plum" / "gpu-my-data"
    other.mkdir(parents=True)
    (other / "01_build.json").write_text(json.dumps(result | {"verdicts": [], "data": "my-data", "figures": []}))
    return tmp_path


def words(path: Path) -> str:
    """The text of a page, without its style."""
    found: list[str] = []

    class Reader(HTMLParser):
        hidden = 0

        def handle_starttag(self, tag: str, attrs: object) -> None:
            self.hidden += tag in ("style", "title")

        def handle_endtag(self, tag: str) -> None:
            self.hidden -= tag in ("style", "title")

        def handle_data(self, data: str) -> None:
            if not self.hidden:
                found.append(data)

    Reader().feed(path.read_text())
    return " ".join(" ".join(found).split())


def test_the_index_shows_failures_first_then_every_paper_with_its_counts(reports: Path) -> None:
    index = report.build(reports)
    assert index == reports / "index.html"
    text = words(index)
    assert "3 notebooks, 1 failed" in text
    assert text.index("Failed notebooks") < text.index("cell 4: ValueError: <no>") < text.index("pear smoke")
    assert "✓ supported : 1 ✗ refuted : 1 – out of reach here : 1 arithmetic : 1" in text
    assert "does everything run? Its numbers mean nothing" in text
    assert "plum gpu-my-data" in text
    assert 'href="pear/index.html#smoke"' in index.read_text()


def test_the_page_of_a_paper_shows_where_numbers_come_from_verdicts_notebooks_and_figures(reports: Path) -> None:
    report.build(reports)
    text = words(reports / "pear" / "index.html")
    assert "Profile smoke: does everything run? Its numbers mean nothing." in text
    for fact in (
        "machine EPYC (cpu) commit",
        "commit 0123456789abcdef0123456789abcdef01234567, unknown",
        "made with Python 3.11, torch 2.13",
    ):
        assert fact in text
    assert "✓ supported at smoke scale" in text
    assert "gate: the reader is competent control: random pairs" in text
    assert "2 of 2 parts pass gate: 0.9 of 0.8 needed control: fails it: -1" in text
    assert text.index("Findings") < text.index("C9 ") < text.index("C9b ") < text.index("C10 ")
    assert text.index("C10 ") < text.index("Arithmetic: formulas") < text.index("C1 ")
    assert "published: 42 [paper]" in text
    assert "<b>C10</b> & more" in text
    assert "0.1, 1 seed" in text
    assert "needs profile gpu, this is smoke" in text
    assert "01_build ✓ executed · results 12.3 512 02_train ✗ failed cell 4: ValueError: <no> 12.3 512" in text
    assert "pareto, profile smoke (" in text
    assert "absent" not in text
    assert "data my-data machine" in words(reports / "plum" / "index.html")
    source = (reports / "pear" / "index.html").read_text()
    assert 'src="data:image/svg+xml;base64,' in source
    assert '<a href="smoke/figures/pareto.svg"><img alt="pareto"' in source
    assert 'href="smoke/figures/pareto.csv"' in source
    assert 'href="smoke/01_build.html"' in source


def test_the_card_gives_title_link_and_explanations(reports: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (reports / "papers" / "pear").mkdir(parents=True)
    (reports / "papers" / "pear" / "README.md").write_text(
        "# Pear: is it ripe?\n\n**On *Pears*.** Me, [arXiv 2501.00001](https://arxiv.org/abs/2501.00001).\n\n| C9 | **C9** |\n\n"
        "- **C9** fell,\n  `x < 1` and [see](../x.md).\n- **C9b, C10** <i>both</i> *stand*.\n\nSee **C9**.\n"
    )
    monkeypatch.setattr(report, "root", lambda: reports)
    report.build(reports)
    text = words(reports / "pear" / "index.html")
    assert "Pear: is it ripe? On *Pears* , arXiv 2501.00001" in text
    assert "From the paper's card: C9 fell, x < 1 and see. C9b" in text
    assert text.count("C9b, C10 <i>both</i> stand .") == 1  # beside C10; C9b is out of reach here
    source = (reports / "pear" / "index.html").read_text()
    assert "<code>x &lt; 1</code>" in source
    assert 'href="https://arxiv.org/abs/2501.00001"' in source
    assert "Pear : is it ripe?" in words(reports / "index.html")


def test_pages_load_nothing_and_run_nothing(reports: Path) -> None:
    report.build(reports)
    pages = list(reports.rglob("*.html"))
    assert len(pages) == 5
    for path in pages:
        source = path.read_text()
        assert "Content-Security-Policy" in source
        assert "<script" not in source
        assert not re.search(r"<(link|iframe|img[^>]+src=\"(?!data:))", source)
        assert not re.search(r"url\(|@import", source)
        for target in re.findall(r'href="([^"#:]+)["#]', source):
            assert (path.parent / target).exists(), target


def test_notebook_page_shows_formulas_static_twins_and_tracebacks(reports: Path) -> None:
    report.build(reports)
    page = reports / "pear" / "smoke" / "01_build.html"
    text = words(page)
    assert "static twin" in text
    assert "red traceback" in text
    assert "\x1b" not in text
    assert "[picture: far]" in text
    assert page.read_text().count('class="math"') == 2


def test_without_notebooks_the_page_says_how_to_make_some(tmp_path: Path) -> None:
    index = report.build(tmp_path / "nothing" / "here")
    assert "No notebook has been executed yet: orchard reproduce" in words(index)


def test_damaged_files_are_reported_and_cost_nothing_else(reports: Path) -> None:
    (reports / "plum" / "gpu-my-data" / "01_build.json").write_text('{"verdicts": [{}]}')
    (reports / "pear" / "smoke" / "02_train.ipynb").write_text("{")
    text = words(report.build(reports))
    assert "2 failed" in text
    assert "01_build.json cannot be read" in text
    assert "C10" in words(reports / "pear" / "index.html")


def test_a_large_drawing_is_embedded_as_its_picture(reports: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "EMBEDDED_BYTES", 10)
    report.build(reports)
    source = (reports / "pear" / "index.html").read_text()
    assert 'src="data:image/png;base64,' in source
    assert '<a href="smoke/figures/pareto.svg">' in source


@pytest.mark.parametrize(
    "tex", [r"t-w, \dots, t", r"w \ge T-1", r"1/\sqrt d", r"\big(\varphi(Q)^\top\big)", r"\operatorname*{argmax}_x"]
)
def test_formulas_are_drawn(tex: str) -> None:
    drawn = formula.inline(tex)
    assert drawn.startswith("<svg")
    assert 'd="M' in drawn


def test_rows_are_drawn_one_below_the_other_and_unknown_tex_is_shown_as_source() -> None:
    assert formula.block(r"\begin{aligned} a &= b \\ c &= d \end{aligned}").count("<svg") == 2
    assert (
        formula.block(r"\begin{cases} a<b \end{cases}") == '<pre class="tex">\\begin{cases} a&lt;b \\end{cases}</pre>'
    )
    assert formula.inline(r"\undefined{x}").startswith("<code")


def test_publishing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = {"laptop": [{"verdicts": [verdict("C1", 0.1, 0.2)], "provenance": {"machines": ["EPYC (cpu)"]}}]}
    monkeypatch.setattr(publish, "slugs", lambda: ["rattention"])
    monkeypatch.setattr(publish, "committed", lambda slug, profile, folder=None: results.get(profile, []))
    monkeypatch.setattr(publish, "outdated", lambda slug, profile: ["01_build (2 of 3 runs)"])
    assert "| laptop | 1 | 0 |" in publish.results_table()
    card = publish.card_table("rattention")
    assert card.startswith("Profile `laptop`:\n\nOlder than the code, to be made again: 01_build (2 of 3 runs).\n\n|")
    assert "| 0.1, 1 seed | 2 of 2 parts pass<br>gate: 0.9 of 0.8 needed<br>control: fails it: -1 |" in card
    assert "**supported** at smoke scale" in publish.card_table("rattention")
    results["laptop"][0]["verdicts"].append(verdict("C2", 0.1, 0.2))
    assert publish.card_table("rattention").count("gate: A, below") == 2
    assert publish.card_table("rattention").endswith("|\n\n- Gate **A**: 0.9 of 0.8 needed.\n")
    results["laptop"][0]["verdicts"].pop()
    found = publish.outcome("rattention")
    assert found == "At smoke scale, findings: 1 supported."
    results.clear()
    assert publish.outcome("rattention").startswith(
        "No results are committed yet: `orchard reproduce rattention --profile"
    )
    with pytest.raises(BadInput, match="results of the profile smoke are not published"):
        publish.publish("rattention", "smoke")
    with pytest.raises(BadInput, match="'tiny' does not exist"):
        publish.publish("rattention", "tiny")


def test_a_page_is_made_once_and_anew_when_its_copy_is(reports: Path) -> None:
    copy = reports / "pear" / "smoke" / "01_build.ipynb"
    made, problem = report.page(copy)
    assert (made, problem) == (copy.with_suffix(".html"), None)
    made.write_text("still here")
    report.build(reports)
    assert made.read_text() == "still here"
    copy.write_bytes(copy.read_bytes())
    report.build(reports)
    assert "static twin" in words(made)
