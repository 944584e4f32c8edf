"""Variables, streams, homes and locales that other machines have."""

from __future__ import annotations

import json
import os
import shlex
import stat
import sys
from functools import partial
from pathlib import Path

import pytest
from tests.e2e.places.conftest import FABSTIR, Place, refused

pytestmark = pytest.mark.e2e

DEAD_PORT = "127.0.0.1:9"


@pytest.mark.parametrize(
    "variables",
    [
        {"ALL_PROXY": f"socks5://{DEAD_PORT}", "HTTP_PROXY": f"socks5://{DEAD_PORT}"},
        {"all_proxy": f"socks5h://{DEAD_PORT}", "no_proxy": ""},
        {"HTTP_PROXY": DEAD_PORT, "HTTPS_PROXY": DEAD_PORT},
        {"http_proxy": "ftp://nowhere", "https_proxy": "::::"},
        {"ALL_PROXY": "socks4://" + DEAD_PORT},
    ],
    ids=["socks5", "socks5h", "no scheme", "nonsense", "socks4"],
)
def test_proxy_variables_stop_no_local_command(place: Place, variables: dict[str, str]) -> None:
    (place.home / "a.txt").write_text("kept")

    put = place.run("s5", "put", "a.txt", "home/a.txt", variables=variables)
    got = place.run("s5", "get", "home/a.txt", "-o", "-", variables=variables)

    assert put.status == 0, put.said
    assert got.out == b"kept"


KUBERNETES = {
    "FABSTIR_SERVICE_HOST": "10.96.0.7",
    "FABSTIR_SERVICE_PORT": "8080",
    "FABSTIR_SERVICE_PORT_HTTP": "8080",
    "FABSTIR_PORT": "tcp://10.96.0.7:8080",
    "FABSTIR_PORT_8080_TCP": "tcp://10.96.0.7:8080",
    "FABSTIR_PORT_8080_TCP_PROTO": "tcp",
    "FABSTIR_PORT_8080_TCP_PORT": "8080",
    "FABSTIR_PORT_8080_TCP_ADDR": "10.96.0.7",
    "FABSTIR_HOST_SERVICE_HOST": "10.96.0.8",
    "FABSTIR_HOST_PORT": "tcp://10.96.0.8:8080",
    "FABSTIR_HOST_PORT_8080_UDP_ADDR": "10.96.0.8",
    "FABSTIR_S5_SERVICE_PORT_S5_API": "5522",
    "FABSTIR_S5_PORT": "tcp://10.96.0.9:5522",
    "FABSTIR_P2P_PORT": "tcp://10.96.0.9:9000",
    "FABSTIR_METRICS_PORT": "tcp://10.96.0.9:9108",
}


def test_kubernetes_variables_are_named_and_passed_over(place: Place) -> None:
    ended = place.run("config", "show", "--json", variables=KUBERNETES)

    settings = json.loads(ended.out)["settings"]
    assert settings["host.port"] == {"value": 8080, "origin": "default"}
    assert all(name in ended.said for name in KUBERNETES)
    assert "enableServiceLinks: false" in ended.said


def test_what_is_no_service_link_is_still_refused(place: Place) -> None:
    wrong = place.run("config", "show", variables={"FABSTIR_HOST_PORT": "80a"})
    unknown = place.run("config", "show", variables={"FABSTIR_HOST_PROT": "80"})

    refused(wrong, "FABSTIR_HOST_PORT", "'80a'", "a whole number")
    refused(unknown, "FABSTIR_HOST_PROT", "did you mean FABSTIR_HOST_PORT?")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_stop_no_command(place: Place, closed: str) -> None:
    for arguments in (["config", "show"], ["keys", "new"]):
        command = shlex.join([str(FABSTIR), *arguments])

        ended = place.run(before=("sh", "-c", f"{command} {closed}", "sh"))

        assert ended.status == 0, (arguments, ended.status, ended.said)


@pytest.mark.parametrize(
    "arguments", [["s5", "put", "-", "home/y"], ["keys", "import"], ["s5", "mount", "m", "-"]]
)
def test_a_closed_input_is_no_empty_one(place: Place, arguments: list[str]) -> None:
    command = shlex.join([str(FABSTIR), *arguments])

    ended = place.run(before=("sh", "-c", f"{command} <&-", "sh"))

    assert ended.status == 1
    assert b"standard input is closed" in ended.err


def test_a_closed_output_takes_no_file(place: Place) -> None:
    place.run("s5", "put", "-", "home/y", given=b"kept")
    command = shlex.join([str(FABSTIR), "s5", "get", "home/y", "-o", "-"])

    ended = place.run(before=("sh", "-c", f"{command} >&-", "sh"))

    assert ended.status == 1
    assert b"standard output is closed" in ended.err


def test_a_help_that_cannot_be_written_is_said(place: Place) -> None:
    command = shlex.join([str(FABSTIR), "config", "--help"])

    ended = place.run(before=("sh", "-c", f"{command} > /dev/full", "sh"))

    assert ended.status == 1
    assert b"standard output cannot be written" in ended.err


def test_a_working_folder_that_is_gone_is_said(place: Place) -> None:
    command = shlex.join([str(FABSTIR), "--config", "x.toml", "config", "show"])

    ended = place.run(before=("sh", "-c", f"mkdir gone; cd gone; rmdir ../gone; {command}", "sh"))

    refused(ended, "the working folder was removed")


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "loop"])
@pytest.mark.parametrize("command", [["show"], ["set", "host.location=x"]])
def test_a_settings_file_that_is_none_is_named(place: Place, kind: str, command: list[str]) -> None:
    file = place.home / "c.toml"
    match kind:
        case "pipe":
            os.mkfifo(file)
        case "device":
            file.symlink_to("/dev/zero")
        case "folder":
            file.mkdir()
        case _:
            file.symlink_to(file)

    ended = place.run("--config", str(file), "config", *command)

    refused(ended, "c.toml", "cannot read")


@pytest.mark.parametrize("values", [["host.port=\u0663"], ["host.port=1", "host.port=2"]])
def test_odd_numbers_and_second_values_are_refused(place: Place, values: list[str]) -> None:
    refused(place.run("config", "set", *values), "host.port")
    refused(place.run("config", "set", "host.port=" + "9" * 5000), "999...")


def test_nothing_is_written_into_a_file_that_took_a_closed_streams_number(place: Place) -> None:
    command = shlex.join([str(FABSTIR), "--log-level", "debug", "s5", "put", "a.txt", "home/a"])
    (place.home / "a.txt").write_text("kept")

    ended = place.run(before=("sh", "-c", f"{command} <&- >&- 2>&-", "sh"))

    assert ended.status == 0
    assert place.run("s5", "get", "home/a", "-o", "-").out == b"kept"


def without_home(place: Place) -> tuple[str, ...]:
    """What starts a command as a user without HOME and without an entry in the passwd database."""
    if os.getuid() == 0 or Path("/proc/self/ns/user").exists():
        return ("unshare", "-U", "--map-user=12345", "--map-group=12345", "env", "-u", "HOME")
    return ("env", "-u", "HOME")


def test_without_a_home_the_way_out_is_named(place: Place) -> None:
    for arguments in (["config", "show"], ["keys", "new"], ["s5", "ls"], ["devnet"]):
        ended = place.run(*arguments, before=without_home(place))

        refused(ended, "the settings file", "HOME", "--config")


def test_without_a_home_everything_lies_beside_the_settings_file(place: Place) -> None:
    file = str(place.home / "there" / "config.toml")
    before = without_home(place)

    made = place.run("--config", file, "config", "set", "host.location=here", before=before)
    keys = place.run("--config", file, "keys", "new", before=before)
    (place.home / "a.txt").write_text("kept")
    put = place.run("--config", file, "s5", "put", "a.txt", "home/a.txt", before=before)
    tilde = place.run("--config", "~/c.toml", "config", "show", before=before)

    assert [made.status, keys.status, put.status] == [0, 0, 0], put.said
    assert {p.name for p in (place.home / "there").iterdir()} >= {"config.toml", "data"}
    assert {p.name for p in place.home.iterdir()} == {"a.txt", "there"}
    refused(tilde, "~/c.toml", "HOME")


STRICT_LATIN = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize(
    "variables",
    [
        {"LC_ALL": "C"},
        STRICT_LATIN,
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONIOENCODING": "ascii:strict"},
        {"LC_ALL": "xx_YY.nonsense"},
        {"TERM": "dumb", "COLUMNS": "x", "LINES": "-1"},
    ],
    ids=["C", "C strict", "latin-1", "ascii", "unknown", "terminal"],
)
def test_what_the_locale_cannot_say_is_written_out(place: Place, variables: dict[str, str]) -> None:
    (place.home / "a.txt").write_text("kept")
    put = place.run("s5", "put", "a.txt", "home/日本 €🙂.txt")

    with place.started_with(variables) as server:
        run = partial(place.run, "s5", variables=variables, server=server)
        listed = run("ls", "home")
        as_json = run("ls", "home", "--json")
        moved = run("put", "a.txt", "home/second.txt")
        missing = run("get", "home/none")

    assert put.status == listed.status == as_json.status == moved.status == 0
    assert "日本 €🙂.txt" in str(json.loads(as_json.out))
    assert b"second" not in listed.out
    assert missing.status == 1


def test_a_setting_in_no_encoding_is_refused_by_name(place: Place) -> None:
    ended = place.run("config", "set", "host.location=日本", variables=STRICT_LATIN)

    refused(ended, "host.location", "C.UTF-8")


def test_a_settings_file_behind_a_link_is_changed_in_its_place(place: Place) -> None:
    target = place.home / "dotfiles" / "fabstir.toml"
    target.parent.mkdir()
    target.write_text("# mine\n[host]\nport = 9\n")
    target.chmod(0o640)
    link = place.home / "config.toml"
    link.symlink_to(target)

    ended = place.run("--config", str(link), "config", "set", "host.port=10")

    assert ended.status == 0, ended.said
    assert link.readlink() == target
    assert target.read_text() == "# mine\n[host]\nport = 10\n"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert list(target.parent.iterdir()) == [target]


def test_a_link_that_leads_nowhere_yet_is_kept(place: Place) -> None:
    target = place.home / "later" / "fabstir.toml"
    link = place.home / "config.toml"
    link.symlink_to(target)

    ended = place.run("--config", str(link), "config", "set", "host.port=10")

    assert ended.status == 0, ended.said
    assert link.is_symlink()
    assert target.read_text() == "[host]\nport = 10\n"


def test_links_in_a_circle_and_folders_are_named(place: Place) -> None:
    circle = place.home / "circle.toml"
    circle.symlink_to(circle)

    for file in (circle, place.home):
        ended = place.run("--config", str(file), "config", "set", "host.port=10")
        refused(ended, str(file))


MARKS = {"utf-8-sig": b"\xef\xbb\xbf", "utf-16": b"\xff\xfe"}


@pytest.mark.parametrize("codec", MARKS)
def test_files_that_windows_saved_are_read(place: Place, codec: str) -> None:
    folder = place.home / "f"
    place.run("--config", str(folder / "config.toml"), "config", "set", "host.port=9")
    made = place.run("--config", str(folder / "config.toml"), "keys", "new", "--json")
    place.run("--config", str(folder / "config.toml"), "s5", "identity", "show")
    edited = [p for p in folder.iterdir() if p.is_file()]
    for file in edited:
        text = file.read_text("utf-8").replace("\n", "\r\n")
        file.write_bytes(text.encode(codec))

    shown = place.run("--config", str(folder / "config.toml"), "keys", "show", "--json")
    identity = place.run("--config", str(folder / "config.toml"), "s5", "identity", "show")
    changed = place.run("--config", str(folder / "config.toml"), "config", "set", "host.port=10")

    assert {"config.toml", "wallet.json", "wallet.password"} <= {p.name for p in edited}
    assert shown.status == identity.status == changed.status == 0, shown.said + identity.said
    assert json.loads(shown.out)["address"] == json.loads(made.out)["address"]
    content = (folder / "config.toml").read_bytes()
    assert content.startswith(MARKS[codec])
    assert content.decode(codec) == "[host]\r\nport = 10\r\n"


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16"])
def test_a_deployment_file_that_windows_saved_is_read(place: Place, codec: str) -> None:
    file = place.home / "31337.json"
    file.write_bytes("{}".encode(codec))

    place.run("keys", "new")
    ended = place.run("balance", "--set", f"chain.deployment={file}")

    refused(ended, "lacks the field 'chain_id'")


def test_a_key_that_is_piped_in_may_have_a_mark(place: Place) -> None:
    ended = place.run("keys", "import", "--json", given=b"\xef\xbb\xbf0x" + b"11" * 32 + b"\r\n")

    assert ended.status == 0, ended.said
    assert json.loads(ended.out)["address"] == "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A"


def test_the_command_is_the_installed_one() -> None:
    assert FABSTIR.is_file()
    assert FABSTIR.parent == Path(sys.executable).parent
