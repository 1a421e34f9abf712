"""A paper's card, ``papers/<slug>/README.md``, as other pages read it: its head, and what it says of single claims.

    # NAME: what the paper asks, in one sentence

    **Title of the paper.** Authors, year, [arXiv 0000.00000](https://arxiv.org/abs/0000.00000).

A paragraph that begins with ``**K3**`` or ``- **K3**`` explains how claim K3 came out here; ``**K3, K4**`` explains both.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ID = r"[A-Z]+\d\w*"


@dataclass(frozen=True)
class Card:
    """What is read from a card; a text that the card does not give is empty."""

    name: str  # as the series is called here
    question: str  # one sentence
    title: str  # of the paper
    arxiv: str  # "arXiv 0000.00000"
    link: str  # to it
    explanations: dict[str, str]  # Markdown by the id of a claim


def read_card(folder: Path) -> Card:
    """The card of the paper whose folder is ``papers/<slug>``; without one the series is called by its slug."""
    file = folder / "README.md"
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    patterns = (r"^# ([^:\n]+)(?:: (.+))?$", r"^\*\*(.+?)\.?\*\*", r"\[(arXiv [\w./-]+)\]\((\S+)\)")
    found = [re.search(pattern, text, re.MULTILINE) for pattern in patterns]
    head, title, link = (match.groups("") if match else ("", "") for match in found)
    explanations: dict[str, str] = {}
    for paragraph in re.split(r"\n\s*\n|\n(?=- )", text):
        if match := re.match(rf"\s*(?:- )?\*\*({ID}(?:(?:, | and ){ID})*)\b", paragraph):
            for name in re.findall(ID, match[1]):
                explanations[name] = f"{explanations.get(name, '')} {paragraph.strip().removeprefix('- ')}".strip()
    return Card(head[0] or folder.name, head[1], title[0], link[0], link[1], explanations)
