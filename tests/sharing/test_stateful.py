"""Any interleaving of clients, losses and changes on one port: messages whole, order kept, nothing lost uncounted.

Hypothesis chooses each step by what is there then: clients of every class come, write, transfer, take turns, are
revoked and cancelled; the line is held, let go, unplugged, plugged in, set to another rate; units speak. Each of these
but a client's own doing happens between two steps, or at a checkpoint that Hypothesis chooses: of that client's task,
or of any. Time is trio's mock clock, and the line is a driver's model, so each byte of the wire has its time.

What is on the wire can be told apart: a message begins with MARK, its client, its number and its length, and a byte
of a transfer has its client in the upper half and counts in the lower one.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gateway.port.bus import Bus
from gateway.port.line import LineError, PortDown, Reply
from gateway.port.receive_buffer import ReceiveBuffer
from gateway.port.rights import Right
from gateway.port.router import Revoked, Router
from gateway.serial_line import uart
from gateway.serial_line.device import SerialDevice
from gateway.tasks.reconcile import Unit
from protocol.link.reasons import Reason
from protocol.parameters.settings import Serial, SerialPort, Settings
from tests.gateway.line import ALL
from tests.gateway.serial_line.adapter import plug
from tests.sharing.driver import ftdi_sio, serial_core
from tests.sharing.moments import Moments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gateway.port.router import Handle, Session
    from tests.sharing.driver import Driver

MARK = 0xF0
HEAD = 5
CLIENTS = 6
CLASSES = (Right.PTZ, Right.TCP, Right.CGI)
RATES = (1200, 9600, 115200)
SLOWEST = 120
"""Bytes a second of the slowest of them."""


class CallAtOnce:
    """A DriverCall without a thread, which the mock clock would not see."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._value, self._error = None, None
        try:
            self._value = call()
        except Exception as error:  # noqa: BLE001 -- it is raised where the result is asked for
            self._error = error

    ended = True

    async def result(self) -> Any:
        await trio.lowlevel.checkpoint()
        if self._error is not None:
            raise self._error
        return self._value

    async def interrupted(self) -> None:
        await trio.lowlevel.checkpoint()

    def interrupt(self) -> None:
        pass

    def abandon(self, undo: Callable[[Any], object]) -> None:
        undo(self._value)


@dataclass(eq=False)
class Client:
    """A client: its session, what it heard, and the one thing that it does now."""

    number: int
    session: Session
    nursery: trio.Nursery
    """All that it does runs in here, and ends with its session."""
    ear: ReceiveBuffer = field(default_factory=ReceiveBuffer)
    size: int = 0
    sent: int = 0
    messages: list[tuple[float, int]] = field(default_factory=list)
    """When each of its messages was begun, and its whole length."""
    counted: int = 0
    transfers: int = 0
    outcomes: Counter[Reason | None] = field(default_factory=Counter)
    """What it was told of its bytes."""
    doing: trio.CancelScope | None = None
    task: trio.lowlevel.Task | None = None
    """The task that does it, once it runs."""
    gone: bool = False

    def deliver(self, data: bytes) -> None:
        self.ear.deliver(data)

    def tell(self, count: int, reason: Reason | None) -> None:
        self.outcomes[reason] += count

    def message(self, length: int) -> bytes:
        head = bytes((MARK, self.number, len(self.messages), *length.to_bytes(2, "big")))
        self.messages.append((trio.current_time(), HEAD + length))
        return head + bytes((0x0F,)) * length

    def stream(self, length: int) -> bytes:
        data = bytes((self.number + 1) << 4 | (self.counted + number) % 16 for number in range(length))
        self.counted += length
        self.transfers += 1
        return data


@dataclass
class World:
    """One port, its clients past and present, and what the outside did to it."""

    driver: Driver
    device: SerialDevice
    bus: Bus
    handle: Handle
    nursery: trio.Nursery
    moments: Moments
    line: SerialPort = field(default_factory=SerialPort)
    clients: list[Client] = field(default_factory=list)
    disturbed: bool = False
    """The line was held or lost, or its rate changed: then no time on the wire is bounded."""
    late: list[str] = field(default_factory=list)
    """Waits that were longer than their bound."""

    @property
    def there(self) -> bool:
        """Whether the device is open, and plugged in."""
        return self.bus.down is None and self.driver.present

    async def come(self, traffic: Right) -> None:
        session = self.handle.attenuate(Right.READ | traffic, f"client {len(self.clients)}").open(traffic)
        nursery: trio.Nursery = await self.nursery.start(_in_scope, session)
        client = Client(len(self.clients), session, nursery)
        session.outcome = client.tell
        session.listen(client)
        self.clients.append(client)

    def start(self, client: Client, what: Callable[[Client], Any]) -> None:
        """Have a client do something, in a task of its own that can be cancelled."""
        scope = client.doing = trio.CancelScope()

        async def run() -> None:
            client.task = trio.lowlevel.current_task()
            try:
                with scope, contextlib.suppress(PortDown, Revoked):
                    await what(client)
            finally:
                client.doing = client.task = None

        client.nursery.start_soon(run)

    async def write(self, client: Client, length: int) -> None:
        began = trio.current_time()
        try:
            await client.session.write(client.message(length))
        finally:
            took = trio.current_time() - began
            if not self.disturbed and took > client.session.age_limit + (HEAD + length) / SLOWEST + 0.1:
                self.late.append(f"a message of client {client.number} took {took:.2f} s")

    async def take_turn(self, client: Client, length: int, reply: Reply) -> None:
        async with client.session.turn(client.message(length), reply) as hold:
            await hold.write(client.ear.clear)
            await hold.replied(client.ear, reply)

    async def set_rate(self, rate: int) -> None:
        self.line = replace(self.line, baud_rate=rate)
        with contextlib.suppress(LineError):
            await self.device.adjust(Settings(serial=Serial(ports=(self.line,))))


async def _in_scope(session: Session, task_status: trio.TaskStatus[trio.Nursery]) -> None:
    with session.scope:
        async with trio.open_nursery() as nursery:
            task_status.started(nursery)
            await trio.sleep_forever()


LENGTHS = (0, 1, 15, 16, 17, 40, 300, 1100, 4000)
REPLIES = ((1, 0.1), (20, 0.1), (math.inf, 0.0), (math.inf, 0.2), (math.inf, 9.0))
PAUSES = (None, 0.0, 0.001, 0.03, 0.2, 1.5)
"""None lets nothing run between two steps, and 0 only what need not wait."""


MOMENTS = st.none() | st.integers(0, 30)


class Step(NamedTuple):
    """One thing to do. ``which`` chooses who does it, of those who can; where nobody can, nothing is done."""

    what: str
    which: int
    length: int
    pause: float | None
    moment: int | None = None
    """What happens to clients and to the line happens so many scheduler steps later; None: now."""


CALM = ("come", "write", "transfer", "turn", "cancel", "cancel it", "revoke", "revoke it", "say", "wait")
"""To ``cancel it`` counts that client's own steps, and so reaches each checkpoint of what it does."""
ANY = (*CALM, "hold", "go on", "unplug", "plug", "rate")


def steps_of(kinds: tuple[str, ...]) -> st.SearchStrategy[list[Step]]:
    step = st.builds(
        Step,
        st.sampled_from(kinds),
        st.integers(0, CLIENTS),
        st.sampled_from(LENGTHS),
        st.sampled_from(PAUSES),
        MOMENTS,
    )
    return st.lists(step, max_size=60)


def one_of(these: list[Client], which: int) -> list[Client]:
    return [these[which % len(these)]] if these else []


async def do(world: World, step: Step) -> None:
    """Do one thing, if it can be done now."""
    if step.what == "come":
        if len(world.clients) < CLIENTS:
            await world.come(CLASSES[step.which % len(CLASSES)])
    elif not by_a_client(world, step):
        for what, task in (*to_a_client(world, step), *to_the_line(world, step)):
            if step.moment is None:
                what()
            else:
                world.moments.after(step.moment, what, task)
    if step.pause is not None:
        await trio.sleep(step.pause)


def by_a_client(world: World, step: Step) -> bool:
    """Have a client do something; return False where it is not its to do."""
    idle = one_of([client for client in world.clients if not client.gone and client.doing is None], step.which)
    match step.what:
        case "write":
            for client in idle:
                world.start(client, lambda client: world.write(client, min(step.length, 1100)))
        case "transfer":
            for client in idle:
                world.start(client, lambda client: client.session.transfer(client.stream(step.length)))
        case "turn":
            length, seconds = REPLIES[step.which % len(REPLIES)]
            for client in idle:
                world.start(
                    client, lambda client: world.take_turn(client, min(step.length, 40), Reply(length, None, seconds))
                )
        case _:
            return False
    return True


Happening: TypeAlias = "tuple[Callable[[], object], trio.lowlevel.Task | None]"
"""Something that happens, and the task whose steps are counted until then; None: any."""


def to_a_client(world: World, step: Step) -> Iterator[Happening]:
    """Yield what happens to a client."""
    here = [client for client in world.clients if not client.gone]
    busy = [client for client in here if client.doing is not None]
    own = step.what.endswith(" it")
    match step.what.removesuffix(" it"):
        case "cancel":
            for client in one_of(busy, step.which):
                assert client.doing is not None
                yield client.doing.cancel, client.task if own else None
        case "revoke":
            for client in one_of(busy if own else here, step.which):
                client.gone = True
                yield functools.partial(client.session.end, "it was revoked"), client.task if own else None


def to_the_line(world: World, step: Step) -> Iterator[Happening]:
    """Yield what the outside does to the port."""
    driver = world.driver
    if step.what in ("hold", "unplug", "rate"):
        world.disturbed = True
    match step.what:
        case "say":
            yield lambda: driver.say(bytes(20)) if world.there else None, None
        case "hold":
            yield lambda: driver.hold(True), None
        case "go on":
            yield lambda: driver.hold(False), None
        case "unplug":
            yield lambda: driver.unplug() if world.there else None, None
        case "plug":
            yield lambda: setattr(driver, "present", True), None
        case "rate":
            yield lambda: world.nursery.start_soon(world.set_rate, RATES[step.which % len(RATES)]), None


async def live(steps: list[Step], driver: Driver, moments: Moments) -> World:
    """Live through so many steps, let all come to rest, and return what there was."""
    bus = Bus("P0")
    device = SerialDevice(bus, 1, driver.config, SerialPort())
    unit = Unit("P0 Ser1", lambda: None)
    with trio.fail_after(3600):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(driver.run)
            nursery.start_soon(device.run, unit)
            await unit.settled.wait()
            handle = Router({"P0": bus}).grant("P0", ALL, "service")
            async with trio.open_nursery() as clients:
                world = World(driver, device, bus, handle, clients, moments)
                for traffic in CLASSES:
                    await world.come(traffic)
                for step in steps:
                    await do(world, step)
                await trio.sleep(1)
                moments.forget()
                driver.present = True
                driver.hold(False)
                if world.disturbed:
                    await world.set_rate(115200)
                with trio.fail_after(CLIENTS * max(LENGTHS) / 120 + 60):  # the slowest line carries all of it by then
                    while any(client.doing is not None for client in world.clients) or driver.queue:
                        await trio.sleep(0.5)
                        driver.advance()
                assert_accounted(world)
                clients.cancel_scope.cancel()
            nursery.cancel_scope.cancel()
    return world


def assert_accounted(world: World) -> None:
    """Every byte that a client sent is on the wire, or counted as dropped or thrown away, and it was told."""
    for client in world.clients:
        counters = client.session.counters
        assert counters.pending == 0, (client.number, counters)
        assert client.session.on_its_way == 0
        assert client.outcomes[None] == counters.written
    driver = world.driver
    written, discarded = world.device.totals
    assert driver.taken == written == sum(client.session.counters.written for client in world.clients)
    assert not driver.queue
    if not world.disturbed:
        assert (len(driver.sent), discarded) == (driver.taken, 0)


def assert_whole_and_in_order(world: World) -> None:
    """What the driver took is whole messages, and what is between them each client's transfers, in order."""
    wire = b"".join(data for _, data in world.driver.writes)
    numbers: dict[int, list[int]] = {client.number: [] for client in world.clients}
    streams: dict[int, list[int]] = {client.number: [] for client in world.clients}
    at = 0
    while at < len(wire):
        if wire[at] != MARK:
            streams[(wire[at] >> 4) - 1].append(wire[at] & 15)
            at += 1
            continue
        # The last message before a cut may have lost even its head.
        cut = min((cut for cut in world.driver.cuts if cut > at), default=len(wire))
        client = world.clients[wire[at + 1]] if at + 1 < cut else None
        length = HEAD + int.from_bytes(wire[at + 3 : at + 5], "big") if at + HEAD <= cut else HEAD
        end = min(at + length, cut)
        rest = wire[at + HEAD : end]
        if said := rest.lstrip(b"\x0f"):  # torn without a cut: given up on a line that took nothing
            assert client is not None
            assert client.outcomes[Reason.INCOMPLETE], (
                f"a message of client {client.number} is torn, and it was not told"
            )
            end -= len(said)
        if client is not None and at + 2 < cut:
            numbers[client.number].append(wire[at + 2])
            if not world.disturbed and client.session.traffic is Right.PTZ:
                began, whole = client.messages[wire[at + 2]]
                bound = client.session.age_limit + whole / world.driver.rate + 0.03
                assert world.driver.times[end - 1] - began < bound
        at = end
    for client in world.clients:
        assert numbers[client.number] == sorted(set(numbers[client.number]))
        stream = streams[client.number]
        jumps = sum((later - earlier) % 16 != 1 for earlier, later in itertools.pairwise(stream))
        assert jumps < max(client.transfers, 1), "each transfer is whole, but for its end"


@given(steps_of(CALM) | steps_of(ANY), st.sampled_from([serial_core, ftdi_sio]))
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example([Step("write", 0, 15, None), Step("transfer", 1, 0, 0.0)], serial_core)  # nothing, while the line is busy
def test_whatever_happens_at_a_port_messages_are_whole_in_order_and_all_bytes_are_accounted_for(
    steps: list[Step], made: Callable[[], Driver]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        driver = made()
        plug(patch, driver)
        patch.setattr(uart, "DriverCall", CallAtOnce)
        driver.close_waits = False
        clock = trio.testing.MockClock(autojump_threshold=0)
        try:
            moments = Moments()
            world = trio.run(live, steps, driver, moments, clock=clock, instruments=[moments])
        finally:
            driver.put_away()
        assert not moments.errors
        assert_whole_and_in_order(world)
        assert not world.late
