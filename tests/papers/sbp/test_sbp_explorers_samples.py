"""The browser from a seed to its samples: what is marked, and that a choice always shows the same."""

from __future__ import annotations

import numpy as np
import pytest
from sbp_tiny_synthesizers import SETTING, runner, tiny

from orchard.papers.sbp.experiments.profiles import Cell
from orchard.papers.sbp.explorers import samples as browser
from orchard.widgets import explorer


@pytest.mark.parametrize(
    ("body", "marked"),
    [
        ([1, 2, 9, 3], [True, True, False, False]),  # one shared token alone is no n-gram
        ([3, 1, 2, 3, 7], [False, True, True, True, False]),
        ([2], [False]),
        ([], []),
    ],
)
def test_what_is_shared_with_the_seed(body: list[int], marked: list[bool]) -> None:
    assert browser.shared(np.array(body, dtype=np.int32), np.array([1, 2, 3], dtype=np.int32)).tolist() == marked


def test_a_choice_always_shows_the_same(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny()
    monkeypatch.setattr(browser, "studies", lambda setting, run, *variants: [(Cell("dep", 0, 0), study)])
    monkeypatch.setattr(browser, "synthetic_arms", lambda setting, cell: ["sbp-random", "uncond"])
    model = browser.live(SETTING, runner(tmp_path_factory.getbasetemp()))
    assert list(model.models) == ["sbp-random", "uncond"]
    assert len(model.names) == browser.SEEDS
    pages = [browser.page(model, 2, "sbp-random", temperature) for temperature in (1.0, 1.0, 1.5)]
    words = [[list(row.words) for row in page.samples] for page in pages]
    assert words[0] == words[1] != words[2]
    assert len(pages[0].samples) == len(pages[0].same) == browser.SAMPLES
    np.testing.assert_allclose(pages[0].seed.law.sum(), 1)

    draw, controls = browser.browse(model)
    shown = explorer(draw, **controls)
    shown.figure.draw_without_rendering()  # the static twin
    texts = {text.get_text() for text in draw(model.names[0], "uncond", 0.5).axes[0].texts}
    assert "seed d₁" in texts
    assert sum(text.startswith("sample ") for text in texts) == browser.SAMPLES
