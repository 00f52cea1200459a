"""Cleans documents by named steps in order, each switchable and counted, with examples of what it does.

A step is a pure function `(text, language) -> text`, or `Dropped(reason)`. Where it is slow, a scan looks at a batch of
texts first and tells it of each what need not be looked for. One class wraps both as a block of datatrove; its counts
are datatrove's statistics: `total`, `forwarded`, `dropped`, `dropped_REASON`, `changed`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter

from data_utils.preparation.arguments import STEPS, CleaningArguments
from data_utils.text.boilerplate import drop_boilerplate
from data_utils.text.characters import find_kinds
from data_utils.text.cleaning import clean_text, drop_stop_words
from data_utils.text.languages import identify_language, scan_scripts
from data_utils.text.mojibake import repair_misread, scan_plausibility
from data_utils.text.normalize import check_variant, drop_invisible, fold_compatible, to_simplified
from data_utils.text.private_data import mask_private, scan_digits
from data_utils.text.quality import drop_policy_lines, judge_quality, scan_quality
from data_utils.text.repetition import judge_repetition, scan_repetition

BATCH_DOCUMENTS = 256  # looked at together
EXAMPLES = 3  # kept of each reason, from each task
EXAMPLE_CHARACTERS = 200
MASKED_CHARACTERS = 500_000  # looked through for an example


@dataclass(frozen=True)
class Dropped:
    """A document that a step leaves out, and why, in one word."""

    reason: str


def build_filters(options: CleaningArguments | None = None) -> list:
    """Return the steps that are on as datatrove blocks, in the order of STEPS.

    Args:
        options: which steps; the defaults where None.
    """
    options = options or CleaningArguments()
    if "simplified" in options.clean:
        check_variant()
    functions: dict[str, Callable] = {
        "unicode": lambda text, _, kinds: clean_text(text, kinds=kinds),
        "mojibake": lambda text, _, known: Dropped("lost") if (t := repair_misread(text, known)) is None else t,
        "invisible": lambda text, _, kinds: drop_invisible(text, kinds),
        "compatible": lambda text, _: fold_compatible(text),
        "simplified": lambda text, language: to_simplified(text) if language == "zh" else text,
        "policy": lambda text, _: drop_policy_lines(text),
        "quality": partial(apply_judge, judge_quality),
        "repetition": partial(apply_judge, judge_repetition),
        "private": lambda text, _, known: mask_private(text, known),
        "stop_words": lambda text, _: drop_stop_words(text),
        "length": partial(check_length, min_characters=options.min_characters),
    }
    scans: dict[str, Callable] = {
        "unicode": lambda texts, _: find_kinds(texts),
        "mojibake": lambda texts, _: scan_plausibility(texts),
        "invisible": lambda texts, _: find_kinds(texts),
        "quality": scan_quality,
        "repetition": scan_repetition,
        "private": lambda texts, _: scan_digits(texts),
    }
    blocks = []
    for name in STEPS:
        if name not in options.clean:
            continue
        if name == "language":
            blocks.append(LanguageStep(options.languages))
        elif name == "boilerplate":
            blocks.append(BoilerplateStep())
        else:
            blocks.append(CleaningStep(name, functions[name], scans.get(name)))
    return blocks


def apply_judge(judge: Callable[..., str | None], text: str, language: str, known: object) -> str | Dropped:
    """Return the text, or Dropped where a judge gives a reason."""
    reason = judge(text, language, known)
    return Dropped(reason) if reason else text


def check_length(text: str, language: str, min_characters: int) -> str | Dropped:
    """Return the text, or Dropped where it is empty or too short; UTF-8 makes a Han character count as about two."""
    size = (len(text.strip()) + len(text.strip().encode())) // 2
    return text if size >= max(1, min_characters) else Dropped("short" if size else "empty")


class CleaningStep(BaseFilter):
    """A pure step as a datatrove block; `examples` holds the first texts that it changed, before and after."""

    def __init__(self, name: str, function: Callable, scan: Callable | None = None):
        """Take `function(text, language)`, or with `scan(texts, languages)` `function(text, language, known)`."""
        self.name = name
        super().__init__(batch_size=BATCH_DOCUMENTS)
        self.function, self.scan = function, scan
        self.examples: list[dict] = []

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        """Apply the step to a document: change its text in place, or drop it."""
        return self.filter_batch([doc])[0]

    def filter_batch(self, batch: list[Document]) -> list[bool | tuple[bool, str]]:
        """Apply the step to many documents: change their texts in place, or drop them."""
        languages = [doc.metadata.get("language", "") for doc in batch]
        if self.scan is None:
            results = [self.function(doc.text, language) for doc, language in zip(batch, languages, strict=True)]
        else:
            known = self.scan([doc.text for doc in batch], languages)
            results = [self.function(doc.text, *facts) for doc, *facts in zip(batch, languages, known, strict=True)]
        return [
            True if result is doc.text else self.settle(doc, result) for doc, result in zip(batch, results, strict=True)
        ]

    def settle(self, doc: Document, result: str | Dropped) -> bool | tuple[bool, str]:
        """Count what a step made of a document and keep an example."""
        if isinstance(result, Dropped):
            return False, result.reason
        if result != doc.text:
            self.stat_update("changed")
            self.stat_update("characters_removed", value=max(0, len(doc.text) - len(result)))
            if len(self.examples) < EXAMPLES and len(doc.text) < MASKED_CHARACTERS:
                before, after = show_difference(doc.text, result)
                self.examples.append({"id": doc.id, "before": before, "after": after})
            doc.text = result
        return True


def mask_example(text: str) -> str:
    """Return the beginning of a text for the report: private data masked, whichever steps are on.

    Masked before it is cut to a length, since half a key or number isn't found.

    >>> mask_example("call 138-\u200b1234-5678")
    'call [PHONE]'
    """
    text = text[:MASKED_CHARACTERS]
    plain = drop_invisible(fold_compatible(text))  # the numbers as a reader sees them
    masked = mask_private(plain)
    masked = text if masked == plain else masked
    return masked[:-EXAMPLE_CHARACTERS] if len(text) == MASKED_CHARACTERS else masked


def show_difference(before: str, after: str) -> tuple[str, str]:
    """Return both texts, masked, from a little before the place where they begin to differ.

    The first is "" where nothing but private data differs.

    >>> show_difference("-" * 100 + "and milk", "-" * 100 + "or milk")[0].lstrip("-")
    'and milk'
    >>> show_difference("write to li.lei@qq.com", "write to [EMAIL]")
    ('', 'write to [EMAIL]')
    """
    masked = mask_example(before), mask_example(after)
    pairs = zip(*((before, after) if masked[0] == masked[1] else masked), strict=False)
    place = next((i for i, (a, b) in enumerate(pairs) if a != b), min(map(len, masked)))
    before, after = (text[max(0, place - 40) :][:EXAMPLE_CHARACTERS] for text in masked)
    return ("" if masked[0] == masked[1] else before), after


class LanguageStep(CleaningStep):
    """Names the language of each document in its metadata, and keeps those of some."""

    def __init__(self, languages: list[str]):
        super().__init__("language", lambda text, language: text)
        self.languages = frozenset(languages)

    def filter_batch(self, batch: list[Document]) -> list[bool | tuple[bool, str]]:
        """Identify the languages; drop what is none of those wanted."""
        scripts = scan_scripts([doc.text for doc in batch])
        results = []
        for doc, counts in zip(batch, scripts, strict=True):
            doc.metadata["language"] = language = identify_language(doc.text, counts)
            results.append(language in self.languages or self.settle(doc, Dropped(language or "none")))
        return results


class BoilerplateStep(CleaningStep):
    """Drops lines that many documents of a source repeat; it looks at a window of documents at a time."""

    def __init__(self):
        super().__init__("boilerplate", lambda text, language: text)

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Any:
        """Pass documents on without such lines, in order and in bounded memory."""
        pairs = drop_boilerplate(data, text_of=lambda doc: doc.text, source_of=lambda doc: doc.metadata.get("source"))
        for doc, text in pairs:
            self.stat_update("total", "forwarded")
            self.settle(doc, text)
            self.update_doc_stats(doc)
            yield doc
