"""Figures of training."""

import pandas as pd

from orchard.papers.ifpruning.figures.training import mask_map


def test_wordings_of_the_training_are_hollow_on_the_map() -> None:
    table = pd.DataFrame(
        [
            {"prompt": 2 * i + j, "domain": domain, "group": "A", "wording": wording, "x": float(i), "y": float(j)}
            for i, domain in enumerate(("A1", "A2"))
            for j, wording in enumerate(("held out", "training"))
        ]
    )
    filled, hollow = (marks.get_facecolor() for marks in mask_map(table).axes[0].collections[:2])
    assert len(filled)
    assert not len(hollow)
