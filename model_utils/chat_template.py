"""The system prompt that a chat template begins a dialogue with by itself: found, replaced, or left out."""

import re

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from errors import InputError

SYSTEM, USER = "\u27e60\u27e7", "\u27e61\u27e7"
LITERAL = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)


def find_system(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return the system prompt that the template writes where a dialogue brings none; None where it writes none."""
    try:
        alone, given = render(tokenizer, None), render(tokenizer, SYSTEM)
    except TemplateError:  # a template without a system turn
        return None
    before, found, after = given.partition(SYSTEM)
    is_longer = found and len(alone) > len(before) + len(after)
    if not (is_longer and alone.startswith(before) and alone.endswith(after)):
        return None
    return alone[len(before) : len(alone) - len(after)]


def render(tokenizer: PreTrainedTokenizerBase, system: str | None) -> str:
    """Return what the template makes of a question, after a system prompt if there is one."""
    messages = [{"role": "system", "content": system}] if system is not None else []
    return tokenizer.apply_chat_template([*messages, {"role": "user", "content": USER}], tokenize=False)


def replace_system(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    """Let the template write `text` where a dialogue brings no system prompt; an empty one is left out.

    What is trained with it is what the chat, exports and the API ask with, since it stands in the checkpoint. Raises
    InputError where the template allows neither.
    """
    template, old = tokenizer.chat_template, find_system(tokenizer)
    written = next((part[0] for part in LITERAL.finditer(template) if old and old in unquote(part[0])), None)
    quoted = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    if text:
        first = "messages and messages[0]['role'] != 'system'"
        turn = f"{{% set messages = [{{'role': 'system', 'content': '{quoted}'}}] + messages %}}"
        tokenizer.chat_template = f"{{% if {first} %}}{turn}{{% endif %}}{template}"
        if is_done(tokenizer, text):
            return
    elif old is None:
        return
    elif written:
        tokenizer.chat_template = template.replace(written, "''")
        if is_done(tokenizer, None):
            return
    tokenizer.chat_template = template
    raise InputError(f"--system {text!r}: this base's chat template has no place for it; leave the option out")


def is_done(tokenizer: PreTrainedTokenizerBase, text: str | None) -> bool:
    """Tell whether the template writes a system prompt now, or none, and still takes one that a dialogue brings."""
    try:
        alone, given = render(tokenizer, None), render(tokenizer, SYSTEM)
    except TemplateError:
        return False
    if text is not None:
        return alone == given.replace(SYSTEM, text)
    return find_system(tokenizer) is None and given.endswith(alone) and given.count(SYSTEM) == 1


def unquote(literal: str) -> str:
    """Return what a Jinja string says.

    >>> unquote(r"'it\\'s\\n'")
    "it's\\n"
    """
    return literal[1:-1].replace("\\n", "\n").replace("\\'", "'").replace('\\"', '"')
