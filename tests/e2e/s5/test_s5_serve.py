"""`fabstir s5 serve` as its users run it: with curl's requests, among others, killed, and away."""

from __future__ import annotations

import threading
from pathlib import Path

import httpx
import pytest
from tests.e2e.s5.liar import lying_portal
from tests.e2e.s5.process import S5Process, free_port, run_cli, s5_process

from fabstir.primitives.cid import BlobId

pytestmark = pytest.mark.e2e


def test_what_curl_can_do(tmp_path: Path) -> None:
    with s5_process(tmp_path / "node") as node, node.client() as client:
        uploaded = client.post("/s5/upload", content=b"a blob")
        cid = uploaded.json()["cid"]
        written = client.put(
            "/s5/fs/a/b.txt", content=b"hello, file", headers={"If-None-Match": "*"}
        )
        again = client.put("/s5/fs/a/b.txt", content=b"other", headers={"If-None-Match": "*"})
        part = client.get("/s5/fs/a/b.txt", headers={"Range": "bytes=7-10"})
        listed = client.get("/s5/fs/a/")
        blob = httpx.get(f"{node.url}/s5/blob/{cid}")
        metrics = httpx.get(str(node.facts["metrics_url"])).text
        gone = client.delete("/s5/fs/a/b.txt")
        missing = client.get("/s5/fs/a/b.txt")
        status = node.stop()

    assert uploaded.is_success
    assert blob.content == b"a blob"
    assert (written.status_code, again.status_code) == (201, 412)
    assert (part.status_code, part.content) == (206, b"file")
    assert "b.txt" in listed.text
    assert (gone.status_code, missing.status_code) == (204, 404)
    assert 'fabstir_s5_requests_total{door="files",outcome="ok"}' in metrics
    assert status == 0
    assert "ERROR" not in node.log()


def test_two_nodes_find_each_other_s_blobs_though_a_third_lies(tmp_path: Path) -> None:
    content = b"only the first node has this"
    large = bytes(range(253)) * 30_000
    with s5_process(tmp_path / "first") as first, first.client() as client:
        cids = [client.post("/s5/upload", content=data).json()["cid"] for data in (content, large)]
        with (
            lying_portal() as liar,
            s5_process(tmp_path / "second", peers=first.p2p_uri, portals=liar.url) as second,
            second.client() as asked,
        ):
            second.says.wait_for("a peer is connected")
            fetched = [_content(asked, f"/s5/download/{cid}") for cid in cids]
            pinned = run_cli(tmp_path / "second", "pin", cids[0])
            missing = asked.get(f"/s5/download/{BlobId(bytes(32), 1).encode()}")
            num_lies = liar.num_lies

    assert fetched == [content, large]
    assert (pinned[0], pinned[1]["size"]) == (0, len(content))
    assert missing.status_code in {404, 502}
    assert num_lies > 0


def _content(client: httpx.Client, path: str) -> bytes | None:
    answer = client.get(path)
    return answer.content if answer.is_success else None


def test_what_was_acknowledged_survives_a_kill_in_the_middle_of_puts(tmp_path: Path) -> None:
    acknowledged: dict[str, bytes] = {}
    one_more = threading.Semaphore(0)

    def put(node: S5Process, writer: int) -> None:
        with node.client() as client:
            for number in range(10_000):
                path, content = f"/s5/fs/{writer}/{number}", f"{writer}:{number}".encode() * 9
                try:
                    answer = client.put(path, content=content)
                except httpx.HTTPError:
                    return
                if answer.is_success:
                    acknowledged[path] = content
                    one_more.release()

    with s5_process(tmp_path / "node") as node:
        writers = [threading.Thread(target=put, args=(node, index)) for index in range(3)]
        for writer in writers:
            writer.start()
        for _ in range(20):
            assert one_more.acquire(timeout=40)
        node.kill()
        for writer in writers:
            writer.join()
    with s5_process(tmp_path / "node") as node, node.client() as client:
        lost = {
            path for path, content in acknowledged.items() if client.get(path).content != content
        }
        scrubbed = run_cli(tmp_path / "node", "scrub")

    assert len(acknowledged) >= 20
    assert lost == set()
    assert scrubbed[1]["num_bad"] == 0


def test_a_portal_that_comes_back_gets_what_waited_for_it(tmp_path: Path) -> None:
    port = str(free_port())
    settings = {"portals": f"http://127.0.0.1:{port}", "replicas": "2", "repair_seconds": "0.2"}
    with (
        s5_process(tmp_path / "portal", port=port) as portal,
        s5_process(tmp_path / "node", **settings) as node,
        node.client() as client,
    ):
        client.put("/s5/fs/first", content=b"makes the account")
        _wait_until_arrived(node, "first")
        portal.kill()
        client.put("/s5/fs/later", content=b"written while it is away")
        in_new_directories = client.put("/s5/fs/new/deeper/file", content=b"and so is this")
        assert in_new_directories.status_code == 201
        node.until(lambda: _waits(node.folder), told_by="upload postponed")
        node.kill()
        with (
            s5_process(tmp_path / "portal", port=port),
            s5_process(tmp_path / "node", **settings) as node,
        ):
            _wait_until_arrived(node, "later")
            code, queue, _ = run_cli(tmp_path / "node", "queue", "--wait")

    assert (code, queue["uploads"]) == (0, [])


def _wait_until_arrived(node: S5Process, path: str) -> None:
    def has_arrived() -> bool:
        run_cli(node.folder, "queue", "--wait")
        return _arrived(node.folder, path)

    # Logged by the round that queues it; from then on the command waits.
    node.until(has_arrived, told_by="copies were seen to")


def _arrived(folder: Path, path: str) -> bool:
    code, where, _ = run_cli(folder, "where", path)
    return code == 0 and "stored" in [
        copy["state"] for copy in where["copies"] if copy["place"].startswith("http")
    ]


def _waits(folder: Path) -> bool:
    code, queue, _ = run_cli(folder, "queue")
    return code == 0 and any(item["problem"] for item in queue["uploads"])


def test_what_a_portal_can_do_and_an_account_there(tmp_path: Path) -> None:
    with s5_process(tmp_path / "portal") as portal:
        stranger = run_cli(tmp_path / "user", "probe", portal.url)
        account = run_cli(tmp_path / "user", "login", portal.url)
        owner = run_cli(tmp_path / "user", "probe", portal.url)
    away = run_cli(tmp_path / "user", "probe", portal.url)

    token_file = tmp_path / "user" / "data" / "s5" / "portals.json"
    assert token_file.stat().st_mode & 0o077 == 0
    assert (stranger[0], account[0], owner[0], away[0]) == (0, 0, 0, 1)
    assert account[1]["url"] == portal.url
    checks = {check["name"]: check["ok"] for check in owner[1]["checks"]}
    names = ("reachable", "upload", "download", "ranges", "tus", "registry write", "clean up")
    assert [name for name in names if not checks[name]] == []
