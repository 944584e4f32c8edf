"""`fabstir models` against a hub that behaves like Hugging Face, and on files of one's own."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread
from tests.gguf_files import gguf_file, small_model
from tests.integration.models.hub import GGUF, Change, Cut, Hub, HubFile, Refuse, open_hub, sha256

from fabstir.cli.app import run
from fabstir.models.holding import held

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

COMMIT = "c" * 40
HALF = len(GGUF) // 2
DIGEST = sha256(GGUF).removeprefix("0x")
NAME = "org/tiny:tiny.gguf"


@dataclass(slots=True)
class Said:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        return json.loads(self.out)


@dataclass(slots=True)
class Commands:
    folder: Path
    capsys: pytest.CaptureFixture[str]

    @property
    def models(self) -> Path:
        return self.folder / "cache/models"

    async def __call__(self, *args: str, settings: Sequence[str] = ()) -> Said:
        chosen = [f"paths.cache_dir={self.folder / 'cache'}", *settings]
        options = [part for each in chosen for part in ("--set", each)]
        config = ["--config", str(self.folder / "config.toml"), "--json"]
        code = await to_thread.run_sync(run, [*config, *options, "models", *args])
        captured = self.capsys.readouterr()
        return Said(code, captured.out, captured.err)


@pytest.fixture
def models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Commands:
    (tmp_path / "config.toml").touch()
    return Commands(tmp_path, capsys)


@pytest.fixture
async def cdn() -> AsyncGenerator[Hub]:
    """Where the bytes of the hub's files are."""
    async with open_hub() as opened:
        opened.files["/bytes"] = HubFile(data=GGUF)
        yield opened


@pytest.fixture
async def hub(cdn: Hub) -> AsyncGenerator[Hub]:
    """Redirects to the CDN, and tells of the file."""
    async with open_hub() as opened:
        for revision in ("main", COMMIT):
            opened.redirects[f"/org/tiny/resolve/{revision}/tiny.gguf"] = f"{cdn.url}/bytes"
        opened.told = {
            "X-Linked-ETag": f'"{DIGEST}"',
            "X-Linked-Size": str(len(GGUF)),
            "X-Repo-Commit": COMMIT,
        }
        yield opened


async def test_a_hub_s_file_is_pinned_to_its_commit_and_checked_by_the_hub_s_digest(
    models: Commands, hub: Hub, cdn: Hub
) -> None:
    said = await models("pull", NAME, settings=[f"hub.url={hub.url}"])

    assert said.code == 0, said.err
    assert said.data["sha256"] == DIGEST
    assert said.data["state"] == "verified"
    assert (models.models / "org/tiny/tiny.gguf").read_bytes() == GGUF
    assert [(each.method, each.path) for each in hub.requests] == [
        ("HEAD", "/org/tiny/resolve/main/tiny.gguf"),
        ("GET", f"/org/tiny/resolve/{COMMIT}/tiny.gguf"),
    ]
    assert f"model.repo=org/tiny model.file=tiny.gguf model.sha256={DIGEST}" in said.err


async def test_the_page_of_a_file_is_taken_for_the_file(models: Commands, hub: Hub) -> None:
    said = await models("pull", f"{hub.url}/org/tiny/blob/main/tiny.gguf?download=true")

    assert said.data["model"] == NAME


async def test_a_hub_whose_bytes_are_not_what_it_said(models: Commands, hub: Hub, cdn: Hub) -> None:
    cdn.files["/bytes"].data = GGUF[:-1] + b"?"

    said = await models("pull", NAME, settings=[f"hub.url={hub.url}"])

    assert said.code == 1
    assert f"but 0x{DIGEST} is expected" in said.err
    assert not (models.models / "org/tiny/tiny.gguf").exists()


async def test_a_gated_model_is_opened_by_a_token_that_only_its_hub_sees(
    models: Commands, hub: Hub, cdn: Hub
) -> None:
    hub.token = "hf_secret"
    token_file = models.folder / "token"
    token_file.write_text("hf_secret\n")
    token_file.chmod(0o600)
    settings = [f"hub.url={hub.url}"]

    closed = await models("pull", NAME, settings=settings)
    opened = await models("pull", NAME, settings=[*settings, f"hub.token_file={token_file}"])

    assert closed.code == 1
    assert "HTTP 401: the model may be gated" in closed.err
    assert "hub.token_file" in closed.err
    assert opened.code == 0, opened.err
    assert hub.requests[-1].headers["authorization"] == "Bearer hf_secret"
    assert all("authorization" not in request.headers for request in cdn.requests)


@pytest.mark.parametrize(
    ("mode", "text", "url", "cause"),
    [
        (0o644, "hf_secret", "https://hub.example", "can be read by others"),
        (0o600, "", "https://hub.example", "holds no token"),
        (0o600, "hf_secret", "http://hub.example", "over https only"),
    ],
)
async def test_a_token_that_would_leak_is_refused(
    models: Commands, mode: int, text: str, url: str, cause: str
) -> None:
    (file := models.folder / "token").write_text(text)
    file.chmod(mode)

    said = await models("pull", NAME, settings=[f"hub.url={url}", f"hub.token_file={file}"])

    assert said.code == 2
    assert cause in said.err


async def test_a_throttling_hub_is_asked_again(models: Commands, hub: Hub, cdn: Hub) -> None:
    cdn.files["/bytes"].faults[:] = [Refuse(429, (("Retry-After", "1"),))]

    said = await models("pull", NAME, settings=[f"hub.url={hub.url}"])

    assert said.code == 0, said.err
    assert len(cdn.requests) == 2


async def test_another_source_goes_on_where_the_first_one_ended(models: Commands, cdn: Hub) -> None:
    cdn.files["/first.gguf"] = HubFile(data=GGUF, faults=[Cut(HALF), Refuse(404)])
    cdn.files["/mirror.gguf"] = HubFile(data=GGUF, etag='"another"')

    said = await models(
        "pull",
        f"{cdn.url}/first.gguf",
        *("--or", f"{cdn.url}/mirror.gguf", "--sha256", DIGEST, "--name", NAME),
    )

    assert said.code == 0, said.err
    assert said.data["model"] == NAME
    assert cdn.requests[-1].path == "/mirror.gguf"
    assert cdn.requests[-1].headers["range"] == f"bytes={HALF}-"
    assert "if-range" not in cdn.requests[-1].headers
    assert cdn.num_body_bytes == len(GGUF)


async def test_what_every_source_said_is_told(models: Commands, cdn: Hub) -> None:
    said = await models("pull", f"{cdn.url}/a.gguf", "--or", f"{cdn.url}/b.gguf")

    assert said.code == 1
    assert "none of 2 sources gave the model" in said.err
    assert "/a.gguf answers HTTP 404" in said.err
    assert "/b.gguf answers HTTP 404" in said.err


async def test_a_file_that_changes_in_the_middle_is_fetched_from_its_start(
    models: Commands, cdn: Hub
) -> None:
    """By a source that gives ranges of the new file as if it were the old one."""
    cdn.files["/tiny.gguf"] = HubFile(
        data=bytes(len(GGUF)), honours_if_range=False, faults=[Change(HALF, GGUF, '"second"')]
    )

    said = await models("pull", f"{cdn.url}/tiny.gguf", "--name", NAME)

    assert said.code == 0, said.err
    assert said.data["sha256"] == DIGEST
    assert [each.headers.get("range") for each in cdn.requests] == [None, f"bytes={HALF}-", None]


async def test_a_digest_that_nobody_said_is_told_and_nothing_is_replaced(
    models: Commands, cdn: Hub
) -> None:
    first = await models("pull", f"{cdn.url}/bytes", "--name", NAME)
    again = await models("pull", f"{cdn.url}/bytes", "--name", NAME)

    assert first.data["sha256"] == DIGEST
    assert again.code == 1
    assert "give its --sha256, give it another --name, or remove it first" in again.err


async def test_a_hostile_header_never_gets_its_name(models: Commands, cdn: Hub) -> None:
    cdn.files["/bytes"].data = b"GGUF\3\0\0\0" + b"\xff" * 64

    said = await models("pull", f"{cdn.url}/bytes", "--name", NAME)

    assert said.code == 1
    assert "has a GGUF header that is not loaded" in said.err
    assert not (models.models / "org/tiny/tiny.gguf").exists()


async def test_an_own_file_stays_where_it_is(models: Commands) -> None:
    own = models.folder / "mine.gguf"
    own.write_bytes(small_model())

    added = await models("add", str(own))
    listed = await models("list")
    removed = await models("rm", "mine.gguf")

    assert added.data["model"] == "local:mine.gguf"
    assert added.data["is_added"] is True
    assert f"model.path={own}" in added.err
    assert listed.data == [added.data]
    assert removed.data == {"removed": "local:mine.gguf", "path": str(own), "freed_bytes": 0}
    assert own.read_bytes() == small_model()
    assert (await models("list")).data == []


async def test_a_copy_of_a_path(models: Commands) -> None:
    own = models.folder / "mine.gguf"
    own.write_bytes(small_model())

    said = await models("pull", str(own), "--name", NAME)

    assert Path(said.data["path"]).read_bytes() == small_model()
    assert said.data["path"] == str(models.models / "org/tiny/tiny.gguf")


async def test_only_models_are_added(models: Commands) -> None:
    (own := models.folder / "mine.gguf").write_bytes(b"no model")

    no_model = await models("add", str(own))
    absent = await models("add", str(models.folder / "absent.gguf"))

    assert "no GGUF file" in no_model.err
    assert "No such file" in absent.err
    assert (no_model.code, absent.code) == (1, 1)


async def test_a_changed_file_is_noticed(models: Commands) -> None:
    own = models.folder / "mine.gguf"
    own.write_bytes(small_model())
    await models("add", str(own))
    good = await models("verify")
    own.write_bytes(small_model(template="another"))

    listed = await models("list")
    bad = await models("verify", "mine.gguf")

    assert good.code == 0
    assert good.data[0]["problem"] == ""
    assert listed.data[0]["state"] == "changed"
    assert bad.code == 1
    assert "other bytes than expected" in bad.data[0]["problem"]


async def test_what_is_in_use_is_not_removed_unless_told(models: Commands, cdn: Hub) -> None:
    await models("pull", f"{cdn.url}/bytes", "--name", NAME)
    named = [
        "model.repo=org/tiny",
        "model.file=tiny.gguf",
        f"model.sha256={DIGEST}",
    ]
    path = models.models / "org/tiny/tiny.gguf"

    listed = await models("list", settings=named)
    by_settings = await models("rm", NAME, settings=named)
    with held(path):
        by_host = await models("rm", NAME)
    is_kept = path.exists()
    forced = await models("rm", NAME, "--force", settings=named)

    assert listed.data[0]["used_by"] == ["model"]
    assert "model of" in by_settings.err
    assert "--force" in by_settings.err
    assert "a running host has it loaded" in by_host.err
    assert is_kept
    assert forced.data["freed_bytes"] == len(GGUF)
    assert list(models.models.iterdir()) == []


async def test_an_unfinished_download_is_listed_and_removed(models: Commands, cdn: Hub) -> None:
    cdn.files["/tiny.gguf"] = HubFile(data=GGUF, faults=[Cut(HALF), Refuse(404)])
    await models("pull", f"{cdn.url}/tiny.gguf", "--name", NAME)

    (listed,) = (await models("list")).data
    removed = await models("rm", NAME)

    assert (listed["state"], listed["size_bytes"]) == ("partial", HALF)
    assert removed.code == 0
    assert list(models.models.iterdir()) == []


async def test_what_a_header_says_and_whether_it_fits(models: Commands) -> None:
    own = models.folder / "mine.gguf"
    own.write_bytes(small_model())

    said = await models("show", str(own), "--max-model-len", "512", "--num-slots", "2")

    header, fit = said.data["header"], said.data["fit"]
    assert (header["architecture"], header["quantisation"]) == ("llama", "F16")
    assert (header["context_length"], header["has_chat_template"]) == (512, True)
    assert fit["ram"]["kv_cache"] == 2 * 512 * 2 * 2 * 32 * 2
    assert fit["fits_in_ram"] is True


async def test_what_is_none_of_the_forms_is_told_which_there_are(models: Commands) -> None:
    unknown = await models("pull", "tiny")
    absent = await models("show", "tiny")
    digest = await models("pull", NAME, "--sha256", "abc")
    name = await models("pull", NAME, "--name", "tiny")

    assert "org/name:file.gguf of the hub" in unknown.err
    assert "there is no model tiny" in absent.err
    assert "--sha256 'abc' is no digest" in digest.err
    assert "is not repo:file" in name.err
    assert [unknown.code, absent.code, digest.code, name.code] == [2, 1, 2, 2]


@pytest.mark.parametrize("name", ["../up:m.gguf", "a/b:../m.gguf", "a/b:.m.gguf", "a/b:m.bin"])
async def test_a_name_that_leads_elsewhere_is_refused(
    models: Commands, cdn: Hub, name: str
) -> None:
    (own := models.folder / "mine.gguf").write_bytes(small_model())

    pulled = await models("pull", f"{cdn.url}/bytes", "--name", name)
    added = await models("add", str(own), "--name", name)

    assert (pulled.code, added.code) == (2, 2)
    assert "cannot be a model's name here" in pulled.err
    assert cdn.requests == []


async def test_files_of_the_same_name_are_told_apart(models: Commands) -> None:
    own = models.folder / "mine.gguf"
    own.write_bytes(gguf_file())
    await models("add", str(own), "--name", "a/b:tiny.gguf")
    await models("pull", str(own), "--name", "c/d:tiny.gguf")

    said = await models("verify", "tiny.gguf")

    assert "tiny.gguf is a/b:tiny.gguf, c/d:tiny.gguf: say which" in said.err
