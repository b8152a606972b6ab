"""Guesses and friends at the accounts, with times that a test chooses."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from protocol.http.login_limit import LoginLimit

HERE, THERE = "192.0.2.1", "192.0.2.2"


def guess(limit: LoginLimit, network: str, name: str, now: float) -> bool:
    """Guess once; return whether it was judged."""
    judged = limit.wait(network, name, now) == 0
    if judged:
        limit.wrong(network, name, now)
    return judged


def test_a_pair_has_a_burst_and_then_one_guess_each_pause() -> None:
    limit = LoginLimit()
    assert [guess(limit, HERE, "anna", 0.0) for _ in range(11)] == [True] * 10 + [False]
    assert limit.wait(HERE, "anna", 0.0) == 6.0
    assert limit.wait(HERE, "anna", 4.5) == 1.5
    assert guess(limit, HERE, "anna", 6.0)
    assert not guess(limit, HERE, "anna", 6.0)


def test_another_name_and_another_network_have_accounts_of_their_own() -> None:
    limit = LoginLimit()
    assert sum(guess(limit, HERE, "anna", 0.0) for _ in range(20)) == 10
    assert limit.wait(HERE, "bert", 0.0) == 0
    assert limit.wait(THERE, "anna", 0.0) == 0


def test_a_network_has_a_wider_account_for_all_names() -> None:
    limit = LoginLimit()
    assert sum(guess(limit, HERE, f"name{index}", 0.0) for index in range(5000)) == 30
    assert limit.wait(HERE, "anna", 0.0) == 2.0
    assert limit.wait(THERE, "anna", 0.0) == 0


def test_a_pair_that_logged_in_has_a_way_in_that_guesses_of_other_names_do_not_take() -> None:
    limit = LoginLimit()
    limit.right(HERE, "anna", 0.0)
    for index in range(5000):
        guess(limit, HERE, f"name{index}", 1.0)
    assert limit.wait(HERE, "bert", 1.0) == 2.0
    assert [guess(limit, HERE, "anna", 1.0) for _ in range(4)] == [True, True, True, False]
    assert guess(limit, HERE, "bert", 3.0)
    assert limit.wait(HERE, "anna", 3.0) == 2.0


def test_the_small_account_gains_three_a_minute_and_ends_an_hour_after_the_last_login() -> None:
    limit = LoginLimit(burst=0, pause=1e9, network_pause=1e9, network_burst=1)
    guess(limit, HERE, "bert", 0.0)
    limit.wrong(HERE, "bert", 0.0)
    limit.right(HERE, "anna", 0.0)
    assert sum(guess(limit, HERE, "anna", now / 10) for now in range(600)) == 3 + 2
    limit.right(HERE, "anna", 100.0)
    assert limit.wait(HERE, "anna", 3700.0) == 0
    assert limit.wait(HERE, "anna", 3700.1) > 0


def test_a_login_does_not_fill_the_small_account_again() -> None:
    limit = LoginLimit(burst=1, pause=1e9)
    limit.right(HERE, "anna", 0.0)
    assert [guess(limit, HERE, "anna", 0.0) for _ in range(5)] == [True] * 4 + [False]
    limit.right(HERE, "anna", 0.0)
    assert not guess(limit, HERE, "anna", 0.0)


def test_only_so_many_accounts_are_remembered_those_used_last_among_them() -> None:
    limit = LoginLimit(burst=1, most=3)
    for network in "abcad":
        limit.wrong(network, "anna", 0.0)
    assert [limit.wait(network, "anna", 0.0) > 0 for network in "abcd"] == [True, False, True, True]


def test_strangers_do_not_push_out_the_small_accounts_and_logins_push_out_the_oldest() -> None:
    limit = LoginLimit(burst=1, most=3)
    for network in "abcad":
        limit.right(network, "anna", 0.0)
    for index in range(100):
        limit.wrong(f"stranger{index}", "anna", 0.0)
    for network in "abcd":
        limit.wrong(network, "anna", 0.0)
    # b was forgotten: its one guess leaves it nothing
    assert [limit.wait(network, "anna", 0.0) > 0 for network in "bd"] == [True, False]


def test_long_names_share_an_account_by_their_beginning() -> None:
    limit = LoginLimit(burst=1)
    limit.wrong(HERE, "x" * 64 + "one", 0.0)
    assert limit.wait(HERE, "x" * 64 + "two", 0.0) > 0
    assert limit.wait(HERE, "x" * 63, 0.0) == 0


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("cd"), st.booleans(), st.floats(0, 100)), max_size=60))
def test_guesses_are_never_judged_faster_than_the_accounts_allow(steps: list[tuple[str, str, bool, float]]) -> None:
    limit, now, judged = LoginLimit(), 0.0, 0
    for network, name, right, pause in steps:
        now += pause
        if right:
            limit.right(network, name, now)
        judged += guess(limit, network, name, now)
        assert limit.wait(network, name, now) >= 0
    # two networks, each with two names: the common accounts, and the small ones
    assert judged <= 2 * (30 + now / 2 + 1) + 4 * (3 + now / 20 + 1)
