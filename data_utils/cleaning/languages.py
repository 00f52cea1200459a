"""Which language a text is in: Chinese, Japanese, Korean by their scripts, English by words, others by py3langid."""

import re
from functools import cache

import numpy as np

from errors import InputError

SCRIPTS = {  # of letters; the first that fits
    "han": r"[\u3400-\u9fff\U00020000-\U0003ffff]",
    "kana": r"[\u3041-\u3096\u30a1-\u30fa\uff66-\uff9d]",
    "hangul": r"[\uac00-\ud7a3]",
    "latin": r"[a-zA-Z\u00aa-\u024f\u1e00-\u1eff]",
    "other": r"[^\W\d_]",
}
WORD = re.compile(r"[a-z']+")
CODE = re.compile(r"```.*?(?:```|\Z)|https?://\S+|^(?: {4}|\t)[^\n]*$", re.DOTALL | re.MULTILINE)
# Frequent in English and in no other language written with the same letters ("in", "an", "is" are elsewhere too).
ENGLISH_WORDS = frozenset(
    WORD.findall(
        "the of and that this with for are was were have has had not but you your they their from which would there "
        "been what will when who could should about into than them these those because through where after while does "
        "did it's don't i'm can its his her she he my we our how why if or at be by to"
    )
)
CHINESE = ("zh", "wuu", "yue", "lzh", "cmn")
SAMPLE_CHARACTERS = 2000
SCRIPT_CHARACTERS = 20_000  # counting scripts is cheap
MAX_CODE = 0x40000  # no letters above


def detect_language(text: str) -> str:
    """Return 'zh' where at least a fifth of the letters are Han characters, else 'en'.

    >>> detect_language("我喜欢 Python"), detect_language("I like tea")
    ('zh', 'en')
    """
    scripts = count_scripts(text[:SAMPLE_CHARACTERS])
    return "zh" if scripts["han"] and scripts["han"] >= 0.2 * sum(scripts.values()) else "en"


def count_scripts(text: str) -> dict[str, int]:
    """Return how many letters of a text are of each of SCRIPTS.

    >>> count_scripts("我喜欢 Python!")
    {'han': 3, 'kana': 0, 'hangul': 0, 'latin': 6, 'other': 0}
    """
    counts = np.bincount(_script_table()[read_codes(text)], minlength=len(SCRIPTS) + 1)
    return dict(zip(SCRIPTS, counts[1:].tolist(), strict=True))


def read_codes(text: str) -> np.ndarray:
    """Return (N,) uint32, the code of each character, those without letters above MAX_CODE as one."""
    return np.minimum(np.frombuffer(text.encode("utf-32-le", "replace"), np.uint32), MAX_CODE)


@cache
def _script_table() -> np.ndarray:
    table = np.zeros(MAX_CODE + 1, np.uint8)
    characters = "".join(chr(code) if not 0xD800 <= code <= 0xDFFF else " " for code in range(MAX_CODE))
    for number, pattern in reversed(list(enumerate(SCRIPTS.values(), 1))):
        # The first script is written last; letters of the others only.
        table[[match.start() for match in re.finditer(pattern, characters)]] = number
    table[[i for i in np.flatnonzero(table) if not characters[i].isalpha()]] = 0
    return table


def identify_language(text: str) -> str:
    """Return the language (ISO 639-1) that most of a text is in, '' where it has no letters.

    Scripts decide for Chinese, Japanese and Korean, common words for English; py3langid for the rest. Code and
    addresses count for nothing unless there is nothing else.

    >>> [identify_language(text) for text in ("今天下雨。", "今日は雨です。", "The rain has come.", "42")]
    ['zh', 'ja', 'en', '']
    """
    sample = text[:SCRIPT_CHARACTERS]
    scripts = count_scripts(sample)
    if "`" in sample or "://" in sample or "\n    " in sample or "\n\t" in sample:
        prose = CODE.sub(" ", sample)
        in_prose = count_scripts(prose)
        if sum(in_prose.values()) >= 20:
            sample, scripts = prose, in_prose
    letters = sum(scripts.values())
    if not letters:
        return ""
    # A sign of these says as much as about three Latin letters.
    wide = scripts["han"] + scripts["kana"]
    if scripts["hangul"] > wide and scripts["hangul"] >= 0.2 * letters:
        return "ko"
    if wide >= 0.2 * letters:
        # Chinese shops like の; Japanese with hardly any kana is a list of names.
        return "ja" if scripts["kana"] > 0.08 * wide else "zh"
    sample = take_sample(sample)
    words = WORD.findall(sample.lower().replace("’", "'"))
    if scripts["latin"] >= 0.8 * letters and words and sum(word in ENGLISH_WORDS for word in words) >= 0.2 * len(words):
        return "en"
    language = _identifier().classify(sample)[0]
    return "zh" if language in CHINESE else language


def take_sample(text: str) -> str:
    """Return the beginning, middle and end of a text, which together decide."""
    third, middle = SAMPLE_CHARACTERS // 5, len(text) // 2
    if len(text) <= 3 * third:
        return text
    return "\n".join((text[:third], text[middle : middle + third], text[-third:]))


@cache
def _identifier() -> object:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise InputError("--clean language needs py3langid; run: pip install -r requirements/corpus.txt") from error
    return LanguageIdentifier.from_model_file(MODEL_FILE)
