"""Which journal the settings name, and that none is begun beside another without a word."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.integration.db.rows import add, count
from tests.postgresql import PASSWORD, PostgresServer

from fabstir.config import Settings, load_settings
from fabstir.db import open_journal, open_journal_reader
from fabstir.primitives.errors import ConfigError

pytestmark = [pytest.mark.integration, pytest.mark.anyio]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(environ={"FABSTIR_PATHS_DATA_DIR": str(tmp_path / "data")})


@pytest.fixture
def on_server(settings: Settings, postgres_server: PostgresServer, tmp_path: Path) -> Settings:
    """A user that needs a password, and a schema of the test's own."""
    password = tmp_path / "password"
    password.write_text(f"{PASSWORD}\n")
    password.chmod(0o600)
    url, _, schema = postgres_server.url(user="locked").partition("?schema=")
    database = replace(settings.database, url=url, password_file=password, schema=f"own_{schema}")
    return replace(settings, database=database)


async def use(settings: Settings) -> int:
    """Add a row to the renter's journal; returns how many there are."""
    async with open_journal(settings, "renter") as db:
        number = await db.read(count)
        await db.write(add(number), durable=True)
    async with open_journal_reader(settings, "renter") as db:
        return await db.read(count)


async def refusal(settings: Settings) -> str:
    with pytest.raises(ConfigError) as caught:
        async with open_journal(settings, "renter"):
            pass
    assert PASSWORD not in str(caught.value)
    return str(caught.value)


async def test_without_a_url_it_is_a_file(settings: Settings) -> None:
    assert await use(settings) == 1

    assert (settings.paths.data_dir / "renter.sqlite").exists()


@pytest.mark.needs("initdb")
async def test_with_a_url_it_is_on_the_server(on_server: Settings) -> None:
    await use(on_server)
    assert await use(on_server) == 2

    folder = on_server.paths.data_dir
    assert [path.name for path in folder.iterdir()] == ["renter.postgresql"]
    assert PASSWORD not in (folder / "renter.postgresql").read_text()
    async with open_journal_reader(on_server, "host") as db:
        assert await db.read(count) == 0


@pytest.mark.needs("initdb")
async def test_a_file_that_is_in_use_is_not_left_for_a_server(
    settings: Settings, on_server: Settings
) -> None:
    await use(settings)

    assert "renter.sqlite, and database.url names another place" in await refusal(on_server)


@pytest.mark.needs("initdb")
async def test_a_server_that_is_in_use_is_not_left_for_a_file(
    settings: Settings, on_server: Settings
) -> None:
    await use(on_server)

    said = await refusal(settings)

    assert f"the renter's journal is at {on_server.database.url} (schema" in said
    assert "database.url does not name it" in said


@pytest.mark.needs("initdb")
async def test_a_server_that_is_in_use_is_not_left_for_an_empty_one(on_server: Settings) -> None:
    await use(on_server)
    other = replace(on_server, database=replace(on_server.database, schema="elsewhere"))

    assert "has no tables, and the journal was in use before" in await refusal(other)


@pytest.mark.needs("initdb")
async def test_a_password_that_others_can_read_is_refused(on_server: Settings) -> None:
    file = on_server.database.password_file
    assert file is not None
    file.chmod(0o644)

    assert f"can be read by other users (mode 0644): run `chmod 600 {file}`" in await refusal(
        on_server
    )


async def test_a_password_file_that_is_not_there_is_named(settings: Settings) -> None:
    database = replace(
        settings.database, url="postgresql://u@127.0.0.1/x", password_file=Path("/no/file")
    )

    said = await refusal(replace(settings, database=database))

    assert "/no/file, which database.password_file names, cannot be read: No such file" in said
