"""A model's blob from S5: from several places at once, each part verified, resumed after a kill."""

from __future__ import annotations

import logging
from pathlib import Path

from anyio import to_thread

from fabstir.models.catalogue import S5Source
from fabstir.models.download import Patience
from fabstir.models.files import OnProgress
from fabstir.primitives.errors import ModelDownloadFailed, StorageError
from fabstir.s5.portals import PortalPatience, open_client
from fabstir.s5.transfer.fetch import fetch_blob
from fabstir.web.reach import Reach

_LOG = logging.getLogger(__name__)


async def fetch_from_s5(
    source: S5Source,
    target: Path,
    *,
    size_bytes: int | None,
    patience: Patience,
    on_progress: OnProgress | None,
    reach: Reach,
) -> None:
    """Fetch the blob to `target`, whole or not at all.

    Raises:
        ModelDownloadFailed: the identifier is of a file of another size, no place gave the blob,
            or the disk failed; what is verified is kept and gone on with.
    """
    cid = source.blob.encode()
    if size_bytes not in {None, source.blob.size}:
        raise ModelDownloadFailed(
            f"blob {cid} has {source.blob.size} bytes and {size_bytes} are expected: it is another "
            "file; correct model.cid"
        )
    if await to_thread.run_sync(_has_size, target, source.blob.size):
        return  # killed before it was verified, which the caller does now
    try:
        places = await source.find(source.blob)
        async with open_client(reach) as client:
            fetched = await fetch_blob(
                source.blob,
                places,
                target,
                client=client,
                patience=PortalPatience(
                    stall_timeout=patience.stall_timeout,
                    max_failures=patience.max_failures,
                    first_delay=patience.first_delay,
                    max_delay=patience.max_delay,
                ),
                on_progress=on_progress,
                on_dropped=_warn,
            )
    except StorageError as exc:
        raise ModelDownloadFailed(
            f"the model does not come from S5 ({exc}): see that a node of s5.portals or s5.peers "
            "has it, or put the file in place yourself and set model.path"
        ) from exc
    _LOG.info("model fetched from S5", extra={"cid": cid, "bytes_from": fetched.bytes_from})


def _has_size(path: Path, size: int) -> bool:
    return path.exists() and path.stat().st_size == size


def _warn(origin: str, error: StorageError) -> None:
    _LOG.warning("a source of the model is dropped", extra={"source": origin, "reason": str(error)})
