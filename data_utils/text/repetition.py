"""Measures how much a document repeats itself by the rules of Gopher, in languages without spaces by characters.

Grams are compared by hashes, of which numpy makes all of many documents at once; see `sum_powers`.
"""

from collections import Counter

import numpy as np

from data_utils.text.characters import join_codes
from data_utils.text.languages import UNSPACED

FACTOR = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
INVERSE = pow(FACTOR, -1, 2**64)
MIXER = np.uint32(0x9E3779B1)
COUNTERS = 2**10  # of each document, named by the upper bits of what is mixed
_POWERS: dict[tuple[int, np.dtype], np.ndarray] = {}


def judge_repetition(text: str, language: str, may_repeat: bool = True) -> str | None:
    """Return why a document repeats itself too much (Gopher, table A1), or None.

    `may_repeat` is what `scan_repetition` says of the text, where that was asked.

    >>> judge_repetition("buy cheap tea here now " * 30, "en"), judge_repetition("便宜的好茶快来买吧，" * 30, "zh")
    ('top_2_gram', 'top_2_gram')
    """
    lines = [line for line in text.split("\n") if line and not line.isspace()]
    repeated = count_repeated(lines)
    if lines and (repeated[0] > 0.3 * len(lines) or repeated[1] > 0.2 * len(text)):
        return "repeated_lines"
    if "\n\n" in text:
        paragraphs = [part for part in text.split("\n\n") if part and not part.isspace()]
        repeated = count_repeated(paragraphs)
        if repeated[0] > 0.3 * len(paragraphs) or repeated[1] > 0.2 * len(text):
            return "repeated_paragraphs"
    if not may_repeat:
        return None
    codes, bounds = join_codes([text])
    starts, ends, _ = find_units(codes, bounds, language)
    return judge_grams(codes[:-1].astype(np.uint64), np.append(starts, ends[-1:]), scale_of(language))


def scale_of(language: str) -> int:
    """Return how many units are in what Gopher counts as one word: a Chinese character means half as much as a word."""
    return 2 if language in UNSPACED else 1


def find_units(codes: np.ndarray, bounds: np.ndarray, language: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return where each unit of a batch of D texts begins and where the next one or the text ends, (U,), and (D + 1,)
    the first unit of each text.

    A unit is a word: what stands between spaces. In Chinese it is a character, or a word in ASCII.
    """
    is_space = (codes <= ord(" ")) | (codes == ord("\u3000"))
    is_inner = ~is_space
    is_start = is_inner.copy()
    if language in UNSPACED:
        is_inner &= codes < 128
    is_start[1:] &= ~(is_inner[1:] & is_inner[:-1])
    starts = np.flatnonzero(is_start)
    firsts = np.searchsorted(starts, bounds)
    ends = np.append(starts[1:], len(codes) - 1)[: len(starts)]
    filled = firsts[1:] > firsts[:-1]
    ends[firsts[1:][filled] - 1] = bounds[1:][filled] - 1
    return starts, ends, firsts


def scan_repetition(texts: list[str], languages: list[str]) -> list[bool]:
    """Tell of each of many texts whether it may hold grams too often: few do, and to judge each one is slow."""
    may_repeat = np.zeros(len(texts), bool)
    for language in set(languages):
        chosen = [number for number, name in enumerate(languages) if name == language]
        may_repeat[chosen] = find_repetitive([texts[number] for number in chosen], language)
    return may_repeat.tolist()


def find_repetitive(texts: list[str], language: str) -> np.ndarray:
    """Return (D,) bool, which texts of a language may be repetitive: those of which `judge_grams` has to count grams.

    Longer grams are no more frequent than the shorter ones in them; one gram no more than all that share its counter.
    """
    codes, bounds = join_codes(texts)
    starts, ends, firsts = find_units(codes, bounds, language)
    scale = scale_of(language)
    found = np.zeros(len(texts), bool)
    if len(starts) < 5 * scale:
        return ~found
    numbers = np.repeat(np.arange(len(texts)), np.diff(firsts))
    # Of 32 bits, since a hash that two grams share makes no bound too small.
    sums = sum_powers(codes)
    sums_before, sums_behind, inverses = sums[starts], sums[ends], _inverses(sums)[starts]
    totals = np.maximum(np.diff(bounds) - 1, 1)

    def take_grams(width: int) -> np.ndarray:
        # One that reaches into the next text, which is none, counts for its first one.
        count = len(starts) - width + 1
        return (sums_behind[width - 1 :] - sums_before[:count]) * inverses[:count]

    def take_longest(width: int) -> np.ndarray:
        spans = np.append(ends[width - 1 :] - starts[: len(starts) - width + 1], 0)
        return np.maximum.reduceat(spans, np.minimum(firsts[:-1], len(spans) - 1))

    grams = take_grams(2 * scale)
    counters = (grams * MIXER >> np.uint32(22)) + numbers[: len(grams)] * COUNTERS
    counts = np.bincount(counters, minlength=len(texts) * COUNTERS).reshape(-1, COUNTERS).max(axis=1)
    found |= counts * take_longest(4 * scale) > 0.16 * totals
    grams = take_grams(5 * scale)
    keys = np.sort(numbers[: len(grams)].astype(np.uint64) << np.uint64(32) | grams)
    repeats = keys[1:][keys[1:] == keys[:-1]] >> np.uint64(32)
    counts = np.bincount(repeats.astype(np.int64), minlength=len(texts))
    return found | (counts * take_longest(5 * scale) > 0.10 * totals)


def count_repeated(parts: list[str]) -> tuple[int, int]:
    """Return how many parts repeat one before, and their characters."""
    if len(set(parts)) == len(parts):
        return 0, 0
    repeats = [(part, count - 1) for part, count in Counter(parts).items() if count > 1]
    return sum(count for _, count in repeats), sum(len(part) * count for part, count in repeats)


def judge_grams(codes: np.ndarray, starts: np.ndarray, scale: int) -> str | None:
    """Return the gram of `scale * n` units that is too frequent, or the length whose repeats are too many, or None.

    Args:
        codes: (N,) uint64, the characters.
        starts: (U + 1,) where each unit, a word or a character, begins, and the end of the last.
        scale: units in what Gopher counts as one word.
    """
    total = max(1, len(codes))
    sums = sum_powers(codes)
    for n, limit in ((2, 0.20), (3, 0.18), (4, 0.16)):
        width = n * scale
        if len(starts) <= 4 * scale + 1:
            return None
        grams = hash_grams(sums, starts[:-width], starts[width:])
        longest = int((starts[4 * scale :] - starts[: -4 * scale]).max())
        ordered = np.sort(grams)
        ends = np.flatnonzero(ordered[1:] != ordered[:-1])
        counts = np.diff(ends, prepend=-1, append=len(ordered) - 1)
        best = int(counts.max())
        if best < 3 or best * longest <= 0.16 * total:
            break
        value = ordered[ends[counts.argmax()] if counts.argmax() < len(ends) else -1]
        place = int(np.flatnonzero(grams == value)[0])
        if best * int(starts[place + width] - starts[place]) > limit * total:
            return f"top_{n}_gram"
    for n, limit in ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10)):
        width = n * scale
        grams = hash_grams(sums, starts[:-width], starts[width:])
        ordered = np.sort(grams)
        repeats = np.count_nonzero(ordered[1:] == ordered[:-1])
        if repeats * int((starts[width:] - starts[:-width]).max(initial=0)) <= 0.10 * total:
            return None
        share = int(np.diff(starts)[cover_repeats(grams, width, len(starts) - 1)].sum()) / total
        if share > limit:
            return f"repeated_{n}_grams"
        if share <= 0.10:
            return None  # what longer ones cover, these do too
    return None


def sum_powers(codes: np.ndarray) -> np.ndarray:
    """Return (N + 1,), sums of code * FACTOR^place up to each place: a hash is a difference of two.

    Modulo 2^64 or 2^32, by the type of the codes.
    """
    sums = np.zeros(len(codes) + 1, codes.dtype)
    np.cumsum(codes * take_powers(FACTOR, codes.dtype, len(codes))[: len(codes)], out=sums[1:])
    return sums


def hash_grams(sums: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return (G,), a hash of the characters from each begin to its end: equal where the characters are."""
    return (sums[ends] - sums[begins]) * _inverses(sums)[begins]


def _inverses(sums: np.ndarray) -> np.ndarray:
    return take_powers(INVERSE, sums.dtype, len(sums))


def take_powers(factor: int, dtype: np.dtype, count: int) -> np.ndarray:
    """Return at least `count` powers of a factor, kept from call to call."""
    if (factor, dtype) not in _POWERS or len(_POWERS[factor, dtype]) < count:
        factors = np.full(max(count + count // 4, 1 << 16), factor % 2 ** (8 * dtype.itemsize), dtype)
        factors[0] = 1
        _POWERS[factor, dtype] = np.cumprod(factors, dtype=dtype)
    return _POWERS[factor, dtype]


def cover_repeats(grams: np.ndarray, width: int, size: int) -> np.ndarray:
    """Return (size,) bool, the units that lie in a gram which stood before."""
    order = np.argsort(grams, kind="stable")
    is_repeat = np.zeros(len(grams), bool)
    is_repeat[order[1:]] = grams[order[1:]] == grams[order[:-1]]
    edges = np.zeros(size + 1, np.int64)
    starts = np.flatnonzero(is_repeat)
    np.add.at(edges, starts, 1)
    np.add.at(edges, starts + width, -1)
    return np.cumsum(edges[:-1]) > 0
