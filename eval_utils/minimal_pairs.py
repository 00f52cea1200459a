"""Makes minimal pairs from vocabulary and templates: a sentence that people accept beside one that they don't."""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

DATA = Path(__file__).parent / "data"
LANGUAGES = ("en", "zh")
PAIRS = 100  # of each phenomenon
SEED = 0
MAX_TRIES = 100  # for a pair that is not there yet
SLOT = re.compile(r"\{(\w+?)(_[a-z])?(?:\.(\d))?\}")
CHOICE = re.compile(r"\[([^|\]]*)\|([^|\]]*)\]")


@dataclass(frozen=True)
class Pair:
    """Two sentences that differ in one thing, the first of them acceptable."""

    good: str
    bad: str
    phenomenon: str
    language: str = ""


def fill_slots(template: str, words: dict[str, list[str]], draw: random.Random) -> str:
    """Return a template with an entry of its list in each slot: the same name, the same entry; other names, others.

    >>> fill_slots("{cat} and {cat.2}, {cat_b.2}", {"cat": ["a/A", "b/B"]}, random.Random(1))
    'a and A, B'
    """
    chosen: dict[str, str] = {}

    def fill(match: re.Match) -> str:
        key = match[1] + (match[2] or "")
        if key not in chosen:
            taken = {entry for name, entry in chosen.items() if name.split("_")[0] == match[1].split("_")[0]}
            chosen[key] = draw.choice([entry for entry in words[match[1]] if entry not in taken])
        return chosen[key].split("/")[int(match[3] or 1) - 1]

    return SLOT.sub(fill, template)


def split_choice(text: str) -> tuple[str, str]:
    """Return the good and the bad sentence of a filled template, each with a capital at its beginning.

    >>> split_choice("my cat [sleeps|sleep].")
    ('My cat sleeps.', 'My cat sleep.')
    """
    good, bad = (CHOICE.sub(lambda match, side=side: match[side], text) for side in (1, 2))
    return good[0].upper() + good[1:], bad[0].upper() + bad[1:]


def make_pairs(language: str, count: int = PAIRS, seed: int = SEED) -> Iterator[Pair]:
    """Yield `count` pairs of each phenomenon of a language: the first of all, then the second of all, and so on.

    So the beginning of them is a fair sample. The same seed gives the same pairs. Raises ValueError where a phenomenon
    has too few words for so many.
    """
    data = yaml.safe_load((DATA / f"pairs_{language}.yaml").read_text(encoding="utf-8"))
    words = {name: [str(entry) for entry in entries] for name, entries in data["words"].items()}
    made = []
    for name, (_, *templates) in data["phenomena"].items():
        kind = Pair("", "", phenomenon=name, language=language)
        made.append(list(make_phenomenon(kind, templates, words, count, seed)))
    for row in zip(*made, strict=True):
        yield from row


def make_both(count: int) -> list[Pair]:
    """Return `count` pairs of each phenomenon, of both languages."""
    return [pair for language in LANGUAGES for pair in make_pairs(language, count)]


def make_phenomenon(
    kind: Pair, templates: list[str], words: dict[str, list[str]], count: int, seed: int
) -> Iterator[Pair]:
    """Yield pairs of one phenomenon, its templates in turn; `kind` holds what they have in common."""
    draw = random.Random(f"{seed} {kind.language} {kind.phenomenon}")
    seen: set[str] = set()
    for number in range(count):
        for _ in range(MAX_TRIES):
            good, bad = split_choice(fill_slots(templates[number % len(templates)], words, draw))
            if good not in seen and bad not in seen:
                break
        else:
            raise ValueError(f"{kind.language}, {kind.phenomenon}: its words make fewer than {count} pairs")
        seen |= {good, bad}
        yield replace(kind, good=good, bad=bad)
