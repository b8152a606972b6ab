from __future__ import annotations

from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ParameterError
from protocol.http import param_cgi as cgi
from protocol.http.param_cgi import (
    InvalidRequest,
    ListDefinitionsRequest,
    ListRequest,
    UpdateRequest,
    arguments,
    pairs,
    param_request,
)
from protocol.parameters.roles import Role

# Arguments


def test_query_and_body_are_read_in_this_order() -> None:
    assert arguments(b"a=1&b=2", b"a=3") == (("a", b"1"), ("b", b"2"), ("a", b"3"))


def test_values_are_decoded_exactly_once() -> None:
    assert arguments(b"a=%2541", b"") == (("a", b"%41"),)


def test_a_plus_is_a_blank_in_a_form_and_a_plus_elsewhere() -> None:
    assert arguments(b"a=1+2", b"b=3+4") == (("a", b"1 2"), ("b", b"3 4"))
    assert pairs(b"a=1+2") == (("a", b"1+2"),)


def test_an_encoded_plus_is_a_plus_everywhere() -> None:
    assert arguments(b"a=%2B", b"b=%2b") == (("a", b"+"), ("b", b"+"))


def test_a_value_may_hold_an_equals_sign() -> None:
    assert arguments(b"a=b=c", b"") == (("a", b"b=c"),)


def test_empty_pieces_are_nothing_and_a_bare_name_has_an_empty_value() -> None:
    assert arguments(b"&a&&b=&", b"") == (("a", b""), ("b", b""))


def test_an_escape_that_is_none_stands_for_itself() -> None:
    assert arguments(b"a=50%&b=%zz", b"") == (("a", b"50%"), ("b", b"%zz"))


def test_text_that_is_not_utf_8_is_latin_1() -> None:
    assert cgi.text("é".encode()) == cgi.text("é".encode("latin-1")) == "é"


@given(st.lists(st.tuples(st.text(st.characters(exclude_categories=["Cs"])), st.binary()), max_size=5))
def test_what_a_form_encodes_is_what_is_read(form: list[tuple[str, bytes]]) -> None:
    encoded = "&".join(f"{quote_plus(name)}={quote_plus(value)}" for name, value in form).encode()
    assert arguments(encoded, b"") == arguments(b"", encoded) == tuple(form)


# param.cgi, what is asked


@pytest.mark.parametrize(
    ("query", "groups"),
    [
        (b"action=list", ()),
        (b"action=list&group=", ()),
        (b"action=list&group=Serial", ("Serial",)),
        (b"group=Serial.Ser1.BaudRate&action=list", ("Serial.Ser1.BaudRate",)),
        (b"action=list&group=Serial,%20PortManager,", ("Serial", "PortManager")),
        (b"action=list&group=Serial&group=root.Brand", ("Serial", "root.Brand")),
        (b"action=list&group=PortManager.*.PortType&timestamp=17&camera=1", ("PortManager.*.PortType",)),
        (b"action=list&responseformat=rfc&usergroup=viewer&group=PTZ", ("PTZ",)),
    ],
)
def test_list_takes_groups_as_typed_and_ignores_junk(query: bytes, groups: tuple[str, ...]) -> None:
    assert param_request(query, b"") == ListRequest(groups)


def test_arguments_may_come_from_query_and_body_together() -> None:
    assert param_request(b"action=update", b"Serial.Ser1.BaudRate=9600") == UpdateRequest(
        (("Serial.Ser1.BaudRate", "9600"),)
    )


def test_a_bare_second_name_belongs_to_the_group_of_the_full_name_before_it() -> None:
    query = b"action=update&Serial.Ser1.BaudRate=9600&DataBits=8&root.PTZ.CamPorts.Cam1Port=1&Cam2Port=-1"
    assert param_request(query, b"") == UpdateRequest(
        (
            ("Serial.Ser1.BaudRate", "9600"),
            ("Serial.Ser1.DataBits", "8"),
            ("root.PTZ.CamPorts.Cam1Port", "1"),
            ("root.PTZ.CamPorts.Cam2Port", "-1"),
        )
    )


def test_a_bare_name_with_no_full_name_before_it_stays_bare() -> None:
    assert param_request(b"DataBits=8&action=update", b"") == UpdateRequest((("DataBits", "8"),))


def test_a_long_name_cannot_be_multiplied_by_many_bare_ones() -> None:
    most = b"action=update&%b.x=1%b" % (b"g" * 126, b"&a=1" * 1023)
    assert isinstance(param_request(most, b""), UpdateRequest)
    assert isinstance(param_request(most, b"a=1"), InvalidRequest)
    assert isinstance(param_request(b"action=update&%b.x=1" % (b"g" * 127), b""), InvalidRequest)


def test_what_is_about_the_call_is_no_assignment_but_junk_is() -> None:
    query = b"action=update&usergroup=admin&responseformat=rfc&listformat=x&timestamp=1"
    assert param_request(query, b"") == UpdateRequest((("timestamp", "1"),))


def test_definitions_need_their_format_named() -> None:
    asked = b"action=listdefinitions&listformat=xmlschema&group=Serial"
    assert param_request(asked, b"") == ListDefinitionsRequest(("Serial",))
    assert param_request(b"action=listdefinitions", b"") == InvalidRequest(
        "listdefinitions requires listformat=xmlschema"
    )


@pytest.mark.parametrize(
    ("query", "named"),
    [
        (b"", "exactly one action is required, not 0"),
        (b"group=Serial", "exactly one action is required, not 0"),
        (b"action=list&action=update", "exactly one action is required, not 2"),
        (b"action=lsit", "unknown action 'lsit'"),
        (b"action=List", "unknown action 'List'"),
        (b"action=", "unknown action ''"),
        (b"action=update", "update requires at least one NAME=VALUE"),
        (b"action=add&template=x", "add:"),
        (b"action=remove&group=Serial", "remove:"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_reason(query: bytes, named: str) -> None:
    refused = param_request(query, b"")
    assert isinstance(refused, InvalidRequest)
    assert named in refused.why


def test_a_viewer_may_list_and_an_operator_may_update() -> None:
    assert (ListRequest.role, ListDefinitionsRequest.role, UpdateRequest.role) == (
        Role.VIEWER,
        Role.VIEWER,
        Role.OPERATOR,
    )
    assert cgi.PARAM_PATHS["/axis-cgi/param.cgi"] is Role.VIEWER
    assert cgi.PARAM_PATHS["/axis-cgi/admin/param.cgi"] is Role.ADMIN


PIECES = [
    b"action=", b"list", b"update", b"listdefinitions", b"add", b"remove", b"&", b"=", b"+", b"%", b"%2", b"%26",
    b"%00", b"group=", b"listformat=xmlschema", b"root.", b"Serial.Ser1.BaudRate=9600", b"DataBits=8", b",", b".",
]  # fmt: skip
wild = st.lists(st.sampled_from(PIECES) | st.binary(max_size=20), max_size=12).map(b"".join)


@given(st.sampled_from([b"", b"action=list&", b"action=update&"]), wild, wild)
def test_any_bytes_are_a_request_or_a_refusal_of_one_line(head: bytes, rest: bytes, body: bytes) -> None:
    query = head + rest
    request = param_request(query, body)
    assert request == param_request(b"", query + b"&" + body)
    match request:
        case ListRequest(groups) | ListDefinitionsRequest(groups):
            assert all(group == group.strip() != "" and "," not in group for group in groups)
        case UpdateRequest(assignments):
            assert assignments
        case InvalidRequest(why):
            answer = cgi.refused_answer(why).decode()
            assert answer.splitlines(keepends=True) == [answer]


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=100)


@given(st.lists(st.tuples(names, st.text(max_size=9)), min_size=1))
def test_assignments_arrive_in_order_and_whole(assignments: list[tuple[str, str]]) -> None:
    full = [(f"Group.{name}", value.encode(errors="replace").decode()) for name, value in assignments]
    query = "&".join(f"{quote(name)}={quote(value)}" for name, value in full)
    assert param_request(b"action=update&" + query.encode(), b"") == UpdateRequest(tuple(full))


# param.cgi, what is answered


def test_a_successful_update_answers_two_bytes() -> None:
    assert cgi.update_answer([]) == b"OK"


def test_refused_parameters_get_one_line_each_and_no_ok() -> None:
    refused = [
        ParameterError("Serial.Ser1.BaudRate", "12345", "is not a rate"),
        ParameterError("No.Such", "", "is unknown"),
    ]
    assert cgi.update_answer(refused) == (
        b"# Error: Error setting 'root.Serial.Ser1.BaudRate' to '12345'!\n# Error: Error setting 'root.No.Such' to ''!"
    )


def test_a_refused_secret_is_not_repeated() -> None:
    answer = cgi.update_answer([ParameterError("RemotePort.R0.AuthenticationKey", "hunter2\n", "has a newline")])
    assert answer == b"# Error: Error setting 'root.RemotePort.R0.AuthenticationKey' to '******'!"


@given(name=st.text(), value=st.text())
def test_a_refused_value_cannot_forge_a_line(name: str, value: str) -> None:
    answer = cgi.update_answer([ParameterError(name, value, "is wrong")]).decode()
    assert len(answer.splitlines()) == 1
    assert answer.startswith("# Error: Error setting 'root.")
    assert answer.endswith("'!")


def test_a_refused_request_says_why() -> None:
    assert cgi.refused_answer("this\nor that") == b"# Request failed: this%0Aor that\n"


@pytest.mark.parametrize(
    ("body", "media_type"),
    [
        (b"action=list", "application/json"),
        (b"action=list", "multipart/form-data"),
        (b"action=list&x={", "application/json"),
        (b"action=list", "text/plain"),
        (b"action=list", ""),
    ],
)
def test_a_form_is_read_whatever_its_label(body: bytes, media_type: str) -> None:
    assert param_request(b"", body, media_type) == ListRequest(())


@pytest.mark.parametrize(
    ("body", "media_type"),
    [(b' {"a": 1}', "application/json"), (b"[]", "application/vnd.api+json"), (b"--x", "multipart/form-data")],
)
def test_a_body_that_is_no_form_is_told_which_is_read(body: bytes, media_type: str) -> None:
    refused = InvalidRequest(f"a body of {media_type} is not read; send application/x-www-form-urlencoded")
    assert param_request(b"", body, media_type) == refused
    assert param_request(b"action=update&A.B=1", body, media_type) == refused
    assert param_request(b"action=list", body, media_type) == ListRequest(())
