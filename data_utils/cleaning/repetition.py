"""How much a document repeats itself, by the rules of Gopher; in Chinese by characters. An order faster than by words.

Grams are compared by hashes, of which numpy makes all of a document at once; see `sum_powers`.
"""

from collections import Counter

import numpy as np

from data_utils.cleaning.languages import read_codes

FACTOR = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
_POWERS: dict[int, np.ndarray] = {}


def judge_repetition(text: str, language: str) -> str | None:
    """Return why a document repeats itself too much (Gopher, table A1), or None.

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
    codes = read_codes(text).astype(np.uint64)
    is_space = (codes <= ord(" ")) | (codes == ord("\u3000"))
    # A unit is a word: what stands between spaces. In Chinese it is a character, or a word in ASCII; since a character
    # means half as much as a word, twice as many are in a gram.
    is_inner = (codes < 128) & ~is_space if language == "zh" else ~is_space
    is_start = ~is_space
    is_start[1:] &= ~(is_inner[1:] & is_inner[:-1])
    return judge_grams(codes, np.append(np.flatnonzero(is_start), len(codes)), 2 if language == "zh" else 1)


def count_repeated(parts: list[str]) -> tuple[int, int]:
    """Return how many parts repeat one before, and their characters."""
    if len(set(parts)) == len(parts):
        return 0, 0
    repeats = [(part, count - 1) for part, count in Counter(parts).items() if count > 1]
    return sum(count for _, count in repeats), sum(len(part) * count for part, count in repeats)


def judge_grams(codes: np.ndarray, starts: np.ndarray, scale: int) -> str | None:
    """Return the gram of `scale * n` units that is too frequent, or None.

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
        grams = hash_grams(sums, starts, width)
        longest = int((starts[4 * scale :] - starts[: -4 * scale]).max())
        # Longer grams are no more frequent than the shorter ones in them; a gram no more than what shares its bucket.
        if n == 2 and int(np.bincount(to_buckets(grams, 12)).max()) * longest <= 0.16 * total:
            break
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
    grams = hash_grams(sums, starts, 5 * scale)
    is_taken = np.zeros(1 << 17, bool)
    is_taken[to_buckets(grams, 17)] = True
    repeats = len(grams) - np.count_nonzero(is_taken)  # or more, since buckets are shared
    if not len(grams) or repeats * int((starts[5 * scale :] - starts[: -5 * scale]).max()) <= 0.10 * total:
        return None
    for n, limit in ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10)):
        covered = cover_repeats(hash_grams(sums, starts, n * scale), n * scale, len(starts) - 1)
        share = 0 if covered is None else int(np.diff(starts)[covered].sum()) / total
        if share > limit:
            return f"repeated_{n}_grams"
        if share <= 0.10:
            return None  # what longer ones cover, these do too
    return None


def sum_powers(codes: np.ndarray) -> np.ndarray:
    """Return (N + 1,) uint64, sums of code * FACTOR^place up to each place: a hash is a difference of two."""
    sums = np.zeros(len(codes) + 1, np.uint64)
    np.cumsum(codes * _powers(FACTOR, len(codes))[: len(codes)], out=sums[1:])
    return sums


def hash_grams(sums: np.ndarray, starts: np.ndarray, width: int) -> np.ndarray:
    """Return (U - width + 1,) uint64, a hash of each gram of `width` units: equal where the characters are."""
    begins = starts[:-width]
    inverse = _powers(pow(FACTOR, -1, 2**64), len(sums))
    return (sums[starts[width:]] - sums[begins]) * inverse[begins]


def _powers(factor: int, count: int) -> np.ndarray:
    """Return at least `count` powers of a factor modulo 2^64, kept from call to call."""
    if len(_POWERS.get(factor, ())) < count:
        factors = np.full(max(2 * count, 1 << 16), factor, np.uint64)
        factors[0] = 1
        _POWERS[factor] = np.cumprod(factors)
    return _POWERS[factor]


def to_buckets(grams: np.ndarray, bits: int) -> np.ndarray:
    """Return (N,) int64, the bucket of each gram, of 2^bits."""
    return (grams * np.uint64(FACTOR) >> np.uint64(64 - bits)).astype(np.int64)


def cover_repeats(grams: np.ndarray, width: int, size: int) -> np.ndarray | None:
    """Return (size,) bool, the units that lie in a gram which stood before; None where there is no such gram."""
    ordered = np.sort(grams)
    if not (ordered[1:] == ordered[:-1]).any():
        return None
    order = np.argsort(grams, kind="stable")
    is_repeat = np.zeros(len(grams), bool)
    is_repeat[order[1:]] = grams[order[1:]] == grams[order[:-1]]
    edges = np.zeros(size + 1, np.int64)
    starts = np.flatnonzero(is_repeat)
    np.add.at(edges, starts, 1)
    np.add.at(edges, starts + width, -1)
    return np.cumsum(edges[:-1]) > 0
