"""Prompts of held-out documents and dialogues, for a model that is being trained to go on with."""

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from data_utils.dialogue.checking import DialogueError
from data_utils.dialogue.window import encode_prompt
from data_utils.sources.corpus import split_languages


def find_beginnings(documents: Dataset, tokenizer: PreTrainedTokenizerBase) -> list[tuple[str, list[int]]]:
    """Return (text, ids) of the first 12 tokens of a document of each language."""
    prompts = []
    for _, rows in split_languages(documents):
        ids = tokenizer(rows[0]["text"][:200], add_special_tokens=False)["input_ids"][:12]
        prompts.append((str(tokenizer.decode(ids)), ids))
    return prompts


def find_questions(
    dialogues: Dataset, tokenizer: PreTrainedTokenizerBase, max_tokens: int
) -> list[tuple[str, list[int]]]:
    """Return (question, ids of its prompt) for the first question of two dialogues of each language."""
    prompts = []
    for _, rows in split_languages(dialogues):
        for messages in rows[:2]["messages"]:
            first = next(i for i, message in enumerate(messages) if message["role"] == "user")
            try:
                ids, _ = encode_prompt(tokenizer, messages[: first + 1], max_tokens)
            except DialogueError:  # too long to be answered here
                continue
            prompts.append((messages[first]["content"], ids))
    return prompts
