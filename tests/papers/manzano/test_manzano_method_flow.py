"""Flow matching: the exact velocity, the loss by hand, times, guidance, the same noise everywhere."""

from __future__ import annotations

import pytest
import torch
from manzano_tiny import tiny_image_decoder

from orchard.papers.manzano.method.flow import LOCATION, euler, flow_loss, guided, logit_normal, noised, sample


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(1)


@pytest.mark.parametrize("steps", [1, 2, 10, 30])
def test_the_exact_velocity_gives_the_picture_for_any_number_of_steps(steps: int) -> None:
    """S4."""
    x0, noise = torch.randn(4, 6, 6, 3), torch.randn(4, 6, 6, 3)
    times: list[float] = []

    def velocity(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        times.append(float(t[0]))
        torch.testing.assert_close(x, noised(x0, noise, t))  # on the straight way
        return noise - x0

    assert (euler(velocity, noise, steps) - x0).abs().max() < 1e-5
    assert times == pytest.approx([1 - i / steps for i in range(steps)])


def test_times_are_logit_normal() -> None:
    t = logit_normal(20_000, seeded())
    assert t.logit().mean() == pytest.approx(LOCATION, abs=0.03)
    assert t.logit().std() == pytest.approx(1, abs=0.03)


def test_the_loss_by_hand() -> None:
    decoder, x0, codes = tiny_image_decoder(reference=True), torch.randn(16, 12, 24, 3), torch.randn(16, 2, 3)
    generator = seeded()
    noise, t = torch.randn(x0.shape, generator=generator), (torch.randn(16, generator=generator) + LOCATION).sigmoid()
    dropped = torch.rand(16, generator=generator) < 0.5
    assert 0 < dropped.sum() < 16
    x_t = (1 - t)[:, None, None, None] * x0 + t[:, None, None, None] * noise
    expected = (decoder(x_t, t, codes, dropped, x0) - (noise - x0)).square().mean()
    torch.testing.assert_close(flow_loss(decoder, x0, codes, seeded(), 0.5, x0), expected)
    with pytest.raises(ValueError, match=r"flow_loss\(drop=1\.5\)"):
        flow_loss(decoder, x0, codes, drop=1.5)


@torch.no_grad()
def test_guidance() -> None:
    decoder, x, t, codes = tiny_image_decoder(), torch.randn(3, 12, 24, 3), torch.rand(3), torch.randn(3, 2, 3)
    told, untold = decoder(x, t, codes), decoder(x, t, codes, torch.ones(3, dtype=torch.bool))
    for guidance in (0.0, 1.0, 3.0):
        torch.testing.assert_close(guided(decoder, codes, guidance)(x, t), untold + guidance * (told - untold))
    seeing, reference = tiny_image_decoder(reference=True), torch.randn(3, 12, 24, 3)
    with_it, without = (guided(seeing, codes, 0.0, seen)(x, t) for seen in (reference, None))
    assert not torch.allclose(with_it, without)


def test_drawing_is_repeatable_and_has_no_gradient() -> None:
    decoder, codes = tiny_image_decoder(), torch.randn(2, 2, 3)
    first, again = (sample(decoder, codes, 4, 1.5, seeded()) for _ in range(2))
    assert torch.equal(first, again)
    assert not first.requires_grad
    assert not torch.allclose(sample(decoder, codes, 4, 1.0, seeded()), first)
    noise = torch.randn(2, 12, 24, 3, generator=seeded())
    assert torch.equal(sample(decoder, codes, 4, 1.0, seeded()), euler(guided(decoder, codes, 1.0), noise, 4))
    with pytest.raises(ValueError, match=r"euler\(steps=0\)"):
        sample(decoder, codes, 0)
