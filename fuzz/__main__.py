"""``python -m fuzz NAME --seconds N``: run one property of the tests on bytes, until it fails or the time is over.

A target is a ``@given`` function of the tests, which states the invariant; Hypothesis turns bytes into its arguments.
The bytes are random, or mutations of earlier ones that were the first to reach a line of ``protocol`` or ``gateway``.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import random
import sys
import time
import traceback
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import FrameType

    from _typeshed import TraceFunction

    Property: TypeAlias = Callable[[bytes], bytes | None]

TARGETS: Mapping[str, str] = {
    "addresses": "tests.protocol.parameters.test_addresses:test_any_text_is_a_list_or_a_value_error",
    "advert": "tests.protocol.link.test_advert:test_any_bytes_are_an_advert_or_a_value_error",
    "cgi": "tests.protocol.http.test_param_cgi:test_any_bytes_are_a_request_or_a_refusal_of_one_line",
    "connection": "tests.protocol.link.test_connection:test_whole_split_and_mutated_streams_give_equal_events",
    "digest": "tests.protocol.http.test_digest:test_any_bytes_are_credentials_that_are_not_accepted_or_none",
    "discovery": "tests.protocol.http.test_apidiscovery:test_any_request_gets_data_or_a_known_error",
    "handshake": "tests.protocol.link.test_handshake:test_a_mutated_handshake_ends_in_a_cut_or_waits",
    "header": "tests.protocol.link.test_header:test_whole_and_byte_by_byte_are_cut_alike",
    "hostile": ("tests.protocol.session.test_hostile:test_a_peer_that_lies_meets_events_and_protocol_errors_alone"),
    "http": "tests.gateway.web.test_routes:test_whatever_is_thrown_at_the_server_it_answers_or_closes",
    "modbus": (
        "tests.protocol.sharing.test_request_splitter:test_any_bytes_in_any_cuts_are_requests_in_order_and_rubbish"
    ),
    "pairing": "tests.protocol.link.test_pairing:test_any_bytes_are_a_run_or_a_pairing_error",
    "parameter_file": (
        "tests.protocol.parameters.test_catalogue:test_any_file_gives_a_whole_state_and_errors_of_one_line"
    ),
    "parameters": "tests.protocol.parameters.test_catalogue:test_any_update_leaves_a_whole_state",
    "payloads": (
        "tests.protocol.link.test_connection:test_random_payloads_behind_good_tags_give_events_or_remote_errors"
    ),
    "serial_cgi": "tests.protocol.http.test_serial_cgi:test_any_bytes_are_a_bounded_request_or_an_error_of_one_line",
    "telnet": "tests.protocol.telnet.test_server:test_any_bytes_in_any_cuts_are_equal_events_within_bounds",
}

ROOT = Path(__file__).parent.parent
CORPUS = ROOT / "fuzz" / "corpus"
KEPT = 128
"""Buffers that a corpus keeps on disk."""
LEARNING = 1000
"""The first so many runs are all traced, then one in eight: tracing makes a run up to four times slower."""
LONGEST = 4096
"""The length of the longest buffer, in bytes."""


def main(arguments: list[str] | None = None) -> int:
    """Fuzz one target. Return 1 if it failed; a command line that makes no sense exits with 2."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description="Run a property of the tests on random bytes.")
    parser.add_argument("target", choices=sorted(TARGETS), metavar="NAME", help=", ".join(sorted(TARGETS)))
    parser.add_argument("--seconds", type=float, default=10.0, help="how long (0: replay the corpus alone)")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32, help="of the random bytes")
    parser.add_argument("--bytes", type=bytes.fromhex, metavar="HEX", help="run once, on the bytes of a failure")
    options = parser.parse_args(arguments)
    target = load(TARGETS[options.target])
    campaign = Campaign(target, Corpus(CORPUS / options.target), random.Random(options.seed))
    buffers = campaign.buffers(options.seconds) if options.bytes is None else iter([options.bytes])
    failed = campaign.run(buffers)
    print(f"{options.target}: {campaign.report()}, seed {options.seed}")
    if failed is not None:
        print(f"FAILED; to see it again: python -m fuzz {options.target} --bytes {failed.hex() or repr('')}")
    return 0 if failed is None else 1


def load(name: str) -> Property:
    """Return the property ``module:function`` as a function of bytes, which returns None if they make no arguments."""
    module, _, function = name.partition(":")
    fuzz: Property = getattr(importlib.import_module(module), function).hypothesis.fuzz_one_input
    return fuzz


@final
class Campaign:
    """The runs of one target."""

    def __init__(self, target: Property, corpus: Corpus, chance: random.Random) -> None:
        self._target = target
        self._corpus = corpus
        self._chance = chance
        self._footprint = Footprint()
        self._started = time.monotonic()
        self._executions = 0

    def run(self, buffers: Iterator[bytes]) -> bytes | None:
        """Run the target on each buffer; return the first that fails, or None."""
        for buffer in buffers:
            self._executions += 1
            watched = self._executions <= LEARNING or self._executions % 8 == 0
            try:
                with self._footprint if watched else nullcontext():
                    used = self._target(buffer)
            except KeyboardInterrupt:
                break
            except BaseException:  # noqa: BLE001 - a test may fail with any exception
                traceback.print_exc()
                self._corpus.add(buffer)
                return buffer
            if watched and used is not None and self._footprint.is_new():
                self._corpus.add(used)
        return None

    def buffers(self, seconds: float) -> Iterator[bytes]:
        """Yield the corpus, and then mutations of it until the time is over."""
        yield from tuple(self._corpus.buffers)
        deadline = self._started + seconds
        while time.monotonic() < deadline:
            yield mutated(self._chance, self._corpus.buffers)

    def report(self) -> str:
        """Return the number of runs, their rate and what they reached, in one line."""
        rate = self._executions / max(time.monotonic() - self._started, 1e-9)
        lines, kept = len(self._footprint.seen), len(self._corpus.buffers)
        return f"{self._executions} runs, {rate:.0f} executions a second, {lines} lines reached, corpus of {kept}"


@final
class Corpus:
    """The buffers that mutations start from. They are on disk under their hashes, so that runs share them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.buffers = [path.read_bytes() for path in sorted(directory.glob("*.bin"))]

    def add(self, buffer: bytes) -> None:
        self.buffers.append(buffer)
        if len(self.buffers) <= KEPT:
            self._directory.mkdir(parents=True, exist_ok=True)
            name = hashlib.sha256(buffer).hexdigest()[:16]
            (self._directory / f"{name}.bin").write_bytes(buffer)


@final
class Footprint:
    """The lines of ``protocol`` and ``gateway`` that ran inside ``with``."""

    def __init__(self) -> None:
        self.seen: set[tuple[str, int]] = set()
        self._ours: dict[str, bool] = {}
        self._before = 0
        self._tracer: TraceFunction | None = None

    def __enter__(self) -> None:
        self._before = len(self.seen)
        self._tracer = sys.gettrace()
        sys.settrace(self._call)

    def __exit__(self, *_: object) -> None:
        # Coverage's, where the tests run under it: without it the rest of the process would go unmeasured.
        sys.settrace(self._tracer)

    def is_new(self) -> bool:
        """Return true if the last run reached a line that no earlier one reached."""
        return len(self.seen) > self._before

    def _call(self, frame: FrameType, _event: str, _arg: object) -> TraceFunction | None:
        name = frame.f_code.co_filename
        if name not in self._ours:
            self._ours[name] = name.startswith((f"{ROOT}/protocol/", f"{ROOT}/gateway/"))
        return self._line if self._ours[name] else None

    def _line(self, frame: FrameType, _event: str, _arg: object) -> TraceFunction:
        self.seen.add((frame.f_code.co_filename, frame.f_lineno))
        return self._line


def mutated(chance: random.Random, corpus: list[bytes]) -> bytes:
    """Return a buffer of the corpus with up to eight changes, or now and then a new one."""
    if not corpus or chance.random() < 0.2:
        return chance.randbytes(chance.randrange(2 ** chance.randrange(1, 13)))
    buffer = bytearray(chance.choice(corpus))
    for _ in range(chance.randrange(1, 9)):
        chance.choice(MUTATIONS)(chance, buffer, corpus)
    return bytes(buffer[:LONGEST])


def _replace(chance: random.Random, buffer: bytearray, _corpus: list[bytes]) -> None:
    if buffer:
        buffer[chance.randrange(len(buffer))] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)])


def _insert(chance: random.Random, buffer: bytearray, _corpus: list[bytes]) -> None:
    at = chance.randint(0, len(buffer))
    buffer[at:at] = chance.randbytes(chance.randint(1, 16))


def _delete(chance: random.Random, buffer: bytearray, _corpus: list[bytes]) -> None:
    at = chance.randint(0, len(buffer))
    del buffer[at : at + chance.randint(1, 16)]


def _splice(chance: random.Random, buffer: bytearray, corpus: list[bytes]) -> None:
    other = chance.choice(corpus)
    buffer[chance.randint(0, len(buffer)) :] = other[chance.randint(0, len(other)) :]


MUTATIONS = (_replace, _replace, _insert, _delete, _splice)

if __name__ == "__main__":
    sys.exit(main())
