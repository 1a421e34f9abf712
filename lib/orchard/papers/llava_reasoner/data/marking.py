"""Marking: the answer behind the last marker, and whether it is right, by the rule of the answer's type.

    relaxed   numbers within 5 % of the target, all else equal without regard to case                 ChartQA, PlotQA (Methani et al. 2020)
    anls      1 - edit distance / longer length, 0 below a half, best of the references               DocVQA, InfoVQA (Biten et al. 2019)
    option    the one letter among the options that stands alone                                      A-OKVQA, AI2D, ScienceQA
    exact     equal without regard to case and spaces

The conventions are those of lmms-eval: "5%" is 0.05 and not 5, a target of zero is compared as text, ANLS normalises by the lengths of the
texts as they were given. A missing marker is wrong, whatever the text says elsewhere.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping

from orchard.errors import BadInput, closest

TOLERANCE = 0.05  # of the target
THRESHOLD = 0.5  # least similarity of ANLS that counts
_MARKER = re.compile(r"###\s*answer\s*:", re.IGNORECASE)
_PUNCTUATION = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))


def extract(text: str) -> str | None:
    """The first line behind the last ``### answer :`` of a text, in any case, with any spaces; None: no marker, or nothing behind it."""
    places = [match.end() for match in _MARKER.finditer(text)]
    if not places:
        return None
    lines = text[places[-1] :].strip().splitlines()
    return lines[0].strip() if lines else None


def _number(text: str) -> float | None:
    """A number; "5%" is 0.05. None for what is no number."""
    share = text.endswith("%")
    try:
        found = float(text.rstrip("%")) / 100 if share else float(text)
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def relaxed(prediction: str, target: str) -> bool:
    """Relaxed accuracy of one answer."""
    found, wanted = _number(prediction), _number(target)
    if found is None or not wanted:
        return prediction.lower() == target.lower()
    return abs(found - wanted) / abs(wanted) <= TOLERANCE


def edit_distance(first: str, second: str) -> int:
    """The least number of insertions, deletions and substitutions of one character (Levenshtein)."""
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, start=1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(second, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]


def anls(prediction: str, references: Iterable[str]) -> float:
    """Average normalised Levenshtein similarity of one answer, in [0, 1]. Raises BadInput without a reference."""
    found = []
    for reference in references:
        a, b = (" ".join(text.lower().split()) for text in (reference, prediction))
        length = max(len(reference), len(prediction))
        found.append(1 - edit_distance(a, b) / length if length else 1.0)
    if not found:
        raise BadInput(f"anls: no reference for the answer {prediction!r}; give one or more")
    return max(found) if max(found) >= THRESHOLD else 0.0


def option(text: str, options: Mapping[str, str]) -> str | None:
    """The letter that a text chooses among ``options`` (letter -> text of the option): the one letter that stands alone, else the one
    option whose text occurs. None where that is not one; "A" among more than three words may be an article and is none either."""
    words = text.translate(_PUNCTUATION).split()
    letters = [letter for letter in options if letter in words]
    if len(letters) == 1:
        return None if letters == ["A"] and len(words) > 3 else letters[0]
    said = [letter for letter, content in options.items() if content and content.lower() in text.lower()]
    return said[0] if len(said) == 1 and not letters else None


def _option(prediction: str, target: str) -> bool:
    return option(prediction, dict.fromkeys("ABCDEFGHIJ", "")) == target.strip().upper()


def _exact(prediction: str, target: str) -> bool:
    return prediction.lower().split() == target.lower().split()


RULES: dict[str, Callable[[str, str], float]] = {
    "relaxed": relaxed, "anls": lambda prediction, target: anls(prediction, [target]), "option": _option, "exact": _exact,
}  # fmt: skip


def mark(rule: str, text: str, target: str, marker: bool = True) -> float:
    """The score, 0 to 1, of what a model wrote; ``marker``: what stands behind the last marker is marked (chains), else all of it (direct).

    Raises BadInput for an unknown rule."""
    if rule not in RULES:
        raise BadInput(f"mark: there is no rule {rule!r}; {closest(rule, RULES)}")
    answer = extract(text) if marker else text.strip()
    return 0.0 if answer is None else float(RULES[rule](answer, target))
