"""Directories beyond the entry where S5.js loses all: every file is there for a new reader."""

import pytest
from bench.s5_hamt import HEADINGS, measure
from tests.tables import printed_table

from fabstir.s5.formats.limits import HAMT_LEAF_ENTRIES, MAX_HAMT_LEAF_ENTRIES

pytestmark = pytest.mark.integration

KIB = 1024
SHAPES = [(HAMT_LEAF_ENTRIES, False), (HAMT_LEAF_ENTRIES, True), (MAX_HAMT_LEAF_ENTRIES, False)]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
@pytest.mark.parametrize("num_entries", [1005, 5000])
@pytest.mark.parametrize(("max_leaf_entries", "is_sealed"), SHAPES)
async def test_thousands(num_entries: int, max_leaf_entries: int, is_sealed: bool) -> None:
    row = await measure(
        num_entries,
        max_leaf_entries=max_leaf_entries,
        is_sealed=is_sealed,
        num_lookups=20,
        num_inserts=2,
    )

    assert row.misses == 0


@pytest.mark.heavy
@pytest.mark.timeout(1800)
@pytest.mark.anyio
async def test_forty_thousand_and_a_million(request: pytest.FixtureRequest) -> None:
    with printed_table(request, "Directories as trees", *HEADINGS) as table:
        rows = [
            await measure(num_entries, max_leaf_entries=max_leaf_entries, is_sealed=is_sealed)
            for num_entries in (1005, 40_000, 1_000_000)
            for max_leaf_entries, is_sealed in SHAPES
        ]
        for row in rows:
            table.add(*row.cells())

    clear, sealed, wide = rows[-3:]
    assert [row.misses for row in rows] == [0] * len(rows)
    assert clear.insert_bytes <= 12 * KIB
    assert sealed.insert_bytes <= 24 * KIB
    assert clear.build_seconds < 30
    assert clear.lookup_p50 * 20 < wide.lookup_p50
