"""Cleans documents by named steps in order, each switchable and counted, with examples of what it does.

A step takes a batch of documents and returns for each the text that it makes of it, or `Dropped(reason)`. Where it is
slow, a scan looks at all texts of the batch first and tells of each what need not be looked for.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import groupby

from datatrove.data import Document

from data_utils.preparation.arguments import STEPS, CleaningArguments
from data_utils.preparation.tally import Dropped, Tally
from data_utils.readers.limits import OutOfTime, limit_document
from data_utils.text.boilerplate import drop_boilerplate
from data_utils.text.characters import find_kinds
from data_utils.text.cleaning import (
    clean_text,
    drop_invisible,
    drop_stop_words,
    fold_compatible,
    to_simplified,
)
from data_utils.text.languages import identify_language, scan_scripts
from data_utils.text.mojibake import repair_misread, scan_plausibility
from data_utils.text.private_data import mask_private
from data_utils.text.quality import drop_policy_lines, judge_quality, scan_quality
from data_utils.text.repetition import judge_repetition, scan_repetition

BATCH_DOCUMENTS = 256  # looked at together
BATCH_CHARACTERS = 250_000  # whose arrays stay in the processor's cache

Results = list[str | Dropped]
Step = Callable[[list[Document]], Results]


def build_filters(options: CleaningArguments, tally: Tally) -> list[Callable]:
    """Return the steps that are on as functions of documents, in the order of STEPS: as many as can be in one."""
    if "simplified" in options.clean:
        to_simplified("")  # tells whether its package is missing
    steps: dict[str, Step] = {
        "unicode": each(lambda text, _, kinds: clean_text(text, kinds=kinds), lambda texts, _: find_kinds(texts)),
        "mojibake": each(
            lambda text, _, known: Dropped("lost") if (t := repair_misread(text, known)) is None else t,
            lambda texts, _: scan_plausibility(texts),
        ),
        "invisible": each(lambda text, _, kinds: drop_invisible(text, kinds), lambda texts, _: find_kinds(texts)),
        "compatible": each(lambda text, _: fold_compatible(text)),
        "language": partial(keep_languages, languages=frozenset(options.languages)),
        "simplified": each(lambda text, language: to_simplified(text) if language == "zh" else text),
        "policy": each(lambda text, _: drop_policy_lines(text)),
        "quality": each(partial(apply_judge, judge_quality), scan_quality),
        "repetition": each(partial(apply_judge, judge_repetition), scan_repetition),
        "private": each(lambda text, _: mask_private(text)),
        "stop_words": each(lambda text, _: drop_stop_words(text)),
        "length": each(partial(check_length, min_characters=options.min_characters)),
    }
    chosen = [name for name in STEPS if name in options.clean]
    tally.steps |= {name: {} for name in chosen}  # in their order, also where nothing comes through
    blocks: list[Callable] = []
    for is_boilerplate, names in groupby(chosen, key="boilerplate".__eq__):
        if is_boilerplate:
            blocks.append(partial(skip_boilerplate, tally=tally))
        else:
            chain = {name: steps[name] for name in names}
            blocks.append(partial(run_steps, steps=chain, tally=tally))
    return blocks


def each(function: Callable[..., str | Dropped], scan: Callable[[list[str], list[str]], list] | None = None) -> Step:
    """Return a step of `function(text, language)`, or, with a scan of (texts, languages), `(text, language, known)`."""

    def apply(batch: list[Document]) -> Results:
        texts, languages = [doc.text for doc in batch], [doc.metadata.get("language", "") for doc in batch]
        known = [scan(texts, languages)] if scan else []
        return [function(*facts) for facts in zip(texts, languages, *known, strict=True)]

    return apply


def keep_languages(batch: list[Document], languages: frozenset[str]) -> Results:
    """Name the language of each document in its metadata; drop what is none of those wanted."""
    results: Results = []
    for doc, scripts in zip(batch, scan_scripts([doc.text for doc in batch]), strict=True):
        doc.metadata["language"] = language = identify_language(doc.text, scripts)
        results.append(doc.text if language in languages else Dropped(language or "none"))
    return results


def apply_judge(judge: Callable[..., str | None], text: str, language: str, known: object) -> str | Dropped:
    """Return the text, or Dropped where a judge gives a reason."""
    reason = judge(text, language, known)
    return Dropped(reason) if reason else text


def check_length(text: str, language: str, min_characters: int) -> str | Dropped:
    """Return the text, or Dropped where it is empty or too short; UTF-8 makes a Han character count as about two."""
    size = (len(text.strip()) + len(text.strip().encode())) // 2
    return text if size >= max(1, min_characters) else Dropped("short" if size else "empty")


def run_steps(documents: Iterable[Document], *, steps: dict[str, Step], tally: Tally) -> Iterator[Document]:
    """Yield the documents that all steps keep, batch by batch, counted."""
    for batch in batches(documents):
        kept = batch
        for name, step in steps.items():
            begun = time.perf_counter()
            results = apply_step(step, kept) if kept else []
            tally.seconds[name] = tally.seconds.get(name, 0) + time.perf_counter() - begun
            kept = tally.settle(name, kept, results)
        yield from kept


def apply_step(step: Step, documents: list[Document]) -> Results:
    """Return what a step makes of documents; one that takes too long is dropped, whatever stands beside it."""
    try:
        with limit_document():
            return step(documents)
    except OutOfTime:
        if len(documents) == 1:
            return [Dropped("took too long")]
        return [result for document in documents for result in apply_step(step, [document])]


def skip_boilerplate(documents: Iterable[Document], *, tally: Tally) -> Iterator[Document]:
    """Yield documents without lines that many of their source repeat, in order and in bounded memory."""
    for document, text in drop_boilerplate((doc.metadata["source"], doc.text, doc) for doc in documents):
        yield from tally.settle("boilerplate", [document], [text])


def batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Yield documents in batches of about BATCH_CHARACTERS."""
    batch, held = [], 0
    for document in documents:
        batch.append(document)
        held += len(document.text)
        if held >= BATCH_CHARACTERS or len(batch) >= BATCH_DOCUMENTS:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch
