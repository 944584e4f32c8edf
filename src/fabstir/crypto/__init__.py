"""The one place that touches native crypto."""

from fabstir.crypto.native import NATIVE, Blake3, checksum_address

__all__ = ["NATIVE", "Blake3", "checksum_address"]
