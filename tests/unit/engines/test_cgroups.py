"""Quotas of processor time, as containers, systemd and old kernels set them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fabstir.engines._cgroups import cpu_quotas
from fabstir.engines.llamacpp.calibration import num_usable_cores

V2 = {"proc/self/cgroup": "0::/system.slice/fabstir.service\n"}
V1 = {"proc/self/cgroup": "5:cpu,cpuacct:/docker/abc\n3:memory:/docker/abc\n"}
CG = "sys/fs/cgroup"


@pytest.mark.parametrize(
    ("files", "least"),
    [
        ({}, None),
        ({f"{CG}/cpu.max": "200000 100000\n"}, 2),
        ({f"{CG}/cpu.max": "max 100000\n"}, None),
        ({f"{CG}/cpu.max": "nonsense"}, None),
        ({f"{CG}/cpu.max": "50000 100000\n"}, 1),
        (V2 | {f"{CG}/system.slice/fabstir.service/cpu.max": "300000 100000"}, 3),
        (V2 | {f"{CG}/system.slice/cpu.max": "100000 100000"}, 1),
        (
            V2
            | {
                f"{CG}/system.slice/fabstir.service/cpu.max": "400000 100000",
                f"{CG}/system.slice/cpu.max": "200000 100000",
            },
            2,
        ),
        (
            V1
            | {
                f"{CG}/cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "200000\n",
                f"{CG}/cpu,cpuacct/docker/abc/cpu.cfs_period_us": "100000\n",
            },
            2,
        ),
        (
            {
                f"{CG}/cpu/cpu.cfs_quota_us": "300000\n",
                f"{CG}/cpu/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
        (
            {f"{CG}/cpu/cpu.cfs_quota_us": "-1\n", f"{CG}/cpu/cpu.cfs_period_us": "100000\n"},
            None,
        ),
        ({"proc/self/cgroup": "0::/../../../etc\n5:cpu\n:::\n"}, None),
    ],
)
def test_the_least_quota_holds(tmp_path: Path, files: dict[str, str], least: int | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    assert min(cpu_quotas(tmp_path), default=None) == least
    cores = len(os.sched_getaffinity(0))
    assert num_usable_cores(tmp_path) == min(cores, least or cores)


def test_no_more_than_this_process_may_run_on(tmp_path: Path) -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert num_usable_cores(tmp_path) == 1
    finally:
        os.sched_setaffinity(0, allowed)
