"""Cleans documents by named steps in order, each switchable and counted, with examples of what it does.

A step takes a batch of documents and returns for each the text that it makes of it, or `Dropped(reason)`. Where it is
slow, a scan looks at all texts of the batch first and tells of each what need not be looked for.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from data_utils.preparation.arguments import STEPS, CleaningArguments
from data_utils.preparation.tally import Dropped, Tally
from data_utils.readers.limits import OutOfTime, limit_seconds
from data_utils.text.boilerplate import drop_boilerplate
from data_utils.text.characters import find_kinds
from data_utils.text.cleaning import (
    check_variant,
    clean_text,
    drop_invisible,
    drop_stop_words,
    fold_compatible,
    to_simplified,
)
from data_utils.text.languages import identify_language, scan_scripts
from data_utils.text.mojibake import repair_misread, scan_plausibility
from data_utils.text.private_data import mask_private, scan_digits
from data_utils.text.quality import drop_policy_lines, judge_quality, scan_quality
from data_utils.text.repetition import judge_repetition, scan_repetition

BATCH_DOCUMENTS = 256  # looked at together
BATCH_CHARACTERS = 250_000  # whose arrays stay in the processor's cache

Results = list[str | Dropped]
Step = Callable[[list[Document]], Results]


def build_filters(options: CleaningArguments, tally: Tally, max_seconds: float = 0) -> list[PipelineStep]:
    """Return the steps that are on as blocks of datatrove, in the order of STEPS: what can be in chains.

    Args:
        max_seconds: of the processor, that a step may take for a document; 0: no limit.
    """
    if "simplified" in options.clean:
        check_variant()
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
        "private": each(lambda text, _, known: mask_private(text, known), lambda texts, _: scan_digits(texts)),
        "stop_words": each(lambda text, _: drop_stop_words(text)),
        "length": each(partial(check_length, min_characters=options.min_characters)),
    }
    blocks: list[PipelineStep] = []
    for name in (name for name in STEPS if name in options.clean):
        tally.steps[name] = {}  # in their order, also where nothing comes through
        if name == "boilerplate":
            blocks.append(DropBoilerplate(tally))
        elif blocks and isinstance(blocks[-1], Chain):
            blocks[-1].steps[name] = steps[name]
        else:
            blocks.append(Chain({name: steps[name]}, tally, max_seconds))
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


class Chain(PipelineStep):
    """Several steps of cleaning, each on a batch of documents, one after the other, and counted."""

    type, name = "FILTER", "chain"

    def __init__(self, steps: dict[str, Step], tally: Tally, max_seconds: float) -> None:
        super().__init__()
        self.steps, self.tally, self.max_seconds = steps, tally, max_seconds

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Any:
        """Pass on the documents that all steps keep."""
        for batch in batches(data):
            documents = batch
            for name, step in self.steps.items():
                begun = time.perf_counter()
                results = self.apply(step, documents) if documents else []
                self.tally.seconds[name] = self.tally.seconds.get(name, 0) + time.perf_counter() - begun
                documents = self.tally.settle(name, documents, results)
            yield from documents

    def apply(self, step: Step, documents: list[Document]) -> Results:
        """Return what a step makes of documents; one that takes too long is dropped, whatever stands beside it."""
        try:
            with limit_seconds(self.max_seconds):
                return step(documents)
        except OutOfTime:
            if len(documents) == 1:
                return [Dropped("took too long")]
            return [result for document in documents for result in self.apply(step, [document])]


class DropBoilerplate(PipelineStep):
    """Drops lines that many documents of a source repeat; it looks at a window of documents at a time."""

    type, name = "FILTER", "boilerplate"

    def __init__(self, tally: Tally) -> None:
        super().__init__()
        self.tally = tally

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Any:
        """Pass documents on without such lines, in order and in bounded memory."""
        pairs = drop_boilerplate(data, text_of=lambda doc: doc.text, source_of=lambda doc: doc.metadata["source"])
        for document, text in pairs:
            yield from self.tally.settle(self.name, [document], [text])


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
