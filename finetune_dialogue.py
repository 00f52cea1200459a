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

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from data_utils.caching import preparation_lock
from data_utils.corpus import data_version
from data_utils.dialogue import (
    IGNORE_LABEL,
    DialogueError,
    describe_forms,
    encode_dialogue,
    encode_prompt,
    name_assistant,
    read_dialogues,
    split_dialogues,
    stop_token_id,
)
from data_utils.packing import encode_dialogues, pack_dialogues
from data_utils.sources import DIALOGUE_SOURCES
from data_utils.tokenizer import add_chat_tokens, load_tokenizer, token_byte_counts, tokenizer_fingerprint
from errors import InputError, run_script
from options import check_range, parse_arguments
from train_utils.arguments import RunArguments
from train_utils.checkpoint import collect_settings, prepare_folder, weights_version
from train_utils.launch import start_cpu_processes, use_all_cores
from train_utils.model import check_packing, check_vocabulary, check_window, load_model
from train_utils.training import Run, train_and_save

ROOT = Path(__file__).parent
MIN_TRAINED_SHARE = 0.005  # below it, a run learns nothing and its user should know why


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
    lora: bool = field(
        default=False, metadata={"help": "Train low-rank adapters; writes adapter/ and the merged model"}
    )
    lora_rank: int = field(default=16, metadata={"help": "Rank r of the adapters"})
    lora_alpha: int = field(default=32, metadata={"help": "Scale of the adapters: alpha / r"})
    lora_targets: str = field(default="all-linear", metadata={"help": "Modules that get one, by name, comma-separated"})

    def __post_init__(self) -> None:
        check_range("row_tokens", self.row_tokens, 2, 2**31)
        check_range("eval_fraction", self.eval_fraction, 0, 1)
        check_range("lora_rank", self.lora_rank, 1, 2**20)


@dataclass
class TuneArguments(RunArguments):
    """How it is trained."""

    output_dir: str = field(default="ckpt_chat", metadata={"help": "Folder of the checkpoint, its report and curves"})
    eval_on_start: bool = field(default=True, metadata={"help": "Measure before training too, to compare"})


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    options, args = parse_arguments(
        (DialogueArguments, TuneArguments), argv, ROOT / "configs" / "finetune_dialogue.yaml", __doc__
    )
    output_dir = Path(args.output_dir)
    version = data_version(options.dialogues, DIALOGUE_SOURCES)
    settings = collect_settings(options, args) | {
        "data_version": version,
        "base_version": weights_version(options.base),
    }
    resume = prepare_folder(output_dir, settings, args.resume_from_checkpoint, args.overwrite, options.base)
    args.distributed_state.wait_for_everyone()  # all have read the folder before one writes in it
    say = print if args.process_index == 0 else lambda *_: None
    if resume == "finished":
        say(f"{output_dir}: this run is finished already; nothing to do (--overwrite trains it again)")
        return 0

    # 1. Base: the model and its tokenizer, with a chat template.
    if not Path(options.base).is_dir() and os.environ["HF_HUB_OFFLINE"] == "1":
        raise InputError(
            f"{options.base}: no such checkpoint; train one with train.py, or set HF_HUB_OFFLINE=0 for hub names"
        )
    tokenizer = load_tokenizer(options.base)
    model = load_model(options.base)
    check_vocabulary(model, tokenizer, options.base)
    added = add_chat_tokens(tokenizer)
    set_seed(args.seed)
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer))
        say(f"base: {added} chat tokens added to its vocabulary")
    try:
        stop_id = stop_token_id(tokenizer)
    except DialogueError as error:
        raise InputError(f"{options.base}: {error}") from error
    check_window(model.config, options.row_tokens, options.base)
    check_packing(model, options.base)

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
        for language in sorted(set(eval_set["language"])):
            chosen = eval_set.select([i for i, found in enumerate(eval_set["language"]) if found == language])
            chosen = encode_dialogues(chosen, tokenizer, key, options.row_tokens)
            if len(chosen):
                eval_rows[language] = pack_dialogues(chosen, options.row_tokens, tokenizer.pad_token_id)
    if not len(encoded) or not eval_rows:
        raise InputError(f"no dialogue fits in a row of {options.row_tokens} tokens; give a larger --row_tokens")
    report_dialogues(say, dialogues, train_set, encoded, rows, options.row_tokens, tokenizer)

    # 4. All weights, or low-rank adapters beside them.
    if options.lora:
        model = add_adapters(model, options)
        model.print_trainable_parameters()

    # 5. Training and 6. the checkpoint with its picture and report.
    facts = {"dialogues": len(train_set), "held out": len(eval_set), "sources": dict(Counter(train_set["source"]))}
    return train_and_save(
        model,
        tokenizer,
        args,
        train_rows=rows,
        eval_rows=eval_rows,
        collate=collate_rows,
        sample=partial(answer_held_out, tokenizer=tokenizer, dialogues=eval_set, stop_id=stop_id),
        run=Run(
            "finetune_dialogue.py", settings, facts, resume, options.row_tokens, [stop_id], token_byte_counts(tokenizer)
        ),
        next_step=f"python chat.py --model {output_dir}",
    )


def report_dialogues(
    say: Callable, dialogues: Dataset, train_set: Dataset, encoded: Dataset, rows: Dataset, row_tokens: int, tokenizer
) -> None:
    """Say what is trained on, and stop where nearly nothing would be learned."""
    too_long = len(train_set) - len(encoded)
    batches = rows.with_format("numpy").iter(batch_size=1000)
    trained = sum(int((np.asarray(batch["labels"]) != IGNORE_LABEL).sum()) for batch in batches)
    tokens = sum(len(ids) for ids in encoded["input_ids"])
    positions = len(rows) * row_tokens
    say(
        f"dialogues: {len(dialogues):,} read, {len(dialogues) - len(train_set):,} held out, {too_long:,} dropped as "
        f"longer than a row, {len(encoded):,} trained on"
    )
    if trained < MIN_TRAINED_SHARE * max(positions, 1):
        raise InputError(
            f"only {trained} of {positions} tokens would be trained: the dialogues hold next to no assistant's words"
        )
    say(f"rows: {len(rows):,}, filled to {tokens / positions:.1%}; {trained / tokens:.1%} of the tokens are trained")
    example = encode_dialogue(tokenizer, train_set[0]["messages"])
    say("an example, what is trained in colour:\n" + colour_trained(tokenizer, example))


def colour_trained(tokenizer: PreTrainedTokenizerBase, encoded: dict[str, list[int]]) -> str:
    """Return the text of an encoded dialogue with the trained part green, for a terminal."""
    pieces, run, is_trained = [], [], False
    for token, label in [*zip(encoded["input_ids"], encoded["labels"], strict=True), (None, None)]:
        if token is None or (label != IGNORE_LABEL) != is_trained:
            text = tokenizer.decode(run)
            pieces.append(f"\033[32m{text}\033[0m" if is_trained and run else text)
            run, is_trained = [], not is_trained
        run.append(token)
    return "".join(pieces)


def add_adapters(model: PreTrainedModel, options: DialogueArguments) -> PeftModel:
    """Put a low-rank adapter beside the chosen linear layers (Hu et al. 2021) and freeze the rest."""
    targets = options.lora_targets if options.lora_targets == "all-linear" else options.lora_targets.split(",")
    config = LoraConfig(
        r=options.lora_rank, lora_alpha=options.lora_alpha, target_modules=targets, task_type="CAUSAL_LM"
    )
    try:
        return get_peft_model(model, config)
    except (ValueError, TypeError) as error:
        raise InputError(f"--lora_targets {options.lora_targets}: {str(error).splitlines()[0]}") from error


def collate_rows(rows: list[dict]) -> dict[str, torch.Tensor]:
    """Stack B rows to `input_ids`, `labels`, `position_ids` (B, T); with a mask, positions would not part dialogues."""
    return {name: torch.from_numpy(np.stack([row[name] for row in rows])).long() for name in rows[0]}


def answer_held_out(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, dialogues: Dataset, stop_id: int
) -> list[tuple[str, str]]:
    """Return (question, reply) for the first question of some held-out dialogues of each language."""
    samples = []
    for language in sorted(set(dialogues["language"])):
        chosen = [row["messages"] for row in dialogues if row["language"] == language][:2]
        for messages in chosen:
            first = next(i for i, message in enumerate(messages) if message["role"] == "user")
            window = getattr(model.config, "max_position_embeddings", 2048)
            try:
                ids, _ = encode_prompt(tokenizer, messages[: first + 1], window - 60)
            except DialogueError:  # too long to be answered here
                continue
            output = model.generate(
                input_ids=torch.tensor([ids], device=model.device),
                max_new_tokens=60, do_sample=True, temperature=0.7, top_p=0.9, eos_token_id=stop_id, use_cache=True,
            )  # fmt: skip
            reply = tokenizer.decode(output[0, len(ids) :], skip_special_tokens=True)
            samples.append((messages[first]["content"], reply))
    return samples


if __name__ == "__main__":
    start_cpu_processes()
    use_all_cores()
    run_script(main)
