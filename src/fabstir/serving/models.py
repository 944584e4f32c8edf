"""The models that a host serves, and the engine of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from fabstir.engines import Engine, EngineInfo, EnginePool, EngineState
from fabstir.primitives.errors import SessionRefused
from fabstir.primitives.ids import Hash32, JobId, ModelId
from fabstir.protocol.model_names import is_model_called


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model on offer, and a way to its engine.

    Attributes:
        digest: sha256 of the file's bytes, equal to the registry's.
    """

    model_id: ModelId
    repo: str
    file: str
    digest: Hash32
    pool: EnginePool = field(repr=False, compare=False)

    @property
    def name(self) -> str:
        """As existing clients call it, and its name in the pool."""
        return model_name(self.repo, self.file)

    @property
    def info(self) -> EngineInfo:
        """What its engine offers."""
        return self.pool.info(self.name)

    @property
    def state(self) -> EngineState:
        """Whether it can answer now."""
        return self.pool.state(self.name)

    def acquire(self) -> AbstractAsyncContextManager[Engine]:
        """Its engine, for the length of the block."""
        return self.pool.acquire(self.name)

    def is_called(self, name: str) -> bool:
        """See `is_model_called`."""
        return is_model_called(name, model_id=self.model_id, repo=self.repo, file=self.file)


def model_name(repo: str, file: str) -> str:
    """The name of a model: repo:file."""
    return f"{repo}:{file}"


class ServedModels:
    """All of them, at least one, in the order of the settings."""

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self._by_id = {model.model_id: model for model in models}

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._by_id.values())

    def _called(self, name: str) -> ServedModel | None:
        return next((model for model in self if model.is_called(name)), None)

    def of_session(
        self, job_id: JobId, model_id: ModelId, *, named: str, is_free: bool
    ) -> ServedModel:
        """The model that answers in a session: the one that it was paid for, and no other.

        Args:
            model_id: that the session is for, on chain.
            named: what its handshake asks for; "": nothing.
            is_free: existing clients may use a name of their own for it.

        Raises:
            SessionRefused: it is not served, or the handshake asks for another one.
        """
        model = self._by_id.get(model_id)
        if model is None:
            raise SessionRefused(
                "WRONG_MODEL",
                f"session {job_id} is for model {model_id}, which this host does not serve; it "
                f"serves: {self._listed()}",
            )
        meant = self._called(named) if named else model
        if meant is model or (meant is None and is_free):
            return model
        raise SessionRefused(
            "WRONG_MODEL",
            f"session {job_id} is for {model.name}, and its handshake asks for {named!r}; this "
            f"host serves: {self._listed()}",
        )

    def _listed(self) -> str:
        return ", ".join(f"{model.name} ({model.model_id})" for model in self)
