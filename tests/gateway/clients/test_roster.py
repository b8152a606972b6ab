"""How many clients a port has, and which of them writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gateway.clients.roster import Roster
from gateway.port.bus import Bus
from gateway.port.rights import Right
from gateway.port.router import Router

if TYPE_CHECKING:
    from gateway.clients.roster import Writers
    from gateway.port.router import Handle

WRITE = Right.READ | Right.TCP


async def joined(roster: Roster, *names: str, rights: Right = WRITE) -> list[Handle]:
    port = Router({"P0": Bus("P0")}).grant("P0", WRITE, "service")
    clients = [port.attenuate(rights, name) for name in names]
    for client in clients:
        assert roster.refusal(rights) is None
        roster.join(client)
        client.open(rights & ~Right.READ)
        roster.choose()
    return clients


def silent(clients: list[Handle]) -> list[str | None]:
    return [client.session.silent for client in clients if client.session is not None]


async def test_unless_somebody_says_otherwise_everybody_writes_however_many_they_are() -> None:
    assert silent(await joined(Roster(), *map(str, range(300)))) == [None] * 300


@pytest.mark.parametrize(("writers", "turns"), [("first", "abc"), ("last", "cba")])
async def test_only_the_first_or_the_last_writes_and_the_next_one_when_it_leaves(writers: Writers, turns: str) -> None:
    roster = Roster(writers)
    here = await joined(roster, "a", "b", "c")
    while here:
        writer = turns[-len(here)]
        assert silent(here) == [None if client.holder == writer else f"only {writer} may write now" for client in here]
        (leaves,) = [client for client in here if client.holder == writer]
        here.remove(leaves)
        roster.leave(leaves)
        roster.leave(leaves)


@pytest.mark.parametrize("writers", ["first", "last"])
async def test_who_may_only_listen_is_never_the_one_who_writes(writers: Writers) -> None:
    roster = Roster(writers)
    (before,) = await joined(roster, "before", rights=Right.READ)
    (client,) = await joined(roster, "client")
    (behind,) = await joined(roster, "behind", rights=Right.READ)
    assert silent([before, client, behind]) == ["before may only read", None, "behind may only read"]
    roster.leave(client)
    assert silent([before, behind]) == ["before may only read", "behind may only read"]


@pytest.mark.parametrize("writers", ["all", "first"])
async def test_one_client_too_many_is_refused_until_one_leaves(writers: Writers) -> None:
    roster = Roster(writers, 2)
    clients = await joined(roster, "a", "b")
    assert roster.refusal(WRITE) == "2 clients are connected to this port already"
    roster.leave(clients[0])
    await joined(roster, "c")


async def test_where_the_last_one_takes_over_it_takes_the_place_of_the_oldest() -> None:
    roster = Roster("last", 2)
    old, other = await joined(roster, "old", "other")
    (new,) = await joined(roster, "new")
    assert (old.revoked, other.revoked) == ("new took its place", None)
    assert silent([other, new]) == ["only new may write now", None]
    roster.leave(old)  # its task ends after that
    assert silent([other, new]) == ["only new may write now", None]


async def test_who_may_only_listen_takes_nobodys_place() -> None:
    roster = Roster("last", 1)
    await joined(roster, "old")
    assert roster.refusal(Right.READ) == "1 clients are connected to this port already"
