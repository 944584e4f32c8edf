"""How much a renter reads of a host for what the host delivers.

A host may pad its frames, or send frames that mean nothing: each is legal alone. So every request
has a budget, which grows only with the tokens that arrive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fabstir.primitives.errors import RemoteProtocolError
from fabstir.protocol.limits import MAX_HOST_FRAME_BYTES

FREE_FRAMES: Final = 1024
"""Frames of one request beyond those that bring tokens: mined claims, answers to pings, errors of
an answer that was given up. An honest host sends a handful."""

FREE_BYTES: Final = MAX_HOST_FRAME_BYTES
"""The same in bytes: the largest frame is read before it is known what it brings."""

FRAMES_PER_TOKEN: Final = 2
"""A chunk and a receipt, if a host sends both for every single token."""

BYTES_PER_TOKEN: Final = 12 * 1024
"""A chunk with one token of MAX_TOKEN_TEXT_BYTES control characters takes 6,700 bytes, a receipt
2,600."""

HANDSHAKE_FRAMES: Final = 16
HANDSHAKE_BYTES: Final = 64 * 1024
"""A greeting, and an acknowledgement of 2,000 bytes, from somebody who has proved nothing yet."""


@dataclass(slots=True)
class ReadBudget:
    """What may still be read of a request's answer."""

    num_frames: int = FREE_FRAMES
    num_bytes: int = FREE_BYTES

    def spend(self, num_bytes: int) -> None:
        """A frame was read.

        Raises:
            RemoteProtocolError: the host sends more than what it delivers can need.
        """
        self.num_frames -= 1
        self.num_bytes -= num_bytes
        if self.num_frames < 0 or self.num_bytes < 0:
            raise RemoteProtocolError(
                "the host sends more frames or bytes than the tokens that it delivers can need: "
                "it is read no further; choose another host"
            )

    def earn(self, num_tokens: int) -> None:
        """Tokens arrived, which take frames and bytes."""
        self.num_frames += FRAMES_PER_TOKEN * num_tokens
        self.num_bytes += BYTES_PER_TOKEN * num_tokens
