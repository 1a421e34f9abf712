"""The speed of this machine beside the reference machine."""

from __future__ import annotations

import pytest
import torch

from orchard import speed


def test_a_machine_that_takes_twice_as_long_has_half_the_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "measured", lambda: {name: 2 * seconds for name, seconds in speed.REFERENCE.items()})
    assert speed.factor() == pytest.approx(0.5)
    monkeypatch.setattr(
        speed, "measured", lambda: {"products": speed.REFERENCE["products"], "steps": speed.REFERENCE["steps"] / 4}
    )
    assert speed.factor() == pytest.approx(2.0)


def test_measuring_leaves_threads_and_randomness_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "ROUNDS", 1)
    before, state = torch.get_num_threads(), torch.get_rng_state()
    found = speed.measured()
    assert found.keys() == speed.REFERENCE.keys()
    assert all(seconds > 0 for seconds in found.values())
    assert torch.get_num_threads() == before
    assert torch.equal(torch.get_rng_state(), state)
