"""Teach a chat model which replies are better: chat model -> replies that are judged, or pairs -> ckpt_tuned/.

    python tune_preferences.py --base ckpt_chat/                           # its own replies: end, loop, language, topic
    python tune_preferences.py --base ckpt_chat/ --reward my.py:reward     # its own replies, judged by your function
    python tune_preferences.py --base ckpt_chat/ --preferences my.jsonl    # your own pairs, likes, saved conversations
    python tune_preferences.py --base ckpt_chat/ --lora true               # low-rank adapters instead of all weights

A preference is a line of JSON, the prompt a text or a list of messages:
    {"prompt": "...", "chosen": "...", "rejected": "..."}
    {"prompt": "...", "completion": "...", "label": true}
Whole dialogues in chosen and rejected, rankings in Alpaca's and ShareGPT's forms, and conversations that chat.py saved
with thumbs are read too, from .jsonl .json .csv .tsv .parquet, each also .gz or .zst.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from data_utils.readers.arguments import LimitOptions, use_limits
from environment import begin_script
from errors import run_script
from options import format_command, option
from train_utils.parsing import parse_training
from train_utils.run_options import LoraOptions, TuneOptions

ROOT = Path(__file__).parent
RECIPE = ROOT / "configs" / "tune_preferences.yaml"


@dataclass
class PreferenceArguments(LimitOptions):
    """What is preferred, by which model, and how much that counts."""

    base: str = option("ckpt_chat", "Checkpoint to start from: a chat model")
    preferences: list[str] | None = option(
        None,
        "Files, folders, globs or hub names, each PATH or PATH@TIMES; unset: the model's own replies",
        replaced_by="--reward",
    )
    skip_bad_dialogues: bool = option(False, "Leave out rows that are no preferences, up to a fifth, and name them")
    dialogues: list[str] = option(
        ["own", "chatterbot"],
        "Where the prompts are from that the model answers, as --dialogues of finetune_dialogue.py",
        replaced_by="--preferences",
    )
    prompts: int = option(2560, "Prompts that the model answers", within=(2, 10**7), replaced_by="--preferences")
    samples: int = option(8, "How often it answers each", within=(2, 64), replaced_by="--preferences")
    reward: str | None = option(
        None, "FILE.py:FUNCTION of (prompt, reply) that returns a number; unset: ends, loops, language, topic, name"
    )
    assistant_name: str = option("Momo", "What {assistant_name} in dialogues becomes")
    row_tokens: int = option(512, "Length of a training row in tokens; pairs are packed", within=(8, 2**31))
    eval_fraction: float = option(0.02, "Share of dialogues, or pairs, that is held out, by hash", within=(0, 1))
    sft_weight: float = option(
        1.0, "Weight of the loss of the chosen, or the dialogue's own reply (Pang et al. 2024)", within=(0, 100)
    )
    beta: float = option(
        0.1, "Weight of a nat against the base (Rafailov et al. 2023)", within=(0, 100), needs="--preferences"
    )
    label_smoothing: float = option(
        0.0, "Share of pairs that may be wrong (Mitchell 2023)", within=(0, 0.49), needs="--preferences"
    )
    by_length: bool = option(
        False, "Divide log-probabilities by the reply's tokens (Meng et al. 2024)", needs="--preferences"
    )
    max_fall: float | None = option(
        None,
        "Stop where held-out true replies take this share more bits than before; unset: 0.02, and never with --reward,"
        " which may want other replies",
        within=(0, 100),
    )


@dataclass
class PreferenceOptions(TuneOptions):
    """How it is trained."""

    output_dir: str = option("ckpt_tuned", "Folder of the checkpoint, its report and curves")


KINDS = (PreferenceArguments, LoraOptions, PreferenceOptions)


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    options, lora, args = parse_training(KINDS, argv, RECIPE, __doc__, check_tuning)
    use_limits(options.reader_limits)
    from data_utils.sources.source import data_version, open_sources
    from model_utils.shapes import check_packing
    from train_utils.plan.apply import plan_rows
    from train_utils.preference_data import preference_objective, prepare_rows
    from train_utils.preferences import choose_preference_rate, stop_on_fall
    from train_utils.rewarded import settle_round
    from train_utils.run import open_run
    from train_utils.steps.reply_scores import score_replies
    from train_utils.training import train_and_save
    from train_utils.tuning import load_base

    base, adapt, draws = options.base, lora.adapt, not options.preferences
    version = data_version(open_sources(options.preferences or options.dialogues))
    args = settle_round(args, draws=draws)
    run = open_run("tune_preferences.py", args, (options, lora), data_version=version, base=base)
    if run is None:
        return 0

    # 1. Base: the chat model, which returns the log-probabilities of replies.
    model, tokenizer, _ = load_base(run, base, options.row_tokens, adapt=adapt)
    check_packing(model.to(args.device), base)
    score_replies(model)

    # 2. Preferences: rows with chosen and rejected side by side, or prompts, which the model answers as it goes.
    data = prepare_rows(run, model, tokenizer, options)
    run.watch.lap("data")

    # 3. Plan, with --minutes: as many steps as the time allows, and few enough that nothing is learned by heart.
    if args.minutes:
        run = plan_rows(run, model, len(data.rows), data.row_tokens)
        if args.plan_only:
            return 0
        run.watch.lap("plan")
        run = replace(run, args=settle_round(run.args, draws=draws))

    # 4. Weights: all of them, or low-rank adapters beside them.
    run = choose_preference_rate(run, model, draws=draws)
    if adapt:
        model = adapt(model)
        model.print_trainable_parameters()

    # 5. Training, then the checkpoint with its picture and report.
    more: dict = {"callbacks": stop_on_fall(options.max_fall, has_reward=bool(options.reward))}
    more["next_step"] = format_command("python", "chat.py", "--model", run.folder)
    objective = preference_objective(data, tokenizer, draws=draws, **more)
    return train_and_save(run, model, tokenizer, objective)


def check_tuning(options: PreferenceArguments, _: LoraOptions, args: PreferenceOptions) -> None:
    """Raise InputError for what the options name and isn't there."""
    from data_utils.dialogue.files import choose_parts
    from data_utils.sources.source import open_sources
    from train_utils.places import check_places, find_reward

    if options.reward:
        find_reward(options.reward)
    sources = open_sources(options.preferences or options.dialogues)
    for source in sources:
        choose_parts(source)
    check_places(args, sources, options.base)


if __name__ == "__main__":
    begin_script()
    run_script(main)
