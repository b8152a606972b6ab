from __future__ import annotations

import pytest

from gateway.discovery.mdns import MdnsError, Responder


# The package leaves its socket to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_address_that_is_not_ours_is_an_error_in_one_sentence() -> None:
    with pytest.raises(MdnsError, match=r"^multicast DNS: .*No such device"):
        Responder("lo", "192.0.2.77")


def test_a_service_that_nobody_knows_is_none_in_time() -> None:
    responder = Responder("lo", "127.0.0.1")
    try:
        assert responder.resolve("nobody._daisyport._tcp.local.", 0.01) is None
    finally:
        responder.close()


def test_a_closed_responder_says_so_in_one_sentence() -> None:
    responder = Responder("lo", "127.0.0.1")
    responder.close()
    responder.close()
    with pytest.raises(MdnsError, match=r"^multicast DNS: \w"):
        responder.look(lambda name, there: None)
