"""A new key goes from a server to those clients whom it is for, over real links, and what became of it comes back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio
import trio.testing

from gateway.remote_port import client
from protocol.link.handshake import key_point
from protocol.link.key_frames import Rekey, Rekeyed, Told, ToldCpu
from protocol.parameters.addresses import AddressList
from tests.gateway.remote_port.linked import KEY, chained, holds, node

if TYPE_CHECKING:
    import pytest

    from tests.gateway.remote_port.linked import Node

NEW = "the next key"
SECONDS = 4.0


def change(owner: Node, *named: Node, number: int = 7) -> Rekey:
    """Give the owner's server another key beside the old one; return what is to be told to those named."""
    owner.service._old_key = lambda: (KEY, NEW, 3600.0)
    owner.service.update_policy(AddressList(), NEW, True)
    return Rekey(number, int(SECONDS * 1000), 3600, tuple(each.node for each in named), NEW)


async def carry(owner: Node, told: Rekey, seconds: float = SECONDS) -> dict[str, Told]:
    return {cpu.name: cpu.told for cpu in await owner.service.rekey(told, seconds)}


async def two_leaves(nursery: trio.Nursery) -> tuple[Node, Node, Node, Any]:
    owner = node(nursery, "owner")
    owner.own()
    cable = await owner.serve()
    leaves = [node(nursery, f"cpu{n}") for n in (1, 2)]
    for leaf in leaves:
        leaf.dial(cable)
        await leaf.up()
    return owner, leaves[0], leaves[1], cable


async def test_a_client_takes_the_key_and_its_session_goes_on() -> None:
    with trio.fail_after(10):
        async with chained(1) as ((owner, leaf), _):
            (session,) = owner.service.sessions
            leaf.below = (ToldCpu(b"x" * 16, "cpu9", Told.GONE),)
            assert await carry(owner, change(owner, leaf)) == {"cpu1": Told.CHANGED, "cpu9": Told.GONE}
            assert owner.service.sessions == (session,)
            assert session.point == key_point(NEW)
            assert (session.session.resumes, owner.service.wrong_keys) == (1, 0)
            assert [told.number for told in leaf.told] == [7]


async def test_whoever_is_not_named_is_told_nothing() -> None:
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            owner, leaf, stranger, _ = await two_leaves(nursery)
            assert await carry(owner, change(owner, leaf)) == {"cpu1": Told.CHANGED, "cpu2": Told.UNNAMED}
            assert stranger.told == []
            nursery.cancel_scope.cancel()


async def test_who_refuses_is_named_and_not_waited_for() -> None:
    with trio.fail_after(10):
        async with chained(1) as ((owner, leaf), _):
            leaf.takes = Told.REFUSED
            assert await carry(owner, change(owner, leaf), 9) == {"cpu1": Told.REFUSED}


async def test_a_bug_of_the_client_costs_it_the_key_and_not_the_link(caplog: pytest.LogCaptureFixture) -> None:
    with trio.fail_after(10):
        async with chained(1) as ((owner, leaf), _):
            leaf.device.told_keys._take = None  # type: ignore[assignment]
            assert await carry(owner, change(owner, leaf)) == {"cpu1": Told.FAILED}
            assert leaf.device.linked
            assert "a bug: the key that the server told was not taken" in caplog.text
            assert NEW not in caplog.text


async def test_a_client_whose_link_is_down_is_named_and_told_once_it_is_back() -> None:
    with trio.fail_after(20):
        async with chained(1) as ((owner, leaf), (cable,)):
            cable.unplug()
            await holds(lambda: all(session.link is None for session in owner.service.sessions))
            told = change(owner, leaf)
            assert await carry(owner, told) == {"cpu1": Told.GONE}
            cable.plug()
            await holds(lambda: any(session.link is not None for session in owner.service.sessions))
            assert await carry(owner, change(owner, leaf, number=8)) == {"cpu1": Told.CHANGED}


async def test_a_client_that_left_for_good_is_named() -> None:
    with trio.fail_after(10):
        async with chained(1) as ((owner, leaf), _):
            leaf.unit.scope.cancel()
            await holds(lambda: not owner.service.sessions)
            assert await carry(owner, change(owner, leaf)) == {"cpu1": Told.GONE}


async def test_a_client_that_is_silent_is_named_in_time_and_told_again_when_its_link_is_made_anew() -> None:
    with trio.fail_after(20):
        async with chained(1) as ((owner, leaf), (cable,)):
            cable.freeze()
            assert await carry(owner, change(owner, leaf), 0.5) == {"cpu1": Told.SILENT}
            async with trio.open_nursery() as nursery:
                outcomes: list[dict[str, Told]] = []

                async def again() -> None:
                    outcomes.append(await carry(owner, change(owner, leaf, number=8), 15))

                nursery.start_soon(again)
                await trio.testing.wait_all_tasks_blocked(0.01)
                cable.cut()
                cable.thaw()
            assert outcomes == [{"cpu1": Told.CHANGED}]


async def test_a_client_of_an_older_version_is_named_and_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    initiator: Any = client.Initiator  # type: ignore[attr-defined]

    class Older(initiator):  # type: ignore[misc]
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, features=1)

    monkeypatch.setattr(client, "Initiator", Older)
    with trio.fail_after(10):
        async with chained(1) as ((owner, leaf), _):
            assert await carry(owner, change(owner, leaf)) == {"cpu1": Told.OLDER}
            assert leaf.told == []
            assert leaf.device.linked


async def test_who_says_that_he_has_it_and_does_not_prove_it_is_not_believed() -> None:
    with trio.fail_after(10):
        async with chained(1) as ((owner, leaf), _):
            leaf.takes = Told.SAME
            assert await carry(owner, change(owner, leaf), 0.5) == {"cpu1": Told.SILENT}


async def test_an_answer_in_another_name_or_to_another_key_is_passed_over() -> None:
    with trio.fail_after(10):
        async with chained(1) as ((owner, leaf), _):
            (session,) = owner.service.sessions
            asked, go_on = trio.Event(), trio.Event()

            async def slow(_: Rekey) -> tuple[Told, tuple[ToldCpu, ...]]:
                asked.set()
                await go_on.wait()
                return Told.REFUSED, ()

            async def ask() -> None:
                assert await carry(owner, change(owner, leaf)) == {"cpu1": Told.REFUSED}

            leaf.device.told_keys._take = slow
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                await asked.wait()
                for number, who in ((7, b"x" * 16), (8, leaf.node)):
                    session.key_link.heard(Rekeyed(number, (ToldCpu(who, "", Told.CHANGED),)))
                    assert owner.service._key_news._answers == {}
                go_on.set()
            before = dict(owner.service._key_news._answers)
            session.key_link.heard(Rekeyed(7, (ToldCpu(leaf.node, "", Told.CHANGED),)))
            assert owner.service._key_news._answers == before, "nobody asks any more"


async def test_of_keys_that_come_while_one_is_taken_the_last_is_taken_next() -> None:
    with trio.fail_after(10):
        async with chained(1) as ((_, leaf), _):
            entered, go_on = trio.Event(), trio.Event()

            async def slow(told: Rekey) -> tuple[Told, tuple[ToldCpu, ...]]:
                leaf.told.append(told)
                entered.set()
                await go_on.wait()
                return Told.SAME, ()

            keys, tasks = leaf.device.told_keys, leaf.device._tasks
            keys._take = slow
            for number in (1, 1, 2, 3):
                keys.heard(Rekey(number, 1000, 1, (leaf.node,), NEW), tasks)
                await entered.wait()
            go_on.set()
            await holds(lambda: keys.taking is None)
            assert [told.number for told in leaf.told] == [1, 3]
            keys.heard(Rekey(3, 1000, 1, (leaf.node,), NEW), tasks)
            assert keys.taking is None, "what was answered is not taken once more"


async def test_a_server_of_another_key_names_its_clients_and_tells_them_nothing() -> None:
    with trio.fail_after(10):
        async with chained(1) as ((owner, leaf), _):
            assert owner.service.apart() == [ToldCpu(leaf.node, "cpu1", Told.APART)]
