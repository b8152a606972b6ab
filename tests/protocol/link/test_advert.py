from __future__ import annotations

import contextlib
from dataclasses import replace
from ipaddress import ip_interface

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocol.link.advert import MAX_CHASSIS, Advert, Candidate, on_link, order
from protocol.link.identity import MAX_NAME
from protocol.link.port_state import has_controls

OWNER = Advert(bytes(range(16)), 0, "blade-7", 0, keyed=True, versions=(1,))
RECORD = b"\x06wire=1%node=000102030405060708090a0b0c0d0e0f\x06port=0\x0fchassis=blade-7\x06hops=0\x07key=yes"

adverts = st.builds(
    Advert,
    node=st.binary(min_size=16, max_size=16),
    index=st.integers(0, 255),
    chassis=st.text(st.characters(codec="utf-8"), max_size=MAX_CHASSIS // 4).filter(
        lambda text: not has_controls(text)
    ),
    hops=st.integers(0, 7),
    keyed=st.booleans(),
    versions=st.lists(st.integers(1, 255), min_size=1, max_size=32).map(tuple),
    name=st.text(st.characters(codec="utf-8"), max_size=MAX_NAME // 4).filter(str.isprintable),
)


def strings(text: bytes) -> list[bytes]:
    found = []
    while text:
        length = text[0]
        found.append(text[1 : 1 + length])
        text = text[1 + length :]
    return found


def record(*strings: bytes) -> bytes:
    return b"".join(bytes([len(string)]) + string for string in strings)


def test_the_record_is_as_the_document_shows_it() -> None:
    assert OWNER.encode() == RECORD
    assert Advert.decode(RECORD) == OWNER


@given(adverts)
@example(replace(OWNER, chassis="x" * MAX_CHASSIS, versions=tuple(range(224, 256)), name="x" * MAX_NAME))
def test_what_is_said_is_what_is_read(advert: Advert) -> None:
    assert Advert.decode(advert.encode()) == advert
    assert len(advert.encode()) <= 600


@given(adverts, st.randoms(use_true_random=False), st.lists(st.binary(max_size=20), max_size=5))
def test_order_case_and_unknown_keys_do_not_matter(advert: Advert, random: object, more: list[bytes]) -> None:
    known = {string.partition(b"=")[0]: string for string in strings(advert.encode())}
    others = [string for string in more if string.partition(b"=")[0].lower() not in known]
    shouted = [string.replace(key, key.upper(), 1) for key, string in known.items()]
    said = [*shouted, *others]
    random.shuffle(said)  # type: ignore[attr-defined]  # Hypothesis types it loosely
    assert Advert.decode(record(*said)) == advert


def test_a_name_is_told_where_there_is_one_and_one_that_cannot_be_shown_is_left_out() -> None:
    named = replace(OWNER, name="cpu2")
    assert named.encode() == RECORD + record(b"name=cpu2")
    assert Advert.decode(RECORD + record(b"name=" + b"x" * (MAX_NAME + 1))) == OWNER
    assert Advert.decode(RECORD + record(b"name=\x1b[2Jcpu2")) == OWNER
    with pytest.raises(ValueError, match="a name has at most 64 bytes"):
        replace(OWNER, name="\u00e9" * 33)


def test_the_first_of_equal_keys_counts() -> None:
    assert Advert.decode(RECORD + record(b"hops=3", b"HOPS=4")) == OWNER


@given(st.binary(max_size=1400))
@example(b"")
@example(bytes(1301))
@example(RECORD + b"\xff")
def test_any_bytes_are_an_advert_or_a_value_error(text: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert Advert.decode(Advert.decode(text).encode())


@given(st.data())
def test_a_damaged_record_is_an_advert_or_a_value_error(data: st.DataObject) -> None:
    text = bytearray(RECORD)
    for _ in range(data.draw(st.integers(1, 4))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    try:
        again = Advert.decode(bytes(text))
    except ValueError:
        return
    assert Advert.decode(again.encode()) == again


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"node=00", "a node id has 16 bytes, not 1"),
        (b"node=xyz", "non-hexadecimal"),
        (b"port=256", "a port index is 0 to 255, not 256"),
        (b"port=-1", "port='-1' is not a number"),
        (b"port=007", "is not a number"),
        (b"port=1\n", "is not a number"),
        (b"port=99999999999999999999999", "is not a number"),
        (b"hops=8", "a number of hops is 0 to 7, not 8"),
        (b"hops", "does not say hops="),
        (b"key=maybe", "key='maybe' is neither yes nor no"),
        (b"wire=", "wire='' is not a number"),
        (b"wire=1,0", "a wire version is 1 to 255, not 0"),
        (b"wire=" + b",".join([b"1"] * 33), "1 to 32 wire versions"),
        (b"chassis=" + b"x" * (MAX_CHASSIS + 1), "a chassis name has at most 200 bytes"),
        (b"chassis=blade\x1b[2J", "a chassis name with control characters"),
        (b"chassis=blade\nP0 up", "a chassis name with control characters"),
        ("chassis=blade\u202e".encode(), "a chassis name with control characters"),
    ],
)
def test_a_wrong_value_is_named(said: bytes, why: str) -> None:
    key = said.partition(b"=")[0]
    rest = [string for string in strings(RECORD) if not string.startswith(key + b"=")]
    with pytest.raises(ValueError, match=why):
        Advert.decode(record(said, *rest))


def test_a_record_cut_in_a_string_is_refused() -> None:
    with pytest.raises(ValueError, match="in the middle of a string"):
        Advert.decode(RECORD[:-1])


def test_a_record_that_is_too_long_is_refused_unread() -> None:
    with pytest.raises(ValueError, match="1302 bytes is longer than 1300"):
        Advert.decode(bytes(1302))


def seen(number: int, **what: object) -> Candidate:
    advert = replace(OWNER, node=bytes([number]) * 16, **what)  # type: ignore[arg-type]  # a case's own words
    return Candidate(advert, (f"10.0.0.{number}",), 5000)


def test_own_chassis_then_equal_index_then_hops_then_node_id() -> None:
    best_first = (
        seen(9, chassis="ours", index=2, hops=3),
        seen(3, chassis="ours", index=1, hops=0),
        seen(4, chassis="ours", index=1, hops=0),
        seen(2, chassis="ours", index=1, hops=1),
        seen(1, chassis="theirs", index=2, hops=0),
        seen(0, chassis="", index=0, hops=0),
    )
    assert order(best_first[::-1], "ours", 2) == best_first


@given(st.lists(adverts, max_size=20), st.sampled_from(["", "blade-7"]), st.integers(0, 3), st.randoms())
def test_the_order_does_not_depend_on_who_was_seen_first(
    some: list[Advert], chassis: str, index: int, random: object
) -> None:
    candidates = [
        Candidate(advert, ("10.0.0.1",), 1) for advert in {(each.node, each.index): each for each in some}.values()
    ]
    first = order(candidates, chassis, index)
    random.shuffle(candidates)  # type: ignore[attr-defined]  # likewise
    assert order(candidates, chassis, index) == first
    assert set(first) <= set(candidates)


NETWORKS = [ip_interface(text) for text in ("10.77.0.1/24", "2001:db8::1/64", "fe80::1%2/64", "169.254.3.1/16")]


@pytest.mark.parametrize(
    ("address", "held"),
    [
        ("10.77.0.2", True),
        ("10.77.1.2", False),
        ("127.0.0.1", False),
        ("169.254.9.9", True),
        ("2001:db8::2", True),
        ("2001:db8:1::2", False),
        ("fe80::2%2", True),
        ("fe80::2%3", False),
        ("fe80::2", False),
        ("::ffff:10.77.0.2", False),
    ],
)
def test_an_address_is_on_link_if_a_network_of_ours_holds_it(address: str, held: bool) -> None:
    assert on_link([address], NETWORKS) == ((address,) if held else ())


def test_addresses_come_once_with_ipv4_first_and_link_local_last() -> None:
    given = ["fe80::2%2", "2001:db8::2", "169.254.9.9", "10.77.0.2", "2001:db8:0::2"]
    assert on_link(given, NETWORKS) == ("10.77.0.2", "2001:db8::2", "169.254.9.9", "fe80::2%2")


def test_no_more_than_eight_addresses_of_one_server_count() -> None:
    assert len(on_link((f"10.77.0.{number}" for number in range(2, 50)), NETWORKS)) == 8
