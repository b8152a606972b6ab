"""docs/api.md's examples say what the protocol rooms answer; with sockets and curl they run in the end-to-end test."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from protocol.cgi import List, ListDefinitions, Refused, Update, param_request, refused_answer, update_answer
from protocol.discovery import discovery_answer
from protocol.hardware import Hardware, ManagerHardware, PortMode, SerialHardware
from protocol.parameters import Catalogue
from protocol.roles import Role
from protocol.serial_request import CgiError, error_answer, serial_answer, serial_request

CATALOGUE = Catalogue(
    Hardware(
        serial=(SerialHardware(modes=(PortMode.RS232, PortMode.RS485)),),
        managers=(ManagerHardware(serial=1, remote_port=0),),
    )
)
BLOCKS = re.findall(r"```console\n(.*?)```", (Path(__file__).parents[2] / "docs" / "api.md").read_text(), re.DOTALL)
EXAMPLES = re.findall(
    r"^\$ curl (.*?)'http://127\.0\.0\.1:8080(/[^?']*)\??([^']*)'\n((?:[^$].*\n)*)", "".join(BLOCKS), re.MULTILINE
)


def param_answer(query: bytes) -> bytes:
    settings = CATALOGUE.defaults()
    match param_request(query, b""):
        case List(groups):
            return CATALOGUE.listed(settings, groups, Role.ADMIN).encode()
        case ListDefinitions(groups):
            return CATALOGUE.defined(settings, groups, Role.ADMIN, "127.0.0.1:8080").encode()
        case Update(assignments):
            return update_answer(CATALOGUE.updated(settings, assignments, Role.ADMIN).refused)
        case Refused(why):
            return refused_answer(why)


def serial_cgi_answer(query: bytes) -> bytes:
    """As if the device had answered ``:K\\``."""
    try:
        request = serial_request(query, b"")
    except CgiError as wrong:
        return error_answer(str(wrong))
    return b"204\n" if request.read is None else serial_answer(b":K\\", request.format)


@pytest.mark.parametrize(("options", "path", "query", "shown"), EXAMPLES)
def test_an_example_has_the_answer_that_the_page_shows(options: str, path: str, query: str, shown: str) -> None:
    if path.endswith("param.cgi"):
        answer = param_answer(query.encode())
    elif path.endswith("serial.cgi"):
        answer = serial_cgi_answer(query.encode())
    else:
        answer = discovery_answer("POST", options.split("'")[1].encode())
    # A page cannot show that the last line has no end.
    assert answer.decode().removesuffix("\n") == shown.removesuffix("\n")


def test_the_page_has_an_example_of_every_cgi() -> None:
    assert {path.rpartition("/")[2] for _, path, _, _ in EXAMPLES} == {"param.cgi", "serial.cgi", "apidiscovery.cgi"}
    assert len(EXAMPLES) == sum(block.count("$ curl") for block in BLOCKS)
