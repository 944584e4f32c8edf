"""Which addresses strangers may name, and what their URLs may look like."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabstir.primitives.errors import AddressRefused
from fabstir.web.addresses import Place, parse_strangers_url, place_of


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("8.8.8.8", Place.PUBLIC),
        ("1.1.1.1", Place.PUBLIC),
        ("172.15.255.255", Place.PUBLIC),
        ("100.128.0.1", Place.PUBLIC),
        ("2606:4700::1111", Place.PUBLIC),
        ("64:ff9b::808:808", Place.PUBLIC),
        ("2002:808:808::1", Place.PUBLIC),
        ("127.0.0.1", Place.PRIVATE),
        ("127.255.255.254", Place.PRIVATE),
        ("10.1.2.3", Place.PRIVATE),
        ("172.31.0.1", Place.PRIVATE),
        ("192.168.1.1", Place.PRIVATE),
        ("100.64.0.1", Place.PRIVATE),
        ("::1", Place.PRIVATE),
        ("fd00::1", Place.PRIVATE),
        ("::ffff:127.0.0.1", Place.PRIVATE),
        ("::ffff:7f00:1", Place.PRIVATE),
        ("64:ff9b::7f00:1", Place.PRIVATE),
        ("64:ff9b::10.0.0.1", Place.PRIVATE),
        ("2002:7f00:1::", Place.PRIVATE),
        ("2002:c0a8:101::1", Place.PRIVATE),
        ("0.0.0.0", Place.UNUSABLE),
        ("0.1.2.3", Place.UNUSABLE),
        ("169.254.169.254", Place.UNUSABLE),
        ("::ffff:169.254.169.254", Place.UNUSABLE),
        ("192.0.2.1", Place.UNUSABLE),
        ("198.18.0.1", Place.UNUSABLE),
        ("198.51.100.1", Place.UNUSABLE),
        ("203.0.113.7", Place.UNUSABLE),
        ("224.0.0.1", Place.UNUSABLE),
        ("255.255.255.255", Place.UNUSABLE),
        ("240.0.0.1", Place.UNUSABLE),
        ("::", Place.UNUSABLE),
        ("::127.0.0.1", Place.UNUSABLE),
        ("fe80::1", Place.UNUSABLE),
        ("fe80::1%eth0", Place.UNUSABLE),
        ("fec0::1", Place.UNUSABLE),
        ("ff02::1", Place.UNUSABLE),
        ("2001::1", Place.UNUSABLE),
        ("2001:db8::1", Place.UNUSABLE),
        ("3fff::1", Place.UNUSABLE),
        ("64:ff9b:1::1", Place.UNUSABLE),
        ("100::1", Place.UNUSABLE),
    ],
)
def test_where_an_address_leads(address: str, place: Place) -> None:
    assert place_of(address) is place


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("http://a.example", "http://a.example"),
        ("HTTPS://A.Example:443/v1/", "https://a.example/v1/"),
        ("http://[::1]:80/x", "http://[::1]/x"),
        ("http://127.1:8080/a%20b", "http://127.1:8080/a%20b"),
        ("https://xn--bcher-kva.example/", "https://xn--bcher-kva.example/"),
    ],
)
def test_urls_of_strangers(text: str, read: str) -> None:
    assert str(parse_strangers_url(text)) == read


@pytest.mark.parametrize(
    "text",
    [
        "",
        "http://",
        "file:///etc/passwd",
        "gopher://a/",
        "ws://a/",
        "http://a/?q",
        "http://a/admin/reboot?now=1",
        "http://a/#f",
        "http://a?b",
        "http://user@a/",
        "http://user:pass@a/",
        "http://a:0/",
        "http://a:99999/",
        "http://a:x/",
        "http://a b/",
        "http://a\\@b/",
        "http://a/\\b",
        "http://a/\n",
        "http://a\x00b/",
        "http://ä.example/",
        "http://[::1%25lo]/",
        "http://[v1.a]/",
        "http://a/../admin",
        "http://a/%2e%2e/admin",
        "http://a/..%2fadmin",
        "http://a/..%5cadmin",
        "http:///a",
        "//a/",
        "http:a",
        "http://a/" + "x" * 2000,
        " http://a/",
    ],
)
def test_what_is_no_url_of_a_stranger(text: str) -> None:
    with pytest.raises(AddressRefused):
        parse_strangers_url(text)


@given(st.text() | st.text(alphabet="htps:/.@?#[]%\\a1", max_size=40))
def test_any_text_is_a_url_or_refused(text: str) -> None:
    try:
        url = parse_strangers_url(text)
    except AddressRefused:
        return
    assert parse_strangers_url(str(url)) == url
    assert not {"?", "#", "@", "\\"} & set(url.origin)
