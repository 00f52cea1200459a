"""Has a model answer prompts of dialogues, several times each, and judges its replies.

By what shows without a judge: no end, another language, a loop, off the topic, a wrong name.
"""

from dataclasses import dataclass
from random import Random

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data_utils.dialogue.checking import DialogueError
from data_utils.dialogue.format import stop_token_id
from data_utils.dialogue.window import encode_prompt
from data_utils.sources.corpus import split_languages
from data_utils.text.cleaning import clean_text
from data_utils.text.languages import detect_language
from eval_utils.asking import continue_together
from eval_utils.scorecard import MAX_TOKENS, Answer, is_loop
from eval_utils.topic import is_on_topic
from model_utils.shapes import evaluating, find_embedding
from model_utils.text_encoder import encode_text
from model_utils.tokenizer import decode_text

BATCH_REPLIES = 256  # that are drawn together, by a vocabulary of up to 2**18
STOP_TOKENS = 8  # of what a template writes after a reply, at most
TEMPERATURE = 0.7  # of the draws; chat.py's own is lower, and finds less that is new
OTHERS = 16  # questions that a reply is held against


@dataclass(frozen=True)
class Asked:
    """A prompt that the model is asked: messages and ids, the reply that its dialogue has, the assistant's name."""

    messages: list[dict]
    ids: list[int]
    truth: str
    language: str
    name: str | None = None

    @property
    def question(self) -> str:
        """The user's last message."""
        return self.messages[-1]["content"]


def pick_prompts(
    dialogues: Dataset, tokenizer: PreTrainedTokenizerBase, *, count: int, window: int, seed: int, name: str | None
) -> list[Asked]:
    """Return prompts of dialogues, `count` in all where there are as many, the languages in turn.

    Each dialogue is asked up to one of its replies, drawn by seed; those that are not to be learned are never drawn,
    nor those without room in the window.
    """
    draw = Random(seed)
    parts = [(language, iter(rows.shuffle(seed=seed))) for language, rows in split_languages(dialogues)]
    found: list[Asked] = []
    while parts and len(found) < count:
        language, rows = parts.pop(0)
        for row in rows:
            asked = ask_once(tokenizer, row, draw, window)
            if asked:
                found.append(Asked(*asked, language, name))
                parts.append((language, rows))
                break
    return found


def ask_once(
    tokenizer: PreTrainedTokenizerBase, row: dict, draw: Random, window: int
) -> tuple[list[dict], list[int], str] | None:
    """Return a prompt of a dialogue as messages and ids, and its reply; None where none can be asked."""
    turns, unlearned = row["messages"], row.get("unlearned") or []
    replies = [i for i, turn in enumerate(turns) if turn["role"] == "assistant" and i - len(turns) not in unlearned]
    if not replies:
        return None
    *messages, reply = turns[: draw.choice(replies) + 1]
    try:
        ids, _ = encode_prompt(tokenizer, messages, window, MAX_TOKENS)
    except DialogueError:  # no reply has room beside it
        return None
    fits = len(ids) + len(encode_text(tokenizer, reply["content"])) + STOP_TOKENS <= window
    return (messages, ids, reply["content"]) if fits else None


def sample_replies(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    *,
    count: int,
    seed: int,
    temperature: float = TEMPERATURE,
) -> list[list[Answer]]:
    """Return `count` replies to each prompt of ids, drawn by chance; the same for a seed, whatever was drawn before."""
    # All that is drawn by, since what is left out would be the checkpoint's own.
    drawn: dict = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}
    drawn |= {"seed": seed, "count": count, "max_new_tokens": MAX_TOKENS}
    replies: list[list[Answer]] = [[] for _ in prompts]
    stops = [stop_token_id(tokenizer)]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    with evaluating(model):
        size = max(1, min(BATCH_REPLIES, 2**26 // find_embedding(model).num_embeddings) // count)
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            found = continue_together(model, [prompts[i] for i in chosen], stops, **drawn)
            for number, (ids, has_stopped) in enumerate(found):
                text = clean_text(decode_text(tokenizer, ids))
                replies[chosen[number // count]].append(Answer(text, has_stopped, len(ids), ids=tuple(ids)))
    return replies


def find_reply_faults(asked: Asked, answer: Answer) -> list[str]:
    """Return what is wrong with a reply, as far as it can be seen without a judge."""
    if not answer.text:
        return ["empty"]
    checks = {
        "unstopped": not answer.has_stopped,
        "wrong language": detect_language(answer.text) != detect_language(asked.truth),
        "loop": is_loop(answer.text, times=2),
        "wrong name": bool(asked.name) and asked.name in asked.truth and asked.name not in answer.text,
    }
    return [name for name, found in checks.items() if found]


def judge_replies(prompts: list[Asked], replies: list[list[Answer]]) -> list[list[float]]:
    """Return the reward of each reply to prompts: -1 for one with a fault; else whether it is on the topic of its
    question, less the share of the others' topics that it is on too.

    What suits any question is no answer: without that a model learns to scatter common words.
    """
    rewards = []
    for number, (asked, answers) in enumerate(zip(prompts, replies, strict=True)):
        others = [*prompts[number + 1 :], *prompts[:number]]
        questions = [other.question for other in others if other.language == asked.language][:OTHERS]
        rewards.append(
            [
                -1.0 if find_reply_faults(asked, answer) else measure_own_topic(answer.text, asked.question, questions)
                for answer in answers
            ]
        )
    return rewards


def measure_own_topic(reply: str, question: str, others: list[str]) -> float:
    """Return whether a reply is on the topic of its question, 1 or 0, less the share of others that it suits too."""
    on_others = sum(is_on_topic(other, reply) for other in others) / max(1, len(others))
    return is_on_topic(question, reply) - on_others
