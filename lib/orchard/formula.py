"""TeX formulas as inline SVG, drawn by matplotlib's mathtext, so that a page shows them without scripts or a network.

mathtext knows a subset of TeX. Rows of ``aligned`` are drawn one below the other; a formula it cannot draw is shown
as its source.
"""

from __future__ import annotations

import html
import re
from functools import lru_cache

SIZE = 10.0  # points per em of the drawing; the page scales it to its own text
SUBSTITUTES = (
    (r"\\(?:big|Big|bigg|Bigg)[lrm]?(?![A-Za-z])", ""),  # sizes of delimiters
    (r"\\tfrac", r"\\frac"),
    (r"\\(?:label|tag)\{[^{}]*\}|\\nonumber", ""),
    (r"\\[lr]Vert", r"\\|"),
    (r"\\lvert|\\rvert", "|"),
    (r"\\implies", r"\\Rightarrow"),
    (r"\\ldots|\\dotsc", r"\\dots"),
    (r"\\(ge|le|ne)(?![A-Za-z])", r"\\\1q"),
    (r"\\(sqrt|bar|hat|tilde|mathbf|mathrm|mathcal|mathbb) ?([A-Za-z0-9])(?![A-Za-z])", r"\\\1{\2}"),
    (r"\\operatorname\*", r"\\operatorname"),
    (r"\\lbrace", r"\\{"),
    (r"\\rbrace", r"\\}"),
)
ROWS = re.compile(r"\\begin\{(align\*?|aligned|gather\*?|gathered|split|equation\*?)\}(.*?)\\end\{\1\}", re.DOTALL)


def inline(tex: str) -> str:
    """HTML of a formula within a line."""
    return _svg(tex.strip()) or f'<code class="tex">{html.escape(tex.strip())}</code>'


def block(tex: str) -> str:
    """HTML of a formula on lines of its own."""
    rows = ROWS.search(tex)
    lines = re.split(r"\\\\(?:\[[^\]]*\])?", rows.group(2)) if rows else [tex]
    parts = [_svg(line.replace("&", " ").strip()) for line in lines if line.strip()]
    if not all(parts):
        return f'<pre class="tex">{html.escape(tex.strip())}</pre>'
    return "".join(f'<div class="formula">{part}</div>' for part in parts)


@lru_cache(maxsize=4096)
def _svg(tex: str) -> str | None:
    """The formula as an ``<svg>`` in the colour of the text and on its base line; None if mathtext cannot draw it."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.path import Path
    from matplotlib.textpath import TextToPath

    source = tex
    for pattern, substitute in SUBSTITUTES:
        source = re.sub(pattern, substitute, source)
    source = " ".join(source.split())
    font = FontProperties(family="STIXGeneral", size=SIZE, math_fontfamily="stix")
    drawer = TextToPath()
    try:
        vertices, codes = drawer.get_text_path(font, f"${source}$", ismath=True)
        width, height, descent = drawer.get_text_width_height_descent(f"${source}$", font, ismath=True)
    except (ValueError, RuntimeError):
        return None
    # get_text_path draws at a size of its own, FONT_SCALE units per em.
    scale = SIZE / drawer.FONT_SCALE
    letters = {Path.MOVETO: "M", Path.LINETO: "L", Path.CURVE3: "Q", Path.CURVE4: "C", Path.CLOSEPOLY: "Z"}
    pieces, previous = [], None
    for (x, y), code in zip(vertices, codes, strict=True):
        letter = letters[code]
        if letter == "Z":
            pieces.append("Z")
            previous = None
            continue
        repeated = letter == previous and letter in "QC"
        pieces.append(("" if repeated else letter) + f"{x * scale:.2f} {-y * scale:.2f}")
        previous = letter
    top, bottom = height - descent, descent
    box = f"-0.2 {-top - 0.3:.2f} {width + 0.4:.2f} {top + bottom + 0.6:.2f}"
    style = f"height:{(top + bottom + 0.6) / SIZE:.3f}em;vertical-align:{-(bottom + 0.3) / SIZE:.3f}em"
    path = f'<path fill="currentColor" d="{" ".join(pieces)}"/>'
    title = html.escape(tex, quote=True)
    frame = f'class="math" role="img" aria-label="{title}" viewBox="{box}" style="{style}"'
    return f"<svg {frame}><title>{title}</title>{path}</svg>"
