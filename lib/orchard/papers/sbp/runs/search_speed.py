"""How long the search for neighbours takes and how much memory, exactly and with FAISS, against the number of documents.

    vectors: e = unit(s * (t + c + x)),  s_i = i^-1/2      t of the topic, c of the concept, x of the document, all standard normal

One concept for every 50 documents, with frequencies like rank^-1/2, and about as many topics as concepts in a topic: neighbours are mostly
of the same concept, and the spectrum decays, as it does for real embeddings.

FAISS includes everything: building the index, choosing how many cells to look into, and measuring the recall against exact search.
Processor seconds add up over threads. Peak memory is what the process grew by (resident, sampled), the vectors not counted: FAISS
allocates beside PyTorch, whose own count (`timing.peak_bytes`) says too little here.
"""

from __future__ import annotations

import ctypes
import platform
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import psutil
import torch
from jaxtyping import Float32

from orchard.papers.sbp.method.search import ExactSearch, FaissSearch

K, DIM, PER_CONCEPT = 8, 256, 50
COUNTS, THREADS = (10_000, 30_000, 100_000), 2  # of `orchard bench sbp`
SEARCHES: dict[str, ExactSearch.Config] = {"exact": ExactSearch.Config(), "FAISS": FaissSearch.Config()}


def vectors_of(count: int, dim: int, random: np.random.Generator) -> Float32[np.ndarray, "documents dim"]:
    """Unit vectors, clustered as the head of the module says."""
    concepts = max(1, count // PER_CONCEPT)
    frequency = np.arange(1, concepts + 1) ** -0.5
    topics = max(1, round(concepts**0.5))
    centres = random.standard_normal((concepts, dim), dtype=np.float32)
    centres += random.standard_normal((topics, dim), dtype=np.float32)[random.integers(topics, size=concepts)]
    rows = random.standard_normal((count, dim), dtype=np.float32)
    rows += centres[random.choice(concepts, size=count, p=frequency / frequency.sum())]
    rows *= np.arange(1, dim + 1, dtype=np.float32) ** -0.5
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def search_speed(counts: Sequence[int] = COUNTS, dim: int = DIM, threads: int = THREADS, seed: int = 0) -> pd.DataFrame:
    """Measured now, on the CPU: search, documents, seconds, processor_seconds, peak_mib, recall (at 8), used (exact or faiss)."""
    before, rows = torch.get_num_threads(), list[dict[str, Any]]()
    torch.set_num_threads(threads)
    try:
        for count in counts:
            vectors = vectors_of(count, dim, np.random.default_rng([seed, count]))
            for name, search in SEARCHES.items():
                start, processor = time.perf_counter(), time.process_time()
                with grown() as peak:
                    found = search.build().neighbours(vectors, K, threads=threads)
                rows.append({
                    "search": name, "documents": count, "seconds": time.perf_counter() - start,
                    "processor_seconds": time.process_time() - processor, "peak_mib": peak() / 2**20,
                    "recall": found.report["recall"], "used": found.report["search"],
                })  # fmt: skip
    finally:
        torch.set_num_threads(before)
    return pd.DataFrame(rows)


def growth(table: pd.DataFrame) -> pd.DataFrame:
    """How each search grows from the fewest to the most documents: search, from, to, times the documents, the processor seconds and
    the peak memory, and the exponent of the processor seconds in the number of documents."""
    ends = table.sort_values("documents").groupby("search", sort=False)
    least, most = ends.first(), ends.last()
    times = most[["documents", "processor_seconds", "peak_mib"]] / least[["documents", "processor_seconds", "peak_mib"]]
    exponent = np.log(times["processor_seconds"]) / np.log(times["documents"])
    found = times.add_prefix("times the ").assign(exponent=exponent)
    return pd.concat([least["documents"].rename("from"), most["documents"].rename("to"), found], axis=1).reset_index()


@contextmanager
def grown() -> Iterator[Callable[[], int]]:
    """Gives a function: the most bytes that resident memory grew by inside the block, looked at every five milliseconds."""
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":  # or what malloc keeps of an earlier search
        ctypes.CDLL(None).malloc_trim(0)  # would be memory that this one does not need
    process, over = psutil.Process(), threading.Event()
    seen = [process.memory_info().rss]

    def look() -> None:
        while not over.wait(5e-3):
            seen.append(process.memory_info().rss)

    watch = threading.Thread(target=look, daemon=True)
    watch.start()
    try:
        yield lambda: max(seen) - seen[0]
    finally:
        seen.append(process.memory_info().rss)
        over.set()
        watch.join()
