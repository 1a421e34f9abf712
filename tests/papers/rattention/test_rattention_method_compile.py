"""The model compiles as one graph, forward and backward: what runs on a GPU is traced here, without one."""

from __future__ import annotations

import subprocess
import sys

TRACE = """
import torch
from orchard.papers.rattention.method.models import arm
from orchard.train.lm import token_losses
cfg = arm("rattn@5", dim=16, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8, ffn_dim=16, vocab_size=19, period=2)
model, tokens = cfg.build(), torch.randint(0, 19, (2, 33))
step = torch.compile(lambda tokens: token_losses(model, tokens).mean(), backend="aot_eager", fullgraph=True)
loss = step(tokens)
torch.testing.assert_close(loss, token_losses(model, tokens).mean())
loss.backward()
assert all(p.grad is not None for p in model.parameters())
"""


def test_a_training_step_is_one_graph() -> None:
    """Of an RAttention layer and a global one, in a process of its own: the run-time shape checks of the tests do not trace."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", TRACE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
