"""Templates that are rendered here, without an engine."""

import minijinja
import pytest

from fabstir.engines.llamacpp.template import ChatTemplate, template_environment
from fabstir.primitives.errors import ConversationRefused

HELLO = [{"role": "user", "content": "Hello"}]


def rendered(source: str, listed: list[dict[str, str]] = HELLO) -> str | None:
    return ChatTemplate(template_environment(source), "<s>", "</s>").try_here(listed)


def test_what_a_template_is_given() -> None:
    source = (
        "{{ bos_token }}{% for m in messages %}\n"
        "    {% if true %}\n[{{ m['role'] }}] {{ m.content.strip() }}{{ eos_token }}{% endif %}\n"
        "{% endfor %}{% if add_generation_prompt %}>{% endif %}"
    )

    assert rendered(source, [{"role": "user", "content": " Hello\n"}]) == ("<s>[user] Hello</s>>")


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(10000) %}{% for b in range(10000) %}x{% endfor %}{% endfor %}",
        "{% for a in range(9999) %}{% for b in range(9999) %}{% set c=1 %}{% endfor %}{% endfor %}",
    ],
    ids=range(2),
)
def test_a_template_without_an_end_is_refused(source: str) -> None:
    with pytest.raises(ConversationRefused, match="another file of this model"):
        rendered(source)


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages[5].content.x }}",
        "{{ nothing() }}",
        "{% if",
        "{{ 1 / 0 }}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
    ],
    ids=range(6),
)
def test_what_fails_here_is_asked_of_the_engine(source: str) -> None:
    assert rendered(source) is None


@pytest.mark.parametrize("role", ["tool", "developer", "narrator"])
def test_roles_that_the_engine_rewrites_are_asked_of_it(role: str) -> None:
    assert rendered("{{ messages[0].content }}", [{"role": role, "content": "x"}]) is None


def test_a_template_cannot_reach_the_program() -> None:
    for source in (
        "{{ messages.__class__.__mro__ }}",
        "{{ raise_exception.__globals__ }}",
        "{% include '/etc/passwd' %}",
    ):
        assert rendered(source) in {None, ""}
    assert isinstance(template_environment("x"), minijinja.Environment)
