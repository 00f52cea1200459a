"""Prepares a fine-tuning: the base checked and given chat tokens, dialogues packed, text replayed among them."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, concatenate_datasets
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from data_utils.dialogue.format import try_template
from data_utils.dialogue.reading import name_assistant, read_checked, split_dialogues
from data_utils.rows.replay import read_replay
from data_utils.sources.builtin import is_builtin_name
from data_utils.sources.corpus import split_languages
from data_utils.sources.source import Source, open_sources, parse_times, parse_weight
from errors import InputError, explained, first_line
from model_utils.chat_template import find_system, replace_system
from model_utils.checkpoint import join_chat_tokens, load_model, load_tokenizer
from model_utils.finding import NO_TEMPLATE
from model_utils.shapes import check_finite, check_window
from model_utils.tokenizer import tokenizer_fingerprint
from options import format_command
from train_utils.adapters import four_bits
from train_utils.places import RUN_FILE, read_record
from train_utils.plan.memory import tell_memory
from train_utils.row_formats import PairFormat, TextFormat
from train_utils.run import Run
from train_utils.self_replay import replay_replies

UNFOLLOWED, MEND = "can't be followed", "mend it, or move it away and name the text with --replay_corpus"
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
    check_finite(model, base)
    set_seed(run.args.seed)
    new_ids = join_chat_tokens(model, tokenizer, base)
    if new_ids:
        run.say(f"base: chat tokens added to its vocabulary: {len(new_ids)}")
    with explained(base, NO_TEMPLATE):
        try_template(tokenizer)
    own = find_system(tokenizer)
    if system is not None:
        replace_system(tokenizer, system)
    elif own:
        run.say(f"base: its template begins a dialogue with {own!r}; --system TEXT replaces that, --system '' ends it")
    check_window(model.config, row_tokens, base)
    run.watch.lap("model")
    return model, tokenizer, new_ids


def prepare_dialogues(
    run: Run, options: Any, tokenizer: PreTrainedTokenizerBase, form: TextFormat | PairFormat
) -> tuple[Dataset, dict[str, Dataset], Dataset, dict[str, object]]:
    """Return rows to train on, held-out rows of each part, the held-out dialogues, and facts for the record.

    Raises InputError where there is nothing to train on or to measure with.
    """
    # Read, checked, split by hash as the corpus is, so that what is held out was in no training.
    reading = read_checked(open_sources(options.dialogues), options.skip_bad_dialogues)
    for line in reading.lines:
        run.say(line)
    parts = split_dialogues(reading.dialogues, options.eval_fraction)
    train_set, held_out = (name_assistant(part, options.assistant_name) for part in parts)
    facts: dict[str, object] = {"dialogues": len(train_set), "held out": len(held_out)}
    facts |= {"sources": dict(Counter(train_set["source"])), **reading.facts}
    if options.replay_replies:
        own = replay_replies(run, options.base, form.model, options.replay_replies, train_set)
        train_set, held_out = (concatenate_datasets([*two]) for two in zip((train_set, held_out), own, strict=True))

    # Only the assistant's words and stop tokens carry labels; dialogues are packed, and none sees another.
    row_tokens, key, pack = options.row_tokens, tokenizer_fingerprint(tokenizer), form.choose_packing()
    encoded, eval_rows = form.encode(train_set, tokenizer, key, row_tokens), {}
    for language, dialogues in split_languages(held_out):
        if len(chosen := form.encode(dialogues, tokenizer, key, row_tokens)):
            eval_rows[language] = pack(chosen, row_tokens=row_tokens)
    if not len(encoded) or not eval_rows:
        raise InputError(f"no dialogue fits in a row of {row_tokens} tokens; give a larger --row_tokens")
    rows = pack(encoded, row_tokens=row_tokens)
    for line in form.describe(train_set, held_out, encoded, rows, tokenizer):
        run.say(line)
    rows, text = replay_text(run, options, tokenizer, form, rows)
    return rows, eval_rows | text, held_out, facts


def replay_text(
    run: Run, options: Any, tokenizer: PreTrainedTokenizerBase, form: TextFormat | PairFormat, rows: Dataset
) -> tuple[Dataset, dict[str, Dataset]]:
    """Return rows of dialogues with a share of text among them, and held-out rows of text that show what was forgotten.

    Of a share of 0 there is no text among them: forgetting is measured alone. Of text among pairs for an encoder it
    writes the ends of documents.
    """
    asked = options.replay is not None or bool(options.replay_corpus)
    replayed = find_replayed(run, options.base, options.replay_corpus, options.eval_fraction, asked=asked)
    if not replayed:
        return rows, {}
    share = REPLAY_SHARE if options.replay is None else options.replay
    count, key = round(len(rows) * share / (1 - share)), tokenizer_fingerprint(tokenizer)
    text, held_out = read_replay(replayed[0], tokenizer, key, options.row_tokens, count, replayed[1])
    mixed = concatenate_datasets([rows, form.hide_once(text, rows)]) if count else rows  # the training shuffles them
    run.say(f"replay: {len(mixed) - len(rows):,} rows of text among {len(mixed):,}")
    return mixed, {part: form.hide_once(blocks, rows) for part, blocks in held_out.items()}


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
    file = Path(base) / RUN_FILE
    if not chosen and file.exists() and not settings and not asked:
        run.say(f"replay: none; {file}: {UNFOLLOWED}: it is no record of a run; {MEND}")
    if not (chosen or asked):
        return None
    if not chosen:
        raise InputError(f"{base}: has no record of its corpus; say with --replay_corpus what text to replay")
    reading = (settings.get("sample_by", "paragraph"), settings.get("text_column", "text"))
    try:
        share = float(settings.get("eval_fraction", eval_fraction))
        # By their names: to open an address asks its host.
        paths = map(parse_weight, mixture) if mixture and not corpus else map(parse_times, chosen)
        named = sorted({path for path, _ in paths if not is_builtin_name(path)})
        sources = [] if named and not corpus else open_sources(chosen, None if corpus else mixture, *reading)
    except (InputError, ValueError, TypeError, AttributeError) as error:  # a stranger's may hold anything
        problem = f"{file}: {UNFOLLOWED}: {first_line(error)}; {MEND}"
        if asked:
            raise InputError(problem) from error
        run.say(f"replay: none; {problem}")
        return None
    if named and not asked:
        run.say(f"replay: none of {', '.join(named)}; {format_command('--replay_corpus', *named)} has some")
        return None
    if named and not corpus:  # whoever wrote the record could name any folder or address
        raise InputError(
            f"{base}: was trained on {', '.join(named)}, by its record; to have that read here, give it with "
            "--replay_corpus"
        )
    return sources, share
