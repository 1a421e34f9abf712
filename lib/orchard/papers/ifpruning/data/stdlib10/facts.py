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

import ast
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
    expression = draw.choice(EXPRESSIONS)(draw)
    return expression, repr(evaluated(expression)), expression


def _numbers(draw: random.Random) -> list[int]:
    return [draw.randint(0, 99) for _ in range(draw.randint(2, 4))]


def _bounds(draw: random.Random) -> str:
    start, stop = draw.randint(-3, 2), draw.choice(("", *range(1, 5)))
    return f"{start}:{stop}"


def _word(draw: random.Random) -> str:
    return repr(draw.choice(WORDS) + draw.choice(("", *WORDS)))


EXPRESSIONS: tuple[Callable[[random.Random], str], ...] = (
    lambda draw: f"{_word(draw)}[{_bounds(draw)}]",
    lambda draw: f"{_word(draw)}[::-1]",
    lambda draw: f"{_word(draw)}[{draw.randint(-3, 2)}]",
    lambda draw: f"{_word(draw)}.{draw.choice(('upper', 'title'))}()",
    lambda draw: f"{_word(draw)}.{draw.choice(('count', 'find'))}({draw.choice('aeilr')!r})",
    lambda draw: f"len({_word(draw)} * {draw.randint(2, 9)})",
    lambda draw: f"{_numbers(draw)}[{_bounds(draw)}]",
    lambda draw: f"{_numbers(draw)}[::-1]",
    lambda draw: f"{draw.choice(('sorted', 'sum', 'max', 'min'))}({_numbers(draw)})",
    lambda draw: f"{_numbers(draw)} + {_numbers(draw)}",
    lambda draw: f"{draw.randint(10, 99)} {draw.choice(('//', '%'))} {draw.randint(2, 9)} + {draw.randint(0, 9)}",
)
FUNCTIONS: dict[str, Callable[..., Any]] = {"len": len, "sorted": sorted, "sum": sum, "max": max, "min": min}
METHODS = ("upper", "title", "count", "find")
OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
}  # fmt: skip


def evaluated(expression: str) -> Any:
    """The value of an expression of integers, strings, lists, slices and the functions above. It runs no code: it walks the syntax tree.

    ValueError, naming the part, for anything else.
    """

    try:
        return _value(ast.parse(expression, mode="eval").body)
    except NotImplementedError as error:
        raise ValueError(f"{expression!r}: {error.args[0]!r} is not among what pyeval may evaluate") from None


def _value(node: ast.expr | None) -> Any:
    match node:
        case None:  # an open end of a slice
            return None
        case ast.Constant(int() | str() as constant):
            return constant
        case ast.UnaryOp(ast.USub(), operand):
            return -_value(operand)
        case ast.List(elements):
            return [_value(element) for element in elements]
        case ast.Slice(lower, upper, step):
            return slice(_value(lower), _value(upper), _value(step))
        case ast.Subscript(of, index):
            return _value(of)[_value(index)]
        case ast.BinOp(left, kind, right) if type(kind) in OPERATORS:
            return OPERATORS[type(kind)](_value(left), _value(right))
        case ast.Call(ast.Name(name), arguments, []) if name in FUNCTIONS:
            return FUNCTIONS[name](*map(_value, arguments))
        case ast.Call(ast.Attribute(of, name), arguments, []) if name in METHODS and type(found := _value(of)) is str:
            return getattr(found, name)(*map(_value, arguments))
    raise NotImplementedError(ast.unparse(node))


PROCEDURES: dict[str, Callable[[random.Random], tuple[str, str, str]]] = {
    "arith": arith, "pyeval": pyeval, "weekday": weekday,
}  # fmt: skip


def drawn(domain: str, split: str, draw: random.Random) -> Iterator[Fact]:
    """Facts of a procedural domain that belong to a split, without end; some come twice."""
    while True:
        item, answer, fact = PROCEDURES[domain](draw)
        if split_of(f"{domain}/{fact}") == split:
            yield item, answer
