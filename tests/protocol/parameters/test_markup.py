from __future__ import annotations

import subprocess
import sys
from xml.etree import ElementTree

from hypothesis import example, given
from hypothesis import strategies as st

from protocol.parameters.markup import escaped, quoted

printable = st.text(st.characters(exclude_categories=["C", "Z"]))


@given(printable)
@example("a<b & \"c\" ]]> 'd' &amp;")
def test_a_parser_reads_back_what_was_written(text: str) -> None:
    read = ElementTree.fromstring(f"<x y={quoted(text)}>{escaped(text)}</x>")
    assert (read.get("y"), read.text or "") == (text, text)


def test_an_attribute_is_always_in_double_quotes() -> None:
    assert quoted('say "x"') == '"say &quot;x&quot;"'


def test_the_parameters_bring_no_http_client_along() -> None:
    heavy = "{'http.client', 'urllib.request', 'email', 'xml.sax'}"
    loaded = f"import protocol.parameters.catalogue, sys; sys.exit(bool({heavy} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", loaded], check=True, timeout=30)
