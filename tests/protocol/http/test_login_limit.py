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


def test_many_networks_have_a_single_guess_each_once_their_common_account_is_empty() -> None:
    limit = LoginLimit()
    first = sum(guess(limit, f"192.0.2.{host}", "admin", 0.0) for host in range(6) for _ in range(10))
    assert first == 60
    rest = [sum(guess(limit, f"198.51.100.{host}", "admin", 0.1) for _ in range(10)) for host in range(233)]
    assert rest == [1] * 233
    assert limit.wait("198.51.100.7", "admin", 0.1) == 60.0
    minute = sum(guess(limit, f"198.51.100.{host}", "admin", 0.2 + tick) for tick in range(60) for host in range(233))
    assert minute <= 233


def test_strangers_from_many_networks_keep_no_first_login_out_and_its_wrong_ones_are_ordinary_again_later() -> None:
    limit = LoginLimit()
    for host in range(10_000):
        guess(limit, f"10.1.{host // 256}.{host % 256}", "admin", host / 10_000)
    assert limit.wait(HERE, "anna", 1.0) == 0
    limit.right(HERE, "anna", 1.0)
    limit.wrong(HERE, "anna", 1.0)
    assert limit.wait(HERE, "anna", 1.0) == 0
    assert sum(guess(limit, THERE, "bert", 3000.0) for _ in range(20)) == 10
    assert len(limit._networks) <= 1024


def test_the_networks_of_one_ipv6_customer_share_accounts() -> None:
    near, wide = LoginLimit(world_burst=10_000), LoginLimit(world_burst=10_000)
    assert sum(guess(near, f"2001:db8:0:{subnet:x}::/64", "anna", 0.0) for subnet in range(256) for _ in "ab") == 60
    assert sum(guess(wide, f"2001:db8:0:{subnet:x}00::/64", "anna", 0.0) for subnet in range(256) for _ in "ab") == 120
    assert wide.wait("2001:db8:1::/64", "anna", 0.0) == 0


def test_while_the_table_is_full_an_unknown_network_begins_with_a_single_guess() -> None:
    limit = LoginLimit(most=3, world_burst=10_000)
    for network in "abc":
        guess(limit, network, "anna", 0.0)
    assert sum(guess(limit, "d", "anna", 0.0) for _ in range(20)) == 1
    # What has been saved up again need not be remembered, so the table is not full for ever.
    assert sum(guess(limit, "e", "anna", 100.0) for _ in range(20)) == 10


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
    assert len(limit._networks) <= 2
