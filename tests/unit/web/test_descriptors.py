"""How the files that a process may have open are shared out."""

from __future__ import annotations

import resource

import pytest

from fabstir.config.sections import HostSettings, S5Settings
from fabstir.primitives.errors import ConfigError
from fabstir.web.inbound import descriptors
from fabstir.web.inbound.descriptors import host_limits, s5_limits


@pytest.mark.parametrize(
    ("num_files", "api", "s5"), [(1024, 384, 128), (256, 96, 32), (20_000, 1024, 512)]
)
def test_the_doors_have_shares(
    monkeypatch: pytest.MonkeyPatch, num_files: int, api: int, s5: int
) -> None:
    monkeypatch.setattr(descriptors, "raise_descriptor_limit", lambda: num_files)

    assert host_limits(HostSettings()).max_connections == api
    assert s5_limits(S5Settings()).max_connections == s5
    assert host_limits(HostSettings(max_connections=7)).max_connections == 7


def test_more_than_the_share_is_refused_with_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptors, "raise_descriptor_limit", lambda: 1024)

    with pytest.raises(ConfigError, match=r"host\.max_connections is 900.*384.*to 2401") as refused:
        host_limits(HostSettings(max_connections=900))

    assert "ulimit" in str(refused.value)


def test_the_soft_limit_is_raised_to_the_hard_one() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, hard), hard))
    try:
        limit = descriptors.raise_descriptor_limit()
        assert limit == min(hard, descriptors.MAX_DESCRIPTORS)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (limit, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
