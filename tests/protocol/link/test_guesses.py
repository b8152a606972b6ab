"""The limit of guesses at a key: a burst, then slower and slower, and nobody else pays for it."""

from __future__ import annotations

from protocol.link.guesses import GuessLimit


def guessed(limit: GuessLimit, network: str, start: float, seconds: int) -> int:
    """How many guesses somebody gets who tries ten times a second."""
    count = 0
    for tick in range(seconds * 10):
        now = start + tick / 10
        if limit.allows(network, now):
            limit.charge(network, now)
            count += 1
    return count


def test_ten_at_once_then_one_a_second_falling_to_one_a_minute() -> None:
    limit = GuessLimit()
    assert guessed(limit, "a", 0.0, 1) == 10
    assert guessed(limit, "a", 1.0, 60) <= 6
    assert guessed(limit, "a", 61.0, 3600) <= 61
    assert guessed(limit, "a", 3661.0, 3600) in (59, 60, 61)


def test_who_stays_away_until_all_is_saved_up_is_as_before() -> None:
    limit = GuessLimit()
    guessed(limit, "a", 0.0, 600)
    assert guessed(limit, "a", 600.0 + 10 * 60 + 60, 1) == 10
    assert guessed(limit, "a", 1262.0, 5) >= 1


def test_each_network_has_its_own() -> None:
    limit = GuessLimit()
    assert guessed(limit, "a", 0.0, 1) == 10
    assert guessed(limit, "b", 0.5, 1) == 10


def test_who_has_the_key_pays_nothing_and_frees_nobody_else() -> None:
    limit = GuessLimit()
    for _ in range(100):
        assert limit.allows("a", 0.0)
        limit.charge("a", 0.0)
        limit.refund("a")
    for _ in range(10):
        limit.charge("a", 0.0)
    limit.charge("a", 0.0)
    limit.refund("a")
    assert not limit.allows("a", 0.0)


def test_a_refund_never_makes_more_than_a_burst_nor_an_account() -> None:
    limit = GuessLimit()
    limit.refund("stranger")
    limit.charge("a", 0.0)
    limit.allows("a", 100.0)
    limit.refund("a")
    limit.refund("a")
    assert guessed(limit, "a", 100.0, 1) == 10


def test_only_so_many_are_remembered_and_the_oldest_is_forgotten() -> None:
    limit = GuessLimit()
    for network in ("first", "second"):  # both have proved the key once, so that only their own accounts count
        limit.charge(network, 0.0)
        limit.refund(network)
    for _ in range(10):
        limit.charge("first", 0.0)
        limit.charge("second", 0.0)
    limit.charge("first", 0.0)  # it guessed again, so that the second is the oldest now
    for number in range(1023):
        limit.charge(str(number), 1.0)
    assert not limit.allows("first", 1.0)
    assert limit.allows("second", 1.0)
    assert len(limit._buckets) == 1024


def test_fresh_addresses_share_one_account_for_the_whole_world() -> None:
    limit, count = GuessLimit(), 0
    for tick in range(80):
        for host in range(233):
            network = f"192.0.2.{host}"
            if limit.allows(network, tick / 10):
                limit.charge(network, tick / 10)
                count += 1
    assert count <= 60 + 8


def test_the_networks_of_one_ipv6_customer_share_an_account() -> None:
    near, wide = GuessLimit(), GuessLimit()
    assert sum(guessed(near, f"2001:db8:0:{subnet:x}::/64", 0.0, 1) for subnet in range(256)) == 20
    assert sum(guessed(wide, f"2001:db8:0:{subnet:x}00::/64", 0.0, 1) for subnet in range(256)) == 40


def test_strangers_do_not_shut_out_a_network_that_has_proved_the_key() -> None:
    limit = GuessLimit()
    limit.charge("good", 0.0)
    limit.refund("good")
    for number in range(100):
        guessed(limit, f"stranger {number}", 0.0, 1)
    assert not limit.allows("another", 0.9)
    assert limit.allows("good", 0.9)
    assert guessed(limit, "good", 0.9, 1) == 10


def test_whoever_proves_the_key_at_once_is_no_charge_to_the_world() -> None:
    limit = GuessLimit()
    for number in range(100):
        assert limit.allows(str(number), 0.0)
        limit.charge(str(number), 0.0)
        limit.refund(str(number))


def test_while_the_table_is_full_an_unknown_network_begins_with_a_single_guess() -> None:
    limit = GuessLimit()
    for number in range(1024):
        limit.charge(str(number), 0.0)
    assert guessed(limit, "unknown", 100.0, 1) == 1
    assert guessed(limit, "1023", 100.0, 1) == 10


def test_only_so_many_that_proved_the_key_are_remembered() -> None:
    limit = GuessLimit()
    for number in range(1025):
        limit.charge(str(number), 0.0)
        limit.refund(str(number))
    assert len(limit._proved) == 1024
