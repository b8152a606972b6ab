"""Read a TOML table key by key, and collect its errors.

A rule is a function that turns the value found into the value wanted, or raises Wrong and says what is allowed. The
errors of a file are collected under their keys, so that its author can correct them all at once.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, TypeVar, final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = [
    "Table",
    "Wrong",
    "ip_address",
    "listed",
    "listen_address",
    "one_of",
    "refuse_duplicates",
    "shown",
    "text",
    "truth",
    "whole",
]

T = TypeVar("T")
K = TypeVar("K")
W = TypeVar("W", bound=str)
D = TypeVar("D")

SHOWN_LENGTH = 60


@final
class Wrong(Exception):
    """A value breaks its rule. ``faults`` are pairs of a place below the key (``""``, or ``"[1]"``) and a sentence."""

    def __init__(self, *faults: tuple[str, str]) -> None:
        super().__init__("; ".join(why for _, why in faults))
        self.faults = faults

    @classmethod
    def found(cls, found: object, right: str) -> Wrong:
        """Return the error that ``found`` is not ``right``, which is a noun with its article."""
        return cls(("", f"{shown(found)} is not {right}"))


def shown(found: object) -> str:
    """Write a value as it stands in the file, shortened, and without unprintable characters."""
    match found:
        case bool():
            return str(found).lower()
        case str() if found.isascii() and found.isprintable() and found and " " not in found:
            return _shortened(found)
        case str():
            return _shortened(ascii(found[:SHOWN_LENGTH]))
        case dict():
            return "a table"
        case list():
            return "a list"
        case int() if found.bit_length() > 64:  # a longer one may be longer than Python wants to print
            return "a number of that length"
        case _:
            return str(found)


def _shortened(found: str) -> str:
    return found if len(found) <= SHOWN_LENGTH else found[:SHOWN_LENGTH] + "..."


def text(found: object) -> str:
    """Accept a string of printable characters: one line."""
    if isinstance(found, str) and found.isprintable():
        return found
    raise Wrong.found(found, "a string of printable characters")


def truth(found: object) -> bool:
    """Accept true or false."""
    if isinstance(found, bool):
        return found
    raise Wrong.found(found, "true or false")


def whole(lowest: int, highest: int) -> Callable[[object], int]:
    """Return a rule that accepts a whole number from ``lowest`` to ``highest``, both included."""

    def rule(found: object) -> int:
        # A bool is an int in Python, but `true` is not a number in TOML.
        if isinstance(found, int) and not isinstance(found, bool) and lowest <= found <= highest:
            return found
        raise Wrong.found(found, f"a whole number from {lowest} to {highest}")

    return rule


def one_of(*words: W) -> Callable[[object], W]:
    """Return a rule that accepts one of these words."""

    def rule(found: object) -> W:
        for word in words:
            if word == found:
                return word
        raise Wrong.found(found, f"one of {', '.join(words)}")

    return rule


def listed(rule: Callable[[object], T]) -> Callable[[object], tuple[T, ...]]:
    """Return a rule that accepts a list whose items follow ``rule``, without duplicates."""

    def items(found: object) -> tuple[T, ...]:
        if not isinstance(found, list):
            raise Wrong.found(found, "a list, [...]")
        taken: list[T] = []
        faults: list[tuple[str, str]] = []
        for index, item in enumerate(found):
            try:
                value = rule(item)
                if value in taken:
                    raise Wrong(("", f"{shown(item)} is a duplicate"))
                taken.append(value)
            except Wrong as wrong:
                faults += [(f"[{index}]{where}", why) for where, why in wrong.faults]
        if faults:
            raise Wrong(*faults)
        return tuple(taken)

    return items


@final
class Table:
    """One table of the file, and its errors.

    A key is known once it was asked for. ``refuse_the_rest`` reports all other keys, so that a mistyped key is never
    ignored. ``where`` is the path of the table in the file.
    """

    def __init__(self, found: Mapping[str, object], errors: list[str], where: str = "") -> None:
        self.where = where
        self._found = found
        self._errors = errors
        self._known: list[str] = []

    def __contains__(self, key: str) -> bool:
        return key in self._found

    def take(self, key: str, rule: Callable[[object], T], default: D) -> T | D:
        """Return what ``rule`` makes of the key's value; the default if the key is absent or its value is wrong."""
        self._known.append(key)
        if key not in self._found:
            return default
        try:
            return rule(self._found[key])
        except Wrong as wrong:
            for where, why in wrong.faults:
                self.add_error(key + where, why)
            return default

    def table(self, key: str) -> Table:
        """Return the sub-table ``[key]``, an empty one where it is absent."""
        return Table(self.take(key, _table, {}), self._errors, self._path(key))

    def tables(self, key: str) -> list[Table]:
        """Return the array of tables ``[[key]]``, empty where it is absent."""
        found = self.take(key, _tables(key), ())
        return [Table(item, self._errors, f"{self._path(key)}[{n}]") for n, item in enumerate(found)]

    def add_error(self, key: str, why: str) -> None:
        """Report an error of ``key``."""
        self._errors.append(f"{self._path(key)}: {why}")

    def refuse_the_rest(self) -> None:
        """Report every unknown key, with the most similar known one."""
        for key in [key for key in self._found if key not in self._known]:
            import difflib  # a file without errors need not pay for it

            near = difflib.get_close_matches(key, self._known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"the keys are {', '.join(self._known)}"
            self.add_error(shown(key), f"no such key; {hint}")

    def _path(self, key: str) -> str:
        return f"{self.where}.{key}" if self.where else key


def _table(found: object) -> Mapping[str, object]:
    if isinstance(found, dict):
        return found
    raise Wrong.found(found, "a table; write its name in [...]")


def _tables(key: str) -> Callable[[object], tuple[Mapping[str, object], ...]]:
    def rule(found: object) -> tuple[Mapping[str, object], ...]:
        if isinstance(found, list) and all(isinstance(item, dict) for item in found):
            return tuple(found)
        raise Wrong.found(found, f"an array of tables; write [[{key}]] above each table")

    return rule


def ip_address(found: object) -> str:
    """Accept an IP address."""
    try:
        return str(ipaddress.ip_address(text(found)))
    except ValueError as exc:
        raise Wrong.found(found, 'an IP address, for example "127.0.0.1" or "::1"') from exc


def listen_address(found: object) -> tuple[str, int]:
    """Accept an IP address, or localhost, with a TCP port."""
    # An IPv6 address must be in brackets, or its last group would be taken for the port. A name is not looked up: at
    # the start there may be no resolver to ask.
    match = re.fullmatch(r"(?:\[([^\[\]]+)\]|([^\[\]:]+)):([0-9]{1,5})", text(found))
    if match is None or int(match[3]) > 65535:
        raise Wrong.found(found, 'host:port, for example "127.0.0.1:8080" or "[::1]:8080"')
    return ip_address(match[1] or ("127.0.0.1" if match[2] == "localhost" else match[2])), int(match[3])


def refuse_duplicates(tables: Sequence[Table], key: str, values: Sequence[K | None]) -> None:
    """Report each value of a key that an earlier table has too; None is no value."""
    for index, (table, value) in enumerate(zip(tables, values, strict=True)):
        first = values.index(value)
        if value is not None and first < index:
            table.add_error(key, f"{shown(value)} is already used by {tables[first].where}")
