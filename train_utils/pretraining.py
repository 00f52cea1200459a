"""Prepares a pretraining: the tokenizer and the model that it names, and what there is to read, told beforehand."""

from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data_utils.rows.pretraining import ShardedCorpus, SmallCorpus, extend_base, prepare_tokenizer
from data_utils.sources.corpus import split_languages
from model_utils.checkpoint import check_vocabulary, load_model, load_tokenizer
from model_utils.shapes import build_model, check_finite, check_window
from model_utils.tokenizer import bytes_per_token
from model_utils.vocabulary import grow_model
from train_utils.plan.pretraining import choose_shape, count_sentinels
from train_utils.plan.rule import MAX_EPOCHS, Plan
from train_utils.run import Run


def open_tokenizer(
    options: Any, plan: Plan | None, corpus: SmallCorpus | ShardedCorpus
) -> tuple[PreTrainedTokenizerBase, str]:
    """Return the tokenizer that is named, the base's, which may grow, or one of the corpus; and its key."""
    given = options.tokenizer or options.base
    if options.base and options.extend_vocabulary:
        given = extend_base(corpus, options.base, options.extend_vocabulary)
    vocab_size = plan.shape.vocab_size if plan else options.vocab_size
    return prepare_tokenizer(corpus, given, vocab_size, count_sentinels(options, plan))


def open_model(options: Any, plan: Plan | None, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Return the base, or a new model in the user's shape or the plan's; raise InputError where parts don't fit."""
    model = load_model(options.base) if options.base else build_model(choose_shape(options, plan), tokenizer)
    if options.base:
        check_finite(model, options.base)
    if options.extend_vocabulary and options.base:
        grow_model(model, load_tokenizer(options.base), tokenizer)
    check_vocabulary(model, tokenizer, options.base or str(options.tokenizer))
    check_window(model.config, options.block_tokens, options.base or options.model_shape)
    return model


def tell_compression(run: Run, documents: Dataset, tokenizer: PreTrainedTokenizerBase) -> None:
    """Print how a tokenizer compresses documents of each language."""
    for language, rows in split_languages(documents):
        size = bytes_per_token(tokenizer, rows[:1000]["text"])
        run.say(f"tokenizer: {len(tokenizer):,} tokens, in {language} {size:.2f} bytes a token")


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
            f"note: a small model learns a text by heart that it reads more than {MAX_EPOCHS:g} times; that is past "
            f"--max_steps {steps}: more text would help"
        )
    return facts
