"""`torch.compile` that fails where PyTorch's own falls back to eager without a word that anyone reads.

PyTorch keeps the graphs of a function by what it assumed of the arguments (shapes, windows, modules), eight of them by default, and
runs what comes after in eager mode: FlexAttention then holds every score, and a training is several times as slow.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch

from orchard.errors import OrchardError
from orchard.paths import cache_dir

F = TypeVar("F", bound=Callable[..., Any])

BACKEND = "inductor"
GRAPHS = 128  # of one function in a process: more than the pairs of window and length in any study here


def compiled(function: F, *, dynamic: bool = False, fullgraph: bool = False) -> F:
    """``function``, compiled when it is called: up to ``GRAPHS`` graphs, one for each shape, or with ``dynamic`` one for many.

    With ``fullgraph`` one more, and whatever cannot be traced, is an error; for functions that are traced in pieces use
    :func:`no_fallback`.
    """
    import torch._dynamo.config as settings

    # One cache, which outlasts a reboot: the runs of a study compile an arm once. On a CPU a worker has one thread, for this too.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_dir() / "compiled"))
    if not torch.cuda.is_available():
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    settings.recompile_limit = max(settings.recompile_limit, GRAPHS)
    settings.accumulated_recompile_limit = max(settings.accumulated_recompile_limit, 4 * GRAPHS)
    return cast("F", torch.compile(function, dynamic=dynamic, fullgraph=fullgraph, backend=BACKEND))


@contextmanager
def no_fallback() -> Iterator[None]:
    """Inside the block a function that needs more than ``GRAPHS`` graphs raises OrchardError, where it would become slow."""
    import torch._dynamo.config as settings
    from torch._dynamo.exc import FailOnRecompileLimitHit

    try:
        with settings.patch(fail_on_recompile_limit_hit=True):
            yield
    except FailOnRecompileLimitHit:
        raise OrchardError(
            f"a compiled function needs more than {settings.recompile_limit} graphs: give batches of fewer shapes, or "
            "compile=False"
        ) from None
