"""What a model may be called: on chain by its id, by people in shorter ways."""

from __future__ import annotations

from fabstir.primitives.ids import ModelId


def is_model_called(name: str, *, model_id: ModelId, repo: str, file: str) -> bool:
    """Whether `name` means this model: its id, repo:file, repo/file, file, or file's stem, in any
    case.
    """
    stem = file.rsplit(".", 1)[0]
    known = {model_id, f"{repo}:{file}", f"{repo}/{file}", file, stem}
    return name.lower() in {each.lower() for each in known}


def leads_out(name: str) -> bool:
    """Whether a model's repo or file is no relative path without dots: on disk it is one."""
    parts = name.split("/")
    return "\\" in name or "\0" in name or any(part in {"", ".", ".."} for part in parts)
