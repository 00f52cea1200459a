"""The system prompt that a chat template begins a dialogue with by itself: found, replaced, or left out."""

import re
from collections.abc import Sequence

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from errors import InputError, coded

SYSTEM, USER = "\u27e60\u27e7", "\u27e61\u27e7"
LITERAL = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)


def find_system(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return the system prompt that the template writes where a dialogue brings none; None where it writes none."""
    alone, given = render_both(tokenizer)
    before, found, after = given.partition(SYSTEM)
    is_longer = found and len(alone) > len(before) + len(after)
    if not (is_longer and alone.startswith(before) and alone.endswith(after)):
        return None
    return alone[len(before) : len(alone) - len(after)]


def render_messages(tokenizer: PreTrainedTokenizerBase, messages: list[dict], add_generation_prompt: bool) -> str:
    """Return the text that the chat template makes of messages; raises TemplateError for all that goes wrong in it."""
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt))
    except (TemplateError, MemoryError):
        raise
    except Exception as error:  # a template's own: it divides by zero, adds a number to a text, calls itself for ever
        raise TemplateError(f"{type(error).__name__}: {error}") from error


def cut_template(tokenizer: PreTrainedTokenizerBase, roles: Sequence[str], add_generation_prompt: bool) -> list[str]:
    """Return what the chat template writes before, between and after the contents of a dialogue of these roles.

    Raises ValueError where it leaves out a message.
    """
    marks = [f"\u27e6{number}\u27e7" for number in range(len(roles))]
    messages = [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)]
    around, rest = [], render_messages(tokenizer, messages, add_generation_prompt)
    for mark in marks:
        before, found, rest = rest.partition(mark)
        if not found:
            raise coded(ValueError("the chat template leaves out a message"), "template_skips")
        around.append(before)
    return [*around, rest]


def render_question(tokenizer: PreTrainedTokenizerBase, system: str | None) -> str:
    """Return what the template makes of a question, after a system prompt if there is one."""
    messages = [{"role": "system", "content": system}] if system is not None else []
    return render_messages(tokenizer, [*messages, {"role": "user", "content": USER}], False)


def render_both(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """Return a question without and with a system prompt; nothing where the template has no system turn."""
    try:
        return render_question(tokenizer, None), render_question(tokenizer, SYSTEM)
    except TemplateError:
        return "", ""


def replace_system(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    """Let the template write `text` where a dialogue brings no system prompt; an empty one is left out.

    What is trained with it is what the chat, exports and the API ask with, since it stands in the checkpoint. Raises
    InputError where the template allows neither.
    """
    template, old = str(tokenizer.chat_template), find_system(tokenizer)
    if text:
        quoted = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
        first = "messages and messages[0]['role'] != 'system'"
        turn = f"{{% set messages = [{{'role': 'system', 'content': '{quoted}'}}] + messages %}}"
        tokenizer.chat_template = f"{{% if {first} %}}{turn}{{% endif %}}{template}"
    elif old:
        written = next((part[0] for part in LITERAL.finditer(template) if old in unquote(part[0])), template)
        tokenizer.chat_template = template.replace(written, "''")
    if (text or old) and not is_done(tokenizer, text or None):
        tokenizer.chat_template = template
        raise InputError(f"--system {text!r}: this base's chat template has no place for it; leave the option out")


def is_done(tokenizer: PreTrainedTokenizerBase, text: str | None) -> bool:
    """Tell whether the template writes a system prompt now, or none, and still takes one that a dialogue brings."""
    alone, given = render_both(tokenizer)
    if text is not None:
        return SYSTEM in given and alone == given.replace(SYSTEM, text)
    return find_system(tokenizer) is None and given.endswith(alone) and given.count(SYSTEM) == 1


def unquote(literal: str) -> str:
    """Return what a Jinja string says.

    >>> unquote(r"'it\\'s\\n'")
    "it's\\n"
    """
    return literal[1:-1].replace("\\n", "\n").replace("\\'", "'").replace('\\"', '"')
