"""Plans a pretraining by `--minutes`, the size that suits text, time and machine unless given; or for `--devices`."""

from functools import cache, partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from data_utils.rows.pretraining import ShardedCorpus, SmallCorpus, count_unprepared
from model_utils.checkpoint import load_model, load_tokenizer
from model_utils.families import family_of
from model_utils.finding import find_checkpoint
from model_utils.shapes import build_from, build_model, model_config, open_config, read_shape
from model_utils.tokenizer import bytes_per_token, train_tokenizer
from train_utils.arguments import dtype_name
from train_utils.device_options import HERE, DeviceOptions
from train_utils.places import find_shape
from train_utils.plan.apply import make_plan, on_meta, shape_of
from train_utils.plan.devices import describe_devices, measure_model
from train_utils.plan.machine import find_devices
from train_utils.plan.rule import Plan, Task
from train_utils.run import Run, count_cores

# Text tokenized by a core: between the 4 MB of benchmarks/README.md, where two read and write 7.3 to 8.7 MB/s, and the
# 2 MB of a slower processor.
TOKENIZE_BYTES_PER_SECOND = 3e6


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
    unprepared = cache(partial(count_unprepared, corpus, given, sentinels=count_sentinels(options)))
    task = Task(
        text_bytes=corpus.text_bytes(),
        row_tokens=options.block_tokens,
        bytes_per_token=compression,
        prepare_seconds=lambda tokens: unprepared(tokens) / TOKENIZE_BYTES_PER_SECOND / count_cores(),
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


def plan_devices(options: Any, devices: DeviceOptions, args: Any) -> str:
    """Return what the model needs of devices, which need not be here, and what they make of it."""
    is_here = devices.devices == HERE
    is_full = not (args.bf16 or args.fp16) and (is_here or "bf16" in getattr(args, "given", ()))
    sizes = measure_model(
        open_on_meta(options),
        options.block_tokens,
        muon=args.optim == "muon",
        checkpointed=bool(args.activation_checkpointing),
        compute_bytes=4 if is_full else 2,
    )
    if is_here:
        devices = find_devices(devices, args.device.type, dtype_name(args))
    return describe_devices(sizes, devices)
