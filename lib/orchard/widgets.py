"""Interactive explorers: sliders above one picture, and the same picture without them wherever there is no kernel.

The picture is an ordinary output of the cell, a PNG drawn by ``draw`` for the default values. So it is there after a
headless run, on a web page and in the file; a slider replaces it in place with what the same ``draw`` returns for the
new values. The sliders are a second output, which front ends without a kernel replace by one line of text.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

from matplotlib.figure import Figure

from orchard.plot import mimebundle

Control = Sequence[Any] | bool
NO_KERNEL = "Sliders need a running kernel: open this notebook in JupyterLab to move them."
SHOWN = "The picture for these values stands above; moved sliders draw here."
WIDGET = "application/vnd.jupyter.widget-view+json"


class Explorer:
    """What ``explorer`` returns: shows itself as the last expression of a cell, or through ``display``.

    A picture that is in ``pictures``, the PNGs that the notebook has shown elsewhere, is not shown again.
    """

    def __init__(
        self, draw: Callable[..., Figure], controls: Mapping[str, Control], pictures: set[str] | None = None
    ) -> None:
        self.pictures = set[str]() if pictures is None else pictures
        self.draw, self.controls = draw, dict(controls)
        self.values = _defaults(draw, self.controls)
        self.widgets = _widgets(self.controls, self.values)
        self.panel = _panel(self.widgets)
        self._shown: list[Any] = []
        for widget in self.widgets:
            widget.observe(self._moved, names="value")

    @property
    def figure(self) -> Figure:
        """The static twin: the figure for the current values."""
        return self.draw(**self.values)

    def _ipython_display_(self) -> None:
        from IPython.display import display

        if self.panel is not None:
            view = self.panel._repr_mimebundle_()
            display({WIDGET: view[WIDGET], "text/plain": NO_KERNEL}, raw=True)
        data, metadata = mimebundle(self.figure)
        if data["image/png"] in self.pictures:
            data, metadata = {"text/plain": SHOWN}, {}
        else:
            self.pictures.add(data["image/png"])
        self._shown.append(display(data, raw=True, metadata=metadata, display_id=True))

    def _moved(self, change: Mapping[str, Any]) -> None:
        """A control has a new value: draw again and replace the picture wherever it is shown."""
        self.values[change["owner"].description] = change["new"]
        try:
            data, metadata = mimebundle(self.figure)
        except Exception as error:  # an error inside a callback would vanish: show it where the picture was
            chosen = ", ".join(f"{name}={value!r}" for name, value in self.values.items())
            data, metadata = {"text/plain": f"{type(error).__name__} at {chosen}: {error}"}, {}
        for handle in self._shown:
            handle.update(data, raw=True, metadata=metadata)


def explorer(draw: Callable[..., Figure], **controls: Control) -> Explorer:
    """Controls for the arguments of ``draw``, which returns a Figure and is called with one value for each of them.

    A control is ``(low, high)`` or ``(low, high, step)`` for a slider, a list of numbers for a slider that stops at
    them alone, a list of other choices for a menu, or a bool for a tick box (boxes that follow one another
    stand in rows). It starts at the default of that argument of ``draw``, else at its lowest or first value. Without
    ipywidgets only the picture for these values is shown. Make it the last expression of its cell.

    >>> explorer(coverage_map, length=(8, 128, 8), window=(0, 64), arm=["swa", "rattn"])     # doctest: +SKIP
    """
    return Explorer(draw, controls)


def _defaults(draw: Callable[..., Figure], controls: Mapping[str, Control]) -> dict[str, Any]:
    """The value each control starts at; raises for a control that ``draw`` does not take or cannot start at."""
    parameters = inspect.signature(draw).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    name_of_draw, values = getattr(draw, "__name__", repr(draw)), {}
    for name, control in controls.items():
        if name not in parameters and not takes_any:
            raise TypeError(f"explorer: {name_of_draw} has no argument {name!r}; it has {', '.join(parameters)}")
        if isinstance(control, bool):
            start: Any = control
        elif len(control) == 0 or (isinstance(control, tuple) and len(control) not in (2, 3)):
            raise ValueError(f"explorer: {name}={control!r}: give (low, high), (low, high, step), choices or a bool")
        else:
            start = control[0]
        default = parameters[name].default if name in parameters else inspect.Parameter.empty
        if default is not inspect.Parameter.empty:
            start = default
        choices = [False, True] if isinstance(control, bool) else control
        inside = control[0] <= start <= control[1] if isinstance(control, tuple) else start in choices
        if not inside:
            raise ValueError(f"explorer: {name} starts at {start!r}, which is not in {control!r}: widen the control")
        values[name] = start
    return values


def _widgets(controls: Mapping[str, Control], values: Mapping[str, Any]) -> list[Any]:
    """One of ipywidgets for each control; none where ipywidgets is not installed."""
    try:
        import ipywidgets
    except ImportError:
        return []
    made = []
    for name, control in controls.items():
        options = {"value": values[name], "description": name, "style": {"description_width": "initial"}}
        if isinstance(control, bool):
            made.append(ipywidgets.Checkbox(indent=False, layout=ipywidgets.Layout(width="auto"), **options))
        elif isinstance(control, tuple):
            whole = all(isinstance(value, int) for value in (*control, values[name]))
            kind = ipywidgets.IntSlider if whole else ipywidgets.FloatSlider
            step = (
                {"step": control[2]} if len(control) == 3 else {} if whole else {"step": (control[1] - control[0]) / 50}
            )
            made.append(kind(min=control[0], max=control[1], **step, **options))
        elif all(isinstance(choice, int | float) for choice in control):
            made.append(ipywidgets.SelectionSlider(options=list(control), **options))
        else:
            made.append(ipywidgets.Dropdown(options=list(control), **options))
    return made


def _panel(widgets: Sequence[Any]) -> Any:
    """The widgets below one another, tick boxes that follow one another in rows; None without widgets.

    Boxes whose names share their first of several words, such as "L0 E1" and "L0 E2", have rows of their own.
    """
    if not widgets:
        return None
    import ipywidgets

    def row(place: int) -> Any:
        widget = widgets[place]
        head, _, rest = widget.description.partition(" ")
        return (head if rest else "") if isinstance(widget, ipywidgets.Checkbox) else place

    wrap = ipywidgets.Layout(flex_flow="row wrap", grid_gap="0 12px")
    lines = []
    for key, places in groupby(range(len(widgets)), key=row):
        line = [widgets[place] for place in places]
        lines += line if isinstance(key, int) else [ipywidgets.HBox(line, layout=wrap)]
    return ipywidgets.VBox(lines)
