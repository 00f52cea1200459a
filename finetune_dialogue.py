"""Teach a pretrained model to talk: base -> dialogues -> (LoRA) -> Trainer -> ckpt_chat/.

    python finetune_dialogue.py --base ckpt/                             # the default dialogues, English and Chinese
    python finetune_dialogue.py --base ckpt/ --dialogues my.jsonl own  # your own, and the project's
    python finetune_dialogue.py --base ckpt/ --lora true --optim adamw   # low-rank adapters instead of all weights
    accelerate launch --multi_gpu finetune_dialogue.py --base ckpt/      # all GPUs of this machine

A dialogue is a line of JSON:
    {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}
ShareGPT (conversations), Alpaca (instruction, input, output, history), prompt/response pairs, a list of messages a line
and plain text with alternating lines are read too, from .jsonl .json .csv .tsv .parquet .txt, each also .gz or .zst.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from data_utils.readers.arguments import LimitOptions, use_limits
from environment import begin_script
from errors import run_script
from options import format_command, option
from train_utils.parsing import parse_training
from train_utils.run_options import LoraOptions, TuneOptions

ROOT = Path(__file__).parent
RECIPE = ROOT / "configs" / "finetune_dialogue.yaml"


@dataclass
class DialogueArguments(LimitOptions):
    """What is learned from, and by which model."""

    base: str = option("ckpt", "Checkpoint to start from: any language model, of a decoder alone or with an encoder")
    dialogues: list[str] = option(
        ["own", "identity@20", "chatterbot", "hsk@0.3", "chitchat@0.3"],
        "Files, folders, globs or hub names, each PATH or PATH@TIMES; or the built-in sources",
    )
    skip_bad_dialogues: bool = option(False, "Leave out rows that are no dialogues, up to a fifth, and name them")
    assistant_name: str = option("Momo", "What {assistant_name} in dialogues becomes")
    system: str | None = option(None, "System prompt of dialogues that bring none; '': none; unset: the base's own")
    row_tokens: int = option(512, "Length of a training row in tokens; dialogues are packed", within=(2, 2**31))
    eval_fraction: float = option(0.02, "Share of the dialogues held out, by hash; best as in train.py", within=(0, 1))
    replay: float | None = option(
        None,
        "Share of rows that is pretraining text, against forgetting; 0: only measured; unset: 0.15 if it is built in",
        within=(0, 0.95),
    )
    replay_corpus: list[str] | None = option(None, "That text, as --corpus of train.py; unset: the base's")
    replay_replies: int = option(0, "Questions the base answers first, to learn its replies too", within=(0, 10_000))
    base_share: float = option(
        0.1,
        "Share of the base's weights in the finished model, against forgetting (Wortsman et al. 2022)",
        within=(0, 0.9),
    )
    load_in_4bit: bool = option(False, "Base in 4 bits (QLoRA); needs requirements/qlora.txt", needs="--lora true")


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    kinds = (DialogueArguments, LoraOptions, TuneOptions)
    options, lora, args = parse_training(kinds, argv, RECIPE, __doc__, check_finetuning)
    use_limits(options.reader_limits)
    from data_utils.caching import preparation_lock
    from data_utils.sources.source import data_version, open_sources
    from eval_utils.likelihood import window_of
    from eval_utils.short_form import assess_briefly
    from train_utils.base_share import mix_base
    from train_utils.clock import process_seconds
    from train_utils.objectives import REPLY_TOKENS, choose_format, dialogue_objective
    from train_utils.plan.apply import plan_rows
    from train_utils.run import open_run
    from train_utils.samples import find_questions
    from train_utils.training import train_and_save
    from train_utils.tuning import load_base, prepare_dialogues

    row_tokens, version = options.row_tokens, data_version(open_sources(options.dialogues))
    run = open_run("finetune_dialogue.py", args, (options, lora), data_version=version, base=options.base)
    if run is None:
        return 0

    # 1. Base: the model and its tokenizer, with a chat template.
    adapt = lora.adapt
    quantized = {"in_4bit": options.load_in_4bit, "adapt": adapt}
    model, tokenizer, new_ids = load_base(run, options.base, row_tokens, system=options.system, **quantized)

    # 2. Dialogues: read, split, packed to rows; text of the pretraining among them, where asked.
    form = choose_format(model, tokenizer)
    with preparation_lock():
        rows, eval_rows, held_out, facts = prepare_dialogues(run, options, tokenizer, form)
    run.watch.lap("data")

    # 3. Plan, with --minutes: as many steps as the time allows, and few enough that nothing is learned by heart.
    if args.minutes:
        run = plan_rows(run, model, len(rows), row_tokens)
        if args.plan_only:
            return 0
        run.watch.lap("plan")

    # 4. Weights: all of them, or low-rank adapters beside them.
    window = window_of(model)
    if adapt:
        model = adapt(model, new_ids=new_ids)
        model.print_trainable_parameters()

    # 5. Training, then the checkpoint with its picture and report.
    questions = find_questions(held_out, tokenizer, window - REPLY_TOKENS)
    more: dict = {"collate": form.collate, "speed_up": form.speed_up, "questions": questions, "facts": facts}
    more["assess"] = partial(assess_briefly, elapsed=process_seconds, assistant_name=options.assistant_name)
    if options.base_share:
        known = {"base": options.base, "version": run.settings["base_version"], "new_ids": new_ids}
        more["finish"] = partial(mix_base, share=options.base_share, **known)
    more["next_step"] = format_command("python", "chat.py", "--model", run.folder)
    objective = dialogue_objective(rows, eval_rows, tokenizer, row_tokens=row_tokens, **more)
    return train_and_save(run, model, tokenizer, objective)


def check_finetuning(options: DialogueArguments, _: LoraOptions, args: TuneOptions) -> None:
    """Raise InputError for what the options name and isn't there."""
    from data_utils.dialogue.files import choose_parts
    from data_utils.sources.source import open_sources
    from train_utils.places import check_places

    sources = open_sources(options.dialogues)
    for source in sources:
        choose_parts(source)
    check_places(args, [*sources, *open_sources(options.replay_corpus or [])], options.base)


if __name__ == "__main__":
    begin_script()
    run_script(main)
