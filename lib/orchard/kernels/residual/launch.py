"""Which kernels run, in which order, on which grids and with which constants: forward two, backward three.

A `Launch` is data. The same list is run on a GPU, interpreted on the CPU (TRITON_INTERPRET=1), or compiled for a GPU
that is not there (`Launch.source`, from meta tensors): what is tested is what runs. Imports triton; import it lazily.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from orchard.kernels.residual import triton_kernels as kernels
from orchard.kernels.residual.tiles import Tile, operands, supertiles

_POINTERS = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.int32: "*i32"}


@dataclass(frozen=True)
class Launch:
    """One kernel call: `arguments` are tensors, counts and absent tensors; `constants` are compiled in."""

    kernel: Any  # triton.JITFunction, or its interpreted twin
    grid: tuple[int, ...]
    arguments: dict[str, Tensor | int | None]
    constants: dict[str, int | str | bool]
    tile: Tile

    def run(self) -> None:
        self.kernel[self.grid](
            **self.arguments, **self.constants, num_warps=self.tile.warps, num_stages=self.tile.stages
        )

    def source(self) -> Any:
        """What `triton.compile` takes: types, constants, and pointers on 16-byte borders, as torch allocates them."""
        from triton.compiler import ASTSource

        signature = {name: _signature(x) for name, x in self.arguments.items()}
        signature |= dict.fromkeys(self.constants, "constexpr")
        absent = {name: None for name, x in self.arguments.items() if x is None}
        names = list(self.kernel.arg_names)
        aligned = {
            (names.index(name),): [["tt.divisibility", 16]]
            for name, x in self.arguments.items()
            if isinstance(x, Tensor)
        }
        return ASTSource(
            self.kernel,
            {name: signature[name] for name in names},
            constexprs={**self.constants, **absent},
            attrs=aligned,
        )

    def options(self) -> dict[str, int]:
        return {"num_warps": self.tile.warps, "num_stages": self.tile.stages}


def _signature(x: Tensor | int | None) -> str:
    if x is None:
        return "constexpr"
    return _POINTERS[x.dtype] if isinstance(x, Tensor) else "i32"


@dataclass(frozen=True)
class Layout:
    """Where sequences and their supertiles lie. Packed: `first` [N+1] numbers the first supertile of each sequence,
    `owner` names each supertile's sequence (N for those of the fixed number that are not used)."""

    sequences: int
    time: int
    total: int  # supertiles
    cu: Tensor | None
    first: Tensor | None
    owner: Tensor | None

    @classmethod
    def of(cls, k: Tensor, cu_seqlens: Tensor | None, tile: Tile) -> Layout:
        batch, time = k.shape[:2]
        if cu_seqlens is None:
            return cls(batch, time, supertiles(batch, time, None, tile.chunk, tile.supertile), None, None, None)
        cu = cu_seqlens.to(device=k.device, dtype=torch.int32)
        sequences = cu.shape[0] - 1
        total = supertiles(batch, time, sequences, tile.chunk, tile.supertile)
        counts = (cu.diff() + tile.tokens - 1) // tile.tokens
        ends = counts.cumsum(0)
        first = torch.cat([ends.new_zeros(1), ends]).to(torch.int32)
        owner = torch.searchsorted(ends, torch.arange(total, device=k.device), right=True).to(torch.int32)
        return cls(sequences, time, total, cu, first, owner)

    @property
    def scan(self) -> dict[str, Tensor | int | None]:
        """Arguments of the two scans over a sequence."""
        return {"cu": self.cu, "first": self.first, "time": self.time, "supertiles": self.total // self.sequences}

    @property
    def walk(self) -> dict[str, Tensor | int | None]:
        """Arguments of the three kernels that start at a supertile."""
        return {**self.scan, "owner": self.owner, "sequences": self.sequences}


def _constants(q: Tensor, k: Tensor, v: Tensor, tile: Tile) -> dict[str, int | str | bool]:
    dim = q.shape[-1]
    return {
        "KV_HEADS": k.shape[2],
        "DIM": dim,
        "D": max(16, 1 << (dim - 1).bit_length()),
        "C": tile.chunk,
        "M": tile.supertile,
        "OPERANDS": operands(q, k, v),
        "INTERPRET": kernels.INTERPRETED,
    }


def forward(
    q: Tensor, k: Tensor, v: Tensor, window: int, initial: Tensor | None, cu_seqlens: Tensor | None, tile: Tile
) -> tuple[tuple[Tensor, Tensor, Tensor], list[Launch]]:
    """Output, final state and saved states, not yet computed, and the launches that compute them in this order."""
    layout, constants = Layout.of(k, cu_seqlens, tile), _constants(q, k, v, tile)
    kv_heads, heads, dim = k.shape[2], q.shape[2], q.shape[3]
    delta = min(window + 1, layout.time)
    states = torch.empty(layout.total, kv_heads, 2, dim, dim, device=q.device)
    final = torch.empty(layout.sequences, kv_heads, 2 * dim, dim, device=q.device)
    output = torch.empty_like(q, memory_format=torch.contiguous_format)
    block = min(tile.block_v, int(constants["D"]))
    blocks = -(-dim // block)
    launches = [
        Launch(
            kernels.state_fwd,
            (layout.sequences * kv_heads, blocks, 2),
            {"k": k, "v": v, "initial": initial, "states": states, "final": final, "delta": delta, **layout.scan},
            {**constants, "BV": block},
            tile,
        ),
        Launch(
            kernels.out_fwd,
            (layout.total * heads, blocks),
            {"q": q, "k": k, "v": v, "states": states, "out": output, "delta": delta, **layout.walk},
            {**constants, "BV": block, "HEADS": heads},
            tile,
        ),
    ]
    return (output, final, states), launches


def backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    states: Tensor,
    d_out: Tensor,
    d_final: Tensor | None,
    window: int,
    cu_seqlens: Tensor | None,
    tile: Tile,
) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], list[Launch]]:
    """fp32 gradients of q, k, v and the initial state, not yet computed, and the launches that compute them."""
    layout, constants = Layout.of(k, cu_seqlens, tile), _constants(q, k, v, tile)
    kv_heads, heads, dim = k.shape[2], q.shape[2], q.shape[3]
    delta = min(window + 1, layout.time)
    d_q = torch.empty(q.shape, device=q.device)
    d_k, d_v = torch.zeros(k.shape, device=q.device), torch.zeros(v.shape, device=q.device)  # tokens that stay inside
    d_states = torch.empty_like(states)
    d_initial = torch.empty(layout.sequences, kv_heads, 2 * dim, dim, device=q.device)
    block = min(tile.block_v, int(constants["D"]))
    constants["HEADS"] = heads
    reads = {"q": q, "k": k, "v": v, "d_out": d_out, "delta": delta, **layout.walk}
    launches = [
        Launch(kernels.dq, (layout.total * heads,), {**reads, "states": states, "d_q": d_q}, constants, tile),
        Launch(
            kernels.state_bwd,
            (layout.sequences * kv_heads, -(-dim // block), 2),
            {"q": q, "d_out": d_out, "d_final": d_final, "d_states": d_states, "d_initial": d_initial, **layout.scan},
            {**constants, "BV": block},
            tile,
        ),
        Launch(
            kernels.dkv,
            (layout.total * kv_heads,),
            {**reads, "d_states": d_states, "d_k": d_k, "d_v": d_v},
            constants,
            tile,
        ),
    ]
    return (d_q, d_k, d_v, d_initial), launches


@dataclass(frozen=True)
class Compiled:
    """What a kernel takes on the device: shared memory per program, registers and local memory (spills) per thread."""

    shared: int  # bytes
    registers: int
    local: int  # bytes


def compile_for(launch: Launch, capability: int = 90) -> Compiled:
    """Compiles a launch for a GPU of that compute capability, which need not be there. Raises if it does not compile.

    The figures are read from the machine code by the `cuobjdump` that triton ships.
    """
    import triton
    from triton.backends.compiler import GPUTarget

    binary = triton.compile(launch.source(), target=GPUTarget("cuda", capability, 32), options=launch.options())
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        log = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    usage = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", log)}
    return Compiled(binary.metadata.shared, usage["REG"], max(usage["STACK"], usage["LOCAL"]))
