from __future__ import annotations

import errno
import socket
from ipaddress import ip_interface
from typing import TYPE_CHECKING

import pytest
import trio

from gateway.discovery import interfaces as interfaces
from gateway.tasks.watch import Cell
from tests.netns import needs_network, network

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.netns import Host


@pytest.fixture
def host() -> Iterator[Host]:
    """A host of its own, with this thread on it."""
    with network(1) as (only,), only.inside():
        yield only


def addresses(found: tuple[interfaces.Interface, ...]) -> set[str]:
    return {str(address) for link in found for address in link.addresses}


def test_the_loopback_is_no_link_that_others_can_be_found_on() -> None:
    assert not any(address.ip.is_loopback for link in interfaces.interfaces() for address in link.addresses)


def test_an_error_of_the_kernel_is_told() -> None:
    with (
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock,
        pytest.raises(OSError, match="the kernel does not list its links") as told,
    ):
        list(interfaces._dump(sock, 4000))
    assert told.value.errno == errno.EOPNOTSUPP


@needs_network
def test_a_link_is_told_with_its_addresses(host: Host) -> None:
    host.ip("address add 2001:db8::1/64 dev eth0 nodad")
    host.ip("address add 10.1.0.1 peer 10.1.0.2 dev eth0")
    (link,) = interfaces.interfaces()
    wanted = {ip_interface("10.77.0.1/24"), ip_interface("2001:db8::1/64"), ip_interface("10.1.0.1/32")}
    assert wanted <= set(link.addresses)


@needs_network
def test_a_link_without_multicast_or_address_does_not_count(host: Host) -> None:
    host.ip("link set eth0 multicast off")
    assert interfaces.interfaces() == ()
    host.ip("link set eth0 multicast on")
    assert len(interfaces.interfaces()) == 1
    host.ip("address flush dev eth0")
    assert interfaces.interfaces() == ()


@needs_network
async def test_every_change_is_told(host: Host) -> None:
    seen: Cell[tuple[interfaces.Interface, ...]] = Cell(())
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(interfaces.watch, seen.set)
            (link,) = await seen.wait_for(bool)
            host.unplug()
            await seen.wait_for(lambda found: not found)
            host.plug()
            (again,) = await seen.wait_for(bool)
            assert (again.index, again.ups) == (link.index, link.ups + 1)
            # Its IPv6 address counts only once nobody else has been found to have it.
            await seen.wait_for(lambda found: any(text.startswith("fe80::") for text in addresses(found)))
            host.ip("address add 10.77.0.9/24 dev eth0")
            await seen.wait_for(lambda found: "10.77.0.9/24" in addresses(found))
            host.ip("address delete 10.77.0.9/24 dev eth0")
            await seen.wait_for(lambda found: "10.77.0.9/24" not in addresses(found))
            nursery.cancel_scope.cancel()


@needs_network
async def test_a_link_that_went_and_came_between_two_looks_is_another(host: Host) -> None:
    (before,) = interfaces.interfaces()
    host.unplug()
    host.plug()
    seen: Cell[tuple[interfaces.Interface, ...]] = Cell(())
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(interfaces.watch, seen.set)
            (after,) = await seen.wait_for(bool)
            assert (after.index, after.ups) == (before.index, before.ups + 1)
            nursery.cancel_scope.cancel()


@needs_network
def test_a_link_local_address_has_its_link_as_zone(host: Host) -> None:
    host.ip("address add fe80::7/64 dev eth0 nodad")
    (link,) = interfaces.interfaces()
    assert ip_interface(f"fe80::7%{link.index}/64") in link.addresses


@needs_network
def test_an_address_is_on_an_own_link_where_a_network_of_ours_holds_it(host: Host) -> None:
    on_link = ("127.0.0.9", "::1", "10.77.0.9", "fe80::9%eth0")
    assert [address for address in (*on_link, "10.78.0.9", "2001:db8::9") if interfaces.on_own_link(address)] == [
        *on_link
    ]


def test_where_the_kernel_does_not_tell_its_links_only_the_loopback_is_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")

    monkeypatch.setattr(interfaces, "interfaces", fail)
    assert interfaces.on_own_link("127.0.0.1")
    assert not interfaces.on_own_link("10.77.0.9")
