"""Two, three and four CPUs and an adversarial network, by Hypothesis: what must hold for every schedule."""

from __future__ import annotations

from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

from protocol.link.control_frames import CONTROLS
from protocol.link.stream_frames import Channel
from protocol.session.session import CLASSES
from tests.protocol.session.simulation import FEATURES, World

places = st.integers(0, 7)
sides = st.booleans()
classes = st.sampled_from(CLASSES)


class Chain(RuleBasedStateMachine):
    nodes: ClassVar[int] = 2

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.nodes)
        for link in range(self.nodes - 1):
            self.world.connect(link)

    @initialize(established=sides, far=sides)
    def begin(self, established: bool, far: bool) -> None:
        if far:
            self.world = World(self.nodes, far=True)
            for link in range(self.nodes - 1):
                self.world.connect(link)
        for _ in range(3 if established else 0):
            self.deliver_all(self.nodes)

    def link(self, place: int) -> int:
        return place % (self.nodes - 1)

    @rule(place=places, channel=classes, size=st.sampled_from([0, 5, 40, 120, 300]), turn=sides)
    def write(self, place: int, channel: Channel, size: int, turn: bool) -> None:
        self.world.write(self.link(place) + 1, channel, size, turn=turn)

    @rule(place=places, channel=classes, steps=st.sampled_from([0, 1, 14]))
    def control(self, place: int, channel: Channel, steps: int) -> None:
        self.world.control(self.link(place) + 1, channel, steps)

    @rule(count=st.sampled_from([1, 30, 400, 1500]))
    def speak(self, count: int) -> None:
        self.world.speak(count)

    @rule(
        place=places,
        up=sides,
        count=st.sampled_from([1, 17, 100, 1000, 5000]),
        wire=st.sampled_from([-1, -1, -2]),
    )
    def deliver(self, place: int, up: bool, count: int, wire: int) -> None:
        self.world.deliver(self.link(place), up=up, count=count, wire=wire)

    @rule(rounds=st.integers(1, 4))
    def deliver_all(self, rounds: int) -> None:
        """What a kind network and a client that dials again do."""
        for _ in range(rounds):
            for link in range(self.nodes - 1):
                self.world.redial(link)
                self.world.deliver(link, up=True, count=5000)
                self.world.deliver(link, up=False, count=5000)

    @rule(channel=classes, pick=places, share=st.sampled_from([4, 4, 4, 2, 0]))
    def write_to_tty(self, channel: Channel, pick: int, share: int) -> None:
        self.world.nodes[0].write_to_tty(channel, pick, share)
        self.world.run()

    @rule(milliseconds=st.sampled_from([1, 300, 700, 1500, 2500, 20_000, 70_000]))
    def wait(self, milliseconds: int) -> None:
        self.world.wait(milliseconds)

    @rule(number=st.integers(1, 60))
    def withdraw(self, number: int) -> None:
        self.world.withdraw(number)

    @rule(place=places, up=sides)
    def ping(self, place: int, up: bool) -> None:
        self.world.ping(self.link(place), up=up)

    @rule(place=places, up=sides)
    def survey(self, place: int, up: bool) -> None:
        self.world.survey(self.link(place), up=up)

    @rule(place=places)
    def rekey(self, place: int) -> None:
        self.world.rekey(self.link(place))

    @rule(place=places, client=sides, server=sides, flight=sides)
    def cut(self, place: int, client: bool, server: bool, flight: bool) -> None:
        self.world.cut(self.link(place), client=client, server=server, flight=flight)

    @rule(place=places, said=st.lists(st.binary(min_size=8, max_size=24), min_size=1, max_size=6))
    def lie(self, place: int, said: list[bytes]) -> None:
        for each in said:
            self.world.lie(place % self.nodes, each)

    # One rule for what destroys most, or nothing would live for long.
    @rule(what=st.sampled_from(["connect", "connect", "older", "flip", "restart", "close"]), place=places, up=sides)
    def disturb(self, what: str, place: int, up: bool) -> None:
        match what:
            case "connect":
                self.world.connect(self.link(place))
            case "older":
                self.world.connect(self.link(place), FEATURES & ~CONTROLS)
            case "flip":
                self.world.flip(self.link(place), up=up, place=place * 37)
            case "restart":
                self.world.restart(place % self.nodes)
            case _:
                self.world.close(self.link(place), up=up)

    def teardown(self) -> None:
        self.world.check_up()
        self.world.check_down()
        self.world.settle()
        self.world.check_up()
        self.world.check_down()


def chain_of(length: int) -> type[Chain]:
    return type(f"ChainOf{length}", (Chain,), {"nodes": length})


def run(nodes: int, schedules: int) -> None:
    run_state_machine_as_test(
        chain_of(nodes),
        settings=settings(
            max_examples=schedules,
            stateful_step_count=60,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize(("nodes", "schedules"), [(2, 60), (3, 60), (4, 60)])
def test_what_is_received_is_what_was_sent_minus_what_was_announced(nodes: int, schedules: int) -> None:
    run(nodes, schedules)


@pytest.mark.long
@pytest.mark.parametrize(("nodes", "schedules"), [(2, 10_000), (3, 10_000), (4, 10_000)])
def test_it_holds_for_ten_thousand_schedules(nodes: int, schedules: int) -> None:
    run(nodes, schedules)


def test_a_message_that_grew_stale_behind_one_on_its_way_has_its_outcome_after_it() -> None:
    chain = chain_of(3)()
    for _ in range(2):
        chain.deliver_all(rounds=1)
    chain.write(channel=Channel.PTZ, place=1, size=0, turn=False)
    for _ in range(2):
        chain.deliver_all(rounds=1)
    chain.disturb(place=0, up=False, what="connect")
    chain.write_to_tty(channel=Channel.PTZ, pick=0, share=4)
    chain.write(channel=Channel.PTZ, place=1, size=0, turn=False)
    chain.wait(milliseconds=2500)
    chain.deliver_all(rounds=1)
    chain.teardown()
