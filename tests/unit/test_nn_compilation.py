"""Compiled functions: many graphs, and an error in the place of eager mode."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch._dynamo.exc import FailOnRecompileLimitHit

from orchard.errors import OrchardError
from orchard.nn import compilation

module: Any = importlib.import_module("orchard.nn.attention")  # the package has a function of that name


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """PyTorch's settings, put back afterwards; nothing is turned into machine code."""
    import torch._dynamo.config as settings

    monkeypatch.setattr(compilation, "BACKEND", "eager")
    module._compiled_flex.cache_clear()
    with settings.patch(recompile_limit=8):
        yield settings
    module._compiled_flex.cache_clear()


def test_a_function_has_many_graphs_and_then_fails_instead_of_becoming_slow(settings: Any) -> None:
    eager: list[int] = []

    def times(x: torch.Tensor, factor: int) -> torch.Tensor:
        if not torch.compiler.is_compiling():
            eager.append(factor)
        return x * factor

    fast = compilation.compiled(times)
    for factor in range(20):  # PyTorch's own limit is 8
        assert fast(torch.ones(2), factor).sum() == 2 * factor
    assert not eager
    with settings.patch(recompile_limit=20):
        assert fast(torch.ones(2), 3).sum() == 6
        with pytest.raises(OrchardError, match="needs more than 20 graphs"), compilation.no_fallback():
            fast(torch.ones(2), 99)


def test_compiled_flex_attention_never_falls_back(settings: Any) -> None:
    """A graph for each pair of window and length; past the limit an error, also outside of a training."""
    flex = module._compiled_flex()
    assert settings.recompile_limit == compilation.GRAPHS

    def attend(length: int, window: int) -> None:
        q = torch.randn(1, 2, length, 16)
        mask = module._block_mask(length, length, window, 0, q.device, True)
        with torch.no_grad():
            out = flex(q, q, q, block_mask=mask, enable_gqa=False)
        wanted = module.attention(*(q.transpose(1, 2),) * 3, window=window, backend="naive").transpose(1, 2)
        torch.testing.assert_close(out, wanted)

    with settings.patch(recompile_limit=2):
        attend(128, 3)
        attend(256, 3)
        with pytest.raises(FailOnRecompileLimitHit):
            attend(128, 5)
    attend(128, 5)
