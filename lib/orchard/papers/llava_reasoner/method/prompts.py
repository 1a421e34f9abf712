"""Two prompts for one question, and where the answer stands in what the model writes.

    direct    question + "answer with a short answer"                                     -> ANSWER
    cot       question + "generate a reason first and then output a short answer"         -> RATIONALE ### Answer: ANSWER

The evaluator takes what follows the *last* marker. A chain without the marker is wrong, however right it may read, and is counted apart:
in the paper's own base model half of the loss under the second prompt is format.

Source: Zhang et al. 2025, arXiv 2410.16198, section 3.1 and appendix (the wording is the gist of theirs).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["direct", "cot"]
KINDS: tuple[Kind, ...] = ("direct", "cot")
MARKER = "### answer :"
_MARKER = re.compile(
    r"###\s*answer\s*:", re.IGNORECASE
)  # "### Answer:" of the paper, "### answer :" of words with spaces between


@dataclass(frozen=True)
class Templates:
    """The text of both prompts around "{question}". Raises ValueError for a template without it."""

    direct: str
    cot: str

    def __post_init__(self) -> None:
        for kind in KINDS:
            if "{question}" not in self.template(kind):
                raise ValueError(
                    f"the {kind} template {self.template(kind)!r} has no {{question}}: say where the question stands"
                )

    def template(self, kind: Kind) -> str:
        return self.direct if kind == "direct" else self.cot

    def prompt(self, question: str, kind: Kind) -> str:
        """The prompt of a question."""
        return self.template(kind).replace("{question}", question)


SHORT_ANSWER = Templates(
    direct="{question}\nAnswer the question with a short answer.",
    cot="{question}\nGenerate a reason first and then output a short answer.",
)
LETTER = Templates(  # multiple choice
    direct="{question}\nAnswer the question with a letter answer.",
    cot="{question}\nGenerate a reason first and then output a letter answer.",
)
ONE_WORD = Templates(direct="{question} direct", cot="{question} cot")  # small worlds: a word stands for the template


def target(rationale: str, answer: str) -> str:
    """What the model is taught to write under the second prompt."""
    return f"{rationale} {MARKER} {answer}".lstrip()


def has_marker(response: str) -> bool:
    """Whether a marker stands anywhere in a response."""
    return _MARKER.search(response) is not None


def marked_answer(response: str) -> str | None:
    """What follows the last marker, on its line; None without a marker, and where nothing follows it."""
    found = list(_MARKER.finditer(response))
    if not found:
        return None
    lines = response[found[-1].end() :].strip().splitlines()
    return lines[0].strip() if lines else None


def rationale(response: str) -> str:
    """What stands before the last marker; all of it without a marker."""
    found = list(_MARKER.finditer(response))
    return (response[: found[-1].start()] if found else response).strip()


def answer(response: str, kind: Kind) -> str | None:
    """The answer of a response to a prompt of this kind; None where there is none, which counts as wrong.

    Under the direct prompt the whole response is the answer: who explains himself there has not followed the prompt.
    """
    if kind == "cot":
        return marked_answer(response)
    return response.strip() or None


def marker_rate(responses: Sequence[str]) -> float:
    """The share of responses with a marker. Raises ValueError without responses."""
    if not responses:
        raise ValueError("the marker rate of no responses: give at least one")
    return sum(map(has_marker, responses)) / len(responses)
