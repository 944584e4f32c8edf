"""Prompts of clients that resend everything, or send ChatML, or let the host remember."""

from fabstir.protocol.content import Message
from fabstir.protocol.era_c import EraCRequest
from fabstir.protocol.sampling import SamplingParams
from fabstir.serving.conversation import Conversation, parse_chatml

SAMPLING = SamplingParams(max_tokens=10)


def ask(prompt: str) -> EraCRequest:
    return EraCRequest(prompt=prompt, sampling=SAMPLING)


def user(content: str) -> Message:
    return Message("user", content)


def assistant(content: str) -> Message:
    return Message("assistant", content)


def test_messages_are_the_whole_conversation() -> None:
    conversation = Conversation([user("old"), assistant("history")])
    messages = (user("a"), assistant("b"), user("c"))

    turn = conversation.turn(EraCRequest(messages=messages, sampling=SAMPLING))

    assert turn == messages


def test_the_host_remembers_for_a_client_that_does_not() -> None:
    conversation = Conversation()

    first = conversation.turn(ask("What is 2 + 2?"))
    conversation.remember(first, "4")
    second = conversation.turn(ask("And 4 + 4?"))

    assert second == (user("What is 2 + 2?"), assistant("4"), user("And 4 + 4?"))


def test_a_resent_conversation_is_one_new_turn() -> None:
    conversation = Conversation([user("Who are you?"), assistant("A model.")])

    turn = conversation.turn(ask("Who are you?\nA model.\nWhich one?"))

    assert turn[-1] == user("Which one?")


def test_a_short_answer_that_occurs_in_the_question_cuts_nothing() -> None:
    conversation = Conversation([user("What is 2 + 2?"), assistant("4")])

    turn = conversation.turn(ask("What is 14 + 4?"))

    assert turn[-1] == user("What is 14 + 4?")


def test_chatml_is_taken_apart_so_that_the_template_is_applied_once() -> None:
    text = (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
        "<|im_start|>observation\n{}<|im_end|>\n<|im_start|>assistant\n"
    )

    assert parse_chatml(text) == (
        Message("system", "Be brief."),
        user("Hello"),
        Message("observation", "{}"),
    )


def test_a_prompt_in_chatml_is_the_whole_conversation() -> None:
    prompt = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"

    assert Conversation([user("Before")]).turn(ask(prompt)) == parse_chatml(prompt)


def test_markers_of_a_user_interface_are_taken_out() -> None:
    turn = Conversation().turn(ask("<<DISPLAY>>Look <<ATTACHMENTS>>[Attached image: a.png]here"))

    assert turn == (user("Look here"),)


def test_a_broken_chatml_string_is_still_a_question() -> None:
    assert parse_chatml("<|im_start|>") == (user("<|im_start|>"),)
