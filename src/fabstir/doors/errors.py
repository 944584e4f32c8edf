"""Errors as frames, by the table in `protocol.codes`."""

from __future__ import annotations

from fabstir.primitives.errors import ContextLengthExceeded, FabstirError, StorageError
from fabstir.protocol.codes import ERROR_CODES, code_of, unmistakable
from fabstir.protocol.host_messages import ErrorMessage


def error_message(
    error: FabstirError, *, session_id: str | None, request_id: str | None
) -> ErrorMessage:
    """An error as a frame. Errors that are none of the client's business get no detail."""
    # What the host's own storage fails at is not what a session asked for.
    code = "INTERNAL_ERROR" if isinstance(error, StorageError) else code_of(error)
    row = ERROR_CODES.get(code)
    is_context = isinstance(error, ContextLengthExceeded)
    return ErrorMessage(
        code=code,
        message=unmistakable(code, row.text if row and row.is_our_affair else str(error)),
        session_id=session_id,
        id=request_id,
        prompt_tokens=error.num_prompt_tokens if is_context else None,
        context_window_size=error.max_model_len if is_context else None,
    )
