"""The options of cleaning; light to import."""

from dataclasses import dataclass

from options import option

STEPS = ("unicode", "mojibake", "invisible", "compatible", "language", "simplified", "boilerplate", "policy", "quality")
STEPS += ("repetition", "private", "stop_words", "length")
DEFAULT_STEPS = [name for name in STEPS if name not in ("compatible", "simplified", "stop_words")]


@dataclass
class CleaningArguments:
    """Which cleaning steps a corpus goes through."""

    clean: list[str] = option(DEFAULT_STEPS, "Steps that are on", choices=STEPS)
    languages: list[str] = option(["en", "zh"], "Languages that the step `language` keeps (ISO 639-1)")
    min_characters: int = option(20, "Shortest document that the step `length` keeps; a Han character counts as two")
