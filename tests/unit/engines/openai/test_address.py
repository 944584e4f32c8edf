"""What an engine's URL may be."""

import errno
import re
import ssl
from pathlib import Path

import pytest

from fabstir.engines.openai import UrlEngineConfig
from fabstir.engines.openai.address import RemoteAddress
from fabstir.primitives.errors import ConfigError


def address_of(url: str, key: str = "secret") -> RemoteAddress:
    config = UrlEngineConfig(
        where="models[2]",
        url=url,
        api_key=key,
        model_path=Path("any.gguf"),
        max_model_len=512,
        num_slots=1,
    )
    return RemoteAddress.of(config)


@pytest.mark.parametrize(
    ("url", "host", "port", "prefix", "has_tls"),
    [
        ("http://127.0.0.1:8000", "127.0.0.1", 8000, "", False),
        ("http://gpu.lan/v1/", "gpu.lan", 80, "", False),
        ("https://gpu.example/llm/v1", "gpu.example", 443, "/llm", True),
        ("http://[::1]:9", "::1", 9, "", False),
    ],
)
def test_it_goes_as_far_as_before_v1(
    url: str, host: str, port: int, prefix: str, has_tls: bool
) -> None:
    address = address_of(url)

    assert (address.host, address.port, address.prefix) == (host, port, prefix)
    assert (address.tls is not None) == has_tls
    assert "secret" not in repr(address)


@pytest.mark.parametrize(
    "url",
    [
        "http://me:hunter2@gpu.lan",
        "http://gpu.lan?key=1",
        "http://:80",
        "http://gpu:99999",
        "http://[",
    ],
)
def test_another_is_refused(url: str) -> None:
    with pytest.raises(
        ConfigError, match=r"models\[2\]\.engine_url is no URL .*engine_key_file"
    ) as refused:
        address_of(url)

    assert "hunter2" not in str(refused.value)


def distrust() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError()
    error.verify_message = "self-signed certificate"
    return error


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), "nobody listens at .* (refused)"),
        (TimeoutError(), "accepts no connection in time: .* speaks no TLS"),
        (distrust(), "is not believed (self-signed certificate)"),
        (ssl.SSLError(1, "wrong version"), "does not speak TLS .* try http://"),
    ],
)
def test_why_it_cannot_be_reached_is_told_apart(error: OSError, says: str) -> None:
    said = str(address_of("https://gpu.lan").unreachable(error))

    assert re.search(says.replace("(", r"\(").replace(")", r"\)"), said)
