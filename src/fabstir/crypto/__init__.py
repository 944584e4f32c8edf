"""The one place that touches native crypto."""

from fabstir.crypto.native import NATIVE, checksum_address

__all__ = ["NATIVE", "checksum_address"]
