"""The kinds of value that a parameter can have: how each is read, written, and described to clients.

Every ``parse`` gets text that a client sent, so each bound is checked before the text is used: no number is converted
before its length is known, no list is read before it is known to be short. Every error continues the sentence
"NAME: ..." and begins with "must".
"""

from __future__ import annotations

import ipaddress
import re
from enum import Enum
from typing import Generic, Protocol, TypeVar, final

from protocol.frozen import frozen
from protocol.parameters.addresses import AddressList
from protocol.parameters.markup import quoted

__all__ = ["Addresses", "Choice", "Count", "HostName", "Integer", "Rule", "Secret", "Text", "YesNo"]

T = TypeVar("T")


class Rule(Protocol[T]):
    """One kind of value as text."""

    def parse(self, text: str) -> T:
        """Read the value. Raise ValueError with what it must be.

        The message never repeats the text of a secret.
        """
        ...

    def format(self, value: T) -> str:
        """Write the value in its canonical form; ``parse`` of it gives the same value."""
        ...

    def definition(self) -> tuple[str, ...]:
        """Return the lines inside ``<type>`` of a listdefinitions answer."""
        ...


@final
@frozen
class YesNo:
    """``yes`` or ``no``."""

    def parse(self, text: str) -> bool:
        """Read exactly ``yes`` or ``no``."""
        if text not in ("yes", "no"):
            raise ValueError("must be yes or no")
        return text == "yes"

    def format(self, value: bool) -> str:
        """Write the contract's word."""
        return "yes" if value else "no"

    def definition(self) -> tuple[str, ...]:
        """Describe a bool with its two words."""
        return ('<bool true="yes" false="no" />',)


@final
@frozen
class Choice(Generic[T]):
    """One of a few values: enum members, shown by their value, or numbers."""

    options: tuple[T, ...]

    def parse(self, text: str) -> T:
        """Return the option that is written exactly like this: the contract's words are case-sensitive."""
        for option in self.options:
            if self.format(option) == text:
                return option
        raise ValueError(f"must be one of {', '.join(self._texts)}")

    def format(self, value: T) -> str:
        """Write the option's word or number."""
        return str(value.value if isinstance(value, Enum) else value)

    def definition(self) -> tuple[str, ...]:
        """Describe an enum with an entry for each option."""
        entries = (f"  <entry value={quoted(t)} niceValue={quoted(t)} />" for t in self._texts)
        return ("<enum>", *entries, "</enum>")

    @property
    def _texts(self) -> tuple[str, ...]:
        return tuple(self.format(option) for option in self.options)


@final
@frozen
class Integer:
    """A whole number from ``minimum`` (0 or more) to ``maximum``, both included."""

    minimum: int
    maximum: int

    def parse(self, text: str) -> int:
        """Read decimal digits."""
        value = _digits(text)
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"must be a number from {self.minimum} to {self.maximum}")
        return value

    def format(self, value: int) -> str:
        """Write it in decimal."""
        return str(value)

    def definition(self) -> tuple[str, ...]:
        """Describe an int with its bounds."""
        return (f'<int min="{self.minimum}" max="{self.maximum}" />',)


@final
@frozen
class Count:
    """A whole number that the product reports. It is read-only, so it has no bounds to describe."""

    def parse(self, text: str) -> int:
        """Read decimal digits."""
        return _digits(text)

    def format(self, value: int) -> str:
        """Write it in decimal."""
        return str(value)

    def definition(self) -> tuple[str, ...]:
        """Describe an int without bounds."""
        return ("<int />",)


@final
@frozen
class Text:
    """Any printable text of at most ``longest`` characters; empty is allowed."""

    longest: int

    def parse(self, text: str) -> str:
        """Take the text as it is."""
        return _short(text, self.longest)

    def format(self, value: str) -> str:
        """Return the text as it is."""
        return value

    def definition(self) -> tuple[str, ...]:
        """Describe a string with its limit."""
        return (f'<string maxlen="{self.longest}" />',)


@final
@frozen
class Secret:
    """A text that is shown only to a role that may write it; others see whether one is set."""

    longest: int

    def parse(self, text: str) -> str:
        """Take the text as it is."""
        return _short(text, self.longest)

    def format(self, value: str) -> str:
        """Return the text as it is. The caller decides first whether its reader may see it (``listing.shown``)."""
        return value

    def definition(self) -> tuple[str, ...]:
        """Describe a password with its limit."""
        return (f'<password maxlen="{self.longest}" />',)


@final
@frozen
class HostName:
    """A host name (RFC 1123, underscores tolerated) or a numeric address; empty means none is set."""

    def parse(self, text: str) -> str:
        """Check the form; nothing is resolved."""
        if text and not _is_address(text) and not _is_name(text):
            raise ValueError("must be a host name or an IP address, without port, blanks or brackets")
        return text

    def format(self, value: str) -> str:
        """Return the name as it is."""
        return value

    def definition(self) -> tuple[str, ...]:
        """Describe a host name."""
        return ("<hostname />",)


@final
@frozen
class Addresses:
    """A list of IP addresses; see ``protocol.parameters.addresses``."""

    longest: int = 2048

    def parse(self, text: str) -> AddressList:
        """Read the list, item by item."""
        return AddressList.parse(_short(text, self.longest))

    def format(self, value: AddressList) -> str:
        """Return the list as it was written."""
        return str(value)

    def definition(self) -> tuple[str, ...]:
        """Describe an address list."""
        return ("<ipList />",)


def _digits(text: str) -> int:
    # int() would also take blanks, signs, underscores, other scripts' digits, and thousands of them.
    if not re.fullmatch(r"[0-9]{1,10}", text):
        raise ValueError("must be a number in decimal digits")
    return int(text)


def _short(text: str, longest: int) -> str:
    if len(text) > longest:
        raise ValueError(f"must have at most {longest} characters, not {len(text)}")
    return text


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    # A zone may hold anything, as far as the standard library is concerned.
    _, percent, zone = text.partition("%")
    return not percent or re.fullmatch(r"[A-Za-z0-9_.-]{1,15}", zone) is not None


_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")


def _is_name(text: str) -> bool:
    labels = text.removesuffix(".").split(".")
    # A last label of digits alone is a mistyped address (1.2.3.256), which a resolver would take literally.
    return len(text) <= 253 and all(map(_LABEL.fullmatch, labels)) and not labels[-1].isdigit()
