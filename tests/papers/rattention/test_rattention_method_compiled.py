"""What a long training computes on a CPU with a C++ compiler is what it computes without."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from orchard.nn.compilation import compiled
from orchard.papers.rattention.method.models import arm
from orchard.train.hardware import choose
from orchard.train.losses import next_token_loss

TOLERANCE = 1e-5  # of the largest value of a gradient


@pytest.mark.skipif(not choose("cpu").compile, reason="no C++ compiler here")
def test_a_compiled_training_step_has_the_loss_and_the_gradients_of_an_eager_one() -> None:
    child = subprocess.run(  # the run-time shape checks of the tests do not trace
        [sys.executable, "-W", "ignore", __file__], capture_output=True, text=True
    )
    assert child.returncode == 0, child.stderr[-3000:]
    assert 0 < float(child.stdout) < TOLERANCE


def difference() -> float:
    """The largest difference of loss and gradients, relative to the largest value of each."""
    cfg = arm(
        "rattn@8", dim=32, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=16, ffn_dim=32, vocab_size=17, seq_len=96
    )
    torch.manual_seed(0)
    model, batch = cfg.build(), {"tokens": torch.randint(0, 17, (2, 97))}

    def computed(compiles: bool) -> list[Tensor]:
        model.zero_grad()
        loss = (compiled(next_token_loss) if compiles else next_token_loss)(model, batch)
        loss.backward()
        return [
            loss.detach(),
            *(parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None),
        ]

    pairs = zip(computed(False), computed(True), strict=True)
    return max(float((fast - eager).abs().max() / eager.abs().max()) for eager, fast in pairs)


if __name__ == "__main__":
    print(difference())
