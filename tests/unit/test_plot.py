"""The charts draw what the table says, leave nothing global behind, and are written whole and the same each time."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import seaborn
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from orchard import plot
from orchard.plot import style


def sweep_table(seeds: int = 2) -> pd.DataFrame:
    rows = [
        {"arm": arm, "window": window, "seed": seed, "loss": base - 0.02 * i + 0.01 * seed}
        for arm, base in (("swa", 1.8), ("rattn", 1.7))
        for i, window in enumerate((32, 64, 128))
        for seed in range(seeds)
    ]
    return pd.DataFrame(rows + [{"arm": "full_rope", "window": None, "seed": s, "loss": 1.6} for s in range(seeds)])


def pareto_table() -> pd.DataFrame:
    arms = [
        ("swa@32", 1.0, 2.0),
        ("swa@64", 2.0, 1.9),
        ("rattn@32", 1.1, 1.7),
        ("rattn@64", 2.2, 1.71),
        ("la", 1.05, 1.72),
    ]
    arms += [("full_rope", 8.0, 1.6), ("full_rnope", 8.0, 1.605)]
    return pd.DataFrame(
        [{"arm": a, "seed": s, "bytes": 1e4 * c, "loss": v + 0.005 * s} for a, c, v in arms for s in (0, 1)]
    )


def draw_sweep(table: pd.DataFrame, **options: object) -> Figure:
    return plot.sweep(table, x="window", y="loss", x_label="window (tokens)", y_label="loss (bits/byte)", **options)


def draw_pareto(table: pd.DataFrame) -> Figure:
    return plot.pareto(table, cost="bytes", loss="loss", x_label="KV cache (bytes)", y_label="loss (bits/byte)")


def test_the_palette_is_seaborns_colour_blind_one() -> None:
    assert list(style.PALETTE) == seaborn.color_palette("colorblind").as_hex()


def test_a_family_always_looks_the_same_and_others_never_share_its_colour() -> None:
    known = {"pear": plot.Look(style.PALETTE[0], "o"), "plum": plot.Look(style.PALETTE[3], "v")}
    first = plot.looks(["pear@16", "plum@8", "x@1", "y"], known)
    second = plot.looks(["x@2", "Pear@512", "pear@16"], known)
    assert first["pear@16"] == second["Pear@512"] == second["pear@16"] == known["pear"]
    assert len({look.colour for look in first.values()}) == 4
    assert first == plot.looks(["pear@16", "plum@8", "x@1", "y"], known)


def test_steps_at_which_something_else_was_logged_do_not_cut_a_curve() -> None:
    rows = [{"arm": "pear", "seed": 0, "step": step, "loss": 3.0 - step if step % 2 else np.nan} for step in range(4)]
    drawn = plot.learning_curves(pd.DataFrame(rows), x_label="step", y_label="loss")
    (line,) = drawn.axes[0].get_lines()
    np.testing.assert_array_equal(line.get_xydata(), [[1, 2], [3, 0]])


def test_learning_curves_are_means_with_bands_over_seeds() -> None:
    table = pd.DataFrame(
        [{"arm": "swa@8", "seed": s, "step": t, "loss": 3.0 - t + s} for s in (0, 1) for t in (0, 1, 2)]
    )
    drawn = plot.learning_curves(table, x_label="step", y_label="loss (nats/token)")
    axes = drawn.axes[0]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [3.5, 2.5, 1.5])
    band = axes.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (1.0, 4.0)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("step", "loss (nats/token)")
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == ["swa@8"]


def test_labels_are_demanded() -> None:
    with pytest.raises(TypeError, match="y_label"):
        plot.learning_curves(sweep_table(), x_label="step")


def test_a_sweep_has_a_log2_axis_lines_and_a_dashed_reference() -> None:
    axes = draw_sweep(sweep_table()).axes[0]
    assert axes.get_xscale() == "log"
    assert axes.xaxis.get_transform().base == 2
    assert list(axes.get_xticks()) == [32, 64, 128]
    lines = {line.get_label(): line for line in axes.lines}
    np.testing.assert_allclose(lines["rattn"].get_ydata(), [1.705, 1.685, 1.665])
    assert lines["full_rope"].get_linestyle() == "--"
    assert list(lines["full_rope"].get_ydata()) == [1.6, 1.6]


def test_published_values_are_grey_and_only_they_are() -> None:
    published = pd.DataFrame({"arm": ["RAtt", "RAtt", "Full"], "window": [32, 512, None], "loss": [1.7, 1.6, 1.5]})
    lines = {line.get_label(): line for line in draw_sweep(sweep_table(), published=published).axes[0].lines}
    assert lines["RAtt (paper)"].get_color() == lines["Full (paper)"].get_color() == style.GREY
    assert lines["rattn"].get_color() != style.GREY
    alone = draw_sweep(None, published=published).axes[0]
    assert [line.get_label() for line in alone.lines] == ["RAtt (paper)", "Full (paper)"]


def test_pareto_draws_the_frontier_and_keeps_labels_apart() -> None:
    drawn = draw_pareto(pareto_table())
    axes = drawn.axes[0]
    frontier = {(round(x), round(y, 4)) for x, y in axes.lines[0].get_xydata()}
    kept = {(10_000, 2.0025), (10_500, 1.7225), (11_000, 1.7025), (80_000, 1.6025)}
    assert kept <= frontier
    assert not {x for x, _ in frontier} & {20_000, 22_000}
    notes = [child for child in axes.get_children() if isinstance(child, Annotation)]
    assert sorted(note.get_text() for note in notes) == sorted(pareto_table()["arm"].unique())
    drawn.draw_without_rendering()
    boxes = [note.get_window_extent() for note in notes]
    assert not [pair for pair in combinations(boxes, 2) if pair[0].overlaps(pair[1])]
    frame = axes.get_window_extent()
    assert all(frame.contains(box.x0, box.y0) and frame.contains(box.x1, box.y1) for box in boxes)


def test_pareto_of_one_cost_still_draws() -> None:
    draw_pareto(pareto_table().assign(bytes=4096.0)).draw_without_rendering()


def test_heat_map_writes_numbers_or_colours_words() -> None:
    table = pd.DataFrame([{"length": n, "depth": d, "accuracy": d} for n in (1024, 128) for d in (0.0, 1.0)])
    labels = {"x_label": "context (tokens)", "y_label": "depth (fraction)", "value_label": "accuracy (fraction)"}
    axes = plot.heat_map(table, row="depth", column="length", value="accuracy", **labels).axes[0]
    assert sorted(text.get_text() for text in axes.texts) == ["0.00", "0.00", "1.00", "1.00"]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["128", "1024"]
    tints, words = {"yes": "#ff0000", "no": "#0000ff"}, table.assign(accuracy=["no", "yes"] * 2)
    named = plot.heat_map(words, row="depth", column="length", value="accuracy", colours=tints, **labels)
    image = named.axes[0].images[0]
    np.testing.assert_allclose(image.cmap(image.norm(image.get_array()))[0, 0], [0, 0, 1, 1])
    assert [text.get_text() for text in named.legends[0].get_texts()] == ["yes", "no"]
    with pytest.raises(ValueError, match="average them first"):
        plot.heat_map(pd.concat([table, table]), row="depth", column="length", value="accuracy", **labels)


def test_forest_keeps_the_rows_that_could_not_be_measured() -> None:
    table = pd.DataFrame({"label": ["relu", "GDN"], "effect": [0.1, None], "low": [0.0, None], "high": [0.2, None]})
    table = table.assign(threshold=0.05, published=[0.1, 0.0], verdict=["supported", "out of reach here"])
    drawn = plot.forest(table, x_label="change of loss (bits/byte)")
    assert [text.get_text() for text in drawn.axes[0].get_yticklabels()] == ["relu", "GDN"]
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == [
        "threshold",
        "paper",
        "supported",
        "out of reach here",
    ]


def test_errors_name_the_column_and_the_place() -> None:
    with pytest.raises(ValueError, match=r"sweep: no column 'loss' \(argument y\)"):
        draw_sweep(sweep_table().rename(columns={"loss": "bpb"}))
    with pytest.raises(ValueError, match="no rows"):
        draw_sweep(sweep_table().iloc[:0])
    with pytest.raises(ValueError, match="Leave it missing"):
        draw_sweep(sweep_table().assign(window=-1))


def test_nothing_global_is_left_behind() -> None:
    before = matplotlib.rcParams["axes.spines.top"], matplotlib.rcParams["font.size"]
    draw_sweep(sweep_table())
    plot.figure(columns=2)
    assert plt.get_fignums() == []
    assert (matplotlib.rcParams["axes.spines.top"], matplotlib.rcParams["font.size"]) == before


def test_save_writes_three_whole_files_with_the_same_bytes_each_time(tmp_path: Path) -> None:
    table = pareto_table()
    first = plot.save(draw_pareto(table), tmp_path / "a" / "pareto.v2", table)
    assert [path.name for path in first] == ["pareto.v2.svg", "pareto.v2.png", "pareto.v2.csv"]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == sorted(path.name for path in first)
    again = draw_pareto(table)
    plot.mimebundle(again)  # drawing it on the screen in between changes nothing
    for path, other in zip(first, plot.save(again, tmp_path / "b" / "pareto.v2", table), strict=True):
        assert path.read_bytes() == other.read_bytes(), path.name
    assert plot.mimebundle(again)[1]["image/png"]["alt"] == "Figure: loss (bits/byte) against KV cache (bytes)"
    svg = first[0].read_text()
    assert ">KV cache (bytes)</text>" in svg
    assert "<dc:date>" not in svg
    pd.testing.assert_frame_equal(pd.read_csv(first[2]), table)


def test_the_bytes_do_not_depend_on_the_process(tmp_path: Path) -> None:
    code = """
import sys, pandas
from orchard import plot
table = pandas.DataFrame({"arm": ["a", "b"], "seed": 0, "step": 1, "loss": [1.0, 2.0]})
plot.save(plot.learning_curves(table, x_label="step", y_label="loss (nats/token)"), sys.argv[1], table)
"""
    for name in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": name}
        subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], check=True, env=environment)
    assert (tmp_path / "1.svg").read_bytes() == (tmp_path / "2.svg").read_bytes()
    assert (tmp_path / "1.png").read_bytes() == (tmp_path / "2.png").read_bytes()


def test_a_readers_matplotlibrc_changes_nothing(tmp_path: Path) -> None:
    def drawn(name: str) -> list[Path]:
        return plot.save(plot.mark_profile(draw_sweep(sweep_table()), "smoke"), tmp_path / name, sweep_table())

    plain = drawn("plain")
    with matplotlib.rc_context(
        {"text.usetex": True, "font.size": 30, "axes.facecolor": "black", "savefig.bbox": "tight"}
    ):
        odd = drawn("odd")
        assert matplotlib.rcParams["font.size"] == 30
    assert [path.read_bytes() for path in odd] == [path.read_bytes() for path in plain]


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f.svg").write_text("old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(style.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        plot.save(draw_sweep(sweep_table()), tmp_path / "f", sweep_table())
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("f.svg", "old")]


def test_panels_share_one_figure() -> None:
    made, (left, right) = plot.figure(7.0, 2.4, columns=2)
    assert draw_sweep(sweep_table(), axes=left) is made
    assert (len(left.lines), len(right.lines)) == (3, 0)
    assert left.get_legend() is not None
    assert not made.legends


def test_the_profile_stands_above_the_figure_and_moves_nothing() -> None:
    def boxes(made: Figure) -> list[list[float]]:
        made.draw_without_rendering()
        return [(axes.get_window_extent().extents / made.dpi).tolist() for axes in made.axes]

    plain, marked = draw_sweep(sweep_table()), plot.mark_profile(draw_sweep(sweep_table()), "smoke")
    np.testing.assert_allclose(boxes(marked), boxes(plain), atol=5e-3)
    assert plot.mark_profile(marked, "smoke") is marked
    assert [text.get_text() for text in marked.texts] == ["profile smoke: its numbers mean nothing"]
    words, height = marked.texts[0].get_window_extent(), marked.get_size_inches()[1]
    assert words.y0 / marked.dpi > height - style.STRIP
    assert [text.get_text() for text in plot.mark_profile(draw_sweep(sweep_table()), "gpu").texts] == ["profile gpu"]
