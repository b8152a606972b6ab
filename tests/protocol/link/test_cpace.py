"""The vectors are the draft's own (draft-irtf-cfrg-cpace, G_25519 and its low-order points)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from protocol.link import cpace

VECTORS = json.loads((Path(__file__).parent / "cpace_vectors.json").read_text())
RUN = {name: bytes.fromhex(value) for name, value in VECTORS["G_25519"].items()}
POINTS = {name: bytes.fromhex(value) for name, value in VECTORS["X25519_points"].items()}
LOW = VECTORS["X25519_low_order"]
SEEN = cpace.transcript(RUN["Ya"], RUN["ADa"], RUN["Yb"], RUN["ADb"])


def test_the_generator_is_the_drafts() -> None:
    assert cpace.generator(RUN["PRS"], RUN["CI"], RUN["sid"]) == RUN["g"]


@pytest.mark.parametrize(("scalar", "result"), [("ya", "Ya"), ("yb", "Yb")])
def test_the_shares_are_the_drafts(scalar: str, result: str) -> None:
    assert cpace.share(RUN[scalar], RUN["g"]) == RUN[result]


@pytest.mark.parametrize(("scalar", "peer"), [("ya", "Yb"), ("yb", "Ya")])
def test_both_sides_reach_the_drafts_secrets(scalar: str, peer: str) -> None:
    assert cpace.share(RUN[scalar], RUN[peer]) == RUN["K"]
    assert cpace.intermediate_key(RUN[scalar], RUN[peer], SEEN, RUN["sid"]) == RUN["ISK_IR"]


def test_the_public_name_of_the_run_is_the_drafts() -> None:
    assert cpace.session_output(SEEN) == RUN["sid_output_ir"]


@pytest.mark.parametrize("name", LOW["must_abort"])
def test_a_point_of_low_order_is_refused(name: str) -> None:
    with pytest.raises(cpace.PointError, match="low order"):
        cpace.share(bytes.fromhex(LOW["scalar"]), POINTS[name])


@pytest.mark.parametrize("name", LOW["products"])
def test_a_point_that_is_not_canonical_gives_the_product_of_its_residue(name: str) -> None:
    assert cpace.share(bytes.fromhex(LOW["scalar"]), POINTS[name]).hex() == LOW["products"][name]


def test_the_vectors_name_all_twelve_points() -> None:
    assert {*LOW["must_abort"], *LOW["products"]} == POINTS.keys()
    assert len(POINTS) == 12


@pytest.mark.parametrize(("length", "prefix"), [(0, "00"), (127, "7f"), (128, "8001"), (300, "ac02")])
def test_lengths_are_leb128(length: int, prefix: str) -> None:
    assert cpace.prepend_len(bytes(length)) == bytes.fromhex(prefix) + bytes(length)


def test_a_long_password_needs_no_padding() -> None:
    assert cpace.generator(bytes(200), b"ci") != cpace.generator(bytes(201), b"ci")


def test_both_halves_of_elligators_map_are_used() -> None:
    points = {cpace.generator(bytes([n]), b"ci") for n in range(32)}
    assert len(points) == 32
    assert all(len(cpace.share(bytes(range(32)), point)) == 32 for point in points)


def test_a_confirmation_depends_on_share_data_and_secret() -> None:
    tags = {
        cpace.confirmation(isk, share, ad)
        for isk in (bytes(64), b"\1" * 64)
        for share in (bytes(32), b"\1" * 32)
        for ad in (b"", b"a")
    }
    assert len(tags) == 8
    assert {len(tag) for tag in tags} == {64}
