"""The simulated camera: what it hears, what it answers, and that it does so on a pty."""

from __future__ import annotations

import os
import tty

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from gateway.demo.camera import Camera, Heard, live

ACCEPTED_AND_DONE = bytes.fromhex("9041ff 9051ff")
SYNTAX = bytes.fromhex("906002ff")


def pelco(first: int, second: int, one: int = 0, two: int = 0, address: int = 1) -> bytes:
    body = bytes((address, first, second, one, two))
    return b"\xff" + body + bytes([sum(body) % 256])


def heard(message: bytes, *before: bytes) -> Heard:
    camera = Camera()
    camera.receive(b"".join(before), 0.0)
    (only,) = camera.receive(message, 0.0)
    return only


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("8101 0601 0c05 0103 ff", "pan left speed 12"),
        ("8101 0601 1814 0201 ff", "pan right speed 24, tilt up speed 20"),
        ("8101 0601 0101 0302 ff", "tilt down speed 1"),
        ("8101 0601 0101 0303 ff", "stop"),
        ("8101 0604 ff", "home"),
        ("8101 0605 ff", "home"),
        ("8101 0602 1414 0001 0400 0f0f 0700 ff", "go to pan 24.00 tilt -10.80 zoom 0.00"),
        ("8101 0447 0200 0000 ff", "go to pan 0.00 tilt 0.00 zoom 0.50"),
        ("8101 0407 02 ff", "zoom in speed 4"),
        ("8101 0407 03 ff", "zoom out speed 4"),
        ("8101 0407 27 ff", "zoom in speed 8"),
        ("8101 0407 30 ff", "zoom out speed 1"),
        ("8101 0407 00 ff", "zoom stop"),
        ("8101 0400 02 ff", "power on"),
        ("8101 0400 03 ff", "power off"),
        ("8101 043f 0107 ff", "preset 7 set at pan 0.00 tilt 0.00 zoom 0.00"),
        ("8101 043f 0207 ff", "preset 7 is not set"),
        ("8101 043f 0007 ff", "preset 7 cleared"),
    ],
)
def test_a_visca_order_is_accepted_and_done(message: str, line: str) -> None:
    assert heard(bytes.fromhex(message)) == Heard(line, ACCEPTED_AND_DONE)


@pytest.mark.parametrize(
    "message",
    [
        "8101 0601 0005 0103 ff",
        "8101 0601 0c15 0103 ff",
        "8101 0601 0c05 0403 ff",
        "8101 0601 0c05 0104 ff",
        "8101 0602 1414 1001 0400 0000 0000 ff",
        "8101 0602 1414 0001 0400 0000 0010 ff",
        "8101 0447 0400 0001 ff",
        "8101 0447 1000 0000 ff",
        "8101 0407 01 ff",
        "8101 0407 28 ff",
        "8101 0400 01 ff",
        "8101 043f 0301 ff",
    ],
)
def test_a_visca_value_out_of_range_is_a_syntax_error(message: str) -> None:
    bad = bytes.fromhex(message)
    assert heard(bad) == Heard(f"VISCA value out of range: {bad.hex()}", SYNTAX)


@pytest.mark.parametrize("message", ["8101 0604 00 ff", "8101 09 ff", "81ff", "8109 0913 ff", "8101 0601 0c05 01 ff"])
def test_an_unknown_visca_message_is_a_syntax_error(message: str) -> None:
    unknown = bytes.fromhex(message)
    assert heard(unknown) == Heard(f"does not know VISCA {unknown.hex()}", SYNTAX)


def test_a_visca_message_without_an_end_is_cut_after_sixteen_bytes() -> None:
    endless = b"\x81" + bytes(15)
    assert heard(endless) == Heard(f"VISCA without an end: {endless.hex()}", bytes.fromhex("906001ff"))


@pytest.mark.parametrize(
    ("message", "line", "reply"),
    [
        (
            "8109 0612 ff",
            "asked for its position: pan 24.00 tilt -10.80 zoom 0.00",
            "9050 00010400 0f0f0700 ff",
        ),
        ("8109 0447 ff", "asked for its zoom: 0.00", "9050 00000000 ff"),
        ("8109 0400 ff", "asked for its power: on", "905002ff"),
        ("8109 0002 ff", "asked for its version", "9050 0001 0000 0001 02 ff"),
    ],
)
def test_a_visca_inquiry_is_answered(message: str, line: str, reply: str) -> None:
    go = bytes.fromhex("8101 0602 1414 0001 0400 0f0f 0700 ff")
    assert heard(bytes.fromhex(message), go) == Heard(line, bytes.fromhex(reply))


def test_a_camera_that_is_off_only_speaks_of_its_power() -> None:
    off = bytes.fromhex("8101 0400 03 ff")
    assert heard(bytes.fromhex("8101 0604 ff"), off) == Heard("is off and does nothing", bytes.fromhex("906141ff"))
    assert heard(pelco(0, 0x02, 1), off) == Heard("is off and does nothing")
    assert heard(bytes.fromhex("8109 0400 ff"), off) == Heard("asked for its power: off", bytes.fromhex("905003ff"))
    assert heard(bytes.fromhex("8101 0400 02 ff"), off) == Heard("power on", ACCEPTED_AND_DONE)


def test_a_visca_broadcast_gives_the_next_camera_its_address() -> None:
    assert heard(bytes.fromhex("883001ff")) == Heard("takes address 1", bytes.fromhex("883002ff"))
    assert heard(bytes.fromhex("88010001ff")) == Heard("clears its buffers", bytes.fromhex("88010001ff"))
    assert heard(bytes.fromhex("880604ff")) == Heard("does not know VISCA 880604ff")


def test_what_is_for_another_camera_is_not_obeyed() -> None:
    assert heard(bytes.fromhex("8301 0604 ff")) == Heard("VISCA for address 3, not for this camera")
    assert heard(pelco(0, 0x02, 1, address=4)) == Heard("Pelco-D for address 4, not for this camera")


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (pelco(0, 0x04, 0x0C), "pan left speed 12"),
        (pelco(0, 0x0A, 0x3F, 0x20), "pan right speed 63, tilt up speed 32"),
        (pelco(0, 0x12, 0xFF, 0xFF), "pan right speed 64, tilt down speed 64"),
        (pelco(0, 0x20), "zoom in speed 4"),
        (pelco(0, 0x40), "zoom out speed 4"),
        (pelco(0, 0x00), "stop"),
        (pelco(0, 0x06, 0x20), "stop"),
        (pelco(0, 0x03, 0, 9), "preset 9 set at pan 0.00 tilt 0.00 zoom 0.00"),
        (pelco(0, 0x07, 0, 9), "preset 9 is not set"),
        (pelco(0, 0x05, 0, 9), "preset 9 cleared"),
        (pelco(0, 0x4B, 0x84, 0xD0), "go to pan -20.00 tilt 0.00 zoom 0.00"),
        (pelco(0, 0x4D, 0x03, 0xE8), "go to pan 0.00 tilt -10.00 zoom 0.00"),
        (pelco(0, 0x4F, 0xFF, 0xFF), "go to pan 0.00 tilt 0.00 zoom 1.00"),
        (pelco(0, 0x80), "does not know Pelco-D ff010080000081"),
        (pelco(0x02, 0x00), "does not know Pelco-D ff010200000003"),
        (pelco(0, 0x09), "does not know Pelco-D ff01000900000a"),
    ],
)
def test_a_pelco_order_is_obeyed_in_silence(message: bytes, line: str) -> None:
    assert heard(message) == Heard(line)


@pytest.mark.parametrize(
    ("question", "line", "reply"),
    [
        (0x51, "pan", "ff010059 84d0 ae"),
        (0x53, "tilt", "ff01005b 88b8 9c"),
        (0x55, "zoom", "ff01005d 8000 de"),
    ],
)
def test_a_pelco_question_is_answered(question: int, line: str, reply: str) -> None:
    go = pelco(0, 0x4B, 0x84, 0xD0) + pelco(0, 0x4D, 0x88, 0xB8) + pelco(0, 0x4F, 0x80, 0x00)
    said = f"asked for its {line}: pan -20.00 tilt 10.00 zoom 0.50"
    assert heard(pelco(0, question), go) == Heard(said, bytes.fromhex(reply))


def test_a_preset_is_found_again() -> None:
    away = pelco(0, 0x4B, 0x03, 0xE8) + pelco(0, 0x03, 0, 1) + bytes.fromhex("81010604ff")
    assert heard(bytes.fromhex("8101 043f 0201 ff"), away).line == "go to preset 1: pan 10.00 tilt 0.00 zoom 0.00"


def test_a_drive_goes_on_until_it_is_stopped() -> None:
    camera = Camera()
    camera.receive(bytes.fromhex("8101 0601 1801 0203 ff"), 10.0)
    camera.receive(bytes.fromhex("8101 0601 0101 0303 ff"), 11.0)
    assert camera.head.where(99.0) == "pan 80.00 tilt 0.00 zoom 0.00"


def test_a_drive_ends_at_the_end() -> None:
    camera = Camera()
    camera.receive(bytes.fromhex("8101 0601 1801 0103 ff"), 0.0)
    assert camera.head.where(60.0) == "pan -170.00 tilt 0.00 zoom 0.00"


def test_noise_is_named_and_the_message_after_it_is_found() -> None:
    lines = [one.line for one in Camera().receive(b"hello\r\n" + bytes.fromhex("81010604ff"), 0.0)]
    assert lines == ["does not understand 68656c6c6f0d0a", "home"]


@pytest.mark.parametrize("after", [bytes.fromhex("81010604ff"), pelco(0, 0x07, 0, 1)])
def test_the_end_of_a_lost_message_does_not_swallow_the_next(after: bytes) -> None:
    lost, found = Camera().receive(b"\xff" + after, 0.0)
    assert lost.line == "a message without its start, or Pelco-D with a wrong checksum"
    assert found == heard(after)


def test_a_wrong_pelco_checksum_is_refused_and_the_next_message_found() -> None:
    lines = [one.line for one in Camera().receive(pelco(0, 0x02, 1)[:-1] + b"\x00" + pelco(0, 0), 0.0)]
    assert lines == [
        "a message without its start, or Pelco-D with a wrong checksum",
        "does not understand 010002010000",
        "stop",
    ]


MESSAGES = st.sampled_from(
    [
        bytes.fromhex("81010604ff"),
        bytes.fromhex("81090612ff"),
        pelco(0, 0x02, 9),
        pelco(0, 0x53),
        b"\x81" + bytes(16),
    ]
)


@given(st.lists(MESSAGES | st.binary(max_size=20)).map(b"".join))
def test_bytes_one_by_one_are_answered_as_bytes_at_once(data: bytes) -> None:
    whole, split = Camera(), Camera()
    at_once = whole.receive(data, 0.0)
    one_by_one = [one for byte in data for one in split.receive(bytes([byte]), 0.0)]
    assert [h for h in at_once if h.reply] == [h for h in one_by_one if h.reply]
    assert whole.head == split.head


async def test_it_lives_on_a_pty_and_says_what_it_was_told() -> None:
    said: list[str] = []
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            path = await nursery.start(live, Camera(), said.append)
            line = os.open(path, os.O_RDWR | os.O_NOCTTY)
            tty.setraw(line)
            os.write(line, bytes.fromhex("8101 0601 0c05 0103 ff"))
            reply = b""
            while len(reply) < len(ACCEPTED_AND_DONE):
                await trio.lowlevel.wait_readable(line)
                reply += os.read(line, 100)
            os.close(line)
            nursery.cancel_scope.cancel()
    assert reply == ACCEPTED_AND_DONE
    assert said == ["camera: pan left speed 12"]


async def test_answers_that_nobody_reads_are_lost_and_the_camera_goes_on() -> None:
    enough = trio.Event()
    said = 0

    def count(_line: str) -> None:
        nonlocal said
        said += 1
        if said == 10_000:
            enough.set()

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            path = await nursery.start(live, Camera(), count)
            line = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
            orders = memoryview(bytes.fromhex("81010604ff") * 10_000)
            while orders:
                await trio.lowlevel.wait_writable(line)
                orders = orders[os.write(line, orders) :]
            await enough.wait()
            os.close(line)
            nursery.cancel_scope.cancel()
    assert said == 10_000
