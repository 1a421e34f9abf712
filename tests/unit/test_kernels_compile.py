"""Every Triton kernel of residual linear attention compiles for an H100 (sm_90), with no GPU in the machine.

The interpreter accepts what the compiler does not (a name whose type changes in a loop, say). What is compiled are the
launches that a call would make: same table of tiles, same signature, same constants.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed (it is Linux only)"),
]

KERNELS = ["state_fwd", "out_fwd", "dq", "state_bwd", "dkv"]
CASES = ["bfloat16-64", "float32-64", "bfloat16-128", "float32-128", "bfloat16-64-packed", "float16-24-packed"]
SHARED = 227 * 1024  # bytes a program may hold on an H100

CHILD = """
import json, sys, traceback
import torch
from orchard.kernels.residual import launch
from orchard.kernels.residual.tiles import choose_tile

found = {}
for case in sys.argv[1:]:
    dtype, dim, *packed = case.split("-")
    shapes = [(1 if packed else 2, 1000, heads, int(dim)) for heads in (4, 2, 2)]
    q, k, v = (torch.empty(shape, dtype=getattr(torch, dtype), device="meta") for shape in shapes)
    cu = torch.empty(4, dtype=torch.int32, device="meta") if packed else None
    tile = choose_tile(q, k, v)
    start = torch.empty(3, 2, 2 * int(dim), int(dim), device="meta") if packed else None
    (out, final, states), first = launch.forward(q, k, v, 511, start, cu, tile)
    _, second = launch.backward(q, k, v, states, out, final if packed else None, 511, cu, tile)
    for each in first + second:
        try:
            found[f"{case} {each.kernel.__name__}"] = vars(launch.compile_for(each))
        except Exception:
            found[f"{case} {each.kernel.__name__}"] = traceback.format_exc()[-1500:]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, int] | str]:
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton"))}
    environment.pop("TRITON_INTERPRET", None)
    child = subprocess.run(
        [sys.executable, "-c", CHILD, *CASES], env=environment, capture_output=True, text=True, timeout=900
    )
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("case", CASES)
def test_compiles_for_sm_90(compiled, case, kernel):
    facts = compiled[f"{case} {kernel}"]
    assert isinstance(facts, dict), f"{kernel} does not compile for {case}:\n{facts}"
    assert 0 < facts["shared"] <= SHARED
