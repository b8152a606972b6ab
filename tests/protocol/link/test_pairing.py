"""Two CPUs pair, and whoever stands between them has other digits on either side."""

from __future__ import annotations

import contextlib
import hashlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.link.identity import MAX_NAME
from protocol.link.pairing import MOST_GIVEN, Agreed, Compare, Given, Pairing, PairingError, Refused, Side

if TYPE_CHECKING:
    from collections.abc import Callable

    from protocol.link.pairing import Event


def fresh(*seed: object) -> bytes:
    return hashlib.sha256(repr(seed).encode()).digest()


def made(side: Side, seed: object = 0, name: str = "") -> Pairing:
    return Pairing(side, name or f"cpu {side.value}", fresh(side, seed, "scalar"), fresh(side, seed, "nonce"))


def hear(pairing: Pairing, data: bytes, size: int = 1 << 20) -> list[Event]:
    """What a pairing makes of bytes that come in pieces of that size."""
    events = []
    for start in range(0, len(data), size):
        pairing.receive_data(data[start : start + size])
        while (event := pairing.next_event()) is not None:
            events.append(event)
    return events


def talk(a: Pairing, b: Pairing, size: int = 1 << 20) -> tuple[list[Event], list[Event]]:
    """Carry what both say until nobody says any more."""
    events: tuple[list[Event], list[Event]] = [], []
    while True:
        up, down = b.data_to_send(), a.data_to_send()
        if not up and not down:
            return events
        events[0].extend(hear(a, up, size))
        events[1].extend(hear(b, down, size))


def compared(size: int = 1 << 20) -> tuple[Pairing, Pairing, str]:
    """Both sides with their digits, which are equal."""
    a, b = made(Side.GIVES), made(Side.JOINS)
    (at_a,), (at_b,) = talk(a, b, size)
    assert isinstance(at_a, Compare)
    assert isinstance(at_b, Compare)
    assert at_a.digits == at_b.digits
    assert (at_a.name, at_b.name) == ("cpu B", "cpu A")
    return a, b, at_a.digits


@pytest.mark.parametrize("size", [1, 2, 7, 1 << 20])
def test_both_sides_show_the_same_six_digits_and_give_in_secret_once_both_agreed(size: int) -> None:
    a, b, digits = compared(size)
    assert (len(digits), digits.isdecimal()) == (6, True)
    assert b.agree() is None
    assert talk(a, b, size) == ([], [])
    assert a.agree() == Agreed()
    assert talk(a, b, size) == ([], [Agreed()])
    a.give(b"the key")
    said = a.data_to_send()
    assert b"the key" not in said
    assert hear(b, said, size) == [Given(b"the key")]
    b.give(b"taken")
    b.give(b"")
    assert talk(a, b, size) == ([Given(b"taken"), Given(b"")], [])


def test_the_longest_name_makes_the_longest_message_in_clear_and_a_longer_one_is_refused_by_its_head() -> None:
    a, b = made(Side.GIVES, name="a" * MAX_NAME), made(Side.JOINS)
    hear(a, b.data_to_send())
    offer = a.data_to_send()
    b.receive_data((len(offer) - 3 + 1).to_bytes(2, "big") + offer[2:3])
    with pytest.raises(PairingError, match="which is no pairing"):
        b.next_event()
    (at_a,), (at_b,) = talk(made(Side.GIVES, name="a" * MAX_NAME), made(Side.JOINS))
    assert isinstance(at_a, Compare)
    assert isinstance(at_b, Compare)
    assert (at_a.digits, at_b.name) == (at_b.digits, "a" * MAX_NAME)


def test_other_shares_and_nonces_have_other_digits() -> None:
    digits = set()
    for seed in range(20):
        ((event,), _) = talk(made(Side.GIVES, seed), made(Side.JOINS))
        assert isinstance(event, Compare)
        digits.add(event.digits)
    assert len(digits) > 15


def test_nothing_is_given_and_nobody_agrees_before_it_is_due() -> None:
    fresh_one = made(Side.GIVES)
    with pytest.raises(LocalProtocolError, match="no digits"):
        fresh_one.agree()
    a, b, _ = compared()
    with pytest.raises(LocalProtocolError, match="nothing is given before"):
        a.give(b"the key")
    assert a.agree() is None
    with pytest.raises(LocalProtocolError, match="nothing is given before"):
        a.give(b"the key")
    with pytest.raises(LocalProtocolError, match="no digits"):
        a.agree()
    talk(a, b)
    b.agree()
    talk(a, b)
    with pytest.raises(LocalProtocolError, match="at most"):
        a.give(bytes(MOST_GIVEN + 1))
    a.give(bytes(MOST_GIVEN))
    assert talk(a, b) == ([], [Given(bytes(MOST_GIVEN))])


@pytest.mark.parametrize("agreed_before", [False, True])
def test_who_refuses_ends_the_run_for_both(agreed_before: bool) -> None:
    a, b, _ = compared()
    if agreed_before:
        a.agree()
    b.refuse()
    assert talk(a, b) == ([Refused()], [])
    for each in (a, b):
        with pytest.raises(LocalProtocolError):
            each.give(b"the key")
        assert hear(each, b"anything") == []


def test_who_refuses_before_there_are_digits_says_nothing() -> None:
    b = made(Side.JOINS)
    assert b.data_to_send()
    b.refuse()
    assert b.data_to_send() == b""


def in_the_middle(first: Side, seed: int) -> tuple[str, str]:
    """Run with both sides in the middle, with one after the other; return the digits at A and at B."""
    a, b = made(Side.GIVES), made(Side.JOINS)
    to_a, to_b = made(Side.JOINS, ("liar", seed), "cpu B"), made(Side.GIVES, ("liar", seed), "cpu A")
    runs: dict[Side, Callable[[], Event]] = {
        Side.GIVES: lambda: talk(a, to_a)[0][0],
        Side.JOINS: lambda: talk(to_b, b)[1][0],
    }
    other = Side.JOINS if first is Side.GIVES else Side.GIVES
    found = {side: runs[side]() for side in (first, other)}
    digits = []
    for side in (Side.GIVES, Side.JOINS):
        event = found[side]
        assert isinstance(event, Compare)
        digits.append(event.digits)
    return digits[0], digits[1]


@given(st.sampled_from(Side), st.integers(0, 999))
def test_whoever_stands_in_the_middle_has_other_digits_on_either_side(first: Side, seed: int) -> None:
    at_a, at_b = in_the_middle(first, seed)
    assert at_a != at_b, "one in a million, and these were tried"


def test_a_nonce_that_was_chosen_after_the_other_one_is_found_out() -> None:
    """The one way to choose the digits, which is what the commitment is for."""
    b, liar = made(Side.JOINS), made(Side.GIVES, "liar")
    hear(liar, b.data_to_send())
    hear(b, liar.data_to_send())
    liar._nonce = fresh("another one")
    hear(liar, b.data_to_send())
    with pytest.raises(PairingError, match="another nonce"):
        hear(b, liar.data_to_send())
    with pytest.raises(LocalProtocolError):
        b.agree()


def script() -> list[tuple[bool, bytes]]:
    """What A and B say in a whole run: whether A says it, and its bytes."""
    a, b, said = made(Side.GIVES), made(Side.JOINS), []

    def carry() -> None:
        while up := b.data_to_send():
            said.append((False, up))
            hear(a, up)
            down = a.data_to_send()
            said.append((True, down))
            hear(b, down)

    carry()
    for each in (a, b):
        each.agree()
    said += [(True, a.data_to_send()), (False, b.data_to_send())]
    hear(b, said[-2][1])
    hear(a, said[-1][1])
    a.give(b"the key")
    said.append((True, a.data_to_send()))
    return said


SCRIPT = script()


@given(st.sampled_from(Side), st.data())
def test_what_is_altered_on_its_way_changes_the_digits_or_ends_the_run(side: Side, data: st.DataObject) -> None:
    """A side hears the other's part of a run with one bit turned over."""
    heard = b"".join(said for by_a, said in SCRIPT if by_a is (side is Side.JOINS))
    at = data.draw(st.integers(0, len(heard) - 1))
    altered = heard[:at] + bytes([heard[at] ^ 1 << data.draw(st.integers(0, 7))]) + heard[at + 1 :]
    _, _, digits = compared()
    victim = made(side)
    with contextlib.suppress(PairingError):
        for event in hear(victim, altered):
            if isinstance(event, Compare) and event.digits == digits:
                victim.agree()
            assert not isinstance(event, Given) or event == Given(b"the key")


@given(st.sampled_from(Side), st.lists(st.binary(max_size=120) | st.sampled_from([said for _, said in SCRIPT])))
@example(Side.GIVES, [b"\x00\x00\x01"])
@example(Side.GIVES, [b"\x00\x22\x01\x01" + bytes(33)])  # a share of low order is found with the nonce
@example(Side.JOINS, [b"\x00\x42\x02\x01" + bytes(65)])
def test_any_bytes_are_a_run_or_a_pairing_error(side: Side, pieces: list[bytes]) -> None:
    whole, single = made(side), made(side)
    data = b"".join(pieces)
    outcomes = []
    for victim, size in ((whole, 1 << 20), (single, 1)):
        events: list[object] = []
        try:
            for start in range(0, len(data), size):
                victim.receive_data(data[start : start + size])
                while (event := victim.next_event()) is not None:
                    events.append(event)
                    if isinstance(event, Compare):
                        victim.agree()
        except RemoteProtocolError as error:
            events.append(type(error))
        outcomes.append((events, victim.data_to_send()))
    assert outcomes[0] == outcomes[1]


def message(number: int, body: bytes) -> bytes:
    return len(body).to_bytes(2, "big") + bytes([number]) + body


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (message(1, b"\x02" + bytes(32) + b"\x00"), "version 2"),
        (message(1, b"\x01" + bytes(32) + b"\x02a\n"), "control characters"),
        (message(1, b"\x01" + bytes(32) + b"\x01ab"), "behind it"),
        (message(1, b"\x01" + bytes(32) + b"\x41" + b"a" * 65), "a name that is too long"),
        (message(1, b""), "cannot be read"),
        (message(3, bytes(32)), "NONCE came where it is not due"),
        (message(9, b""), "cannot be read"),
        (b"GET / HTTP/1.1\r\n", "which is no pairing"),
    ],
)
def test_what_is_no_hello_is_refused_in_words(data: bytes, why: str) -> None:
    with pytest.raises(PairingError, match=why):
        hear(made(Side.GIVES), data)


def test_a_share_of_low_order_and_a_nonce_of_another_length_are_refused() -> None:
    a = made(Side.GIVES)
    hear(a, message(1, b"\x01" + bytes(32) + b"\x00"))
    with pytest.raises(PairingError, match="low order"):
        hear(a, message(3, bytes(32)))
    a = made(Side.GIVES)
    hear(a, message(1, b"\x01" + bytes(31) + b"\x09\x00"))
    with pytest.raises(PairingError, match="a nonce of 31 bytes"):
        hear(a, message(3, bytes(31)))


def test_a_word_that_is_said_twice_or_has_a_body_ends_the_run() -> None:
    for words in ([b"", b""], [b"x"]):
        a, b, _ = compared()
        for word in words:
            b._say_sealed(type(b)._take.__globals__["_Type"].AGREE, word)
        with pytest.raises(PairingError, match="not due"):
            hear(a, b.data_to_send())
