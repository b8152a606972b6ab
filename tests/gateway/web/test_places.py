"""Who leaves when the places of HTTP run out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.web.places import Place, Places


def filled(places: Places, *kinds: str, network: str = "a") -> list[Place]:
    """Take a place for each kind (s silent, p proven, w working), one a second."""
    taken = []
    for kind in kinds:
        place = places.take(network, float(len(places.held)))
        assert place is not None
        place.proven, place.working = kind in "pw", kind == "w"
        taken.append(place)
    return taken


def leaver(places: Places, network: str = "a") -> Place | None:
    """Take one more place; return who left for it."""
    before = set(places.held)
    new = places.take(network, 100.0)
    gone = before - places.held
    assert len(gone) <= 1
    assert (new is not None) == (len(places.held - before) == 1)
    assert new is not None or not gone, "nobody leaves for nobody"
    return next(iter(gone), None)


async def test_who_never_proved_a_login_leaves_first_the_longest_silent_of_them() -> None:
    places = Places(total=5, share=5)
    proven, older, younger, *_ = filled(places, "p", "s", "s", "p", "p")
    assert leaver(places) is older
    assert older.scope.cancel_called
    assert not proven.scope.cancel_called
    younger.since = 200.0  # it was answered since, later than the newcomer came
    assert leaver(places) not in (proven, younger)


def test_when_all_places_are_taken_the_longest_silent_leaves_whatever_its_network() -> None:
    places = Places(total=3, share=2)
    (one,) = filled(places, "s", network="a")
    filled(places, "s", network="b")
    filled(places, "s", network="c")
    assert leaver(places, "d") is one
    assert len(places.held) == 3


def test_of_three_proven_callers_one_may_have_to_leave() -> None:
    places = Places(total=3, share=3)
    first, *_ = filled(places, "p", "p", "p")
    assert leaver(places) is first


def test_the_longest_idle_of_proven_callers_leaves_next() -> None:
    places = Places(total=4, share=4)
    first, second, *_ = filled(places, "p", "p", "p", "p")
    first.since = 50.0
    assert leaver(places) is second


def test_a_request_in_work_and_the_last_two_proven_callers_stay() -> None:
    places = Places(total=4, share=4)
    filled(places, "w", "w", "w", "w")
    assert leaver(places) is None
    assert len(places.held) == 4
    places = Places(total=2, share=2)
    filled(places, "p", "p")
    assert leaver(places) is None


async def test_at_its_share_a_network_makes_room_among_its_own() -> None:
    places = Places(total=10, share=2)
    (stranger,) = filled(places, "s", network="b")
    own, _ = filled(places, "s", "s")
    assert leaver(places) is own
    assert not stranger.scope.cancel_called


def test_what_was_given_back_is_free_and_only_so_many_linger() -> None:
    places = Places(total=1, share=1)
    (one,) = filled(places, "w")
    assert places.linger(one)
    assert one not in places.held
    (two,) = filled(places, "w")
    assert not places.linger(two)
    places.closed(one)
    places.closed(one)
    (three,) = filled(places, "w")
    assert places.linger(three)


def test_a_proxys_connection_counts_in_the_share_of_the_client_whose_request_it_carries() -> None:
    places = Places(total=10, share=2)
    first, _ = filled(places, "w", "w")
    proxied = places.take("", 1.0)
    assert proxied is not None
    assert not places.rename(proxied, "a"), "its client has all that it may, and they are in work"
    assert proxied.network == ""
    assert places.rename(proxied, "b")
    assert places.rename(proxied, "b")
    first.working = first.proven = False
    assert places.rename(proxied, "a")
    assert first.scope.cancel_called
    assert proxied in places.held
    assert proxied.network == "a"


def test_whose_share_it_is_in_already_costs_nobody_a_place() -> None:
    places = Places(total=10, share=2)
    first, second = filled(places, "s", "s")
    assert places.rename(second, "a")
    assert {first, second} == places.held


def test_a_connection_that_is_closed_has_no_place_any_more() -> None:
    places = Places(total=2, share=2)
    (one,) = filled(places, "w")
    places.closed(one)
    assert places.held == places.lingering == set()


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("spwx"), st.floats(0, 10)), max_size=60))
def test_the_places_are_never_more_than_there_are(steps: list[tuple[str, str, float]]) -> None:
    places = Places(total=6, share=4)
    for network, kind, now in steps:
        working = {place for place in places.held if place.working}
        if kind == "x" and places.held:
            places.give_back(min(places.held, key=lambda place: place.since))
            continue
        place = places.take(network, now)
        if place is not None:
            place.proven, place.working = kind in "pw", kind == "w"
        assert len(places.held) <= 6
        assert all(sum(place.network == each for place in places.held) <= 4 for each in "abc")
        assert working <= places.held


def test_a_proxy_s_own_connections_are_in_nobody_s_share() -> None:
    places = Places(total=6, share=2)
    taken = filled(places, "s", "s", "s", "s", network="")
    assert len(places.held) == 4
    for place in taken[:2]:
        assert places.rename(place, "client")
    assert places.rename(taken[0], "client")  # its next request
    taken[0].working = taken[1].working = True
    assert not places.rename(taken[2], "client")
    assert places.rename(taken[2], "another")


def test_a_client_behind_a_proxy_costs_its_own_share_first() -> None:
    places = Places(total=6, share=2)
    first, second, third = filled(places, "s", "s", "s", network="")
    for place in (first, second, third):
        assert places.rename(place, "client")
    assert first not in places.held
    assert {second, third} <= places.held
