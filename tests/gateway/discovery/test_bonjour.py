"""Bonjour between real hosts, where the machine allows network namespaces, and at its limits with a made-up network."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from ipaddress import ip_interface
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from gateway.discovery import bonjour, resolver
from gateway.discovery import interfaces as interfaces
from gateway.discovery.bonjour import Bonjour
from gateway.discovery.interfaces import Interface
from gateway.discovery.mdns import SERVICE, MdnsError, ServiceRecord
from gateway.tasks.watch import Cell
from protocol.link.advert import Advert, Candidate
from tests.gateway.discovery.bonjour_peer import node
from tests.netns import needs_network, network

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from tests.netns import Host

PATIENCE = 10
"""Seconds: finding addresses and saying goodbye have times of their own, which add up to three or so."""

needs_avahi = pytest.mark.skipif(
    any(shutil.which(program) is None for program in ("avahi-daemon", "avahi-browse", "dbus-daemon", "unshare")),
    reason="avahi-daemon, avahi-utils and dbus are not installed",
)


class Peer:
    """A process on a host that announces and looks, and what it last said of each thing."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._rest = b""
        self.said: dict[str, Any] = {}

    async def tell(self, *words: str) -> None:
        assert self._process.stdin is not None
        await self._process.stdin.send_all("".join(f"{word}\n" for word in words).encode())

    async def line(self) -> str:
        assert self._process.stdout is not None
        while b"\n" not in self._rest:
            more = await self._process.stdout.receive_some()
            assert more, "the peer ended"
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()

    async def until(self, what: str, holds: Callable[[Any], bool]) -> Any:
        while what not in self.said or not holds(self.said[what]):
            self.said |= json.loads(await self.line())
        return self.said[what]

    async def sees(self, *nodes: int) -> list[Any]:
        found = await self.until("seen", lambda seen: [each[0] for each in seen] == list(nodes))
        assert isinstance(found, list)
        return found

    async def stop(self) -> int:
        assert self._process.stdin is not None
        await self._process.stdin.aclose()
        return await self._process.wait()


@contextlib.asynccontextmanager
async def peer(host: Host, number: int, bind: str = "0.0.0.0") -> AsyncIterator[Peer]:
    async with host.running(sys.executable, "-m", "tests.gateway.discovery.bonjour_peer", str(number), bind) as process:
        made = Peer(process)
        yield made
        assert await made.stop() == 0


@needs_network
async def test_two_hosts_find_each_other_and_say_goodbye() -> None:
    with trio.fail_after(PATIENCE), network(2) as (left, right):
        async with peer(left, 1) as one, peer(right, 2) as two:
            await one.tell("announce 0 5001 blade-7", "browse")
            await two.tell("browse", "announce 1 5002 blade-8")
            assert await two.sees(1) == [[1, 0, "blade-7", ["10.77.0.1"], 5001]]
            assert await one.sees(2) == [[2, 1, "blade-8", ["10.77.0.2"], 5002]]
            await one.tell("withdraw")
            await two.sees()
            assert await two.stop() == 0
            await one.sees()
            assert await one.stop() == 0


@needs_network
async def test_two_gateways_on_one_host_find_each_other() -> None:
    with trio.fail_after(PATIENCE), network(1) as (host,):
        async with peer(host, 1) as one, peer(host, 2) as two:
            await one.tell("announce 0 5001 blade-7", "browse")
            await two.tell("announce 0 5002 blade-7", "browse")
            await one.sees(2)
            await two.sees(1)


@needs_network
async def test_an_announcement_made_while_the_link_was_down_is_heard_when_it_is_back() -> None:
    with trio.fail_after(PATIENCE), network(2) as (left, right):
        async with peer(left, 1) as one, peer(right, 2) as two:
            await two.tell("browse")
            await two.until("state", lambda state: state == "up")
            left.unplug()
            await one.tell("announce 0 5001 blade-7")
            await one.until("state", lambda state: state == "no network link is up that does multicast")
            left.plug()
            await two.sees(1)


@needs_network
async def test_who_looks_hears_after_an_outage_what_it_missed() -> None:
    with trio.fail_after(PATIENCE), network(3) as (left, middle, right):
        async with peer(left, 1) as one, peer(middle, 2) as two, peer(right, 3) as three:
            await one.tell("announce 0 5001 blade-7")
            await three.tell("browse")
            await three.sees(1)
            right.unplug()
            await three.sees()
            await one.stop()
            await two.tell("announce 0 5002 blade-7")
            await two.until("announced", lambda count: count == 1)
            right.plug()
            await three.sees(2)


@needs_network
async def test_a_link_that_only_flickered_is_announced_on_anew() -> None:
    with trio.fail_after(PATIENCE), network(1) as (host,):
        async with peer(host, 1) as one:
            await one.tell("announce 0 5001 blade-7")
            await one.until("announced", lambda count: count == 1)
            host.unplug()
            host.plug()
            await one.until("announced", lambda count: count == 0)
            await one.until("announced", lambda count: count == 1)


@needs_network
async def test_a_new_address_is_announced_and_one_off_the_link_is_not_for_us() -> None:
    with trio.fail_after(PATIENCE), network(2) as (left, right):
        async with peer(left, 1) as one, peer(right, 2) as two:
            await one.tell("announce 0 5001 blade-7")
            await two.tell("browse")
            await two.sees(1)
            left.ip("address add 10.99.0.1/24 dev eth0")
            left.ip("address add 10.77.0.77/24 dev eth0")
            both = ["10.77.0.1", "10.77.0.77"]
            await two.until("seen", lambda seen: seen == [[1, 0, "blade-7", both, 5001]])


@needs_network
async def test_a_link_with_nothing_but_link_local_ipv6_is_enough() -> None:
    with trio.fail_after(PATIENCE), network(2) as (left, right):
        for number, host in enumerate((left, right), 1):
            host.ip("-4 address flush dev eth0")
            host.ip(f"address add fe80::{number}/64 dev eth0 nodad")
        async with peer(left, 1, "::") as one, peer(right, 2, "::") as two:
            await one.tell("announce 0 5001 blade-7")
            await two.tell("browse")
            ((_, _, _, addresses, _),) = await two.sees(1)
            assert "fe80::1%" in addresses[0]


@needs_network
async def test_what_listens_on_the_loopback_only_is_not_announced() -> None:
    with trio.fail_after(PATIENCE), network(1) as (host,):
        async with peer(host, 1, "127.0.0.1") as one:
            await one.tell("announce 0 5001 blade-7")
            why = "nothing is announced: no network link has what is listened on (127.0.0.1)"
            await one.until("state", lambda state: state == why)


@needs_network
async def test_a_host_without_a_network_says_so_and_starts_when_one_comes() -> None:
    with trio.fail_after(PATIENCE), network(2) as (left, right):
        left.ip("link set eth0 down")
        async with peer(left, 1) as one, peer(right, 2) as two:
            await one.tell("announce 0 5001 blade-7")
            await two.tell("browse")
            await one.until("state", lambda state: state == "no network link is up that does multicast")
            left.ip("link set eth0 up")
            await two.sees(1)


@needs_network
async def test_to_look_again_loses_nobody_who_lives_not_even_for_a_moment() -> None:
    with trio.fail_after(PATIENCE), network(3) as (left, right, other):
        async with peer(left, 1) as one, peer(right, 2) as two, peer(other, 3) as three:
            await one.tell("announce 0 5001 blade-7")
            await two.tell("browse")
            await two.sees(1)
            for _ in range(3):
                await two.tell("look")
            await three.tell("announce 0 5003 blade-7")
            assert [each[0] for each in await two.until("seen", lambda seen: len(seen) != 1)] == [1, 3]


@needs_network
async def test_on_each_link_only_the_addresses_of_that_link_are_announced() -> None:
    with trio.fail_after(PATIENCE), network(2) as (left, right):
        left.ip("link add eth1 type veth peer name eth2")
        left.ip("address add 10.99.0.1/24 dev eth1")
        left.ip("link set eth1 up")
        left.ip("link set eth2 up")
        with right.inside():
            ear = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        with ear:
            ear.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            ear.bind(("", 5353))
            group = socket.inet_aton("224.0.0.251") + socket.inet_aton(right.address)
            ear.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
            heard = b""
            async with peer(left, 1) as one, peer(right, 2) as two:
                await one.tell("announce 0 5001 blade-7")
                await two.tell("browse")
                assert (await two.sees(1))[0][3] == ["10.77.0.1"]
                await one.tell("withdraw")
                await two.sees()
                with contextlib.suppress(BlockingIOError):
                    while True:
                        heard += ear.recv(9000)
        assert socket.inet_aton("10.77.0.1") in heard
        assert socket.inet_aton("10.99.0.1") not in heard


AVAHI = """
set -e
mount -t tmpfs tmpfs /run
mkdir /run/dbus
dbus-daemon --system --nopidfile --fork
avahi-daemon --no-drop-root --no-chroot --no-rlimits -D
avahi-publish -s Another _daisyport._tcp 5009 wire=1,2 node=09090909090909090909090909090909 port=3 \
    "chassis=blade 9" hops=1 key=no >&2 &
exec avahi-browse --parsable --resolve _daisyport._tcp
"""


@needs_network
@needs_avahi
async def test_avahi_and_we_understand_each_other() -> None:
    inside = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", AVAHI)
    with trio.fail_after(PATIENCE), network(2) as (left, right):
        async with peer(left, 1) as one, right.running(*inside) as process:
            avahi = Peer(process)
            await one.tell("announce 0 5001 blade-7", "browse")
            assert await one.sees(9) == [[9, 3, "blade 9", ["10.77.0.2"], 5009]]
            while not (line := await avahi.line()).startswith("=;eth0;IPv4;Daisyport"):
                pass
            *_, host, address, port, text = line.split(";")
            assert (host, address, port) == (f"daisyport-{node(1).hex()}.local", "10.77.0.1", "5001")
            assert '"chassis=blade-7"' in text
            await one.tell("withdraw")
            while not (await avahi.line()).startswith("-;eth0;IPv4;Daisyport"):
                pass


def test_the_package_is_not_loaded_before_it_is_wanted() -> None:
    code = "import sys, gateway.discovery.bonjour; sys.exit('zeroconf' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=30).returncode == 0


OWN = Interface(2, 1, (ip_interface("10.77.0.1/24"),))
ADVERT = Advert(node(1), 0, "blade-7", 0, keyed=True, versions=(1,))
THEIRS = replace(ADVERT, node=node(2))


def service(name: str, advert: Advert = THEIRS, address: str = "10.77.0.2", port: int = 5002) -> ServiceRecord:
    return ServiceRecord(f"{name}.{SERVICE}", "other.local.", port, advert.encode(), (address,))


class Neighbourhood:
    """A network made up of services, in the place of the zeroconf package; its threads are real."""

    def __init__(self) -> None:
        self.services: dict[str, ServiceRecord] = {}
        self.failures: list[str] = []
        self.opened = 0
        self.spoken_from: list[str] = []
        self.announced: list[ServiceRecord] = []
        self.calls: list[str] = []
        self.told: Callable[[str, bool], None] | None = None
        self.answering = threading.Event()
        self.answering.set()
        self.asked = threading.Event()
        self.closing = threading.Event()
        self.closing.set()

    def __call__(self, device: str, address: str, service: str) -> Neighbourhood:
        self.opened += 1
        self.spoken_from.append(address)
        self._fail("open")
        return self

    def _fail(self, what: str) -> None:
        self.calls.append(what)
        if what in self.failures:
            self.failures.remove(what)
            raise MdnsError(f"multicast DNS: {what} failed")

    def announce(self, service: ServiceRecord) -> None:
        self._fail("announce")
        self.announced.append(service)

    def withdraw(self, name: str) -> None:
        self._fail("withdraw")

    def look(self, told: Callable[[str, bool], None]) -> Callable[[], None]:
        self._fail("look")
        self.told = told
        for name in self.services:
            told(name, True)
        return lambda: None

    def resolve(self, name: str, seconds: float) -> ServiceRecord | None:
        self._fail("resolve")
        self.asked.set()
        assert self.answering.wait(5)
        return self.services.get(name)

    def close(self) -> None:
        self.calls.append("close")
        self.closing.wait(5)

    def add(self, *services: ServiceRecord) -> None:
        self.services |= {service.name: service for service in services}


@pytest.fixture
def around(monkeypatch: pytest.MonkeyPatch) -> Iterator[Neighbourhood]:
    async def watch(tell: Callable[[tuple[Interface, ...]], None]) -> None:
        tell((OWN,))
        await trio.sleep_forever()

    made = Neighbourhood()
    monkeypatch.setattr(bonjour, "Responder", made)
    monkeypatch.setattr(bonjour, "_FIRST_RETRY", 0.01)
    monkeypatch.setattr(bonjour, "_LAST_RETRY", 0.01)
    monkeypatch.setattr(bonjour, "_LOOK", 0.0)
    monkeypatch.setattr(interfaces, "watch", watch)
    yield made
    made.answering.set()
    made.closing.set()


@contextlib.asynccontextmanager
async def running() -> AsyncIterator[Bonjour]:
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            made = Bonjour(node(1), ["0.0.0.0"])
            nursery.start_soon(made.run)
            yield made
            nursery.cancel_scope.cancel()


async def up(here: Bonjour) -> None:
    await here.state.wait_for(lambda state: state == "up")


async def test_only_a_service_that_can_be_connected_to_is_seen(
    around: Neighbourhood, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    judged: list[str] = []

    def judge(here: Bonjour, addresses: Any, record: ServiceRecord) -> Candidate | None:
        judged.append(record.name)
        return by_bonjour(here, addresses, record)

    by_bonjour = Bonjour._judged
    monkeypatch.setattr(Bonjour, "_judged", judge)
    around.add(
        service("own", ADVERT),
        service("far", address="10.88.0.2"),
        service("closed", port=0),
        replace(service("odd" * 100), text=b"\x06hops=9"),
        service("good"),
    )
    async with running() as here:
        with here.browse() as seen:
            (candidate,) = await seen.wait_for(bool)
            assert (candidate.advert, candidate.addresses, candidate.port) == (THEIRS, ("10.77.0.2",), 5002)
            # An answer is judged some time after its thread was asked: only then is it known what came of it.
            while len(judged) < 5:
                await trio.lowlevel.checkpoint()
            assert seen.value == (candidate,)
    (left_out,) = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert "the TXT record does not say node=" in left_out
    assert len(left_out) < 200


async def test_one_who_does_not_say_where_it_is_delays_nobody(around: Neighbourhood) -> None:
    around.add(service("good"))
    async with running() as here:
        with here.browse() as seen:
            await seen.wait_for(bool)
            assert around.told is not None
            around.answering.clear()
            around.told("silent", True)
            await trio.to_thread.run_sync(around.asked.wait, 5)
            around.answering.set()
            assert len(seen.value) == 1


async def test_a_crowd_of_forged_services_is_cut_short(around: Neighbourhood) -> None:
    around.add(
        *(
            service(f"forged {number}", replace(THEIRS, index=number % 256), f"10.77.0.{2 + number // 8}")
            for number in range(1000)
        )
    )
    async with running() as here:
        with here.browse() as seen:
            await seen.wait_for(lambda candidates: len(candidates) == 256)
            while around.calls.count("resolve") < 256:
                await trio.lowlevel.checkpoint()
        await here.state.wait_for(lambda state: state == "off")
    assert around.calls.count("resolve") == 256


async def test_a_crowd_of_one_address_leaves_room_for_others(around: Neighbourhood) -> None:
    forged = (service(f"forged {number}", replace(THEIRS, index=number % 256), "10.77.0.66") for number in range(255))
    around.add(*forged, service("real"))
    async with running() as here:
        with here.browse() as seen:
            await seen.wait_for(lambda candidates: any(each.addresses == ("10.77.0.2",) for each in candidates))
            while around.calls.count("resolve") < 256:
                await trio.lowlevel.checkpoint()
            assert around.told is not None
            around.add(service("another", address="10.77.0.3"))
            around.told(f"another.{SERVICE}", True)
            found = await seen.wait_for(lambda candidates: any(each.addresses == ("10.77.0.3",) for each in candidates))
    assert len(found) == 32 + 2


async def test_services_that_stay_silent_are_asked_again_and_delay_nobody(around: Neighbourhood) -> None:
    silent = {f"silent {number}.{SERVICE}" for number in range(16)}
    again = threading.Event()
    asked: list[str] = []

    def resolve(name: str, seconds: float) -> ServiceRecord | None:
        if name in silent:
            asked.append(name)
            if seconds > 1:
                again.wait(5)
            return None
        return around.services.get(name)

    around.resolve = resolve  # type: ignore[method-assign]  # it stands for a network that is silent
    around.services = {name: service("") for name in sorted(silent)}
    around.add(service("good"))
    async with running() as here:
        with here.browse() as seen:
            await seen.wait_for(bool)
            while len(asked) < 20:
                await trio.lowlevel.checkpoint()
            around.add(service("late", replace(THEIRS, index=1)))
            assert around.told is not None
            around.told(f"late.{SERVICE}", True)
            await seen.wait_for(lambda candidates: len(candidates) == 2)
            again.set()
            while len(asked) < 32:
                await trio.lowlevel.checkpoint()
    assert sorted(asked) == sorted([*silent, *silent])


async def test_a_look_that_has_just_begun_is_not_ended_for_another(
    around: Neighbourhood, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that refuses within milliseconds would otherwise end each look before it finds anybody else."""
    monkeypatch.setattr(bonjour, "_LOOK", 60.0)
    around.add(service("good"))
    async with running() as here:
        with here.browse() as seen:
            await seen.wait_for(bool)
            for _ in range(3):
                here.look_again()
                await trio.testing.wait_all_tasks_blocked(0.01)
    assert around.calls.count("look") == 1


async def test_news_that_came_while_we_asked_about_the_old_count(around: Neighbourhood) -> None:
    around.add(service("going"))
    around.answering.clear()
    async with running() as here:
        with here.browse() as seen:
            await trio.to_thread.run_sync(around.asked.wait, 5)
            assert around.told is not None
            around.told(f"going.{SERVICE}", False)
            around.told(f"brief.{SERVICE}", True)
            around.told(f"brief.{SERVICE}", False)
            around.services.clear()
            around.add(service("coming"))
            around.told(f"coming.{SERVICE}", True)
            around.answering.set()
            assert len(await seen.wait_for(bool)) == 1
            # It comes to say what makes no candidate, and is no longer one.
            around.add(service("coming", port=0))
            around.told(f"coming.{SERVICE}", True)
            await seen.wait_for(lambda candidates: not candidates)


@pytest.mark.parametrize("what", ["open", "announce", "look", "resolve"])
async def test_what_fails_is_told_and_tried_again(around: Neighbourhood, what: str) -> None:
    around.failures = [what]
    around.add(service("good"))
    async with running() as here, trio.open_nursery() as nursery:
        states: list[str] = []

        async def keep_states() -> None:
            nonlocal states
            async for state in here.state.changes():
                states += [state]

        nursery.start_soon(keep_states)
        nursery.start_soon(here.announce, ADVERT, 5001)
        with here.browse() as seen:
            while around.failures:
                await trio.lowlevel.checkpoint()
            await here.announced.wait_for(bool)
            await seen.wait_for(bool)
            await up(here)
        assert around.opened == 2
        assert f"multicast DNS: {what} failed" in states
        nursery.cancel_scope.cancel()


async def test_links_that_cannot_be_asked_for_are_told_and_tried_again(
    around: Neighbourhood, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = False

    async def watch(tell: Callable[[tuple[Interface, ...]], None]) -> None:
        await trio.lowlevel.checkpoint()
        if not allowed:
            raise OSError("Address family not supported by protocol")
        tell((OWN,))
        await trio.sleep_forever()

    monkeypatch.setattr(interfaces, "watch", watch)
    async with running() as here:
        with here.browse():
            await here.state.wait_for(lambda state: state == "Address family not supported by protocol")
            allowed = True
            await up(here)


async def test_nothing_runs_while_nothing_is_wanted(around: Neighbourhood) -> None:
    async with running() as here:
        with here.browse(), here.browse():
            await up(here)
        await here.state.wait_for(lambda state: state == "off")
        assert around.calls[-1] == "close"
        with here.browse():
            await up(here)
        assert around.opened == 2


async def test_one_of_two_announcements_can_end(around: Neighbourhood) -> None:
    async with running() as here, trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def announce(index: int) -> None:
            with scope if index else contextlib.nullcontext():
                await here.announce(replace(ADVERT, index=index), 5000 + index)

        nursery.start_soon(announce, 0)
        nursery.start_soon(announce, 1)
        await here.announced.wait_for(lambda names: len(names) == 2)
        scope.cancel()
        (left,) = await here.announced.wait_for(lambda names: len(names) == 1)
        assert left == f"Daisyport {node(1).hex()} P0"
        assert around.calls[-1] == "withdraw"
        nursery.cancel_scope.cancel()


async def test_a_goodbye_that_hangs_does_not_hold_up_the_end(
    around: Neighbourhood, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bonjour, "_GOODBYE", 0.02)
    around.closing.clear()
    async with running() as here:
        with here.browse():
            await up(here)
    assert around.calls[-1] == "close"
    assert not around.closing.is_set()


async def test_news_after_the_end_of_the_gateway_are_for_nobody(around: Neighbourhood) -> None:
    async def look() -> None:
        async with running() as here:
            with here.browse():
                while around.told is None:
                    await trio.lowlevel.checkpoint()

    await trio.to_thread.run_sync(trio.run, look)
    assert around.told is not None
    around.told("late", True)


SECOND = Interface(3, 1, (ip_interface("10.88.0.1/24"), ip_interface("2001:db8::1/64")))


@pytest.fixture
def links(around: Neighbourhood, monkeypatch: pytest.MonkeyPatch) -> Cell[tuple[Interface, ...]]:
    """The links of this host, which the test may change."""
    found: Cell[tuple[Interface, ...]] = Cell((OWN, SECOND))

    async def watch(tell: Callable[[tuple[Interface, ...]], None]) -> None:
        async for now in found.changes():
            tell(now)

    monkeypatch.setattr(interfaces, "watch", watch)
    return found


async def test_each_link_has_a_responder_which_is_told_the_addresses_of_that_link(
    around: Neighbourhood, links: Cell[tuple[Interface, ...]]
) -> None:
    async with running() as here, trio.open_nursery() as nursery:
        nursery.start_soon(here.announce, ADVERT, 5001)
        while len(around.announced) < 2:
            await trio.lowlevel.checkpoint()
        assert sorted(around.spoken_from) == ["10.77.0.1", "10.88.0.1"]
        assert sorted(service.addresses for service in around.announced) == [("10.77.0.1",), ("10.88.0.1",)]
        nursery.cancel_scope.cancel()


async def test_a_server_that_is_seen_on_two_links_has_the_addresses_of_both(
    around: Neighbourhood, links: Cell[tuple[Interface, ...]]
) -> None:
    both = replace(service("both"), addresses=("10.77.0.2", "10.88.0.2"))
    around.add(both)
    async with running() as here:
        with here.browse() as seen:
            (candidate,) = await seen.wait_for(lambda found: bool(found) and len(found[0].addresses) == 2)
            assert set(candidate.addresses) == {"10.77.0.2", "10.88.0.2"}
            links.set((OWN,))
            (candidate,) = await seen.wait_for(lambda found: bool(found) and len(found[0].addresses) == 1)
            assert candidate.addresses == ("10.77.0.2",)
            assert here.state.value == "up"
            links.set(())
            await seen.wait_for(lambda found: not found)
            assert here.state.value == "no network link is up that does multicast"


async def test_a_link_that_fails_is_told_and_does_not_disturb_the_other(
    around: Neighbourhood, links: Cell[tuple[Interface, ...]], caplog: pytest.LogCaptureFixture
) -> None:
    links.set((OWN,))
    async with running() as here:
        with here.browse():
            await up(here)
            around.failures = ["open"]
            links.set((OWN, SECOND))
            while around.opened < 3:
                await trio.lowlevel.checkpoint()
            assert here.state.value == "up"
    assert ": multicast DNS: open failed" in caplog.text


async def test_what_was_seen_is_kept_while_the_next_look_asks_and_forgotten_if_that_does_not_hear_of_it(
    around: Neighbourhood, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolver, "_CONFIRM", 0.2)
    around.add(service("stays"), service("went", replace(THEIRS, index=1)))
    async with running() as here:
        with here.browse() as seen:
            await seen.wait_for(lambda found: len(found) == 2)
            told = around.told
            assert told is not None
            del around.services[f"went.{SERVICE}"]
            around.answering.clear()
            here.look_again()
            while around.told == told:
                await trio.lowlevel.checkpoint()
            assert len(seen.value) == 2
            around.answering.set()
            told(f"stays.{SERVICE}", False)  # of the look before: nobody listens to that any more
            (left,) = await seen.wait_for(lambda found: len(found) == 1)
            assert left.advert == THEIRS


async def test_a_bug_starts_bonjour_again_and_ends_nothing_else(
    around: Neighbourhood, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    around.add(service("good"))
    broken = True

    def judge(here: Bonjour, addresses: Any, record: ServiceRecord) -> Candidate | None:
        nonlocal broken
        if broken:
            broken = False
            raise ZeroDivisionError("a bug of ours")
        return by_bonjour(here, addresses, record)

    by_bonjour = Bonjour._judged
    monkeypatch.setattr(Bonjour, "_judged", judge)
    async with running() as here:
        with here.browse() as seen:
            await here.state.wait_for(lambda state: "a bug of ours" in state)
            await seen.wait_for(bool)
            assert here.state.value == "up"
    assert "started again" in caplog.text
