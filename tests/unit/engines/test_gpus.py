"""What the GPUs are read as."""

from fabstir.engines.gpus import read_gpus


def test_no_gpu_is_reported_where_there_is_no_driver() -> None:
    """Holds on every machine: with a card its memory is measured."""
    assert all(0 <= gpu.free_bytes <= gpu.total_bytes for gpu in read_gpus())
