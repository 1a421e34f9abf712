"""The facts of Stdlib-10: what is asked and its answer, as text.

    memory       greek cyrillic arabic ethiopic    U+03B1 -> GREEK SMALL LETTER ALPHA      unicodedata
                 entity                            &alpha; -> U+03B1                       html.entities
                 status                            HTTP 404, ENOENT -> its message         http, errno
    procedural   arith     3-digit + - *, base 16, roman numerals
                 pyeval    the repr of a small Python expression
                 weekday   the day of a date from 1900 to 2099

Facts of memory are known as a list, the same for training and tests (memory is the point; only wordings are held out). Facts of a
procedure are drawn; a hash of the fact gives its split, so that a test asks for what training cannot have stated.
"""

from __future__ import annotations

import datetime
import errno
import html.entities
import http
import operator
import os
import random
import unicodedata
from collections.abc import Callable, Iterator
from typing import Any

from orchard.data.source import split_of

SCRIPTS = ("greek", "cyrillic", "arabic", "ethiopic")
MEMORY = (*SCRIPTS, "entity", "status")
FIRST_YEAR, LAST_YEAR = 1900, 2099
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
ROMAN = (
    *((1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"), (50, "L"), (40, "XL")),
    *((10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I")),
)
WORDS = ("apple", "bird", "cloud", "dust", "ember", "frost", "grain", "hill", "ink", "jar", "kite", "leaf")
Fact = tuple[str, str]  # what is asked, and the answer


def code_points(text: str) -> str:
    """Characters as U+03B1, separated by spaces."""
    return " ".join(f"U+{ord(character):04X}" for character in text)


def memory() -> dict[str, list[Fact]]:
    """Every fact of the memory domains. They follow this Python's Unicode version and this machine's messages."""
    facts: dict[str, list[Fact]] = {domain: [] for domain in MEMORY}
    for point in range(0x20000):  # no script of ours has a character beyond
        name = unicodedata.name(chr(point), "")
        script = name.partition(" ")[0].lower()
        if script in SCRIPTS:
            facts[script].append((code_points(chr(point)), name))
    facts["entity"] = [(f"&{name}", code_points(text)) for name, text in html.entities.html5.items()]
    facts["status"] = [(f"HTTP {status.value}", status.phrase) for status in http.HTTPStatus]
    facts["status"] += [(name, os.strerror(number)) for number, name in sorted(errno.errorcode.items())]
    return facts


def roman(number: int) -> str:
    """A roman numeral, for 1 to 3999."""
    text = ""
    for value, letters in ROMAN:
        text += letters * (number // value)
        number %= value
    return text


def arith(draw: random.Random) -> tuple[str, str, str]:
    """What is asked, the answer, and the fact it is: sums and products are the same fact in either order."""
    kind = draw.randrange(5)
    if kind < 3:
        a, b, sign = draw.randint(100, 999), draw.randint(100, 999), "+-*"[kind]
        answer = (operator.add, operator.sub, operator.mul)[kind](a, b)
        fact = f"{a} - {b}" if sign == "-" else f"{min(a, b)} {sign} {max(a, b)}"
        return f"{a} {sign} {b}", str(answer), fact
    if kind == 3:
        number = draw.randint(256, 65535)
        item = f"{number} in base 16"
        return item, f"{number:X}", item
    number = draw.randint(1, 3999)
    item = f"{number} in roman numerals"
    return item, roman(number), item


def weekday(draw: random.Random) -> tuple[str, str, str]:
    first = datetime.date(FIRST_YEAR, 1, 1)
    days = (datetime.date(LAST_YEAR, 12, 31) - first).days
    date = first + datetime.timedelta(days=draw.randint(0, days))
    return date.isoformat(), DAYS[date.weekday()], date.isoformat()


def pyeval(draw: random.Random) -> tuple[str, str, str]:
    """An expression of strings, lists and numbers with its value, made side by side: no code is run from text."""
    word, numbers, others = _word(draw), _numbers(draw), _numbers(draw)
    start, stop = draw.randint(-3, 2), draw.choice((None, *range(1, 5)))
    bounds, part = f"{start}:{'' if stop is None else stop}", slice(start, stop)
    index, times, letter = draw.randint(-3, 2), draw.randint(2, 9), draw.choice("aeilr")
    case, search = draw.choice(("upper", "title")), draw.choice(("count", "find"))
    name, function = draw.choice(tuple(FUNCTIONS.items()))
    number, divisor, more, sign = draw.randint(10, 99), draw.randint(2, 9), draw.randint(0, 9), draw.choice(("//", "%"))
    made: tuple[tuple[str, Any], ...] = (
        (f"{word!r}[{bounds}]", word[part]),
        (f"{word!r}[::-1]", word[::-1]),
        (f"{word!r}[{index}]", word[index]),
        (f"{word!r}.{case}()", getattr(word, case)()),
        (f"{word!r}.{search}({letter!r})", getattr(word, search)(letter)),
        (f"len({word!r} * {times})", len(word * times)),
        (f"{numbers}[{bounds}]", numbers[part]),
        (f"{numbers}[::-1]", numbers[::-1]),
        (f"{name}({numbers})", function(numbers)),
        (f"{numbers} + {others}", numbers + others),
        (f"{number} {sign} {divisor} + {more}", divmod(number, divisor)[sign == "%"] + more),
    )
    expression, value = draw.choice(made)
    return expression, repr(value), expression


def _numbers(draw: random.Random) -> list[int]:
    return [draw.randint(0, 99) for _ in range(draw.randint(2, 4))]


def _word(draw: random.Random) -> str:
    return draw.choice(WORDS) + draw.choice(("", *WORDS))


FUNCTIONS: dict[str, Callable[[list[int]], Any]] = {"sorted": sorted, "sum": sum, "max": max, "min": min}
PROCEDURES: dict[str, Callable[[random.Random], tuple[str, str, str]]] = {
    "arith": arith, "pyeval": pyeval, "weekday": weekday,
}  # fmt: skip


def drawn(domain: str, split: str, draw: random.Random) -> Iterator[Fact]:
    """Facts of a procedural domain that belong to a split, without end; some come twice."""
    while True:
        item, answer, fact = PROCEDURES[domain](draw)
        if split_of(f"{domain}/{fact}") == split:
            yield item, answer
