from __future__ import annotations

from fabstir.p2p import AdvertiserStatus

NOW = 1_800_000_000.0


def status(**changes: object) -> AdvertiserStatus:
    settings: dict[str, object] = {
        "last_success": NOW - 30,
        "kept_since": NOW - 90,
        "expires_at": NOW + 570,
        "num_keepers": 3,
        "num_informed": 2,
    }
    return AdvertiserStatus(**(settings | changes))  # pyright: ignore[reportArgumentType] - fields by name


def test_a_host_that_is_found_by_both_records_has_nothing_to_complain_about() -> None:
    assert status().complaints(NOW) == ()


def test_a_host_that_starts_has_nothing_to_complain_about() -> None:
    assert AdvertiserStatus().complaints(NOW) == ()


def test_a_host_that_nobody_keeps_is_found_by_its_address_only() -> None:
    never = AdvertiserStatus(last_error="no other DHT server took the record yet")
    expired = status(expires_at=NOW - 1)

    for each in (never, expired):
        [complaint] = each.complaints(NOW)
        assert "only by the registry and its own address" in complaint


def test_a_kept_provider_record_is_not_called_nothing() -> None:
    """Generic DHT servers keep that, but know no validator for host records."""
    [complaint] = status(num_keepers=0).complaints(NOW)

    assert "2 peers have kept for 90 s that it serves its models" in complaint
    assert "only by" not in complaint


def test_a_kept_host_record_is_not_called_nothing() -> None:
    [complaint] = status(num_keepers=1, num_informed=0).complaints(NOW)

    assert "one peer has kept its host record for 90 s" in complaint
    assert "by the registry only" in complaint


def test_a_failed_renewal_says_how_long_the_last_one_holds() -> None:
    [complaint] = status(last_error="no answer in time").complaints(NOW)

    assert complaint == "its records are kept for 570 s more only: no answer in time"
