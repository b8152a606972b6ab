"""The published vectors are the code's, and a reader who has nothing else can check his own code by them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from protocol.link.frames import FRAMES, decode
from protocol.link.header import FrameDecoder, Parts
from protocol.link.secure import Opener
from tests.protocol.link.vectors import FILE, written

VECTORS: dict[str, Any] = json.loads(FILE.read_text())
SEALED = [vector for vector in VECTORS["conversation"] if "number" in vector] + VECTORS["instead of OPENED"]
CLEAR = [vector for vector in VECTORS["conversation"] if "number" not in vector] + VECTORS["in clear"]


def test_the_file_is_what_the_code_says() -> None:
    assert FILE.read_text() == written(), "run python -m tests.protocol.link.vectors"


def test_every_type_of_frame_has_a_vector_and_a_close_has_one_in_clear_too() -> None:
    assert {int(vector["wire"][2:4], 16) for vector in SEALED + CLEAR} == FRAMES.keys()
    assert {int(vector["wire"][2:4], 16) for vector in CLEAR} == {1, 2, 3, 4}


@pytest.mark.parametrize("vector", CLEAR, ids=lambda vector: vector["what"])
def test_what_goes_in_clear_is_header_and_payload(vector: dict[str, Any]) -> None:
    assert vector["wire"][32:] == vector["payload"]


@pytest.mark.parametrize("vector", SEALED, ids=lambda vector: f"{vector['from']}: {vector['what']}")
def test_a_sealed_frame_opens_with_its_key_and_its_number_alone(vector: dict[str, Any]) -> None:
    decoder = FrameDecoder()
    decoder.receive_data(bytes.fromhex(vector["wire"]))
    raw = decoder.next_frame()
    assert raw is not None
    key = bytes.fromhex(VECTORS["secrets"]["up" if vector["from"] == "A" else "down"])
    payload = Opener(key, vector["number"]).open(raw.head, raw.body)
    assert payload.hex() == vector["payload"]
    frame = decode(raw.code, Parts(payload, raw.channel, raw.flags, raw.offset))
    assert frame is not None
    assert type(frame).__name__ == vector["frame"]


def numbers(fields: object) -> list[str]:
    """Every number of a frame, as it stands in the file."""
    if isinstance(fields, dict):
        return [number for value in fields.values() for number in numbers(value)]
    if isinstance(fields, list):
        return [number for value in fields for number in numbers(value)]
    return [fields] if isinstance(fields, str) and fields.startswith("0x") else []


@pytest.mark.parametrize(
    "vector", VECTORS["conversation"][5:], ids=lambda vector: f"{vector['from']}: {vector['what']}"
)
def test_no_two_fields_of_a_frame_have_the_same_number(vector: dict[str, Any]) -> None:
    """Or a reader who swaps them would not find out."""
    found = numbers(vector["fields"])
    assert len(set(found)) == len(found)
