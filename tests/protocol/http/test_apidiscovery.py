from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.http.apidiscovery import APIS, DiscoveryError, discovery_answer, internal_error_answer


def answer(**request: object) -> dict[str, Any]:
    decoded: dict[str, Any] = json.loads(discovery_answer("POST", json.dumps(request).encode()))
    return decoded


def listed(**params: object) -> list[str]:
    got = answer(apiVersion="1.0", method="getApiList", params=params)
    return [api["id"] for api in got["data"]["apiList"]]


def test_the_answer_is_this_to_the_byte() -> None:
    request = b"""{"apiVersion":"1.0","context":"x","method":"getApiList","params":{"id":"serial-*","version":"*"}}"""
    assert discovery_answer("POST", request) == (
        b'{"method": "getApiList", "apiVersion": "1.0", "context": "x", "data": {"apiList": '
        b'[{"id": "serial-port", "version": "1.0", "name": "Serial Port", '
        b'"docLink": "https://developer.axis.com/vapix/network-video/serial-port-api/", "status": "official"}]}}'
    )


def test_without_params_everything_is_listed() -> None:
    got = answer(apiVersion="1.0", method="getApiList")
    assert [api["id"] for api in got["data"]["apiList"]] == ["api-discovery", "param-cgi", "serial-port"]


def test_context_comes_back_only_when_sent() -> None:
    assert "context" not in answer(method="getApiList")
    assert answer(method="getApiList", context="")["context"] == ""
    assert answer(method="no such", context="mine")["context"] == "mine"


def test_filters_are_globs_of_star_and_question_mark_alone() -> None:
    assert listed(id="*-???") == ["param-cgi"]
    assert listed(id="*", version="1.?") == [api.id for api in APIS]
    assert listed(version="2*") == []
    assert listed(id="[ps]*") == []
    assert listed(id="serial-port-2") == []


def test_versions_are_told_whatever_version_asks() -> None:
    expected = {"method": "getSupportedVersions", "apiVersion": "1.0", "data": {"apiVersions": ["1.0"]}}
    assert answer(method="getSupportedVersions") == expected
    assert answer(method="getSupportedVersions", apiVersion="7.3") == expected


@pytest.mark.parametrize(
    ("code", "request_"),
    [
        (DiscoveryError.BAD_VALUE, b'{"method":"getApiList","params":{"id":""}}'),
        (DiscoveryError.BAD_VALUE, b'{"method":"getApiList","params":{"version":"latest"}}'),
        (DiscoveryError.VERSION_NOT_SUPPORTED, b'{"method":"getApiList","apiVersion":"2.0"}'),
        (DiscoveryError.METHOD_NOT_SUPPORTED, b'{"method":"getapilist","apiVersion":"1.0"}'),
        (DiscoveryError.BAD_JSON, b""),
        (DiscoveryError.BAD_JSON, b"{"),
        (DiscoveryError.BAD_JSON, b"\xff\xfe\xfd"),
        (DiscoveryError.BAD_JSON, b"9" * 5000),
        (DiscoveryError.BAD_JSON, b"[" * 60000),
        (DiscoveryError.BAD_PARAMETER, b"[]"),
        (DiscoveryError.BAD_PARAMETER, b"{}"),
        (DiscoveryError.BAD_PARAMETER, b'{"method":1}'),
        (DiscoveryError.BAD_PARAMETER, b'{"method":"getApiList","context":1}'),
        (DiscoveryError.BAD_PARAMETER, b'{"method":"getApiList","apiVersion":1.0}'),
        (DiscoveryError.BAD_PARAMETER, b'{"method":"getApiList","params":[]}'),
        (DiscoveryError.BAD_PARAMETER, b'{"method":"getApiList","params":{"id":null}}'),
    ],
)
def test_every_mistake_has_its_code(code: DiscoveryError, request_: bytes) -> None:
    got = json.loads(discovery_answer("POST", request_))
    assert list(got) == ["apiVersion", "error"]
    assert got["apiVersion"] == "1.0"
    assert got["error"]["code"] == code
    assert got["error"]["message"]


def test_only_post_is_answered_with_a_list() -> None:
    assert json.loads(discovery_answer("GET", b'{"method":"getApiList"}'))["error"]["code"] == 2002


def test_our_own_fault_is_8000() -> None:
    assert json.loads(internal_error_answer()) == {
        "apiVersion": "1.0",
        "error": {"code": 8000, "message": "Internal error"},
    }


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["id", "version"]) | st.text(), inner),
    max_leaves=5,
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "method": st.sampled_from(["getApiList", "getSupportedVersions"]) | JSON,
            "apiVersion": st.just("1.0") | JSON,
            "context": JSON,
            "params": JSON,
        },
    )
)
def test_any_request_gets_data_or_a_known_error(request: dict[str, object]) -> None:
    got = answer(**request)
    assert got["apiVersion"] == "1.0"
    assert "data" in got or DiscoveryError(got["error"]["code"]) is not DiscoveryError.INTERNAL


@given(st.binary())
def test_any_bytes_get_json_back(body: bytes) -> None:
    assert json.loads(discovery_answer("POST", body))["apiVersion"] == "1.0"
