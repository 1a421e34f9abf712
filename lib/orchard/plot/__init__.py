"""One look for all figures (``style``) and the charts that several papers draw (``charts``): table in, Figure out."""

from __future__ import annotations

from orchard.plot.charts import forest, heat_map, learning_curves, overlay_published, pareto, sweep
from orchard.plot.style import Look, figure, looks, mark_profile, mimebundle, save, show, use_style

__all__ = [
    "Look",
    "figure",
    "forest",
    "heat_map",
    "learning_curves",
    "looks",
    "mark_profile",
    "mimebundle",
    "overlay_published",
    "pareto",
    "save",
    "show",
    "sweep",
    "use_style",
]
