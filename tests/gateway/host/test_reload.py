"""The configuration file read again: what is taken up, what waits, and what a mistake in it costs."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

import pytest

from gateway.host.config import Config, HttpConfig
from gateway.host.config_file import load
from gateway.host.reload import AT_ONCE, Reload, changed_keys, reload

if TYPE_CHECKING:
    from pathlib import Path

SERIAL = '[[serial]]\ndevice = "/dev/ttyS0"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "daisyport.toml"
    path.write_text(SERIAL)
    return path


def again(file: Path, *texts: str) -> Reload:
    """Load the file as it is, then write each text and reload; return the last outcome."""
    running = load(file)
    outcome = Reload(running)
    for text in texts:
        file.write_text(text)
        outcome = reload(file, running, outcome)
    return outcome


def test_a_key_that_can_be_taken_up_now_is(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    outcome = again(file, SERIAL + '[http]\norigins = ["https://serial.example"]')
    assert outcome.config.http.origins == ("https://serial.example",)
    assert (outcome.count, outcome.errors, outcome.waiting) == (1, (), ())
    assert f"SIGHUP: {file}: now: the TLS certificate, http.origins" in caplog.messages


def test_every_other_key_waits_for_the_next_start_and_is_named_until_then(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changed = 'node_name = "b"\n' + SERIAL.replace("S0", "S1")
    outcome = again(file, changed, changed + "[http]\nbrowser_guard = false")
    assert outcome.status == {"errors": [], "at_next_start": ["serial[0].device", "node_name"]}
    assert caplog.text.count("at the next start: serial[0].device, node_name") == 2


def test_a_change_that_is_taken_back_waits_for_nothing(file: Path) -> None:
    assert again(file, 'node_name = "b"\n' + SERIAL, SERIAL).waiting == ()


def test_a_file_with_errors_leaves_what_is_in_force_and_says_so_until_it_is_mended(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = SERIAL + '[http]\norigins = ["https://serial.example"]'
    outcome = again(file, good, SERIAL + "mode = 5")
    assert outcome.config.http.origins == ("https://serial.example",)
    assert (outcome.count, outcome.errors) == (2, ("serial[0].mode: no such key; did you mean modes?",))
    assert f"SIGHUP: {file}: serial[0].mode: no such key; did you mean modes?" in caplog.messages
    file.write_text(SERIAL)
    assert again(file, SERIAL + "mode = 5", good).errors == ()


def test_a_file_that_is_gone_is_an_error_and_no_configuration_of_defaults(file: Path) -> None:
    running = load(file)
    file.unlink()
    outcome = reload(file, running, Reload(running))
    assert outcome.config is running
    assert outcome.errors == ("cannot be read: No such file or directory",)


def test_without_a_file_each_hang_up_counts_for_the_certificate(tmp_path: Path) -> None:
    config = Config(tmp_path, tmp_path, "cpu1")
    assert reload(None, config, Reload(config, 3)) == Reload(config, 4)


@pytest.mark.parametrize(
    ("before", "after", "keys"),
    [
        ({}, {}, ()),
        ({"http": {"listen": []}}, {"http": {}}, ("http.listen",)),
        ({"a": 1, "b": [1]}, {"a": 1, "b": [2]}, ("b",)),
        (
            {"serial": [{"device": "x"}]},
            {"serial": [{"device": "x"}, {"device": "y"}]},
            ("serial[]", "serial[1].device"),
        ),
        ({"serial": [{"device": "x"}]}, {}, ("serial[]", "serial[0].device")),
        ({"ptz": {}}, {}, ()),
    ],
)
def test_the_keys_that_differ_are_named_as_in_the_error_messages(
    before: dict[str, object], after: dict[str, object], keys: tuple[str, ...]
) -> None:
    assert changed_keys(before, after) == keys


def test_every_key_that_is_taken_up_at_once_exists() -> None:
    assert {key.removeprefix("http.") for key in AT_ONCE} <= {field.name for field in fields(HttpConfig)}
