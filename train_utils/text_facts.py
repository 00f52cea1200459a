"""Tells before a pretraining what there is to read: how well it is compressed, and how often it would be read."""

from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from data_utils.rows.pretraining import ShardedCorpus, SmallCorpus
from data_utils.sources.corpus import split_languages
from model_utils.tokenizer import describe_compression
from train_utils.plan.rule import MAX_EPOCHS
from train_utils.run import Run


def tell_compression(run: Run, documents: Dataset, tokenizer: PreTrainedTokenizerBase, reference: str) -> None:
    """Print how a tokenizer compresses documents of each language, beside a `reference` tokenizer."""
    for language, rows in split_languages(documents):
        compression = describe_compression(tokenizer, rows[:1000]["text"], reference)
        run.say(f"tokenizer: {len(tokenizer):,} tokens, in {language} {compression}")


def tell_rows(run: Run, corpus: SmallCorpus | ShardedCorpus, blocks: Any, row_tokens: int) -> dict[str, str]:
    """Print and return how much there is to train on, and how often the run reads it.

    With a note where that is so often that a small text is learned by heart.
    """
    rows = run.count_rows(len(blocks), row_tokens)
    facts = corpus.describe_rows(blocks, rows)
    run.say(f"blocks of {row_tokens} tokens: {'; '.join(f'{name} {fact}' for name, fact in facts.items())}")
    if not run.plan and isinstance(blocks, Dataset) and rows > 1.1 * MAX_EPOCHS * len(blocks):
        steps = max(1, int(MAX_EPOCHS * len(blocks) / run.step_rows))
        run.say(
            f"note: past {MAX_EPOCHS:g} epochs a small model learns its text by heart; --max_steps {steps} are as many"
        )
    return facts
