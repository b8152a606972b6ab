"""The chain as an operator is shown it: from the owner down, and in words what is wrong and what to do."""

from __future__ import annotations

from gateway.chain import shown
from gateway.cli.chain import _lines
from protocol.link.chain_tree import UNKNOWN, Alarm, Branch, Cpu, Hop, Seen, Way


def cpu(letter: str, version: str = "1.2.3", *, up: bool = True, why: str = "", **more: object) -> bytes:
    return Cpu(letter.encode() * 16, 0, f"cpu-{letter}", version, up, why, **more).encode()  # type: ignore[arg-type]


def hop(way: Way, seen: Seen = Seen.TOLD, why: str = "") -> bytes:
    return Hop(way, seen, 3, 12, 2, 40, "192.0.2.1", why).encode()


def test_what_is_told_of_the_way_up_is_put_above() -> None:
    owner = Branch(hop(Way.UP), cpu("o"), (Branch(hop(Way.DOWN), cpu("s")),))
    middle = Branch(hop(Way.UP), cpu("m"), (owner,))
    root = shown(Branch(b"", cpu("a"), (middle, Branch(hop(Way.DOWN), cpu("b")))))
    assert root["name"] == "cpu-o"
    assert root["link"] is None
    (to_middle, sibling) = root["below"]
    assert (to_middle["name"], to_middle["link"]["told_by"]) == ("cpu-m", "below")
    assert (sibling["name"], sibling["link"]["told_by"]) == ("cpu-s", "above")
    (here,) = to_middle["below"]
    assert (here["here"], [each["name"] for each in here["below"]]) == (True, ["cpu-b"])


def test_a_node_id_that_is_there_twice_and_an_older_version_are_warned_of() -> None:
    twice = (Branch(hop(Way.DOWN), cpu("c", "1.10.0")), Branch(hop(Way.DOWN), cpu("c", "1.9.0")))
    root = shown(Branch(b"", cpu("a", "1.10.0", alarms=((Alarm.NO_KEY, "any CPU below"),)), twice, cut=True))
    assert [warning.split(",")[0] for warning in root["warnings"]] == [
        "no AuthenticationKey",
        "there are more CPUs behind it than can be shown",
    ]
    newer, older = root["below"]
    assert "two CPUs use one node id" in newer["warnings"][0]
    assert older["warnings"][1] == "it runs version 1.9.0, and others a newer one: update it"


def test_a_version_that_is_no_number_is_never_the_newer_one() -> None:
    root = shown(Branch(b"", cpu("a", "1.2"), (Branch(hop(Way.DOWN), cpu("b", "from a branch")),)))
    assert root["warnings"] == []


def test_the_hop_that_is_down_is_drawn_with_its_reason() -> None:
    gone = Branch(hop(Way.DOWN, Seen.GONE, "the peer has been silent for 4.1 s"), Cpu(UNKNOWN).encode())
    own = cpu("a", up=False, why="no such device", gaps=3, clients=(("GenericTCPServer", 1),))
    drawn = list(_lines({"port": "P0", "chain": shown(Branch(b"", own, (gone,)))}))
    assert drawn == [
        "the chain of P0 here, from the owner of the line down:",
        "cpu-a P0 (here) down version 1.2.3, 1 client, 3 gaps: no such device",
        "+- an unknown CPU",
        "      LINK DOWN for 12 s: the peer has been silent for 4.1 s; from 192.0.2.1, 2",
        "      resumed, 40 bytes lost",
    ]


def test_a_cpu_that_did_not_answer_is_named_with_what_to_do() -> None:
    silent = Branch(hop(Way.DOWN, Seen.SILENT), cpu("s", ""))
    drawn = list(_lines({"port": "P0", "chain": shown(Branch(b"", cpu("a"), (silent,)))}))
    assert drawn[-2:] == [
        "warning: cpu-s: the link stands, but it did not answer in time: check it if this",
        "         continues",
    ]
