"""A chat template's own system prompt: found, replaced, left out; and one that a dialogue brings still counts."""

import sys

import pytest

from data_utils.dialogue import format as dialogue_format
from data_utils.dialogue.checking import DialogueError
from errors import InputError
from model_utils.chat_template import find_system, render_question, replace_system
from model_utils.tokenizer import CHAT_TEMPLATE

OWN = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\n" + OWN + "<|im_end|>\\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
QWEN25 = (
    "{%- if messages[0]['role'] == 'system' %}{{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}"
    "{%- else %}{{- '<|im_start|>system\\n" + OWN + "<|im_end|>\\n' }}{%- endif %}"
    "{%- for message in messages %}{%- if message.role != 'system' %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}{%- endif %}{%- endfor %}"
)
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}{{ messages[0]['content'] }}"


@pytest.fixture
def chat(tokenizer):
    """A tokenizer whose template may be changed."""
    import copy

    return copy.deepcopy(tokenizer)


@pytest.mark.parametrize("template", [SMOLLM2, QWEN25])
def test_its_own_is_found_replaced_and_left_out(chat, template):
    chat.chat_template = template
    given = render_question(chat, "Be brief.")
    assert find_system(chat) == OWN
    for text in ('You\'re Momo.\nSay "hi" \\o/ {{ x }}', "你是小助手。"):
        chat.chat_template = template
        replace_system(chat, text)
        assert find_system(chat) == text
        assert render_question(chat, "Be brief.") == given
    chat.chat_template = template
    replace_system(chat, "")
    assert find_system(chat) is None
    assert render_question(chat, None) in given
    assert "system" not in render_question(chat, None)
    assert render_question(chat, "Be brief.") == given


def test_a_template_without_one_gets_one(chat):
    assert chat.chat_template == CHAT_TEMPLATE
    assert find_system(chat) is None
    replace_system(chat, "")
    assert chat.chat_template == CHAT_TEMPLATE
    replace_system(chat, "Be kind.")
    assert find_system(chat) == "Be kind."


def test_a_template_that_takes_none_is_refused(chat):
    chat.chat_template = NO_SYSTEM
    assert find_system(chat) is None
    with pytest.raises(InputError, match="has no place for it"):
        replace_system(chat, "Be kind.")
    assert chat.chat_template == NO_SYSTEM


@pytest.mark.skipif(sys.platform != "linux", reason="the system has no such limits")
@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "more than 0.2 s"),
        ("{% set n = namespace(x='a') %}{% for a in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}", "more than"),
        ("{{ 'a' * 10**12 }}", "MB of memory"),
        ("{{ 'a'|center(10**12) }}", "MB of memory"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ messages + 1 }}", "TypeError"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
    ],
)
def test_a_strangers_template_that_costs_too_much_is_refused(chat, monkeypatch, template, words):
    monkeypatch.setattr(dialogue_format, "TRIAL_SECONDS", 0.2)
    monkeypatch.setattr(dialogue_format, "TRIAL_BYTES", 2**26)
    chat.chat_template = template
    with pytest.raises(DialogueError, match=words):
        dialogue_format.stop_token_id(chat)
    chat.chat_template = CHAT_TEMPLATE
    assert dialogue_format.stop_token_id(chat) == chat.convert_tokens_to_ids("<|im_end|>")
