"""Near-duplicates in a whole corpus: documents that hold nearly the same n-grams as an earlier one.

    Jaccard_n(a, b) > threshold       checked exactly, on candidates alone
    P(candidate)  = 1 - (1 - J^r)^b   b bands of r MinHash values each: documents that agree in a band are candidates

MinHash and its banded index are those of datasketch. All pairs of a corpus cannot be compared; the pairs of neighbours that
`pairing` keeps are few, and it compares those exactly.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Int64

from orchard.config import Configurable
from orchard.errors import BadInput
from orchard.papers.sbp.data import Documents
from orchard.papers.sbp.shingles import N, hashes, jaccard


class NearDuplicates(Configurable):
    """Finds the documents that are nearly an earlier one."""

    class Config(Configurable.Config):
        threshold: float = 0.6  # Jaccard above which two documents are the same
        shingle: int = N  # tokens
        bands: int = 32  # with 4 rows: a pair at Jaccard 0.6 is a candidate with probability 0.988, at 0.2 with 0.05
        rows: int = 4
        seed: int = 0

    cfg: Config

    def __init__(self, cfg: NearDuplicates.Config) -> None:
        if not 0 < cfg.threshold < 1 or cfg.bands < 2 or min(cfg.rows, cfg.shingle) < 1:
            raise BadInput(
                f"NearDuplicates.Config has threshold {cfg.threshold:g}, {cfg.bands} bands of {cfg.rows} rows, shingles of {cfg.shingle}: "
                "the threshold lies between 0 and 1, there are at least 2 bands, and rows and shingles of at least 1"
            )
        self.cfg = cfg

    def candidates(self, documents: Documents) -> Int64[np.ndarray, "2 candidates"]:
        """Pairs that agree in a band, each once, the earlier document first. Documents without a token are nobody's duplicates."""
        lsh = _datasketch().MinHashLSH(num_perm=self.cfg.bands * self.cfg.rows, params=(self.cfg.bands, self.cfg.rows))
        found: list[tuple[int, int]] = []
        for number, sketch in self.sketches(documents):
            found += [(earlier, number) for earlier in sorted(lsh.query(sketch))]
            lsh.insert(number, sketch)
        return np.array(found, dtype=np.int64).reshape(-1, 2).T

    def sketches(self, documents: Documents) -> Any:
        """Number and MinHash of every document that has a token, in order."""
        values, offsets = hashes(documents, self.cfg.shingle)
        numbers = np.flatnonzero(np.diff(offsets)).tolist()
        shingles = (values[offsets[i] : offsets[i + 1]].tolist() for i in numbers)
        made = _datasketch().MinHash.generator(
            shingles, num_perm=self.cfg.bands * self.cfg.rows, seed=self.cfg.seed + 1, hashfunc=int, scheme="affine64"
        )
        return zip(numbers, made, strict=True)

    def groups(self, documents: Documents) -> Int64[np.ndarray, "documents"]:
        """For every document the first of its group: itself, unless a chain of near-duplicates leads to an earlier one.

        ``groups == arange`` are the documents to keep. The Jaccard index of every candidate is exact; a near-duplicate is missed with the
        probability that it is no candidate.
        """
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        count = len(documents)
        pairs = self.candidates(documents)
        same = jaccard(documents, documents, pairs[0], pairs[1], self.cfg.shingle) > self.cfg.threshold
        edges = coo_array((np.ones(int(same.sum())), (pairs[0, same], pairs[1, same])), shape=(count, count))
        group = connected_components(edges, directed=False)[1]
        first = np.full(count, count, dtype=np.int64)
        np.minimum.at(first, group, np.arange(count))
        return first[group]


def _datasketch() -> Any:
    try:
        import datasketch
    except ImportError:
        raise BadInput(
            "near-duplicates of a whole corpus need datasketch, which is not installed: pip install 'orchard[sbp]'"
        ) from None
    return datasketch
