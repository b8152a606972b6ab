"""The tree of CPUs: whatever bytes a peer sends, they are a bounded tree with clean texts, or a broken rule."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import RemoteProtocolError
from protocol.link.chain_frames import MAX_TREE
from protocol.link.chain_tree import MAX_DEPTH, UNKNOWN, Alarm, Branch, Cpu, Hop, Seen, Way, decode_tree
from protocol.link.header import LIMIT

u8, u16, u32 = (st.integers(0, 2**bits - 1) for bits in (8, 16, 32))
u62 = st.integers(0, LIMIT - 1)


def texts(most: int) -> st.SearchStrategy[str]:
    clean = st.characters(codec="utf-8", exclude_categories=("Cc", "Cf", "Zl", "Zp"))
    return st.text(clean, max_size=most // 4)


hops = st.builds(
    Hop,
    st.sampled_from(Way),
    st.sampled_from(Seen),
    st.none() | st.integers(0, 65534),
    u32,
    u32,
    u62,
    texts(64),
    texts(120),
)
cpus = st.builds(
    Cpu,
    st.binary(min_size=16, max_size=16),
    u8,
    texts(64),
    texts(32),
    st.booleans(),
    texts(120),
    u62,
    u32,
    st.lists(st.tuples(texts(32), u16), max_size=4).map(tuple),
    st.lists(st.tuples(st.sampled_from(Alarm), texts(120)), max_size=3).map(tuple),
)


def leaf(number: int, way: Way = Way.DOWN, seen: Seen = Seen.TOLD, why: str = "") -> Branch:
    """A CPU with nothing behind it."""
    hop = Hop(way, seen, 1, 2, 3, 4, f"192.0.2.{number}", why)
    return Branch(hop.encode(), Cpu(bytes([number]) * 16, 0, f"cpu{number}").encode())


def root(*branches: Branch) -> Branch:
    return Branch(b"", Cpu(bytes(16), 0, "root").encode(), branches)


def names(branch: Branch) -> list[str]:
    """The CPUs in the order in which they are told."""
    return [Cpu.decode(branch.cpu)[0].name, *(name for each in branch.branches for name in names(each))]


def count(branch: Branch) -> int:
    return 1 + sum(map(count, branch.branches))


def depth(branch: Branch) -> int:
    return 1 + max(map(depth, branch.branches), default=0)


@given(hops, cpus)
def test_a_hop_and_a_cpu_are_read_as_they_were_written(hop: Hop, cpu: Cpu) -> None:
    assert Hop.decode(b"_" + hop.encode(), 1) == (hop, 1 + len(hop.encode()))
    assert Cpu.decode(b"_" + cpu.encode(), 1) == (cpu, 1 + len(cpu.encode()))


def test_a_tree_is_read_as_it_was_written() -> None:
    two = Branch(leaf(2).hop, leaf(2).cpu, (leaf(3), leaf(4)), cut=True)
    tree = root(leaf(1, Way.UP), two, leaf(5))
    read = decode_tree(tree.encode())
    assert names(read) == ["root", "cpu1", "cpu2", "cpu3", "cpu4", "cpu5"]
    assert read.encode() == tree.encode()
    assert read.branches[1].cut
    assert read.weight == tree.weight == len(tree.encode())


@given(st.binary(min_size=1, max_size=400))
def test_any_bytes_are_a_tree_or_a_broken_rule(data: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        assert decode_tree(data).encode() == data


@given(st.data())
def test_a_tree_with_another_byte_is_a_tree_with_clean_texts_or_a_broken_rule(data: st.DataObject) -> None:
    wire = bytearray(root(leaf(1, Way.UP), Branch(leaf(2).hop, leaf(2).cpu, (leaf(3),))).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(u8)
    try:
        tree = decode_tree(bytes(wire))
    except RemoteProtocolError:
        return
    assert tree.encode() == wire
    assert all(name.isprintable() or not name for name in names(tree))


def test_texts_are_cleaned_and_cut_and_counts_stay_within_the_wire() -> None:
    hop = Hop(Way.DOWN, Seen.GONE, 10**9, 2**40, 2**40, 2**70, "a" * 99, "b\n" * 99)
    assert Hop.decode(hop.encode())[0] == (
        *(Way.DOWN, Seen.GONE, 65534, 2**32 - 1, 2**32 - 1, LIMIT - 1),
        *("a" * 64, "b?" * 60),
    )
    kinds = tuple((f"kind {number}", 10**6) for number in range(20))
    cpu = Cpu(UNKNOWN, name="é" * 64, missed=2**70, gaps=2**40, clients=kinds, alarms=((Alarm.CLONED, "x" * 200),) * 9)
    read = Cpu.decode(cpu.encode())[0]
    assert read.name == "é" * 32
    assert (read.missed, read.gaps) == (LIMIT - 1, 2**32 - 1)
    assert read.clients == tuple((kind, 65535) for kind, _ in kinds[:16])
    assert read.alarms == ((Alarm.CLONED, "x" * 120),) * 8


def test_an_alarm_that_a_later_version_knows_is_left_out() -> None:
    wire = Cpu(UNKNOWN, alarms=((Alarm.CLONED, "a"), (Alarm.NO_KEY, "b"))).encode()
    later = wire.replace(bytes([Alarm.CLONED, 1]) + b"a", bytes([0xEE, 1]) + b"a")
    assert Cpu.decode(later)[0].alarms == ((Alarm.NO_KEY, "b"),)


CPU = Cpu(UNKNOWN).encode()
LONG = b"\x41" + b"a" * 0x41


@pytest.mark.parametrize(
    ("wire", "why"),
    [
        pytest.param(b"\1\0" + CPU, "at depth 1", id="no root"),
        pytest.param(root(leaf(1)).encode() + b"\0\0" + CPU, "at depth 0", id="two roots"),
        pytest.param(root().encode() + b"\2\0" + leaf(1).hop + CPU, "at depth 2", id="a level left out"),
        pytest.param(b"\0\2" + CPU, "at depth 0", id="a flag that nobody knows"),
        pytest.param(root(leaf(1, Way.UP), leaf(2, Way.UP)).encode(), "two ways up", id="two owners"),
        pytest.param(
            root(Branch(leaf(1).hop, CPU, (leaf(2, Way.UP),))).encode(), "two ways up", id="up again below a way down"
        ),
        pytest.param(
            root(Branch(leaf(1, seen=Seen.GONE).hop, CPU, (leaf(2),))).encode(), "told nothing", id="behind a dead link"
        ),
        pytest.param(root(leaf(1)).encode()[:-3], "cannot be read", id="cut short"),
        pytest.param(root(leaf(1)).encode() + b"\1", "cannot be read", id="something trails"),
        pytest.param(b"\0\0" + CPU[:30] + b"\xff" + CPU[31:], "cannot be read", id="a text that is not there"),
        pytest.param(b"\0\0" + bytes(16) + b"\0\2" + CPU[18:], "up or down", id="neither up nor down"),
        pytest.param(b"\0\0" + CPU[:30] + LONG + CPU[31:], "more than 64 bytes", id="a name that is too long"),
        pytest.param(b"\0\0" + CPU[:30] + b"\1\xff" + CPU[31:], "cannot be read", id="no UTF-8"),
        pytest.param(b"\0\0" + CPU[:30] + b"\1\n" + CPU[31:], "control characters", id="a newline"),
        pytest.param(b"\0\0" + CPU[:22] + b"\xff" * 8 + CPU[30:], "below 2", id="a number that is too large"),
        pytest.param(b"\0\0" + CPU[:-2] + b"\x11", "16 kinds", id="too many kinds of clients"),
        pytest.param(b"\0\0" + CPU[:-1] + b"\x09", "8 alarms", id="too many alarms"),
    ],
)
def test_what_is_no_tree_is_a_broken_rule(wire: bytes, why: str) -> None:
    with pytest.raises(RemoteProtocolError, match=why):
        decode_tree(wire)


def deep(levels: int) -> Branch:
    branch = leaf(99)
    for number in range(levels):
        branch = Branch(leaf(number % 200).hop, leaf(number % 200).cpu, (branch,))
    return branch


def test_a_tree_that_is_too_deep_is_a_broken_rule_and_is_not_told() -> None:
    tree = root(deep(20))
    with pytest.raises(RemoteProtocolError, match="at depth 16"):
        decode_tree(tree.encode())
    fitted = tree.fitted()
    assert depth(decode_tree(fitted.encode())) == depth(fitted) == MAX_DEPTH
    while fitted.branches:
        assert not fitted.cut
        (fitted,) = fitted.branches
    assert fitted.cut


def test_a_branch_that_is_too_large_loses_its_own_rest_and_no_other_branch_anything() -> None:
    huge = Branch(leaf(1).hop, leaf(1).cpu, tuple(leaf(number % 200, why="x" * 100) for number in range(300)))
    small = Branch(leaf(2).hop, leaf(2).cpu, (leaf(3), leaf(4)))
    fitted = root(huge, small, leaf(5)).fitted()
    assert fitted.weight <= MAX_TREE
    assert fitted.weight > MAX_TREE * 0.9, "the others leave it what they do not need"
    assert [count(branch) for branch in fitted.branches][1:] == [3, 1]
    assert fitted.branches[0].cut
    assert not fitted.branches[1].cut
    assert decode_tree(fitted.encode()).encode() == fitted.encode()


def test_what_has_no_room_at_all_is_said_to_be_cut() -> None:
    fitted = root(*(leaf(number % 200, why="y" * 100) for number in range(200))).fitted()
    assert 20 < len(fitted.branches) < 60
    assert fitted.cut


def test_a_tree_that_fits_is_told_as_it_is() -> None:
    tree = root(leaf(1, Way.UP), Branch(leaf(2).hop, leaf(2).cpu, (leaf(3),)))
    assert tree.fitted().encode() == tree.encode()


def test_a_cpu_is_seen_over_the_hop_of_whoever_was_told() -> None:
    told = decode_tree(root(leaf(7)).encode())
    hop = Hop(Way.UP, Seen.TOLD, 3, 60, 0, 0, "192.0.2.1", "")
    seen = told.behind(hop.encode())
    assert Hop.decode(seen.hop)[0] == hop
    assert names(seen) == ["root", "cpu7"]
