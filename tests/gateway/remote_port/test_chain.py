"""The chain as each of its CPUs sees it, over real links: who is asked how often, and what a liar can do."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any

import pytest
import trio

from gateway.chain import shown
from gateway.remote_port import server
from gateway.remote_port.chain import Chain, ChainLink
from protocol.link.chain_tree import UNKNOWN, Branch, Cpu, Hop, Seen, Way, decode_tree
from protocol.session.inquiry import Inquiry
from tests.gateway.remote_port.linked import chained, holds, node

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.gateway.remote_port.linked import Node


def drawn(cpu: dict[str, Any], depth: int = 0) -> list[str]:
    """The CPUs of a chain, one a line, deeper ones further in."""
    here = f"{' ' * depth}{cpu['name']}{' here' if cpu['here'] else ''}"
    if cpu["answer"] != "told":
        here += f" ({cpu['answer']})"
    return [here, *(line for below in cpu["below"] for line in drawn(below, depth + 1))]


async def seen_from(asked: Node) -> list[str]:
    return drawn(shown(await asked.chain.look()))


async def test_every_cpu_sees_the_whole_chain_from_the_owner_down() -> None:
    with trio.fail_after(10):
        async with chained(3) as (nodes, _):
            for at, each in enumerate(nodes):
                lines = [f"{' ' * n}{node.name}" for n, node in enumerate(nodes)]
                lines[at] += " here"
                assert await seen_from(each) == lines


async def test_cpus_at_other_links_are_seen_too() -> None:
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            owner = node(nursery, "owner")
            owner.own()
            cable = await owner.serve()
            leaves = [node(nursery, f"cpu{n}") for n in range(3)]
            for leaf in leaves:
                leaf.dial(cable)
                await leaf.up()
            assert sorted(await seen_from(leaves[1])) == [" cpu0", " cpu1 here", " cpu2", "owner"]
            nursery.cancel_scope.cancel()


async def test_a_hop_that_is_silent_is_named_by_every_cpu_within_five_seconds() -> None:
    with trio.fail_after(20):
        async with chained(3) as (nodes, cables):
            cables[1].freeze()
            began = trio.current_time()
            silent: dict[int, list[str]] = {}

            async def ask(at: int) -> None:
                silent[at] = await seen_from(nodes[at])

            async with trio.open_nursery() as asking:
                for at in range(4):
                    asking.start_soon(ask, at)
            assert trio.current_time() - began < 5
            assert silent[0] == ["owner here", " cpu1", "  cpu2 (silent)"]
            assert silent[1] == ["owner", " cpu1 here", "  cpu2 (silent)"]
            assert silent[2] == ["cpu1 (silent)", " cpu2 here", "  cpu3"]
            assert silent[3] == ["cpu1 (silent)", " cpu2", "  cpu3 here"]


async def test_a_link_that_is_down_says_since_when_and_why_and_what_was_behind_it() -> None:
    with trio.fail_after(20):
        async with chained(2) as (nodes, cables):
            cables[1].unplug()
            await holds(lambda: not nodes[2].device.linked)
            await holds(lambda: all(session.link is None for session in nodes[1].service.sessions))
            (lost,) = shown(await nodes[0].chain.look())["below"][0]["below"]
            assert (lost["name"], lost["answer"]) == ("cpu2", "gone")
            assert lost["link"]["state"] == "down"
            assert lost["link"]["reason"]
            assert await seen_from(nodes[2]) == ["cpu1 (gone)", " cpu2 here"]


async def test_a_cpu_that_left_for_good_is_told_of_until_it_comes_back() -> None:
    with trio.fail_after(20):
        async with chained(1) as ((owner, leaf), _):
            leaf.unit.scope.cancel()
            await holds(lambda: not owner.service.sessions)
            assert await seen_from(owner) == ["owner here", " cpu1 (gone)"]
            leaf.dial_with(leaf.device._candidates, leaf.settings)
            await holds(lambda: owner.service.sessions)
            await leaf.up()
            assert await seen_from(owner) == ["owner here", " cpu1"]


def test_of_cpus_that_left_no_more_are_remembered_than_fit() -> None:
    assert server._LOST == 16


async def test_a_peer_of_an_older_version_is_a_leaf_of_which_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    acceptor: Any = server.Acceptor  # type: ignore[attr-defined]

    class Older(acceptor):  # type: ignore[misc]
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, features=0)

    with trio.fail_after(10):
        async with chained(1) as (nodes, _):
            monkeypatch.setattr(server, "Acceptor", Older)
            cable = await nodes[1].serve()
            last = node(nodes[1].nursery, "last")
            last.dial(cable)
            await last.up()
            assert await seen_from(last) == ["cpu1 (older)", " last here"]
            assert await seen_from(nodes[0]) == ["owner here", " cpu1", "  last (older)"]
            (warning,) = shown(await last.chain.look())["warnings"]
            assert "older version" in warning


async def test_a_wrong_key_is_named_at_both_ends() -> None:
    with trio.fail_after(10):
        async with chained(1) as ((owner, leaf), (cable,)):
            stranger = node(leaf.nursery, "stranger")
            stranger.dial(cable, key="another key")
            await holds(lambda: owner.service.wrong_keys)
            for each in (owner, stranger):
                await holds(lambda each=each: each._described().alarms)  # type: ignore[misc]
            (at_owner,) = shown(await owner.chain.look())["warnings"]
            at_stranger = shown(await stranger.chain.look())
            (below,) = at_stranger["below"]
            assert at_owner.startswith("wrong AuthenticationKey between this CPU and 127.0.0.1.")
            assert below["warnings"] == [at_owner]
            assert "Set RemotePort.R#.AuthenticationKey" in at_owner
            assert at_stranger["answer"] == "gone"
            (told,) = shown(await leaf.chain.look())["warnings"]
            assert told == at_owner, "every CPU of the chain is told of it"


async def test_two_cpus_with_one_node_id_are_named() -> None:
    with trio.fail_after(10):
        async with chained(1) as ((owner, leaf), (cable,)):
            clone = node(leaf.nursery, "clone")
            clone.key = owner.key
            clone.dial(cable)
            await holds(lambda: clone._described().alarms)
            ((_, whom),) = clone.device.alarms
            (below,) = shown(await clone.chain.look())["below"]
            assert whom == "127.0.0.1"
            assert "remove the file node_key" in below["warnings"][0]


async def test_links_are_asked_once_for_all_who_ask_at_once() -> None:
    with trio.fail_after(10):
        async with chained(3) as (nodes, _):
            async with trio.open_nursery() as asking:
                for _ in range(20):
                    for each in nodes:
                        asking.start_soon(each.chain.look)
            inquiries = [each.device._session.inquiry for each in nodes[1:]]
            inquiries += [session.session.inquiry for each in nodes[:-1] for session in each.service.sessions]
            assert all(inquiry._number <= 4 for inquiry in inquiries)


async def test_a_flood_of_questions_is_answered_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    with trio.fail_after(20):
        async with chained(1) as ((owner, leaf), _):
            inquiry, answering = leaf.device._session.inquiry, owner.service.sessions[0].session.inquiry
            answers: list[int] = []
            answer = answering.answer

            def count(number: int, tree: bytes) -> None:
                answers.append(number)
                answer(number, tree)

            monkeypatch.setattr(answering, "answer", count)
            began = trio.current_time()
            while trio.current_time() - began < 1:
                inquiry.ask(100)
                leaf.device._flush()
                await trio.lowlevel.checkpoint()
            await holds(lambda: answers[-1:] == [inquiry._number])
            assert inquiry._number > 100
            assert 2 <= len(answers) <= 7
            assert owner.service.sessions[0].chain_link._question is None


@contextlib.asynccontextmanager
async def beside_a_liar() -> AsyncIterator[tuple[Node, Node, Node]]:
    """An owner and two CPUs behind it, both linked; what the last of them will say is the test's to choose."""
    async with trio.open_nursery() as nursery:
        owner, honest, liar = (node(nursery, name) for name in ("owner", "honest", "liar"))
        owner.own()
        cable = await owner.serve()
        for each in (honest, liar):
            each.dial(cable)
            await each.up()
        yield owner, honest, liar
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("tree", "why"),
    [
        pytest.param(b"\0\0rubbish", "cannot be read", id="no tree"),
        pytest.param(Branch(b"", Cpu(b"x" * 16).encode()).encode(), "another CPU than the peer", id="another CPU's"),
    ],
)
async def test_an_answer_that_is_none_ends_its_own_link_alone(
    tree: bytes, why: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), trio.fail_after(20):
        async with beside_a_liar() as (owner, honest, liar):

            async def lie(*_: object) -> bytes:
                await trio.lowlevel.checkpoint()
                return tree

            monkeypatch.setattr(liar.chain, "picture", lie)
            found = await seen_from(owner)
            assert found[:1] == ["owner here"]
            assert " honest" in found
            assert " liar" not in found
            assert why in caplog.text
            assert honest.device.linked


async def test_what_a_liar_invents_crowds_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with trio.fail_after(20):
        async with beside_a_liar() as (_, honest, liar):
            hop = Hop(Way.DOWN, Seen.TOLD, 0, 0, 0, 0, "192.0.2.1", "x" * 120).encode()
            invented = tuple(Branch(hop, Cpu(UNKNOWN, name="\x1b[2J" * 16).encode()) for _ in range(500))

            async def lie(*_: object) -> bytes:
                await trio.lowlevel.checkpoint()
                return Branch(b"", Cpu(liar.key.id, name="liar").encode(), invented).fitted().encode()

            monkeypatch.setattr(liar.chain, "picture", lie)
            tree = await honest.chain.look()
            assert decode_tree(tree.encode()).weight <= 8192
            names = [line.strip() for line in drawn(shown(tree))]
            assert {"owner", "honest here", "liar"} <= set(names)
            assert not any("\x1b" in name for name in names)


async def test_a_bug_in_an_answer_ends_no_link(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with trio.fail_after(20):
        async with chained(1) as ((owner, leaf), _):

            async def fail(*_: object) -> bytes:
                await trio.lowlevel.checkpoint()
                raise RuntimeError("a bug")

            with monkeypatch.context() as patch:
                patch.setattr(leaf.chain, "picture", fail)
                assert await seen_from(owner) == ["owner here", " cpu1 (silent)"]
            assert "a question has no answer" in caplog.text
            assert leaf.device.linked
            assert await seen_from(owner) == ["owner here", " cpu1"]


async def test_nothing_is_asked_where_the_time_does_not_suffice() -> None:
    with trio.fail_after(10):
        async with chained(1) as ((owner, _), __):
            tree = await owner.chain.look(patience=0.1)
            assert drawn(shown(tree)) == ["owner here", " cpu1 (silent)"]
            assert owner.service.sessions[0].session.inquiry._number == 0


async def test_a_link_that_falls_leaves_nobody_waiting(autojump_clock: trio.testing.MockClock) -> None:
    inquiry = Inquiry()
    link = ChainLink(
        lambda seen: (Hop(Way.DOWN, seen, None, 0, 0, 0, "", ""), Cpu(UNKNOWN)),
        lambda: Chain(lambda: Cpu(UNKNOWN), tuple, tuple),
        lambda: None,
    )
    link.stands(inquiry, 1, UNKNOWN)
    async with trio.open_nursery() as waiting:
        waiting.start_soon(link.update, 3.0)
        await trio.testing.wait_all_tasks_blocked()
        link.fell()
    assert trio.current_time() == 0
    assert Hop.decode(link.branch().hop)[0].seen is Seen.GONE


async def test_a_question_that_was_not_answered_in_time_is_asked_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    asked: list[float] = []
    inquiry = Inquiry()
    link = ChainLink(
        lambda seen: (Hop(Way.DOWN, seen, None, 0, 0, 0, "", ""), Cpu(UNKNOWN)),
        lambda: Chain(lambda: Cpu(UNKNOWN), tuple, tuple),
        lambda: asked.append(trio.current_time()),
    )
    chain = Chain(lambda: Cpu(UNKNOWN), lambda: [link], tuple)
    link.stands(inquiry, 1, UNKNOWN)
    for _ in range(3):
        await chain.look()
    assert len(asked) == 3
