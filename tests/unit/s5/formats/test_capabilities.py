"""Directory CIDs and the texts by which directories are shared."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabstir.crypto import NATIVE
from fabstir.primitives.encoding import encode_multibase
from fabstir.primitives.errors import RemoteProtocolError
from fabstir.s5.formats.derivation import Identity
from fabstir.s5.formats.directory import DirRef, LinkKind
from fabstir.s5.formats.directory_cid import Capability, DirectoryCid

KEYS = Identity(bytes(16), NATIVE).file_system_root()
KEY, LINK = b"\x01" * 32, b"\x02" * 32
keys = st.binary(min_size=32, max_size=32)
cids = st.builds(
    DirectoryCid,
    kind=st.sampled_from(LinkKind),
    link=keys,
    encryption_key=st.one_of(st.none(), keys),
)


@given(cids, st.sampled_from("fbzu"))
def test_a_cid_survives_every_form(cid: DirectoryCid, base: str) -> None:
    assert DirectoryCid.from_bytes(cid.to_bytes()) == cid
    assert DirectoryCid.decode(cid.encode(base)) == cid


@given(st.one_of(st.binary(max_size=80), st.binary(max_size=80).map(lambda b: b"\x5d" + b)))
def test_garbage_is_one_kind_of_error(raw: bytes) -> None:
    try:
        cid = DirectoryCid.from_bytes(raw)
    except RemoteProtocolError:
        return
    assert DirectoryCid.from_bytes(cid.to_bytes()) == cid


@given(st.text(max_size=100))
def test_any_text_is_one_kind_of_error(text: str) -> None:
    with pytest.raises(RemoteProtocolError):
        Capability.decode(text, NATIVE)


def test_the_forms_of_s5() -> None:
    mutable = DirectoryCid(kind=LinkKind.MUTABLE, link=LINK)
    fixed = DirectoryCid(kind=LinkKind.FIXED, link=LINK)
    sealed = DirectoryCid(kind=LinkKind.MUTABLE, link=LINK, encryption_key=KEY)

    assert mutable.to_bytes() == b"\x5d\xed" + LINK
    assert fixed.to_bytes() == b"\x5d\x1e" + LINK
    assert sealed.to_bytes() == b"\x5d\x5e\xa6" + KEY + b"\xed" + LINK


def test_what_the_documents_and_older_nodes_write_is_read() -> None:
    documented = b"\x5d\x5e\xe4" + KEY + b"\xed" + LINK

    assert DirectoryCid.from_bytes(documented).encryption_key == KEY
    assert DirectoryCid.from_bytes(b"\x5d\x1f" + LINK).kind is LinkKind.FIXED


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"\x5d\x5e\x01" + KEY + b"\xed" + LINK, "encryption 01"),
        (b"\x5d\x12" + LINK, "links by 12"),
        (b"\x5d\xed" + LINK + b"!", "35 bytes, and 34 belong"),
        (b"\x5b\x82", "has 5b where 5d belongs"),
    ],
)
def test_what_is_wrong_is_said(raw: bytes, reason: str) -> None:
    with pytest.raises(RemoteProtocolError, match=reason):
        DirectoryCid.from_bytes(raw)


def test_keys_and_links_have_32_bytes() -> None:
    with pytest.raises(ValueError, match="32 bytes, not 31"):
        DirectoryCid(kind=LinkKind.FIXED, link=bytes(31))
    with pytest.raises(ValueError, match="32 bytes, not 0"):
        DirectoryCid(kind=LinkKind.FIXED, link=LINK, encryption_key=b"")


def test_the_cid_of_a_directory_in_a_directory() -> None:
    ref = DirRef(kind=LinkKind.MUTABLE, link=LINK, encryption_key=KEY)

    cid = DirectoryCid.of(ref)

    assert (cid.kind, cid.link, cid.encryption_key) == (ref.kind, ref.link, ref.encryption_key)
    assert KEY.hex() not in repr(cid)


@pytest.mark.parametrize("writable", [True, False])
def test_a_capability_survives_as_text(writable: bool) -> None:
    capability = Capability.of_keys(KEYS, writable=writable)

    text = capability.encode()

    assert text.startswith("fs5://write:u" if writable else "b")
    assert Capability.decode(text, NATIVE) == capability
    assert (capability.write_key == KEYS.write_key) == writable
    assert KEYS.write_key.hex() not in repr(capability)


def test_a_cid_may_be_written_as_a_uri() -> None:
    capability = Capability.of_keys(KEYS, writable=False)

    assert Capability.decode(f"fs5://{capability.encode()}", NATIVE) == capability


def test_a_write_key_belongs_to_its_directory() -> None:
    cid = DirectoryCid(kind=LinkKind.MUTABLE, link=LINK)
    fixed = DirectoryCid(kind=LinkKind.FIXED, link=KEYS.public_key)

    for other in (cid, fixed):
        text = Capability(other, KEYS.write_key).encode()
        with pytest.raises(RemoteProtocolError, match="another directory"):
            Capability.decode(text, NATIVE)


@pytest.mark.parametrize("before", ["read:u", "", "write:", "write:uAA", "write:b"])
def test_other_user_information_is_refused(before: str) -> None:
    cid = Capability.of_keys(KEYS, writable=False).encode()

    with pytest.raises(RemoteProtocolError):
        Capability.decode(f"fs5://{before}@{cid}", NATIVE)
    key = encode_multibase(b"\x00" + KEYS.write_key, "u")
    with pytest.raises(RemoteProtocolError, match="capabilities are"):
        Capability.decode(f"write:{key}@{cid}", NATIVE)
