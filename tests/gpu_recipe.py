"""Two steps of a training exactly as a GPU would do them, on the CPU: bf16-mixed, fused optimizer, clipped, compiled or eager.

Code that only a GPU would run for the first time is not done. Compiled steps are traced by PyTorch's compiler but not turned into
machine code, which is another matter and takes a minute; in a process of their own, since the run-time shape checks of the tests
do not trace.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

from orchard.nn import compilation
from orchard.runs import Finished, Store
from orchard.train import TrainingRun, hardware

GPU = (hardware.Rule(r"cpu-.*", "bf16-mixed", True, True),)
CHILD = "import pickle, sys; from gpu_recipe import compute; compute(*pickle.load(sys.stdin.buffer))"


def two_steps(cfg: TrainingRun.Config, folder: Path, compile: bool = True, **fields: Any) -> Finished:
    """Train ``cfg`` for two steps with the rules of a GPU, and the runs that it needs before; a store is made in ``folder``.

    Args:
        fields: of the config, over those of the recipe.
    """
    recipe: dict[str, Any] = {"steps": 2, "log_every": 1, "validate_every": 2, "compile": compile}
    short = cfg.clone().set(**(recipe | fields))
    if compile:
        env = os.environ | {"PYTHONPATH": os.pathsep.join([*sys.path, os.environ.get("PYTHONPATH", "")])}
        content = pickle.dumps((short, folder))
        child = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", CHILD], input=content, capture_output=True, env=env
        )
        assert child.returncode == 0, child.stderr.decode()[-3000:]
        done = Store(folder).get(short)
        assert done is not None
    else:
        done = compute(short, folder)
    notes = done.provenance["hardware"]
    assert (notes["precision"], notes["compiled"]) == ("bf16-mixed", compile)
    assert done.metrics()["loss"].notna().sum() == short.steps
    return done


def compute(cfg: TrainingRun.Config, folder: Path) -> Finished:
    """The finished run of ``cfg``, computed by the rules of a GPU."""
    with mock.patch.object(hardware, "RULES", GPU), mock.patch.object(compilation, "BACKEND", "aot_eager"):
        return Store(folder).compute(cfg, "cpu")
