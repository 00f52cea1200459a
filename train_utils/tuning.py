"""Prepares a fine-tuning: the base checked and given chat tokens, dialogues packed, text replayed among them."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from data_utils.dialogue.checking import DialogueError
from data_utils.dialogue.format import stop_token_id
from data_utils.rows.denoising import denoise_blocks
from data_utils.rows.halves import encode_halves, pack_halves
from data_utils.rows.packing import encode_dialogues, pack_dialogues
from data_utils.rows.replay import mix_rows, read_replay
from data_utils.sources.corpus import split_languages
from data_utils.sources.source import Source, open_sources
from errors import InputError
from model_utils.chat_template import find_system, replace_system
from model_utils.checkpoint import join_chat_tokens, load_model, load_tokenizer
from model_utils.families import family_of, start_token_id
from model_utils.shapes import check_packing, check_window
from model_utils.tokenizer import tokenizer_fingerprint
from train_utils.adapters import four_bits
from train_utils.checkpoint import read_record
from train_utils.objectives import choose_hidden
from train_utils.plan.memory import tell_memory
from train_utils.run import Run
from train_utils.steps.halves import keeps_pairs_apart

REPLAY_SHARE = 0.15  # of the rows, by default: held-out Chinese costs 2.25 bits a byte afterwards, instead of 2.78


def load_base(
    run: Run,
    base: str,
    row_tokens: int,
    *,
    system: str | None = None,
    in_4bit: bool = False,
    adapt: Callable[[PreTrainedModel], Any] | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, list[int]]:
    """Return a base's model and tokenizer, with chat tokens in both, and the ids of those that are new to it.

    `system` takes the place of the template's own system prompt, which is shown. `in_4bit`: to be trained by adapters
    alone, which `adapt` will put beside the weights. Raises InputError for a base that can't be tuned, or not in the
    memory that is free.
    """
    tell_memory(run, base, row_tokens, adapt=adapt, in_4bit=in_4bit)
    quantization = four_bits(torch.bfloat16 if run.args.bf16 else torch.float32) if in_4bit else None
    tokenizer, model = load_tokenizer(base), load_model(base, quantization=quantization)
    set_seed(run.args.seed)
    new_ids = join_chat_tokens(model, tokenizer, base)
    if new_ids:
        run.say(f"base: chat tokens added to its vocabulary: {len(new_ids)}")
    try:
        stop_token_id(tokenizer)
    except DialogueError as error:
        raise InputError(f"{base}: {error}") from error
    own = find_system(tokenizer)
    if system is not None:
        replace_system(tokenizer, system)
    elif own:
        run.say(f"base: its template begins a dialogue with {own!r}; --system TEXT replaces that, --system '' ends it")
    check_window(model.config, row_tokens, base)
    run.watch.lap("model")
    return model, tokenizer, new_ids


def pack_split(
    train_set: Dataset,
    held_out: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    row_tokens: int,
    model: PreTrainedModel,
) -> tuple[Dataset, Dataset, dict[str, Dataset]]:
    """Return the dialogues that fit a row, encoded; rows of T tokens of them; held-out rows of each language.

    For a model with an encoder they are pairs of what was said and the reply. Raises InputError where there is nothing
    to train on or to measure with.
    """
    key = tokenizer_fingerprint(tokenizer)
    if family_of(model.config).has_encoder:
        start_id, together = start_token_id(model.config), keeps_pairs_apart(model)
        encode, pack = encode_halves, partial(pack_halves, start_id=start_id, together=together)
    else:
        check_packing(model, str(model.name_or_path))
        encode, pack = encode_dialogues, partial(pack_dialogues, pad_token_id=tokenizer.pad_token_id)
    encoded, eval_rows = encode(train_set, tokenizer, key, row_tokens), {}
    for language, dialogues in split_languages(held_out):
        chosen = encode(dialogues, tokenizer, key, row_tokens)
        if len(chosen):
            eval_rows[language] = pack(chosen, row_tokens=row_tokens)
    if not len(encoded) or not eval_rows:
        raise InputError(f"no dialogue fits in a row of {row_tokens} tokens; give a larger --row_tokens")
    return encoded, pack(encoded, row_tokens=row_tokens), eval_rows


def replay_text(
    rows: Dataset,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    replayed: tuple[list[Source], float],
    *,
    share: float,
    row_tokens: int,
) -> tuple[Dataset, dict[str, Dataset]]:
    """Return rows of dialogues with a share of text among them, and held-out rows of text that show what was forgotten.

    Of a share of 0 there is no text among them: forgetting is measured alone. Of text among pairs for an encoder it
    writes the ends of documents. `replayed` is what `find_replayed` returns.
    """
    sources, eval_fraction = replayed
    count = round(len(rows) * share / (1 - share))
    key = tokenizer_fingerprint(tokenizer)
    text, held_out = read_replay(sources, tokenizer, key, row_tokens, count, eval_fraction)
    if "source_parts" in rows.column_names:
        hide = partial(denoise_blocks, **choose_hidden(model, tokenizer, "prefix"))
        text, held_out = hide(text), {part: hide(blocks) for part, blocks in held_out.items()}
    return mix_rows(rows, text) if count else rows, held_out


def find_replayed(
    run: Run, base: str, corpus: list[str] | None, eval_fraction: float, *, asked: bool
) -> tuple[list[Source], float] | None:
    """Return (text to replay, share held out), read and split as the base's record says: it saw no held-out text.

    Where neither the record nor `--replay_corpus` names a text, or the record names another than the built-in ones,
    raises InputError if replay was asked for; else returns None, and says how to have it.
    """
    settings = (read_record(Path(base)) or {}).get("settings", {})
    chosen = corpus or settings.get("corpus")
    mixture = settings.get("mixture") or settings.get("sources")  # as it was called
    if not (chosen or asked):
        return None
    if not chosen:
        raise InputError(f"{base}: has no record of its corpus; say with --replay_corpus what text to replay")
    reading = (settings.get("sample_by", "paragraph"), settings.get("text_column", "text"))
    found = open_sources(chosen, None if corpus else mixture, *reading)
    named = sorted({source.path for source in found if not source.is_builtin})
    if named and not asked:
        run.say(
            f"replay: none of {', '.join(named)}; --replay {REPLAY_SHARE} --replay_corpus {' '.join(named)} has some"
        )
        return None
    if named and not corpus:  # whoever wrote the record could name any folder or address
        raise InputError(
            f"{base}: was trained on {', '.join(named)}, by its record; to have that read here, give it with "
            "--replay_corpus"
        )
    return found, settings.get("eval_fraction", eval_fraction)
