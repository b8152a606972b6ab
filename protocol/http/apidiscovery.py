"""apidiscovery.cgi: list the APIs of this product, as JSON over POST, without a login.

The list is what is built in, whatever the ports are set to. Every answer is HTTP 200; an error is a code in the JSON,
where its clients look for it.
"""

from __future__ import annotations

import enum
import json
import re
from dataclasses import asdict
from fnmatch import fnmatchcase
from typing import Any, TypeAlias, TypeVar, final

from protocol.frozen import frozen

__all__ = ["APIS", "Api", "DiscoveryError", "discovery_answer", "internal_error_answer"]

_VERSION = "1.0"


@final
@frozen
class Api:
    """An entry of the list; its fields are in the order of the answer."""

    id: str
    version: str
    name: str
    docLink: str  # noqa: N815 - the name on the wire
    status: str = "official"


_DOCS = "https://developer.axis.com/vapix/network-video"

APIS = (
    Api("api-discovery", "1.0", "API Discovery Service", f"{_DOCS}/api-discovery-service/"),
    Api("param-cgi", "1.0", "Legacy Parameter Handling", f"{_DOCS}/parameter-management/"),
    Api("serial-port", "1.0", "Serial Port", f"{_DOCS}/serial-port-api/"),
)


@final
class DiscoveryError(enum.IntEnum):
    """The error codes of an answer (VAPIX API Discovery Service)."""

    BAD_VALUE = 1000
    NOT_POST = 2002
    VERSION_NOT_SUPPORTED = 2003
    METHOD_NOT_SUPPORTED = 2004
    BAD_JSON = 4000
    BAD_PARAMETER = 4002
    INTERNAL = 8000


T = TypeVar("T")
_Json: TypeAlias = dict[str, Any]


@final
class _Failure(Exception):
    def __init__(self, code: DiscoveryError, message: str) -> None:
        super().__init__(message)
        self.code = code


def discovery_answer(method: str, body: bytes) -> bytes:
    """Answer a call that was made by an HTTP ``method`` with a ``body``. Never raises."""
    context: _Json = {}
    try:
        request = _request(method, body)
        context = _context(request)
        data = _data(request)
    except _Failure as failure:
        return _rendered({"apiVersion": _VERSION, **context, "error": _error(failure.code, str(failure))})
    return _rendered({"method": request["method"], "apiVersion": _VERSION, **context, "data": data})


def internal_error_answer() -> bytes:
    """Return the answer to a call that met a bug of ours."""
    return _rendered({"apiVersion": _VERSION, "error": _error(DiscoveryError.INTERNAL, "Internal error")})


def _error(code: DiscoveryError, message: str) -> _Json:
    return {"code": int(code), "message": message}


def _rendered(answer: _Json) -> bytes:
    return json.dumps(answer).encode()


def _request(method: str, body: bytes) -> _Json:
    if method != "POST":
        raise _Failure(DiscoveryError.NOT_POST, "Only POST is supported")
    try:
        request = json.loads(body)
    except (ValueError, RecursionError):  # ValueError: no JSON, no text, or an integer of thousands of digits
        raise _Failure(DiscoveryError.BAD_JSON, "The body is not valid JSON") from None
    return _typed("The request", request, dict)


def _context(request: _Json) -> _Json:
    """Return the context to echo; VAPIX clients send one and compare, others send none and expect none."""
    if "context" not in request:
        return {}
    return {"context": _typed("context", request["context"], str)}


def _data(request: _Json) -> _Json:
    """Return the ``data`` of the answer. A request without a version means this one."""
    if "method" not in request:
        raise _Failure(DiscoveryError.BAD_PARAMETER, "method is missing")
    method = _typed("method", request["method"], str)
    if method == "getSupportedVersions":
        return {"apiVersions": [_VERSION]}
    if method != "getApiList":
        raise _Failure(DiscoveryError.METHOD_NOT_SUPPORTED, "Supported methods: getApiList, getSupportedVersions")
    if _typed("apiVersion", request.get("apiVersion", _VERSION), str) != _VERSION:
        raise _Failure(DiscoveryError.VERSION_NOT_SUPPORTED, f"Supported version: {_VERSION}")
    return {"apiList": _listed(_typed("params", request.get("params", {}), dict))}


def _listed(params: _Json) -> list[_Json]:
    identity, version = _glob("id", params), _glob("version", params)
    return [asdict(api) for api in APIS if fnmatchcase(api.id, identity) and fnmatchcase(api.version, version)]


_GLOBS = {"id": "[^\\x00-\\x1f]{1,128}", "version": "[0-9.*?]{1,32}"}


def _glob(name: str, params: _Json) -> str:
    """Return a filter for fnmatch, ``*`` if none is given. A ``[`` begins a set there and stands for itself here."""
    glob = _typed(f"params.{name}", params.get(name, "*"), str)
    if not re.fullmatch(_GLOBS[name], glob):
        raise _Failure(DiscoveryError.BAD_VALUE, f"params.{name} must be an exact {name}, or a pattern with * and ?")
    return glob.replace("[", "[[]")


def _typed(name: str, value: object, wanted: type[T]) -> T:
    if not isinstance(value, wanted):
        raise _Failure(DiscoveryError.BAD_PARAMETER, f"{name} must be {_WORDS[wanted]}")
    return value


_WORDS: dict[type, str] = {dict: "an object", str: "a string"}
