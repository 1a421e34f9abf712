"""The errors a user can cause and mend: their message is shown alone, without a traceback, and sets the exit status."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class OrchardError(Exception):
    """Something went wrong that the message explains in full: the value, the place and the fix."""

    exit_code: ClassVar[int] = 1


class BadInput(OrchardError):
    """A name, path or value that was given is wrong; nothing was started."""

    exit_code: ClassVar[int] = 2


class Failed(OrchardError):
    """A training ended by what it learned, and by no mistake of the caller's or of the machine's. Its run is never finished; in a search
    it is a trial without a score."""


class Diverged(Failed):
    """A training met a loss that is not finite: ``diverged at step S with learning rate R``."""


def closest(name: str, known: Iterable[str]) -> str:
    """The hint that ends an "unknown name" message: ``did you mean 'x'? `` when one is close, then all known names."""
    names = sorted(known)
    matches = difflib.get_close_matches(name, names, n=1) or difflib.get_close_matches(
        name.lower(), [other.lower() for other in names], n=1
    )
    match = next((other for other in names if matches and other.lower() == matches[0].lower()), None)
    return (f"did you mean {match!r}? " if match else "") + f"known: {', '.join(names) or 'none'}"
