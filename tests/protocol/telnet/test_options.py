"""Telnet's options: what is agreed to, and that no answer is answered."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocol.telnet.decoder import IAC, Code, Decoder, Negotiation
from protocol.telnet.options import Option, Options, Side

VERBS = [Code.WILL, Code.WONT, Code.DO, Code.DONT]


def said(verb: Code, option: int) -> bytes:
    return bytes([IAC, verb, option])


def test_a_server_asks_for_what_a_serial_port_needs() -> None:
    asked = Decoder().feed(Options().start())
    assert asked == [
        Negotiation(Code.WILL, Option.ECHO),
        Negotiation(Code.WILL, Option.SUPPRESS_GO_AHEAD),
        Negotiation(Code.DO, Option.SUPPRESS_GO_AHEAD),
        Negotiation(Code.WILL, Option.BINARY),
        Negotiation(Code.DO, Option.BINARY),
        Negotiation(Code.DO, Option.COM_PORT),
    ]


def test_a_yes_to_a_question_is_not_answered() -> None:
    options = Options()
    options.start()
    assert options.receive(Negotiation(Code.WILL, Option.COM_PORT)) == b""
    assert options.agreed(Side.PEER, Option.COM_PORT)
    assert not options.agreed(Side.US, Option.COM_PORT)


def test_a_no_to_a_question_is_not_answered_and_may_be_taken_back() -> None:
    options = Options()
    options.start()
    assert options.receive(Negotiation(Code.WONT, Option.BINARY)) == b""
    assert not options.agreed(Side.PEER, Option.BINARY)
    assert options.receive(Negotiation(Code.WILL, Option.BINARY)) == said(Code.DO, Option.BINARY)
    assert options.agreed(Side.PEER, Option.BINARY)
    assert options.receive(Negotiation(Code.WONT, Option.BINARY)) == said(Code.DONT, Option.BINARY)


def test_a_client_may_ask_us_for_the_com_port_too() -> None:
    options = Options()
    options.start()
    assert options.receive(Negotiation(Code.DO, Option.COM_PORT)) == said(Code.WILL, Option.COM_PORT)
    assert options.receive(Negotiation(Code.DO, Option.COM_PORT)) == b""


@pytest.mark.parametrize("option", [Option.ECHO, 24, 31, 255])
def test_what_the_peer_offers_and_we_do_not_want_is_refused(option: int) -> None:
    assert Options().receive(Negotiation(Code.WILL, option)) == said(Code.DONT, option)
    assert Options().receive(Negotiation(Code.WONT, option)) == b""


def test_what_we_do_not_have_is_refused() -> None:
    assert Options().receive(Negotiation(Code.DO, 24)) == said(Code.WONT, 24)
    assert Options().receive(Negotiation(Code.DONT, 24)) == b""


@example([(Code.WONT, Option.BINARY), (Code.WILL, Option.BINARY)])
@given(st.lists(st.tuples(st.sampled_from(VERBS), st.sampled_from([*Option, 24]))))
def test_two_servers_that_meet_come_to_an_end_whatever_was_lost_or_doubled(first: list[tuple[Code, int]]) -> None:
    ours, theirs = Options(), Options()
    to_theirs, to_ours = ours.start(), theirs.start() + b"".join(said(*each) for each in first)
    for _ in range(64):
        answers = b"".join(ours.receive(cut) for cut in Decoder().feed(to_ours) if isinstance(cut, Negotiation))
        to_ours = b"".join(theirs.receive(cut) for cut in Decoder().feed(to_theirs) if isinstance(cut, Negotiation))
        to_theirs = answers
        if not to_ours and not to_theirs:
            return
    raise AssertionError(f"they go on: {to_ours!r} {to_theirs!r}")
