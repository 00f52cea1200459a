"""Teach a pretrained model to talk: base -> dialogues -> (LoRA) -> Trainer -> ckpt_chat/.

    python finetune_dialogue.py --base ckpt/                             # the default dialogues, English and Chinese
    python finetune_dialogue.py --base ckpt/ --dialogues my.jsonl own@4  # your own, and the project's four times
    python finetune_dialogue.py --base ckpt/ --lora true --optim adamw   # low-rank adapters instead of all weights
    accelerate launch --multi_gpu finetune_dialogue.py --base ckpt/      # all GPUs of this machine

A dialogue is a line of JSON:
    {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}
ShareGPT (conversations), Alpaca (instruction, input, output), prompt/response pairs and plain text with alternating
lines are read too, from .jsonl .json .csv .parquet .txt, each also .gz or .zst.
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is fetched unless the user says so

from environment import begin_script
from errors import InputError, run_script

if __name__ == "__main__":  # what follows takes seconds to import
    begin_script()

from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import ClassVar

from options import answer_early, check_range, format_command, parse_arguments, refuse_useless
from train_utils.cpu_processes import start_cpu_processes
from train_utils.run_options import RunOptions, trainer_names

ROOT = Path(__file__).parent
RECIPE = ROOT / "configs" / "finetune_dialogue.yaml"
REPLY_TOKENS = 60  # of the samples that are shown at each evaluation


@dataclass
class DialogueArguments:
    """What is learned from, and by which model."""

    base: str = field(default="ckpt", metadata={"help": "Checkpoint to start from: any causal language model"})
    dialogues: list[str] = field(
        default_factory=lambda: ["own@6", "chatterbot", "hsk@0.3", "chitchat@0.2"],
        metadata={"help": "Files, folders, globs or hub names, each PATH or PATH@TIMES; or the built-in sources"},
    )
    assistant_name: str = field(default="Momo", metadata={"help": "What {assistant_name} in dialogues becomes"})
    row_tokens: int = field(default=512, metadata={"help": "Length of a training row in tokens; dialogues are packed"})
    eval_fraction: float = field(
        default=0.02,
        metadata={"help": "Share of the dialogues that is held out, by hash; best the same as in train.py"},
    )
    replay: float | None = field(
        default=None,
        metadata={"help": "Share of the rows that is text of the pretraining, against forgetting; 0 only measures it"},
    )
    replay_corpus: list[str] | None = field(
        default=None, metadata={"help": "That text, as --corpus of train.py; unset: what the base was trained on"}
    )
    lora: bool = field(
        default=False, metadata={"help": "Train low-rank adapters; writes adapter/ and the merged model"}
    )
    lora_rank: int = field(default=16, metadata={"help": "Rank r of the adapters"})
    lora_alpha: int = field(default=32, metadata={"help": "Scale of the adapters: alpha / r"})
    lora_targets: str = field(default="all-linear", metadata={"help": "Modules that get one, by name, comma-separated"})

    def __post_init__(self) -> None:
        check_range("row_tokens", self.row_tokens, 2, 2**31)
        check_range("eval_fraction", self.eval_fraction, 0, 1)
        check_range("replay", self.replay or 0, 0, 0.95)
        check_range("lora_rank", self.lora_rank, 1, 2**20)

    def check_typed(self, typed: set[str]) -> None:
        """Raise InputError for an option of the command line that has no effect without another one."""
        if not self.lora:
            refuse_useless(typed, {"lora_rank", "lora_alpha", "lora_targets"}, "without --lora true")
        if self.replay is None:
            refuse_useless(typed, {"replay_corpus"}, "without --replay")


@dataclass
class TuneOptions(RunOptions):
    """How it is trained."""

    COMMON: ClassVar[list[str]] = [*RunOptions.COMMON, "eval_on_start"]

    output_dir: str = field(default="ckpt_chat", metadata={"help": "Folder of the checkpoint, its report and curves"})
    eval_on_start: bool = field(default=True, metadata={"help": "Measure before training too, to compare"})


if __name__ == "__main__":  # help and mistakes at once: what follows takes seconds to import
    answer_early((DialogueArguments, TuneOptions), RECIPE, __doc__, trainer_names())
    start_cpu_processes()

from transformers import set_seed

from data_utils.caching import preparation_lock
from data_utils.dialogue.checking import DialogueError
from data_utils.dialogue.format import stop_token_id
from data_utils.dialogue.reading import describe_forms, name_assistant, read_dialogues, split_dialogues
from data_utils.dialogue.report import describe_dialogues
from data_utils.rows.held_out import find_questions
from data_utils.rows.packing import collate_rows, encode_dialogues, pack_dialogues, thin_rows
from data_utils.rows.replay import mix_rows, read_replay
from data_utils.sources.builtin import DIALOGUE_SOURCES
from data_utils.sources.corpus import data_version, split_languages
from data_utils.sources.source import Source, find_sources
from model_utils.checkpoint import load_model
from model_utils.shapes import check_packing, check_vocabulary, check_window
from model_utils.tokenizer import add_chat_tokens, load_tokenizer, token_byte_counts, tokenizer_fingerprint
from train_utils.adapters import add_adapters
from train_utils.arguments import RunArguments, count_step_rows
from train_utils.checkpoint import collect_settings, prepare_folder, read_record, weights_version
from train_utils.launch import silence_libraries, use_all_cores
from train_utils.plan.apply import apply_plan, limit_steps, plan_tuning
from train_utils.samples import continue_prompts
from train_utils.stopwatch import Stopwatch
from train_utils.training import Run, train_and_save


@dataclass
class TuneArguments(TuneOptions, RunArguments):
    """How it is trained, with every option of TrainingArguments."""


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    options, args = parse_arguments((DialogueArguments, TuneArguments), argv, RECIPE, __doc__)
    watch = Stopwatch()
    watch.lap("start")
    if not Path(options.base).is_dir() and os.environ["HF_HUB_OFFLINE"] == "1":
        raise InputError(
            f"{options.base}: no such checkpoint; train one with train.py, or set HF_HUB_OFFLINE=0 for hub names"
        )
    output_dir = Path(args.output_dir)
    version = data_version(options.dialogues, DIALOGUE_SOURCES)
    settings = collect_settings(options, args) | {
        "data_version": version,
        "base_version": weights_version(options.base),
    }
    resume = None
    if not args.plan_only:  # which writes nothing there
        resume = prepare_folder(output_dir, settings, args.resume_from_checkpoint, args.overwrite, options.base)
    args.distributed_state.wait_for_everyone()  # all have read the folder before one writes in it
    say = print if args.process_index == 0 else lambda *_: None
    if resume == "finished":
        say(f"{output_dir}: this run is finished already; nothing to do (--overwrite trains it again)")
        return 0

    # 1. Base: the model and its tokenizer, with a chat template.
    tokenizer = load_tokenizer(options.base)
    model = load_model(options.base)
    check_vocabulary(model, tokenizer, options.base)
    added = add_chat_tokens(tokenizer)
    set_seed(args.seed)
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer))
        say(f"base: chat tokens added to its vocabulary: {added}")
    try:
        stop_id = stop_token_id(tokenizer)
    except DialogueError as error:
        raise InputError(f"{options.base}: {error}") from error
    check_window(model.config, options.row_tokens, options.base)
    check_packing(model, options.base)
    watch.lap("model")

    # 2. Dialogues: read, checked, split by hash as the corpus is, so that what is held out was in no training.
    with preparation_lock():
        dialogues = read_dialogues(options.dialogues)
        for line in describe_forms(options.dialogues):
            say(line)
        train_set, eval_set = (
            name_assistant(part, options.assistant_name) for part in split_dialogues(dialogues, options.eval_fraction)
        )

        # 3. Rows: only the assistant's words and stop tokens carry labels; dialogues packed, none sees another.
        key = tokenizer_fingerprint(tokenizer)
        encoded = encode_dialogues(train_set, tokenizer, key, options.row_tokens)
        rows = pack_dialogues(encoded, options.row_tokens, tokenizer.pad_token_id)
        eval_rows = {}
        for language, held_out in split_languages(eval_set):
            chosen = encode_dialogues(held_out, tokenizer, key, options.row_tokens)
            if len(chosen):
                eval_rows[language] = pack_dialogues(chosen, options.row_tokens, tokenizer.pad_token_id)
    if not len(encoded) or not eval_rows:
        raise InputError(f"no dialogue fits in a row of {options.row_tokens} tokens; give a larger --row_tokens")
    for line in describe_dialogues(dialogues, train_set, encoded, rows, options.row_tokens, tokenizer):
        say(line)

    # 4. Replay: text of the pretraining among them, where asked, and held-out text that shows what was forgotten.
    if options.replay is not None:
        sources, eval_fraction = find_corpus(options)
        count = round(len(rows) * options.replay / (1 - options.replay))
        with preparation_lock():
            text, held_out = read_replay(sources, tokenizer, key, options.row_tokens, count, eval_fraction)
            rows, eval_rows = mix_rows(rows, text) if count else rows, eval_rows | held_out
        say(f"replay: {count:,} rows of text among {len(rows):,}")

    watch.lap("data")

    # 5. Plan, with --minutes: as many steps as the time allows, and few enough that nothing is learned by heart.
    plan_facts, run_tokens = {}, 0
    if args.minutes:
        plan = plan_tuning(args, say, resume, model, len(rows), options.row_tokens)
        if args.plan_only:
            return 0
        apply_plan(args, plan)
        plan_facts, run_tokens = {"plan": limit_steps(args, plan, len(rows))}, plan.tokens
        watch.lap("plan")
    step_rows = count_step_rows(args)
    run_rows = args.max_steps * step_rows if args.max_steps > 0 else args.num_train_epochs * len(rows)
    eval_tokens = args.count_eval_tokens(len(eval_rows), run_tokens or run_rows * options.row_tokens)
    eval_rows = {part: thin_rows(found, eval_tokens // options.row_tokens) for part, found in eval_rows.items()}

    # 6. Weights: all of them, or low-rank adapters beside them.
    if options.lora:
        model = add_adapters(model, options.lora_rank, options.lora_alpha, options.lora_targets)
        model.print_trainable_parameters()

    # 7. Training, then the checkpoint with its picture and report.
    window = getattr(model.config, "max_position_embeddings", 2048)
    questions = find_questions(eval_set, tokenizer, window - REPLY_TOKENS)
    drawn = {"max_new_tokens": REPLY_TOKENS, "temperature": 0.7, "top_p": 0.9, "eos_token_id": stop_id}
    facts = {"dialogues": len(train_set), "held out": len(eval_set), "sources": dict(Counter(train_set["source"]))}
    return train_and_save(
        model,
        tokenizer,
        args,
        train_rows=rows,
        eval_rows=eval_rows,
        collate=collate_rows,
        sample=partial(continue_prompts, tokenizer=tokenizer, prompts=questions, **drawn),
        run=Run(
            "finetune_dialogue.py",
            settings,
            facts | plan_facts,
            resume,
            options.row_tokens,
            [stop_id],
            token_byte_counts(tokenizer),
            watch,
        ),
        next_step=format_command("python", "chat.py", "--model", output_dir),
    )


def find_corpus(options: DialogueArguments) -> tuple[list[Source], float]:
    """Return (text to replay, share held out), read and split as the base's record says: it saw no held-out text.

    Raises InputError where neither the record nor `--replay_corpus` names a text.
    """
    settings = (read_record(Path(options.base)) or {}).get("settings", {})
    corpus, sources = options.replay_corpus or settings.get("corpus"), settings.get("sources")
    if not corpus:
        raise InputError(f"{options.base}: has no record of its corpus; say with --replay_corpus what text to replay")
    defaults = {"sample_by": "paragraph", "text_column": "text", "remove_stop_words": False}
    reading = (settings.get(name, value) for name, value in defaults.items())
    found = find_sources(corpus, None if options.replay_corpus else sources, *reading)
    return found, settings.get("eval_fraction", options.eval_fraction)


if __name__ == "__main__":
    use_all_cores()
    silence_libraries()
    run_script(main)
