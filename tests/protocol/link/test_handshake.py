from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import RemoteProtocolError
from protocol.link.connection import Connection, State
from protocol.link.cpace import PointError
from protocol.link.handshake import (
    Acceptor,
    HandshakeError,
    IdentityError,
    Initiator,
    OwnNodeError,
    Peer,
    VersionError,
    WrongKeyError,
    key_point,
)
from protocol.link.header import CutError, encoded_header
from protocol.link.hello import Confirm, HelloReply, Identity
from protocol.link.identity import NodeKey, is_signed
from protocol.link.reasons import CloseReason
from protocol.link.secure import Sealer
from protocol.link.session_frames import Close
from tests.protocol.session.links import (
    A_KEY,
    A_NODE,
    B_KEY,
    B_NODE,
    FEATURES,
    POINT,
    acceptor,
    connections,
    events,
    initiator,
)

OTHER = key_point("pelco124")


def replied(a: Initiator, b: Acceptor) -> HelloReply:
    return b.reply(a.hello)[0]


def test_both_sides_reach_the_same_keys_and_know_each_other() -> None:
    a, b = initiator(), acceptor()
    reply, identity_b, at_b = b.reply(a.hello)
    confirm, at_a = a.confirm(reply)
    b.finish(confirm)
    assert at_a == at_b
    identity_a, server = a.identify(identity_b, at_a)
    assert server == Peer(1, B_NODE, 3, "blade-7", "cpu-b", FEATURES)
    assert b.identify(identity_a, at_b) == Peer(1, A_NODE, 0, "", "cpu-a", FEATURES)


def test_features_that_only_one_side_knows_are_not_used() -> None:
    a = Initiator(POINT, A_KEY, 0, bytes([1]) * 32, bytes(16), features=0b0111)
    b = Acceptor(POINT, B_KEY, 3, "", bytes([2]) * 32, features=0b1101)
    reply, identity_b, at_b = b.reply(a.hello)
    confirm, at_a = a.confirm(reply)
    b.finish(confirm)
    identity_a, server = a.identify(identity_b, at_a)
    assert (identity_a.features, identity_b.features) == (0b0111, 0b1101)
    assert (server.features, b.identify(identity_a, at_b).features) == (0b0101, 0b0101)


def test_a_node_that_only_claims_an_id_is_found_out_by_either_side() -> None:
    """The liar has the AuthenticationKey and a key pair of his own, and knows his victim's public key."""
    liar = NodeKey(b"l" * 32)
    a, b = initiator(), acceptor()
    reply, identity_b, at_b = b.reply(a.hello)
    confirm, at_a = a.confirm(reply)
    b.finish(confirm)
    signed = liar.sign(b"daisyport remote port node down" + at_a.output)
    with pytest.raises(IdentityError, match="has another node's key"):
        a.identify(replace(identity_b, public=liar.public, signature=signed), at_a)
    with pytest.raises(IdentityError, match="did not sign this handshake"):
        a.identify(replace(identity_b, signature=signed), at_a)
    identity_a, _ = a.identify(identity_b, at_a)
    with pytest.raises(IdentityError, match="has another node's key"):
        b.identify(replace(identity_a, public=liar.public), at_b)
    with pytest.raises(IdentityError, match="did not sign this handshake"):
        b.identify(replace(identity_a, signature=bytes(64)), at_b)


def test_a_signature_serves_neither_the_other_side_nor_another_run() -> None:
    a, b = initiator(), acceptor(node=A_KEY)
    with pytest.raises(OwnNodeError):
        b.reply(a.hello)
    both = A_KEY.sign(b"daisyport remote port node down" + bytes(64))
    assert not is_signed(A_KEY.public, both, b"daisyport remote port node up" + bytes(64))
    runs = []
    for seed in (2, 3):
        b = acceptor(seed=seed)
        reply, identity, _ = b.reply(a.hello)
        runs.append((reply, identity))
    _, at_a = a.confirm(runs[0][0])
    with pytest.raises(IdentityError, match="did not sign this handshake"):
        a.identify(runs[1][1], at_a)


def test_an_identity_that_is_not_proved_leaves_every_session_alive_and_is_told() -> None:
    client, server = connections(State.CLIENT_IDENTITY)
    lie = Identity(A_KEY.public, bytes(64), 0, "").parts().payload
    head = encoded_header(1, Identity.code, 0, 0, len(lie) + 16, 0)
    assert client._agreement is not None
    ((kind, why),) = events(server, head + Sealer(client._agreement.keys.up).seal(head, lie))
    assert kind is IdentityError
    assert issubclass(kind, CutError)
    assert "did not sign" in why
    assert server.peer is None
    close = Close(CloseReason.IDENTITY)
    assert events(client, server.send(close)) == [close]


def test_no_secret_is_shown() -> None:
    a, b = initiator(), acceptor()
    agreement = a.confirm(replied(a, b))[1]
    assert "keys" not in repr(agreement)


def test_a_wrong_key_is_found_by_the_client_first() -> None:
    a, b = initiator(point=OTHER), acceptor()
    with pytest.raises(WrongKeyError, match="same AuthenticationKey"):
        a.confirm(replied(a, b))


def test_a_client_that_guesses_on_is_found_by_the_server() -> None:
    a, b = initiator(), acceptor(point=OTHER)
    b.reply(a.hello)
    with pytest.raises(WrongKeyError):
        b.finish(Confirm(bytes(64)))


def test_a_tampered_tag_is_refused_by_either_side() -> None:
    a, b = initiator(), acceptor()
    reply = replied(a, b)
    with pytest.raises(WrongKeyError):
        a.confirm(replace(reply, tag=bytes(64)))
    tag = bytearray(a.confirm(reply)[0].tag)
    tag[0] ^= 1
    with pytest.raises(WrongKeyError):
        b.finish(Confirm(bytes(tag)))


def test_a_replayed_handshake_is_refused_by_either_side() -> None:
    a, b = initiator(), acceptor()
    reply = replied(a, b)
    confirm, _ = a.confirm(reply)
    again = acceptor(seed=9)
    again.reply(a.hello)
    with pytest.raises(WrongKeyError):
        again.finish(confirm)
    with pytest.raises(WrongKeyError):
        initiator(seed=9).confirm(reply)


def test_a_hello_that_comes_back_to_its_sender_is_refused() -> None:
    a = initiator()
    with pytest.raises(OwnNodeError, match="cloned image"):
        acceptor(node=A_KEY).reply(a.hello)
    b = acceptor(node=A_KEY, seed=2)
    with pytest.raises(OwnNodeError):
        a.confirm(replied(initiator(node=B_KEY), b))
    connection = Connection(initiator())
    kind, why = events(connection, connection.data_to_send())[-1]
    assert issubclass(kind, HandshakeError)
    assert "while HelloReply is awaited" in why


def test_a_downgraded_version_is_refused() -> None:
    a, b = initiator(versions=(1, 2)), acceptor(versions=(1, 2))
    assert replied(a, b).version == 2
    stripped = acceptor(versions=(1, 2)).reply(replace(a.hello, versions=(1,)))[0]
    assert stripped.version == 1
    with pytest.raises(WrongKeyError):
        a.confirm(stripped)


def test_a_version_that_nobody_offered_is_refused() -> None:
    a = initiator()
    with pytest.raises(VersionError, match="chose version 2"):
        a.confirm(replace(replied(a, acceptor()), version=2))
    with pytest.raises(VersionError, match=r"offers versions \(7,\), we speak \(1,\)"):
        acceptor().reply(initiator(versions=(7,)).hello)


def test_a_point_of_low_order_is_refused_by_either_side() -> None:
    a, b = initiator(), acceptor()
    with pytest.raises(PointError):
        a.confirm(replace(replied(a, b), share=bytes(32)))
    with pytest.raises(PointError):
        b.reply(replace(a.hello, share=bytes(32)))


def test_a_failed_handshake_leaves_the_session_alive() -> None:
    for error in (WrongKeyError, OwnNodeError, VersionError, PointError):
        assert issubclass(error, CutError)


def wire(key: str, seed: int) -> bytes:
    """All that an eavesdropper sees of a whole handshake."""
    point = key_point(key)
    a, b = Connection(initiator(point=point, seed=seed)), Connection(acceptor(point=point, seed=seed + 100))
    seen = a.data_to_send()
    events(b, seen)
    reply = b.data_to_send()
    events(a, reply)
    return seen + reply + a.data_to_send()


def test_nothing_on_the_wire_depends_on_the_key_alone() -> None:
    """A byte that the randomness leaves as it is, the key leaves as it is too: no guess can be checked by it."""
    runs = {(key, seed): wire(key, seed) for key in ("", "a", "pelco123") for seed in range(1, 9)}
    for at in range(len(runs["", 1])):
        by_key = {key: {runs[key, seed][at] for seed in range(1, 9)} for key in ("", "a", "pelco123")}
        if any(len(values) == 1 for values in by_key.values()):
            assert len(set().union(*by_key.values())) == 1


def test_no_share_and_no_tag_ever_comes_again() -> None:
    runs = [wire(key, seed) for key in ("", "pelco123") for seed in range(1, 9)]
    pieces = [run[at : at + 16] for run in runs for at in (16, 32, len(run) - 64, len(run) - 32)]
    assert len(set(pieces)) == len(pieces)


def test_an_empty_key_is_a_key_like_others() -> None:
    assert len({key_point(key) for key in ("", "a", "é", "e")}) == 4
    a, b = initiator(point=key_point("")), acceptor(point=key_point(""))
    b.finish(a.confirm(replied(a, b))[0])


@given(st.binary(min_size=1, max_size=400), st.booleans())
def test_random_bytes_in_the_handshake_are_an_error_or_wait(data: bytes, at_server: bool) -> None:
    connection = Connection(acceptor() if at_server else initiator())
    whole = events(connection, data)
    again = Connection(acceptor() if at_server else initiator())
    pieces = itertools.chain.from_iterable(events(again, bytes([byte])) for byte in data)
    assert list(dict.fromkeys(map(repr, pieces))) == list(dict.fromkeys(map(repr, whole)))


@given(st.data())
def test_a_mutated_handshake_ends_in_a_cut_or_waits(data: st.DataObject) -> None:
    a, b = Connection(initiator()), Connection(acceptor())
    hello = a.data_to_send()
    events(b, hello)
    reply = b.data_to_send()
    target, good = data.draw(st.sampled_from([(Connection(acceptor()), hello), (a, reply)]))
    bad = bytearray(good)
    at = data.draw(st.integers(0, len(bad) - 1))
    bad[at] ^= data.draw(st.integers(1, 255))
    got = events(target, bytes(bad))
    if target is a:
        assert not any(isinstance(event, Peer) for event in got)
    assert all(issubclass(event[0], CutError) for event in got if isinstance(event, tuple))
    assert issubclass(CutError, RemoteProtocolError)


def test_the_point_of_a_key_is_fixed() -> None:
    assert key_point("pelco123") == POINT
