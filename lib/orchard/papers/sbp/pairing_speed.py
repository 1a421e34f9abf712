"""How long pairing takes and how much memory, exactly and with FAISS, against the number of documents.

    concept vectors: e = unit(s * (t + c + x)),  s_i = i^-1/2      t of the topic, c of the concept, x of the document, all standard normal

One concept for every 50 documents, with frequencies like rank^-1/2, and about as many topics as concepts in a topic: neighbours are mostly
of the same concept, and the spectrum decays, as it does for real embeddings. Random vectors on the sphere have neither; they are measured
beside them as the worst case, in which no index can help.

FAISS includes everything: building the index, choosing how many cells to look into, and measuring the recall against exact search.
Processor seconds add up over threads; peak memory is what the process grew by (resident, sampled), vectors and documents not counted.
"""

from __future__ import annotations

import ctypes
import platform
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any

import numpy as np
import pandas as pd
import psutil
import torch
from jaxtyping import Float32, Int64

from orchard import timing
from orchard.config import REQUIRED
from orchard.papers.sbp.data import Documents
from orchard.papers.sbp.pairing import kept_pairs, random_scores, threshold
from orchard.papers.sbp.search import ExactSearch, FaissSearch, Neighbours, Search
from orchard.runs import Run, Runner, Setting, Workspace

K, EXCEEDANCE = 8, 1e-3
PER_CONCEPT, LENGTH = 50, 28  # documents, tokens of a document
SEARCHES: dict[str, Search.Config] = {"exact": ExactSearch.Config(), "FAISS": FaissSearch.Config()}


@dataclass(frozen=True)
class Sizes:
    """What is measured: numbers of documents, on clustered and on random vectors, and CPU threads."""

    clustered: tuple[int, ...]
    uniform: tuple[int, ...]
    dim: int = 256
    threads: int = 1


SIZES: dict[str, Sizes] = {
    "smoke": Sizes(clustered=(1_000, 2_000, 4_000), uniform=(2_000,)),
    "gpu": Sizes(clustered=(5_000, 10_000, 30_000), uniform=(10_000,)),
    "paper": Sizes(clustered=(5_000, 10_000, 30_000), uniform=(10_000,)),
}
SCALE = Sizes(clustered=(10_000, 30_000, 100_000), uniform=(10_000, 30_000), threads=2)  # of `orchard bench sbp`


class PairingSpeed(Run):
    """Rows of :func:`measured`."""

    class Config(Run.Config):
        clustered: list[int] = REQUIRED
        uniform: list[int] = REQUIRED
        dim: int = REQUIRED
        threads: int = 1
        seed: int = 0

    preload = "orchard.papers.sbp.embedding"
    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        """Measure, smallest first."""
        cfg = self.cfg
        sizes = Sizes(tuple(cfg.clustered), tuple(cfg.uniform), cfg.dim, cfg.threads)
        return {"rows": list(measured(sizes, cfg.seed, work.log))}


def measured(sizes: Sizes, seed: int = 0, log: Callable[[str], None] = print) -> Iterator[dict[str, Any]]:
    """Rows vectors, documents, what, seconds, processor_seconds, peak (bytes), recall (at 8), probes, cells, threads.

    What is a search, exact or FAISS, or the rules after FAISS: threshold, near-duplicates, caps.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(sizes.threads)
    try:
        for kind, counts in (("clustered", sizes.clustered), ("uniform", sizes.uniform)):
            for count in counts:
                random = np.random.default_rng([seed, count])
                vectors, concepts = vectors_of(kind, count, sizes.dim, random)
                about = {"vectors": kind, "documents": count, "threads": sizes.threads}
                for name, search in SEARCHES.items():
                    found, cost = _measured(_search(search, vectors, sizes.threads))
                    report = {key: found.report.get(key) for key in ("recall", "probes", "cells")}
                    log(f"{kind}, {count} documents, {name}: {cost['seconds']:.1f} s, recall {report['recall']:.3f}")
                    yield {**about, "what": name, **cost, **report, "used": found.report["search"]}
                documents = words_of(concepts, random)
                _, cost = _measured(_rules(documents, vectors, found, random))
                yield {**about, "what": "rules", **cost}
    finally:
        torch.set_num_threads(before)


def _search(search: Search.Config, vectors: np.ndarray, threads: int) -> Callable[[], Neighbours]:
    return lambda: search.build().neighbours(vectors, K, threads=threads)


def _rules(
    documents: Documents, vectors: np.ndarray, found: Neighbours, random: np.random.Generator
) -> Callable[[], object]:
    def rules() -> object:
        alpha = threshold(random_scores(vectors, random), EXCEEDANCE)
        return kept_pairs(documents, np.arange(len(documents)), found, alpha, K, 0.6)

    return rules


def _measured(step: Callable[[], Any]) -> tuple[Any, dict[str, Any]]:
    kept: list[Any] = []
    with Peak() as peak:
        start = time.perf_counter()
        processor = timing.seconds(lambda: kept.append(step()), 1, "cpu")
        seconds = time.perf_counter() - start
    return kept[0], {"seconds": seconds, "processor_seconds": processor, "peak": peak.bytes}


class Peak:
    """The most that the resident memory of this process grows by inside the block, looked at every five milliseconds.

    FAISS and numpy allocate beside PyTorch, whose own count (`timing.peak_bytes`) therefore says too little here.
    """

    def __enter__(self) -> Peak:
        _release()
        self._process = psutil.Process()
        self._before = self._most = self._process.memory_info().rss
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._over.wait(5e-3):
            self._most = max(self._most, self._process.memory_info().rss)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._most = max(self._most, self._process.memory_info().rss)

    @property
    def bytes(self) -> int:
        """Bytes above what was resident at the start."""
        return self._most - self._before


def _release() -> None:
    """Give back what malloc keeps of earlier measurements, or the next one would seem to need nothing. glibc alone has a call for it."""
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def vectors_of(
    kind: str, count: int, dim: int, random: np.random.Generator
) -> tuple[Float32[np.ndarray, "documents dim"], Int64[np.ndarray, "documents"]]:
    """Unit vectors, clustered as the head of the module says or uniform on the sphere, and the concept of each."""
    concepts = max(1, count // PER_CONCEPT)
    frequency = np.arange(1, concepts + 1) ** -0.5
    concept = random.choice(concepts, size=count, p=frequency / frequency.sum())
    rows = random.standard_normal((count, dim), dtype=np.float32)
    if kind == "clustered":
        topics = max(1, round(concepts**0.5))
        centres = random.standard_normal((concepts, dim), dtype=np.float32)
        centres += random.standard_normal((topics, dim), dtype=np.float32)[random.integers(topics, size=concepts)]
        rows += centres[concept]
        rows *= np.arange(1, dim + 1, dtype=np.float32) ** -0.5
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows, concept.astype(np.int64)


def words_of(concepts: Int64[np.ndarray, "documents"], random: np.random.Generator) -> Documents:
    """A body for every document: 28 of the 64 words of its concept."""
    tokens = 64 * concepts[:, None] + random.integers(64, size=(len(concepts), LENGTH))
    return Documents(tokens.reshape(-1).astype(np.int32), np.arange(len(concepts) + 1, dtype=np.int64) * LENGTH)


def pairing_speed(setting: Setting, run: Runner) -> pd.DataFrame:
    """The rows of :func:`measured` at the sizes of the profile."""
    cfg = PairingSpeed.Config(**_lists(SIZES[setting.profile]), label="time and memory of pairing")
    return pd.DataFrame(run([cfg])[0].result["rows"])


def _lists(sizes: Sizes) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(sizes).items()}


def growth(table: pd.DataFrame) -> pd.DataFrame:
    """How each part grows from the fewest to the most documents: columns vectors, what, documents, times the documents, the processor
    seconds and the peak memory, and the exponent of the seconds in the number of documents."""
    rows = []
    for (kind, what), part in table.groupby(["vectors", "what"], sort=False):
        ordered = part.sort_values("documents")
        least, most = ordered.iloc[0], ordered.iloc[-1]
        if least["documents"] == most["documents"]:
            continue
        times = most["documents"] / least["documents"]
        seconds = most["processor_seconds"] / least["processor_seconds"]
        rows.append({
            "vectors": kind, "what": what, "from": least["documents"], "to": most["documents"], "times the documents": times,
            "times the processor seconds": seconds, "times the peak memory": most["peak"] / max(least["peak"], 1),
            "exponent": np.log(seconds) / np.log(times),
        })  # fmt: skip
    return pd.DataFrame(rows)


def scale() -> pd.DataFrame:
    """The rows of :func:`measured` at 10,000 to 100,000 documents, measured now."""
    return pd.DataFrame(measured(SCALE))


EXPERIMENTS: dict[str, Callable[[Setting, Runner], pd.DataFrame]] = {"pairing_speed": pairing_speed}
