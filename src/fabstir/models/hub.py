"""What a hub says of a file before it is fetched: its digest, its size and the commit it is of.

Hugging Face answers `HEAD {endpoint}/{repo}/resolve/{revision}/{file}` with headers of its own, and
a redirect to where the bytes are; hubs that copy it do the same. For a large file X-Linked-ETag is
the sha256 of its bytes. A hub that sends none is fetched from all the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import anyio
import httpx

from fabstir.models.catalogue import HubSource
from fabstir.models.download import (
    RETRIED,
    Patience,
    open_client,
    refuse_closed,
    retry_after,
    shown,
)
from fabstir.primitives.errors import ModelDownloadFailed
from fabstir.primitives.ids import Hash32
from fabstir.web.client import named_by_user
from fabstir.web.reach import STRANGERS, Reach

ASK_TIMEOUT: Final = 30.0
"""Seconds for the answer's head."""

_SHA256: Final = re.compile(r'(?:W/)?"?([0-9a-f]{64})"?')
_SIZE: Final = re.compile(r"[0-9]{1,18}")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_NOT_FOUND: Final = 404
_FAILED: Final = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class HubFileInfo:
    """None where the hub does not say.

    Attributes:
        commit: the revision as a commit, which never means other bytes one day.
    """

    sha256: Hash32 | None
    size_bytes: int | None
    commit: str | None


async def ask_hub(
    hub: HubSource, repo: str, file: str, *, patience: Patience, reach: Reach = STRANGERS
) -> HubFileInfo:
    """Ask without fetching; a hub that throttles is asked again when it says.

    Raises:
        ModelDownloadFailed: it has no such file, does not give it to us, or does not answer.
    """
    url = hub.url(repo, file)
    num_failures = 0
    async with open_client(url, reach) as client:
        while (answer := await _ask(client, url, hub.token)).status_code in RETRIED:
            num_failures += 1
            if num_failures >= patience.max_failures:
                raise ModelDownloadFailed(
                    f"{shown(url)} answered HTTP {answer.status_code} {num_failures} times: try "
                    "again later, or from another source"
                )
            await anyio.sleep(patience.delay(num_failures, retry_after(answer)))
    return _info(url, answer)


async def _ask(client: httpx.AsyncClient, url: str, token: str | None) -> httpx.Response:
    try:
        with anyio.fail_after(ASK_TIMEOUT):
            return await client.head(
                url,
                headers={"Authorization": f"Bearer {token}"} if token else {},
                follow_redirects=False,  # the headers are the hub's, the bytes another's
                extensions=named_by_user(url),
            )
    except TimeoutError as exc:
        raise ModelDownloadFailed(
            f"{shown(url)} did not answer in {ASK_TIMEOUT:g} s: check the network and try again"
        ) from exc
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        raise ModelDownloadFailed(
            f"{shown(url)} cannot be asked ({exc or type(exc).__name__}): check the network and "
            "the hub's address"
        ) from exc


def _info(url: str, answer: httpx.Response) -> HubFileInfo:
    refuse_closed(url, answer)
    if answer.status_code == _NOT_FOUND:
        raise ModelDownloadFailed(
            f"the hub has no {shown(url)}: check the repository, the revision and the file's name"
        )
    if answer.status_code >= _FAILED:
        return HubFileInfo(sha256=None, size_bytes=None, commit=None)  # the download says why
    sha256 = _SHA256.fullmatch(answer.headers.get("X-Linked-ETag", ""))
    size = _SIZE.fullmatch(answer.headers.get("X-Linked-Size", ""))
    commit = _COMMIT.fullmatch(answer.headers.get("X-Repo-Commit", ""))
    return HubFileInfo(
        sha256=Hash32("0x" + sha256[1]) if sha256 else None,
        size_bytes=int(size[0]) if size else None,
        commit=commit[0] if commit else None,
    )
