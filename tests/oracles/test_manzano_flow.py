"""Flow matching against the Euler scheduler of diffusers: the same noisy pictures, and the same way back."""

from __future__ import annotations

import pytest
import torch

from orchard.papers.manzano.method.flow import euler, noised

diffusers = pytest.importorskip("diffusers")


def test_the_scheduler_noises_and_steps_alike() -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0)
    x0, noise, drift = (torch.randn(2, 6, 6, 3) for _ in range(3))
    scheduler.set_timesteps(sigmas=[1 - i / 10 for i in range(10)])
    t = scheduler.timesteps[3] / 1000
    torch.testing.assert_close(
        noised(x0, noise, t.expand(2)), scheduler.scale_noise(x0, scheduler.timesteps[3:4].expand(2), noise)
    )
    x = noise
    for timestep in scheduler.timesteps:
        x = scheduler.step(drift * x + timestep / 1000, timestep, x, return_dict=False)[0]
    ours = euler(lambda x, t: drift * x + t[:, None, None, None], noise, 10)
    torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-5)
