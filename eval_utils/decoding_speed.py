"""Speed and memory of decoding: one reply at a time, as one reader has it."""

import torch
from transformers import PreTrainedModel

from eval_utils.figures import Figure
from eval_utils.likelihood import window_of
from eval_utils.scorecard import Ask, as_user, read_questions
from model_utils.reply_steps import open_reply

PROMPTS = 4  # of each language
TRIAL_TOKENS = 8


def measure_speed(ask: Ask, model: PreTrainedModel) -> list[Figure]:
    """Return tokens a second after the first, milliseconds to the first, and the memory that decoding takes."""
    prompts = [as_user(text) for texts in read_questions()["prompts"].values() for text in texts[:PROMPTS]]
    ask([(prompts[0], 0)])  # what is made once is no part of a reply
    answers = [answer for prompt in prompts for answer in ask([(prompt, 0)]) if answer.tokens > 1]
    after_first = [max(answer.seconds - answer.first_token_seconds, 1e-9) for answer in answers]
    tokens, first = [float(answer.tokens - 1) for answer in answers], [1000 * a.first_token_seconds for a in answers]
    figures = [
        Figure("tokens a second", tokens, after_first, part="speed", unit="tokens/s"),
        Figure("time to the first token", first, part="speed", unit="ms", lower_is_better=True),
    ]
    memory = [decoding_bytes(model) / 1e6]
    return (figures if answers else []) + [
        Figure("memory to decode", memory, part="speed", unit="MB", lower_is_better=True)
    ]


@torch.inference_mode()
def decoding_bytes(model: PreTrainedModel) -> int:
    """Return the bytes of a model's weights and of the KV cache of a full window."""
    weights = sum(weight.numel() * weight.element_size() for weight in {id(w): w for w in model.parameters()}.values())
    trial = [0] * TRIAL_TOKENS
    written = open_reply(model, trial)
    written.write(trial)
    kept = [getattr(layer, name, None) for layer in written.layers for name in ("keys", "values")]
    held = sum(states.numel() * states.element_size() for states in kept if states is not None)
    return weights + held * window_of(model) // TRIAL_TOKENS
