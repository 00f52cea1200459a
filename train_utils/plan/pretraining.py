"""Plans a pretraining by `--minutes`: the size that suits text, time and machine, unless the user gave one.

Tells before the training what there is to read: how well it is compressed, and how often it would be read.
"""

from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data_utils.rows.pretraining import ShardedCorpus, SmallCorpus, count_unprepared
from data_utils.sources.corpus import split_languages
from model_utils.checkpoint import load_model, load_tokenizer
from model_utils.families import family_of
from model_utils.finding import find_checkpoint
from model_utils.shapes import build_from, build_model, model_config, open_config, read_shape
from model_utils.tokenizer import bytes_per_token, describe_compression, train_tokenizer
from train_utils.places import find_shape
from train_utils.plan.apply import make_plan, on_meta, shape_of, text_task
from train_utils.plan.rule import MAX_EPOCHS, Plan
from train_utils.run import Run


def plan_pretraining(run: Run, corpus: SmallCorpus | ShardedCorpus, options: Any) -> Run:
    """Return the run with the plan of `--minutes` for a text.

    What the user gave stays: a base, a tokenizer, a shape, a vocabulary.
    """
    given = options.tokenizer or options.base
    tokenizer = load_tokenizer(given) if given else None
    compression = bytes_per_token(tokenizer, list(corpus.sample(100_000))) if tokenizer else None
    vocab_size = len(tokenizer) if tokenizer else options.vocab_size if "vocab_size" in options.given else None
    shape = None
    if options.base or "model_shape" in options.given:
        any_tokenizer = tokenizer or train_tokenizer([], 300)
        model = (
            load_model(options.base)
            if options.base
            else on_meta(build_model, find_shape(options.model_shape), any_tokenizer)
        )
        shape = shape_of(model, options.block_tokens, vocab_size or options.vocab_size)
    task = text_task(
        corpus.text_bytes(),
        options.block_tokens,
        bytes_per_token=compression,
        count_unprepared=partial(count_unprepared, corpus, given, sentinels=count_sentinels(options)),
    )
    return make_plan(run, task, shape=shape, vocab_size=vocab_size)


def count_sentinels(options: Any, plan: Plan | None = None) -> int:
    """Return how many sentinels a new model's kind needs in its tokenizer."""
    return 0 if options.base else family_of(read_shape(choose_shape(options, plan), options.vocab_size)).sentinels


def choose_shape(options: Any, plan: Plan | None) -> Path | dict:
    """Return the user's own shape file, the shipped one of that path, or the plan's."""
    planned = plan and "model_shape" not in options.given
    return model_config(plan.shape.width) if planned else find_shape(options.model_shape)


def open_on_meta(options: Any) -> PreTrainedModel:
    """Return the base or a new model in the user's shape without its weights, to count them."""
    place = options.base or options.model_shape
    if options.base:
        config = open_config(find_checkpoint(options.base), place)
    else:
        config = read_shape(find_shape(options.model_shape), options.vocab_size)
    return on_meta(build_from, config, place)


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
            f"note: a small model learns a text by heart that it reads more than {MAX_EPOCHS:g} times; that is past "
            f"--max_steps {steps}: more text would help"
        )
    return facts
