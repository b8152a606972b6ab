from __future__ import annotations

import enum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.parameters.addresses import AddressList
from protocol.parameters.values import Addresses, Choice, Count, HostName, Integer, Rule, Secret, Text, YesNo


class Fruit(enum.Enum):
    APPLE = "Apple"
    PEAR = "<Pear>"


RULES: list[tuple[Rule[Any], dict[str, Any]]] = [
    (YesNo(), {"yes": True, "no": False}),
    (Choice(tuple(Fruit)), {"Apple": Fruit.APPLE, "<Pear>": Fruit.PEAR}),
    (Choice((-1, 7, 8)), {"-1": -1, "7": 7, "8": 8}),
    (Integer(1024, 65535), {"1024": 1024, "3000": 3000, "65535": 65535}),
    (Count(), {"0": 0, "64": 64}),
    (Text(5), {"": "", "a=b&c": "a=b&c", "12345": "12345"}),
    (Secret(5), {"": "", "pässw": "pässw"}),
    (
        HostName(),
        {name: name for name in ("", "10.0.0.1", "2001:db8::1", "fe80::1%eth0", "cam", "cam-1.example.", "my_cam")},
    ),
    (Addresses(), {"1.2.3.4, 2.3.4.5-9": AddressList.parse("1.2.3.4, 2.3.4.5-9")}),
]


@pytest.mark.parametrize(
    ("rule", "text", "value"), [(rule, text, value) for rule, pairs in RULES for text, value in pairs.items()]
)
def test_a_right_text_is_read_and_written_back(rule: Rule[Any], text: str, value: Any) -> None:
    assert rule.parse(text) == value
    assert rule.format(value) == text


@pytest.mark.parametrize(
    ("rule", "text", "why"),
    [
        (YesNo(), "Yes", "must be yes or no"),
        (YesNo(), "", "must be yes or no"),
        (Choice(tuple(Fruit)), "apple", "must be one of Apple, <Pear>"),
        (Choice((7, 8)), "9", "must be one of 7, 8"),
        (Choice((7, 8)), "07", "must be one of 7, 8"),
        (Integer(1024, 65535), "1023", "must be a number from 1024 to 65535"),
        (Integer(1024, 65535), "65536", "must be a number from 1024 to 65535"),
        (Integer(0, 9), "", "decimal digits"),
        (Integer(0, 9), "-1", "decimal digits"),
        (Integer(0, 9), " 1", "decimal digits"),
        (Integer(0, 9), "1_0", "decimal digits"),
        (Integer(0, 9), "1\n", "decimal digits"),
        (Integer(0, 9), "٣", "decimal digits"),
        (Integer(0, 9), "9" * 5000, "decimal digits"),
        (Count(), "many", "decimal digits"),
        (Text(5), "123456", "must have at most 5 characters, not 6"),
        (Secret(5), "hunter22", "must have at most 5 characters, not 8"),
        (HostName(), "two words", "must be a host name or an IP address"),
        (HostName(), "cam:80", "without port"),
        (HostName(), "[::1]", "brackets"),
        (HostName(), "1.2.3.256", "must be a host name"),
        (HostName(), "-cam", "must be a host name"),
        (HostName(), "cam-.example", "must be a host name"),
        (HostName(), "a..b", "must be a host name"),
        (HostName(), ".", "must be a host name"),
        (HostName(), "bücher.example", "must be a host name"),
        (HostName(), "fe80::1%eth 0", "must be a host name"),
        (HostName(), "fe80::1%", "must be a host name"),
        (HostName(), "a" * 64, "must be a host name"),
        (HostName(), "a." * 127, "must be a host name"),
        (Addresses(), "1.2.3", "four numbers"),
        (Addresses(9), "1.2.3.4   ", "at most 9 characters"),
    ],
)
def test_a_wrong_text_is_refused_with_what_would_be_right(rule: Rule[Any], text: str, why: str) -> None:
    with pytest.raises(ValueError) as caught:
        rule.parse(text)
    assert why in str(caught.value)


def test_the_reason_never_repeats_a_secret() -> None:
    with pytest.raises(ValueError) as caught:
        Secret(5).parse("hunter22")
    assert "hunter" not in str(caught.value)


@pytest.mark.parametrize(
    ("rule", "lines"),
    [
        (YesNo(), ['<bool true="yes" false="no" />']),
        (
            Choice(tuple(Fruit)),
            [
                "<enum>",
                '  <entry value="Apple" niceValue="Apple" />',
                '  <entry value="&lt;Pear&gt;" niceValue="&lt;Pear&gt;" />',
                "</enum>",
            ],
        ),
        (Integer(0, 3600), ['<int min="0" max="3600" />']),
        (Count(), ["<int />"]),
        (Text(64), ['<string maxlen="64" />']),
        (Secret(64), ['<password maxlen="64" />']),
        (HostName(), ["<hostname />"]),
        (Addresses(), ["<ipList />"]),
    ],
)
def test_a_rule_describes_itself_as_vapix_does(rule: Rule[Any], lines: list[str]) -> None:
    assert list(rule.definition()) == lines


@given(
    st.sampled_from([rule for rule, _ in RULES]),
    st.text(max_size=300) | st.from_regex(r"[0-9.:a-f%-]*", fullmatch=True),
)
def test_any_text_is_read_or_refused_and_what_is_read_is_stable(rule: Rule[Any], text: str) -> None:
    try:
        value = rule.parse(text)
    except ValueError:
        return
    assert rule.parse(rule.format(value)) == value
