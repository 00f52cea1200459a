"""Encodes a dialogue by the chat template: token ids and labels. The single owner of the chat format.

One function encodes for training and for asking, so that what is trained is what is asked. Text of a user is data: it
is encoded by `model_utils.text_encoder`, and joined with the template's own control tokens part by part, so that
somebody who types a control token gets its letters and never forges a turn.
"""

from weakref import WeakKeyDictionary

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from data_utils.dialogue.checking import DialogueError, as_exchange, is_learned
from data_utils.readers.limits import OutOfTime, limit_memory, limit_seconds
from errors import InputError, coded
from model_utils.chat_template import cut_template
from model_utils.text_encoder import encode_text

IGNORE_LABEL = -100  # what the loss of PyTorch and transformers skips
_template_ids: WeakKeyDictionary[PreTrainedTokenizerBase, dict[tuple[int, str], list[int]]] = WeakKeyDictionary()
TRIAL_SECONDS, TRIAL_BYTES = 5, 2**29  # of a chat template for two messages of a letter: it may be a stranger's


def encode_messages(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict], add_generation_prompt: bool = False
) -> list[tuple[list[int], str]]:
    """Encode messages by the tokenizer's chat template, as (ids, origin) parts in order.

    The origin of a part is the role whose words it holds, "template" for what the template writes around them, or
    "unlearned" for words of a message with `weight` 0.
    For ordinary text the ids, joined, equal those of `apply_chat_template`. Raises DialogueError where the template
    refuses, or the tokenizer.
    """
    try:
        around = cut_template(tokenizer, [message["role"] for message in messages], add_generation_prompt)
    except TemplateError as error:
        reason = f"the chat template refuses this dialogue: {error}"
        raise coded(DialogueError(reason), "template_refuses", error) from error
    except ValueError as error:
        raise DialogueError(str(error)) from error
    control_ids = [encode_template(tokenizer, text) for text in around]
    try:
        content_ids = [encode_text(tokenizer, message["content"]) for message in messages]
    except InputError as error:
        raise DialogueError(str(error)) from error
    parts = []
    for message, before, ids in zip(messages, control_ids, content_ids, strict=False):
        origin = message["role"] if is_learned(message) else "unlearned"
        parts += [(before, "template"), (ids, origin)]
    return [*parts, (control_ids[-1], "template")]


def encode_template(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the ids of what a template writes, its control tokens whole; they are kept, since it writes few texts."""
    known = _template_ids.setdefault(tokenizer, {})
    key = len(tokenizer), text  # tokens may be added since
    if key not in known:
        known[key] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return list(known[key])


def set_weights(messages: list[dict], unlearned: list[int] | None) -> list[dict]:
    """Return messages of which those with these numbers, from the end, have `weight` 0.

    >>> set_weights([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], [-1])[1]
    {'role': 'assistant', 'content': 'b', 'weight': 0}
    """
    places = {len(messages) + number for number in unlearned or []}
    return [message | {"weight": 0} if i in places else message for i, message in enumerate(messages)]


def label_parts(tokenizer: PreTrainedTokenizerBase, parts: list[tuple[list[int], str]]) -> dict[str, list[int]]:
    """Join encoded parts to `input_ids` and `labels`, equally long (T tokens).

    Labels are -100 but for the assistant's words and the stop token after each of its turns. Raises DialogueError where
    the chat template ends the assistant's turn with no special token.
    """
    special = set(tokenizer.all_special_ids)
    input_ids, labels = [], []
    for number, (ids, origin) in enumerate(parts):
        input_ids += ids
        if origin == "assistant":
            labels += ids
        elif number and parts[number - 1][1] == "assistant":
            stop = next((i for i, token in enumerate(ids) if token in special), None)
            if stop is None:
                raise DialogueError("the chat template ends the assistant's turn without a special token")
            labels += ids[: stop + 1] + [IGNORE_LABEL] * (len(ids) - stop - 1)
        else:
            labels += [IGNORE_LABEL] * len(ids)
    return {"input_ids": input_ids, "labels": labels}


def encode_dialogue(tokenizer: PreTrainedTokenizerBase, messages: list[dict]) -> dict[str, list[int]]:
    """Encode a whole dialogue for training: `input_ids` and `labels` of T tokens, as `label_parts` says."""
    return label_parts(tokenizer, encode_messages(tokenizer, messages))


def try_template(tokenizer: PreTrainedTokenizerBase) -> dict[str, list[int]]:
    """Encode a dialogue of two letters by a chat template, as whoever loads a checkpoint does first.

    Raises DialogueError for a template that never ends, takes all memory or ends no turn.
    """
    try:
        with limit_seconds(TRIAL_SECONDS), limit_memory(TRIAL_BYTES):
            return encode_dialogue(tokenizer, as_exchange("a", "b"))
    except OutOfTime as error:
        raise DialogueError(f"the chat template takes more than {TRIAL_SECONDS} s for two letters") from error
    except MemoryError as error:
        words = f"the chat template takes more than {TRIAL_BYTES // 2**20} MB of memory for two letters"
        raise DialogueError(words) from error


def stop_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id that the assistant's turn ends with, as it is trained; raises what `try_template` does."""
    return [label for label in try_template(tokenizer)["labels"] if label != IGNORE_LABEL][-1]
