"""Editing: errors inside and outside the edit."""

from __future__ import annotations

import torch

from orchard.papers.manzano.method.editing import edit_errors


def test_errors_inside_and_outside() -> None:
    wanted, changed = torch.zeros(2, 4, 4, 3), torch.zeros(2, 4, 4, dtype=torch.bool)
    changed[0, :2] = True
    made = wanted + 1
    made[0, :2] = 3
    inside, outside = edit_errors(made, wanted, changed)
    assert inside[0] == 9
    assert inside[1].isnan()
    assert outside.tolist() == [1, 1]
