"""A model that is served in name only, for tests in which nothing is asked of it."""

from fabstir.engines import EnginePool
from fabstir.primitives.ids import Hash32, ModelId
from fabstir.serving.models import ServedModel


def idle_model(model_id: ModelId, file: str = "any.gguf") -> ServedModel:
    return ServedModel(
        model_id=model_id,
        repo="org/any",
        file=file,
        digest=Hash32("0x" + "00" * 32),
        pool=EnginePool({}),
    )
