"""Server-sent events come in any pieces and give the same payloads."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabstir.engines._sse import MAX_EVENT_BYTES, EventDecoder

payloads = st.lists(st.binary(min_size=1).filter(lambda b: b"\n" not in b and b"\r" not in b))


@given(payloads, st.lists(st.integers(1, 50)), st.sampled_from([b"\n", b"\r\n"]))
def test_any_cut_gives_the_same_events(
    events: list[bytes], cuts: list[int], line_end: bytes
) -> None:
    stream = b"".join(b"data: " + event + 2 * line_end for event in events)

    decoder, found = EventDecoder(), list[bytes]()
    for cut in [*cuts, len(stream)]:
        found += decoder.feed(stream[:cut])
        stream = stream[cut:]

    assert found == events


def test_other_fields_are_ignored() -> None:
    assert EventDecoder().feed(b": ping\n\nevent: x\nid: 1\ndata: a\ndata: b\n\n") == [b"a\nb"]


def test_an_event_without_end_is_refused() -> None:
    decoder = EventDecoder()

    with pytest.raises(ValueError, match="longer than"):
        decoder.feed(b"data: " + b"x" * MAX_EVENT_BYTES)
