"""How replies of an exported model are compared with the checkpoint's: where ties count, and where no more."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from errors import InputError
from eval_utils.agreement import PROMPTS, compare_replies
from tests.conftest import TINY_SHAPE


class Astray:
    """A runtime that finds another token than the checkpoint's at the first `wrong` positions of each reply."""

    def __init__(self, wrong: int) -> None:
        self.wrong = wrong

    def follow(self, prompt: list[int], reply: list[int]) -> list[int]:
        return [token + (place < self.wrong) for place, token in enumerate(reply)]


@pytest.fixture
def model(tokenizer):
    """Its logits are all zero: every token is a tie."""
    config = AutoConfig.for_model(**TINY_SHAPE, vocab_size=len(tokenizer))
    model = AutoModelForCausalLM.from_config(config).eval()
    torch.nn.init.zeros_(model.lm_head.weight)
    return model


def test_a_few_ties_that_differ_are_stated_apart(model, tokenizer):
    agreement = compare_replies(Astray(16), model, tokenizer, exact=True)
    positions = 64 * len(PROMPTS)
    assert (agreement.equal, agreement.ties, agreement.total) == (positions * 3 // 4, positions // 4, positions)
    assert str(agreement) == "192 of 256 greedy tokens equal (75.0%), 64 differ at ties"


def test_ties_without_limit_prove_nothing(model, tokenizer):
    with pytest.raises(InputError, match=r"verification failed: 188 of 256 .*, 68 differ at ties"):
        compare_replies(Astray(17), model, tokenizer, exact=True)
