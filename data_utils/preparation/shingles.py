"""Texts in, numbers out by which equal and alike texts are found: a hash, shingles, a MinHash signature.

All of it on whole batches in numpy, since a Python call for each word would cost more than everything else. A token is
a word where a script parts words with spaces and a character where it does not (Chinese, Japanese, Thai): the same
five tokens are a clause in English and in Chinese. Case, accents, width and punctuation don't count.
"""

import re
import unicodedata
from functools import cache
from typing import NamedTuple

import numpy as np
import xxhash

from data_utils.text.repetition import FACTOR, INVERSE, take_powers

SHINGLE_TOKENS = 5  # as FineWeb (Penedo et al. 2024, section 3.4); fewer and distinct texts look alike
HASHES = 120
BANDS = 24  # of 5 hashes: texts alike by 0.7 meet with 98.8%, by 0.8 with 99.99%; what meets is compared by all hashes

WORD = 2  # what a token weighs where a length of text is asked for: a word as two characters without spaces
MARK = np.uint32(2**32 - 1)
UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u0f00-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)
_random = np.random.Generator(np.random.PCG64(20240625))  # its stream is fixed by numpy's promise for bit generators
BLOCK = 2**17  # characters; a batch may be one text of any length
PERMUTATIONS = (_random.bit_generator.random_raw(HASHES) >> np.uint64(33)).astype(np.uint32) * 2 + 1
BAND_FACTORS = _random.bit_generator.random_raw(HASHES // BANDS) | np.uint64(1)


class Characters(NamedTuple):
    """The characters of a batch of D texts, one after the other: N in all."""

    values: np.ndarray  # (N,) uint32: what each counts as, 0 where it parts words
    is_alone: np.ndarray  # (N,) bool: whether it is a token alone
    begins: np.ndarray  # (N,) bool: whether it begins a token
    bounds: np.ndarray  # (D + 1,) where the characters of each text begin


class Tokens(NamedTuple):
    """The tokens of a batch of D texts, one after the other: N in all."""

    hashes: np.ndarray  # (N,) uint64
    weights: np.ndarray  # (N,) uint8: WORD for a word, 1 for a character without spaces around
    bounds: np.ndarray  # (D + 1,) where the tokens of each text begin


class Shingles(NamedTuple):
    """The shingles of a batch of D texts, M in all; a text of fewer than SHINGLE_TOKENS tokens has none."""

    hashes: np.ndarray  # (M,) uint64
    places: np.ndarray  # (M,) the number of each one's first token in the batch
    bounds: np.ndarray  # (D + 1,)


@cache
def character_tables() -> tuple[np.ndarray, np.ndarray]:
    """Return for each code point what it counts as (0: parts words, MARK: nothing), and whether it is a token alone."""
    counts_as = np.zeros(0x110000, np.uint32)
    assigned = [*range(0xD800), *range(0xE000, 0x40000), *range(0xE0000, 0xE0200)]  # planes 4 to 13 are empty
    for code in assigned:
        character = chr(code)
        kind = unicodedata.category(character)
        if kind[0] in "LN":
            counts_as[code] = code
            if code < 0x2E80 or 0xFF00 <= code < 0xFFF0:
                base = unicodedata.normalize("NFKD", character).lower()
                counts_as[code] = ord(base[0]) if len(base) == 1 or unicodedata.combining(base[1]) else code
        elif kind[0] == "M" or kind == "Cf":
            counts_as[code] = MARK
    alone = np.zeros(0x110000, bool)
    alone[[ord(character) for character in UNSPACED.findall("".join(map(chr, assigned)))]] = True
    alone &= counts_as != 0
    return counts_as, alone


def hash_runs(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return a hash of the values from each start to the next: a polynomial in their place within the run.

    Computed in blocks that the processor's cache holds, with the powers of the block divided out; of a run that is
    longer than a block, which no word is, its beginning counts.
    """
    raised, inverse = (take_powers(factor, np.dtype(np.uint64), BLOCK) for factor in (FACTOR, INVERSE))
    ends = np.append(starts[1:], len(values))
    hashes = np.zeros(len(starts), np.uint64)
    first = 0
    while first < len(starts):
        low = starts[first]
        last = max(int(np.searchsorted(ends, low + BLOCK, side="right")), first + 1)
        high = min(ends[last - 1], low + BLOCK)
        places = starts[first:last] - low
        hashes[first:last] = np.add.reduceat(values[low:high] * raised[: high - low], places) * inverse[places]
        first = last
    return mix(hashes)


def mix(numbers: np.ndarray) -> np.ndarray:
    """Return a well-mixed permutation of uint64 numbers. Source: Steele et al. 2014 (SplitMix), the finalizer."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def read_characters(texts: list[str]) -> Characters:
    """Return what the characters of a batch of texts count as; a line end stands behind each text."""
    counts_as, alone = character_tables()
    codes = np.frombuffer("\n".join([*texts, ""]).encode("utf-32-le", "surrogatepass"), np.uint32)
    ends = np.cumsum([len(text) + 1 for text in texts])
    values = counts_as.take(codes)
    marks = values == MARK
    if marks.any():
        ends = ends - np.cumsum(marks)[ends - 1]
        codes, values = codes[~marks], values[~marks]
    is_alone = alone.take(codes)
    inside = values != 0
    begins = inside.copy()
    begins[1:] &= is_alone[1:] | is_alone[:-1] | ~inside[:-1]
    return Characters(values, is_alone, begins, np.concatenate([[0], ends]))


def hash_texts(characters: Characters, texts: list[str]) -> np.ndarray:
    """Return a 64-bit hash of each text (D,); equal where the tokens are. A text without any is hashed as it is.

    >>> same, other, third = hash_texts(read_characters(words := ["Tea, 茶!", "tea 茶", "te a茶"]), words).tolist()
    >>> same == other, same == third
    (True, False)
    """
    inside = characters.values != 0
    # With a mark where a word begins, its characters are the tokens.
    marked = characters.values | (characters.begins & ~characters.is_alone).astype(np.uint32) << np.uint32(31)
    data = marked[inside]
    sizes = np.add.reduceat(inside.view(np.uint8), characters.bounds[:-1], dtype=np.int64)
    pieces = zip(texts, sizes.tolist(), np.cumsum(sizes).tolist(), strict=True)
    kept = (data[end - size : end].data if size else text.encode(errors="replace") for text, size, end in pieces)
    return np.fromiter(map(xxhash.xxh3_64_intdigest, kept), np.uint64, len(texts))


def find_tokens(texts: list[str], characters: Characters | None = None) -> Tokens:
    """Return the tokens of a batch of texts, whose `characters` may have been read already.

    >>> tokens = find_tokens(["Café, 2 cups", "我喝茶", "cafe"])
    >>> tokens.bounds.tolist(), bool(tokens.hashes[0] == tokens.hashes[6])
    ([0, 3, 6, 7], True)
    """
    values, is_alone, begins, bounds = characters or read_characters(texts)
    starts = np.flatnonzero(begins)
    bounds = np.searchsorted(starts, bounds)
    if not len(starts):
        return Tokens(np.zeros(0, np.uint64), np.zeros(0, np.uint8), bounds)
    return Tokens(hash_runs(values, starts), np.where(is_alone[starts], 1, WORD).astype(np.uint8), bounds)


def find_shingles(tokens: Tokens) -> Shingles:
    """Return the hashes of SHINGLE_TOKENS tokens in a row, of each text of the batch."""
    count = max(len(tokens.hashes) - SHINGLE_TOKENS + 1, 0)
    hashes = np.zeros(count, np.uint64)
    for place in range(SHINGLE_TOKENS):
        hashes = hashes * np.uint64(FACTOR) + tokens.hashes[place : place + count]
    whole = np.ones(count, bool)
    for place in range(1, SHINGLE_TOKENS):  # what reaches into the next text is none
        ends = tokens.bounds[1:] - place
        whole[ends[(ends >= 0) & (ends < count)]] = False
    places = np.flatnonzero(whole)
    return Shingles(mix(hashes[places]), places, np.searchsorted(places, tokens.bounds))


def sign_shingles(shingles: Shingles) -> np.ndarray:
    """Return the MinHash signature of each text, (D, HASHES) uint32; all zero where it has no shingle.

    Two texts' share of equal entries estimates how many of their shingles are common (Jaccard), within 0.04. Source:
    Broder 1997. Permutations by multiplication, each over the whole batch: 25 ns a shingle.
    """
    filled = np.flatnonzero(np.diff(shingles.bounds))
    signatures = np.zeros((len(shingles.bounds) - 1, HASHES), np.uint32)
    if len(filled):
        numbers = (shingles.hashes >> np.uint64(32)).astype(np.uint32)
        starts = shingles.bounds[filled]
        product = np.empty_like(numbers)
        for place, factor in enumerate(PERMUTATIONS):
            np.multiply(numbers, factor, out=product)
            signatures[filled, place] = np.minimum.reduceat(product, starts)
    return signatures


def hash_bands(signatures: np.ndarray) -> np.ndarray:
    """Return a 64-bit hash of each band of each signature, (BANDS, D): what is alike meets in one of them."""
    bands = signatures.reshape(len(signatures), BANDS, -1).astype(np.uint64)
    return np.ascontiguousarray(mix((bands * BAND_FACTORS).sum(axis=2, dtype=np.uint64)).T)
