"""A session is answered by the model that it was paid for, and by no other."""

import pytest
from tests.idle_models import idle_model

from fabstir.primitives.errors import SessionRefused
from fabstir.primitives.ids import JobId, ModelId
from fabstir.serving.models import ServedModels

JOB = JobId(7)
ONE, TWO, OTHER = (ModelId("0x" + digit * 64) for digit in "123")
MODELS = ServedModels([idle_model(ONE, "one.Q4.gguf"), idle_model(TWO, "two.Q4.gguf")])


@pytest.mark.parametrize(
    "named", ["", "org/any:one.Q4.gguf", "org/any/one.Q4.gguf", "ONE.Q4.GGUF", "one.Q4", str(ONE)]
)
@pytest.mark.parametrize("is_free", [True, False])
def test_every_name_of_the_paid_model_means_it(named: str, is_free: bool) -> None:
    assert MODELS.of_session(JOB, ONE, named=named, is_free=is_free).model_id == ONE


def test_an_existing_client_may_have_a_name_of_its_own() -> None:
    assert MODELS.of_session(JOB, TWO, named="my favourite", is_free=True).model_id == TWO


@pytest.mark.parametrize(
    ("model_id", "named", "is_free", "says"),
    [
        (OTHER, "", True, f"is for model {OTHER}, which this host does not serve"),
        (OTHER, "one.Q4", False, "does not serve"),
        (ONE, "two.Q4", True, "is for org/any:one.Q4.gguf, and its handshake asks for 'two.Q4'"),
        (ONE, "two.Q4", False, "asks for 'two.Q4'"),
        (ONE, "nobody's", False, 'asks for "nobody\'s"'),
    ],
)
def test_another_model_is_refused_with_the_list(
    model_id: ModelId, named: str, is_free: bool, says: str
) -> None:
    with pytest.raises(SessionRefused) as refused:
        MODELS.of_session(JOB, model_id, named=named, is_free=is_free)

    text = str(refused.value)
    assert refused.value.code == "WRONG_MODEL"
    assert says in text
    assert text.endswith(f"serves: org/any:one.Q4.gguf ({ONE}), org/any:two.Q4.gguf ({TWO})")
