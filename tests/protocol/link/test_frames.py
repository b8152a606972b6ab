from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocol.errors import RemoteProtocolError
from protocol.link.chain_frames import MAX_TREE, Picture, Survey
from protocol.link.control_frames import LineErrors, LineFormat, LineReport, Look
from protocol.link.frames import FRAMES, Frame, decode
from protocol.link.header import LIMIT, Parts
from protocol.link.hello import Confirm, Hello, HelloReply, Identity
from protocol.link.key_frames import Rekey, Rekeyed, Told, ToldCpu
from protocol.link.key_rules import LONGEST_OLD_KEY, MAX_CPUS
from protocol.link.message_rules import MAX_MESSAGE
from protocol.link.port_state import MAX_PATH, PortState, encode_text
from protocol.link.reasons import CloseReason, Reason
from protocol.link.session_frames import NOWHERE, Close, Open, Opened, Ping, Pong, Port, Position
from protocol.link.stream_frames import (
    MAX_DATA,
    OTHERS,
    Ack,
    Asker,
    Channel,
    Control,
    Credit,
    DownData,
    Gap,
    Lost,
    Turn,
    UpData,
)
from protocol.link.turn_parameters import MAX_TURN_TIME, TurnParameters, TurnPhase, TurnStatus
from protocol.sharing.message_rule import MAX_MESSAGE_END, MessageRule
from protocol.sharing.turn_rule import KINDS, MAX_END, MAX_REPLY, TurnRule

u8, u16, u32 = (st.integers(0, 2**bits - 1) for bits in (8, 16, 32))
u64 = st.integers(0, LIMIT - 1)
offsets = st.integers(0, LIMIT - 1 - MAX_DATA)
sixteen, tags, shares = (st.binary(min_size=size, max_size=size) for size in (16, 64, 32))
texts = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cf", "Zl", "Zp")), max_size=60)
channels = st.sampled_from(Channel)
classes = st.sampled_from([Channel.PTZ, Channel.TCP, Channel.CGI])
positions = st.tuples(*[st.builds(Position, u64, u64)] * 4)
rights = st.integers(0, 7).map(lambda bits: bits << 1)
paths = st.lists(sixteen, max_size=MAX_PATH, unique=True).map(tuple)
times = st.integers(1, 9000).map(lambda milliseconds: milliseconds / 1000)
turn_rules = st.sampled_from(KINDS).flatmap(
    lambda kind: st.builds(
        TurnRule,
        st.just(kind),
        st.binary(min_size=1, max_size=MAX_END) if kind == "line" else st.just(b""),
        st.integers(1, MAX_REPLY) if kind == "length" else st.just(0),
        times,
        times,
        st.none() | st.just(0.0) | times,
        times,
        st.sampled_from(["sender", "all"]),
        st.booleans(),
    )
)
message_gaps = st.integers(1, 100).map(lambda milliseconds: milliseconds / 1000)
message_ends = st.binary(min_size=1, max_size=MAX_MESSAGE_END)
message_rules = st.builds(MessageRule, message_ends, st.none() | message_gaps) | st.builds(
    MessageRule, st.none(), message_gaps
)
rules = (turn_rules | st.none(), message_rules | st.none())
ports = st.builds(PortState, rights, st.just(False), u32, texts.filter(bool), texts, paths, *rules) | st.builds(
    PortState, rights, st.just(True), u32, st.just(""), texts, paths.filter(bool), *rules
)
askers = st.builds(Asker, classes, u64) | st.just(OTHERS)
turns = st.builds(TurnParameters, u16, st.binary(max_size=249), st.integers(0, MAX_TURN_TIME))
counts = st.integers(1, MAX_DATA)
gaps = st.builds(
    Gap, st.just(Channel.LINE), offsets, counts, st.sampled_from([Reason.OVERFLOW, Reason.RESTARTED])
) | st.builds(Gap, classes, offsets, counts, st.sampled_from([Reason.WITHDRAWN, Reason.TOO_OLD, Reason.INCOMPLETE]))
nodes = st.lists(sixteen, min_size=1, max_size=4).map(tuple)
short_texts = texts.filter(lambda text: len(text.encode()) <= 64)
told_cpus = st.builds(ToldCpu, sixteen, short_texts, st.sampled_from(Told))
rekeys = st.builds(Rekey, u32, u16, st.integers(1, LONGEST_OLD_KEY), nodes, short_texts.filter(bool))

formats = st.builds(
    LineFormat,
    st.integers(1, 2**32 - 1),
    st.integers(5, 8),
    st.sampled_from("NOEMS"),
    st.integers(1, 2),
    st.booleans(),
    st.booleans(),
)
errors = st.builds(LineErrors, u32, u32, u32)

frames = st.one_of(
    st.builds(Hello, shares, st.lists(u8, max_size=4).map(tuple), sixteen, u8, sixteen),
    st.builds(HelloReply, shares, u8, sixteen, u8, texts, tags),
    st.builds(Confirm, tags),
    st.builds(Identity, shares, tags, u32, short_texts),
    st.builds(Close, st.sampled_from(CloseReason), positions),
    st.builds(Close, st.just(CloseReason.STALE), positions, u64),
    st.builds(Open, sixteen, u64, u32, positions),
    st.builds(Opened, sixteen, u32, u32, positions, ports),
    st.builds(UpData, classes, offsets, u32, st.binary(min_size=1, max_size=99), turns | st.none(), st.booleans()),
    st.builds(DownData, offsets, st.binary(min_size=1, max_size=99), askers | st.none()),
    st.builds(Ack, channels, u64),
    st.builds(Credit, channels, u64),
    gaps,
    st.builds(Lost, channels, offsets, counts, st.sampled_from(Reason)),
    st.builds(Port, ports),
    st.builds(Turn, classes, u64, st.just(TurnPhase.BEGIN), st.just(TurnStatus.RUNNING)),
    st.builds(Turn, classes, u64, st.just(TurnPhase.END), st.sampled_from(TurnStatus).filter(bool)),
    st.builds(Ping, u32),
    st.builds(Pong, u32, u32),
    st.builds(Survey, u32, u16),
    st.builds(Picture, u32, st.binary(min_size=1, max_size=99)),
    st.builds(Control, classes, offsets, u32, st.binary(min_size=1, max_size=99), st.none(), st.booleans()),
    st.builds(
        LineReport, st.integers(0, 3), formats | st.none(), st.integers(0, 63) | st.none(), u32, errors | st.none(), u32
    ),
    st.builds(Look, st.booleans(), st.integers(0, 2**32 - 1)),
    rekeys,
    st.builds(Rekeyed, u32, st.lists(told_cpus, min_size=1, max_size=4).map(tuple)),
)
REKEY = Rekey(1, 2, 3, (bytes(16),), "a key")
REKEYED = Rekeyed(1, (ToldCpu(bytes(16), "cpu2", Told.CHANGED),))
parts = st.builds(Parts, st.binary(max_size=200), st.integers(0, 5), st.integers(0, 3), st.integers(0, 2**64 - 1))


@given(frames)
@example(UpData(Channel.TCP, 7, 8, bytes(MAX_MESSAGE)))
@example(UpData(Channel.CGI, 7, 8, b"ab", TurnParameters(3, b"\r", 100), more=True))
@example(DownData(7, bytes(MAX_DATA)))
@example(DownData(7, bytes(MAX_DATA), Asker(Channel.CGI, 9)))
def test_a_frame_is_read_as_it_was_written(frame: Frame) -> None:
    assert decode(frame.code, frame.parts()) == frame


def test_a_frame_of_data_ends_behind_its_last_byte_and_is_a_whole_message_unless_it_says_more() -> None:
    up, down = UpData(Channel.TCP, 7, 8, b"abc"), DownData(7, b"abc")
    assert (up.end, down.end) == (10, 10)
    assert up.parts().flags == 0


@given(st.integers(0, 0x5F), parts)
def test_any_bytes_are_a_frame_with_exactly_these_bytes_or_an_error(code: int, given_parts: Parts) -> None:
    try:
        frame = decode(code, given_parts)
    except RemoteProtocolError:
        return
    assert code >= 0x40 if frame is None else frame.parts() == given_parts


@given(frames, st.data())
def test_a_frame_with_another_byte_is_another_frame_or_an_error(frame: Frame, data: st.DataObject) -> None:
    payload = bytearray(frame.parts().payload + b"\0")
    at = data.draw(st.integers(0, len(payload) - 1))
    payload[at] ^= data.draw(st.integers(1, 255))
    try:
        other = decode(frame.code, frame.parts()._replace(payload=bytes(payload)))
    except RemoteProtocolError:
        return
    assert other != frame


def test_every_type_has_its_number() -> None:
    assert sorted(FRAMES) == [*range(1, 17), *range(0x50, 0x57)]


@pytest.mark.parametrize("size", [0, MAX_TREE + 1])
def test_a_tree_of_cpus_is_neither_empty_nor_longer_than_a_message(size: int) -> None:
    with pytest.raises(RemoteProtocolError, match="a tree of"):
        decode(Picture.code, Picture(1, bytes(size)).parts())


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (replace(REKEY, seconds=0), "an old key for 0 s"),
        (replace(REKEY, seconds=LONGEST_OLD_KEY + 1), "an old key for"),
        (replace(REKEY, nodes=()), "a key for 0 CPUs"),
        (replace(REKEY, nodes=(bytes(16),) * (MAX_CPUS + 1)), "a key for 65 CPUs"),
        (replace(REKEY, key=""), "a key of 0 bytes"),
        (replace(REKEY, key="k" * 513), "a key of 513 bytes"),
        (replace(REKEY, key="k\n"), "a key with control characters"),
        (Rekeyed(1, ()), "0 CPUs"),
        (Rekeyed(1, REKEYED.cpus * (MAX_CPUS + 1)), "65 CPUs"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_new_key_and_its_answer_have_their_bounds(frame: Rekey | Rekeyed, why: str) -> None:
    with pytest.raises(RemoteProtocolError, match=why):
        decode(frame.code, frame.parts())


def test_a_frame_that_is_shown_in_a_log_shows_no_key() -> None:
    assert "a key" not in repr(REKEY)


def test_the_largest_key_and_answer_are_no_longer_than_a_message() -> None:
    nodes = tuple(bytes([n]) * 16 for n in range(MAX_CPUS))
    largest = Rekey(2**32 - 1, 65535, LONGEST_OLD_KEY, nodes, "\U0001f511" * 128)
    answer = Rekeyed(1, tuple(ToldCpu(node, "n" * 64, Told.APART) for node in nodes))
    for frame in (largest, answer):
        assert decode(frame.code, frame.parts()) == frame
        assert len(frame.parts().payload) <= MAX_MESSAGE


@pytest.mark.parametrize("code", [0, 17, 0x3F])
def test_an_unknown_type_below_0x40_is_an_error(code: int) -> None:
    with pytest.raises(RemoteProtocolError, match=f"no frame of type {code:#04x}"):
        decode(code, Parts())


@pytest.mark.parametrize("code", [0x40, 0xFF])
def test_an_unknown_type_from_0x40_up_is_ignored(code: int) -> None:
    assert decode(code, Parts(b"whatever", 9, 9, 9)) is None


def ruled(rules: bytes) -> Parts:
    """The state of a port that is down, with these rules."""
    return Parts(bytes(6) + b"\1x\0" + rules)


@pytest.mark.parametrize(
    ("code", "refused", "why"),
    [
        (14, Parts(b"\0\0\0\1", flags=1), "another form"),
        (14, Parts(b"\0\0\0\1", channel=1), "another form"),
        (14, Parts(b"\0\0\0\1", offset=1), "another form"),
        (14, Parts(b"\0\0\0\1\0"), "a bad Ping"),
        (7, Parts(b""), "brings 1 to 16375 bytes"),
        (7, Parts(bytes(MAX_DATA + 1)), "at most 16375"),
        (7, Parts(b"x", offset=LIMIT - 1), "must end below 2"),
        (7, Parts(bytes(6), channel=1, offset=LIMIT - 1), "must end below 2"),
        (7, Parts(bytes(5), channel=1), "1 to 8192 bytes"),
        (7, Parts(b"\0\0\0\0\x06\0\0" + (9001).to_bytes(4, "big") + b"x", channel=1), "a turn of 9001 ms"),
        (7, Parts(b"\0\0\0\0\x03\0\0\0x", channel=1), "a bad DownData"),
        (7, Parts(bytes(5) + bytes(MAX_MESSAGE + 1), channel=1), "at most 8192"),
        (7, Parts(b"\0\0\0\0\1x", channel=1), "a bad DownData"),
        (7, Parts(bytes(6), channel=4), "4 is not a valid Channel"),
        (10, Parts(bytes(8) + b"\1", channel=1), "only RESTARTED may be of unknown size"),
        (10, Parts(bytes(8) + b"\3"), "only RESTARTED may be of unknown size"),
        (10, Parts(bytes(7) + b"\1\2"), "no GAP on .* has the reason"),
        (10, Parts(bytes(7) + b"\1\x08", channel=1), "no GAP on .* has the reason"),
        (11, Parts(bytes(8) + b"\1", channel=1), "a range has at least one byte"),
        (4, Parts(b"\1" + bytes(64), offset=1), "only STALE names a connection number"),
        (13, Parts(b"\0\1", channel=1), "a turn begins RUNNING"),
        (13, Parts(b"\1\0", channel=1), "a turn begins RUNNING"),
        (10, Parts(bytes(8) + b"\x63"), "99 is not a valid Reason"),
        (3, Parts(bytes(63)), "a tag has 64 bytes"),
        (16, Parts(bytes(100) + b"\x41" + b"x" * 65), "another form"),
        (16, Parts(bytes(100) + b"\1\n"), "control characters"),
        (7, Parts(b"\0" * 9, flags=2), "brings 1 to 16375 bytes"),
        (7, Parts(b"\0" * 8, flags=2), "a bad DownData"),
        (7, Parts(bytes(9 + MAX_DATA + 1), flags=2), "at most 16375"),
        (7, Parts(b"\4" + bytes(9), flags=2), "4 is not a valid Channel"),
        (7, Parts(bytes(8) + b"\1x", flags=2), "a message at another link has no offset"),
        (7, Parts(b"\1\x40" + bytes(7) + b"x", flags=2), "must end below 2"),
        (7, Parts(bytes(6), channel=1, flags=2), "another form"),
        (12, Parts(bytes([0, 2]) + bytes(9) + bytes(16)), "another form"),
        (12, Parts(bytes(11) + bytes(15)), "node ids of 16 bytes"),
        (12, Parts(bytes(11) + bytes(16 * 9)), "at most 8 node ids"),
        (12, Parts(bytes(6) + b"\1x\0\0\0\0" + bytes(16 * 2)), "no node twice"),
        (12, Parts(b"\1" + bytes(5) + b"\1x\0\0\0\0"), "bits of no class"),
        (12, Parts(b"\x10" + bytes(5) + b"\1x\0\0\0\0"), "bits of no class"),
        (12, Parts(bytes(11)), "a port that is down says why"),
        (12, Parts(b"\0\1" + bytes(9)), "up has a path"),
        (12, Parts(b"\0\1" + bytes(4) + b"\1x\0\0\0\0" + bytes(16)), "no reason to be down"),
        (12, ruled(b"\x07" + bytes(11)), "7 is not a valid ReplyCode"),
        (12, ruled(b"\xff"), "255 is not a valid ReplyCode"),
        (12, ruled(b"\2\4\1\x2c\0\x14\0\4\3\xe8\0\0"), "another form"),
        (12, ruled(b"\2\0\0\0\0\x14\0\4\3\xe8\0\0"), "a time of a turn"),
        (12, ruled(b"\2\0\1\x2c\x23\x29\0\4\3\xe8\0\0"), "a time of a turn"),
        (12, ruled(b"\2\0\1\x2c\0\x14\xff\xfe\3\xe8\0\0"), "a gap is 0 to 9 s"),
        (12, ruled(b"\4\0\1\x2c\0\x14\0\4\3\xe8\0\0\0"), 'a reply "line" ends with'),
        (12, ruled(b"\4\0\1\x2c\0\x14\0\4\3\xe8\x11" + bytes(19)), 'a reply "line" ends with'),
        (12, ruled(b"\5\0\1\x2c\0\x14\0\4\3\xe8\0\0\0\0"), 'a reply "length" has'),
        (12, ruled(b"\5\0\1\x2c\0\x14\0\4\3\xe8\4\1\0\0"), 'a reply "length" has'),
        (12, ruled(b"\2\0\1\x2c\0"), "a bad Port"),
        (12, ruled(b"\0\x65\0"), "the gap behind a message"),
        (12, ruled(b"\0\0\x11" + bytes(17)), "a message ends with"),
        (12, ruled(b"\0\0\3ab"), "another form"),
        (12, ruled(b"\0\0"), "a bad Port"),
        (12, ruled(b""), "a bad Port"),
        (12, Parts(bytes(6) + b"\2x\n\0"), "control characters"),
        (12, Parts(bytes(6) + b"\4x\xe2\x80\xae\0"), "control characters"),
        (12, Parts(bytes(6) + b"\2\xff\xfe\0"), "a bad Port"),
        (12, Parts(bytes(6) + b"\2x"), "a bad Port"),
    ],
)
def test_a_refusal_says_what_is_wrong(code: int, refused: Parts, why: str) -> None:
    with pytest.raises(RemoteProtocolError, match=why):
        decode(code, refused)


WIDE: dict[str, Frame] = {
    "CLOSE": Close(CloseReason.STALE, NOWHERE, 1),
    "OPEN": Open(bytes(16), 1, 2, NOWHERE),
    "OPENED": Opened(bytes(16), 1, 2, NOWHERE, PortState(0, False, 0, "x", "", ())),
    "ACK": Ack(Channel.TCP, 1),
    "CREDIT": Credit(Channel.TCP, 1),
    "GAP": Gap(Channel.TCP, 1, 1, Reason.TOO_OLD),
    "LOST": Lost(Channel.TCP, 1, 1, Reason.TOO_OLD),
    "TURN": Turn(Channel.TCP, 1, TurnPhase.BEGIN, TurnStatus.RUNNING),
    "DATA up": UpData(Channel.TCP, 1, 0, b"x"),
    "DATA down": DownData(1, b"x"),
}


def wide_fields(frame: Frame) -> list[tuple[str, Frame]]:
    """The frame with each of its numbers of 64 bits at the limit, one after the other."""
    if isinstance(frame, UpData | DownData | Ack | Credit):
        return [("offset", frame._replace(offset=LIMIT))]
    fields = [name for name in ("offset", "count", "number", "last") if hasattr(frame, name)]
    found: list[tuple[str, Frame]] = [(name, replace(frame, **{name: LIMIT})) for name in fields]  # type: ignore[arg-type]
    if isinstance(frame, Close | Open | Opened):
        for at in range(8):
            numbers = [0] * 8
            numbers[at] = LIMIT
            line, ptz, tcp, cgi = (Position(*numbers[low : low + 2]) for low in range(0, 8, 2))
            found.append((f"position {at}", replace(frame, positions=(line, ptz, tcp, cgi))))
    return found


@pytest.mark.parametrize(
    ("code", "parts"),
    [
        pytest.param(wide.code, wide.parts(), id=f"{name} {field}")
        for name, frame in WIDE.items()
        for field, wide in wide_fields(frame)
    ],
)
def test_no_number_on_the_wire_reaches_the_limit(code: int, parts: Parts) -> None:
    with pytest.raises(RemoteProtocolError, match=r"below 2\^62"):
        decode(code, parts)


# Of DATA down flag 1 is known: it names an asker; of a control flag 0, which says that it is a part.
@pytest.mark.parametrize(
    ("code", "flag"), [(code, flag) for code in FRAMES for flag in range(8) if (code, flag) not in {(7, 1), (0x54, 0)}]
)
def test_an_unknown_flag_is_a_broken_rule_for_every_type(code: int, flag: int) -> None:
    good = next(parts for number, parts in ONE_OF_EACH if number == code)
    assert decode(code, good) is not None
    with pytest.raises(RemoteProtocolError, match="another form"):
        decode(code, good._replace(flags=1 << flag))


ONE_OF_EACH = [
    *((frame.code, frame.parts()) for frame in WIDE.values() if not isinstance(frame, UpData)),
    (1, Hello(bytes(32), (1,), bytes(16), 0, bytes(16)).parts()),
    (2, HelloReply(bytes(32), 1, bytes(16), 0, "", bytes(64)).parts()),
    (3, Confirm(bytes(64)).parts()),
    (16, Identity(bytes(32), bytes(64), 0, "").parts()),
    (12, Port(PortState(0, False, 0, "x", "", ())).parts()),
    (14, Ping(1).parts()),
    (0x54, Control(Channel.TCP, 7, 8, b"ab").parts()),
    (0x55, LineReport(3).parts()),
    (0x56, Look(wanted=True).parts()),
    (0x50, Survey(1, 2).parts()),
    (0x51, Picture(1, b"x").parts()),
    (0x52, REKEY.parts()),
    (0x53, REKEYED.parts()),
    (15, Pong(1, 2).parts()),
]


@pytest.mark.parametrize("flag", range(1, 8))
def test_data_up_has_no_other_flag_than_more(flag: int) -> None:
    with pytest.raises(RemoteProtocolError, match="another form"):
        decode(7, UpData(Channel.TCP, 1, 0, b"x").parts()._replace(flags=1 << flag))


def test_a_text_of_ours_has_no_control_characters() -> None:
    assert encode_text("no\x1b[31m\ndevice\u202e\x9f\ud800 é") == b"\x14no?[31m?device??? \xc3\xa9"


def test_a_gap_of_unknown_size_stands_on_the_line_alone() -> None:
    unknown = Gap(Channel.LINE, 7, 0, Reason.RESTARTED)
    assert decode(unknown.code, unknown.parts()) == unknown


def test_a_text_is_cut_between_two_characters() -> None:
    assert encode_text("é" * 200) == bytes([254]) + "é".encode() * 127


NO_REPORT = LineReport(3).parts().payload
NO_LINE = replace(LineReport(0), format=LineFormat(9600, 8, "N", 1, xon_xoff=False, rts_cts=False)).parts().payload


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x04" + NO_REPORT[1:],
        b"\x03\x08" + NO_REPORT[2:],
        NO_REPORT[:2] + bytes([0, 0, 0, 1]) + NO_REPORT[6:],
        NO_LINE[:2] + bytes(4) + NO_LINE[6:],
        NO_LINE[:6] + b"\x04" + NO_LINE[7:],
        NO_LINE[:7] + b"n" + NO_LINE[8:],
        NO_LINE[:7] + b"\xff" + NO_LINE[8:],
        NO_LINE[:8] + b"\x03" + NO_LINE[9:],
        NO_LINE[:9] + b"\x04" + NO_LINE[10:],
        NO_REPORT[:1] + b"\x02" + NO_REPORT[2:10] + b"\x40" + NO_REPORT[11:],
    ],
)
def test_a_report_of_what_no_line_is_is_refused(payload: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="LineReport"):
        decode(LineReport.code, Parts(payload))


def test_a_control_asks_for_no_turn() -> None:
    message = UpData(Channel.TCP, 7, 8, b"ab", TurnParameters(3, b"\r", 100))
    assert decode(UpData.code, message.parts()) == message
    with pytest.raises(RemoteProtocolError, match="turn parameters"):
        decode(Control.code, message.parts())


def test_a_control_is_another_frame_than_a_message_with_its_bytes() -> None:
    message = UpData(Channel.TCP, 7, 8, b"ab")
    assert type(decode(Control.code, message.parts())) is Control
    assert type(decode(UpData.code, message.parts())) is UpData
