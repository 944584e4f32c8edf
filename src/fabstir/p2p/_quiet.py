"""Import py-libp2p without its noise. Imported before anything else of libp2p."""

from __future__ import annotations

import logging
import warnings

logger = logging.getLogger(__name__)

_MAX_TEXT = 500

with warnings.catch_warnings():
    # libp2p 0.8.1 imports websockets.legacy, which warns since websockets 14; we cannot change
    # the import, and a run with -W error would not start.
    warnings.filterwarnings("ignore", message="websockets", category=DeprecationWarning)
    import libp2p  # noqa: F401  # pyright: ignore[reportUnusedImport] - for its side effects


class _Demote(logging.Handler):
    """Pass libp2p's records on at DEBUG.

    It logs what any peer can cause (a refused dial, garbage on a stream) as WARNING and ERROR;
    here ERROR means that the operator must act.
    """

    def emit(self, record: logging.LogRecord) -> None:
        if logger.isEnabledFor(logging.DEBUG):
            text = record.getMessage()[:_MAX_TEXT]  # a refused value is logged whole, in hex
            logger.debug("libp2p says", extra={"libp2p_logger": record.name, "text": text})


def demote_libp2p_logs() -> None:
    """Without a handler, libp2p's warnings would go to stderr past our logging.

    A handler is there if the user set LIBP2P_DEBUG: then it stays as asked.
    """
    libp2p_logger = logging.getLogger("libp2p")
    if not libp2p_logger.handlers:
        libp2p_logger.addHandler(_Demote())


demote_libp2p_logs()
