"""Tells plausible text, and repairs Chinese that somebody read in the wrong encoding, or finds it lost."""

import re
from functools import cache

import numpy as np

from data_utils.text.characters import MAX_CODE, REPLACED, find_kinds, join_codes

# The most frequent characters of running text: about half of any Chinese text, simplified or traditional, and of Korean
# and Japanese its most frequent syllables. A wrong encoding gives a few percent.
COMMON = frozenset(
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然家种事成方多经"
    "么去法学如都同现当没动面起看定天分还进好小部其些主样理心她本前开但因只从想实日军者意无力它与长把机十民第公此已工使情明性知全"
    "三又关点正业外将两高间由问很最重并物手应战向头文体政美相见被利什二等产或新己制身果加西斯月话合回特代内信表化老给世位次度门任"
    "常先海通教儿原东声提立及比员解水名真论处走义各入几口认条平系气题活尔更别打女变四神总何电数安少报才结反受目太量再感建务做接必"
    "场件计管期市直德资命山金指克许统区保至队形社便空决治展马科司五基眼书非则听白却界达光放强即像难且权思王象完设式色路记南品住告"
    "类求据程北边死张该交规万取拉格望觉术领共确传师观清今切院让识候带导争运风云花春秋夜江河雨雪城村茶请谢问句图字数据文件系统网络"
    "這個們來國為說時會對過發後裡種經麼學現當沒動還進樣開從實軍無與長機業將兩間問戰頭體見產話給門東聲員認條氣題爾變總電數報結務"
    "場計資統區隊決達馬書則聽強難權設記類據邊張該規萬術領確傳師觀讓識帶導爭運關點應義處幾風雲請謝圖"
    "のにはをがでとしてもいるたなられこすかまそうよくだりさきんあっれ"
    "이다는을의에가고하로지도은를한사기서자대리인있어시스그것니나해들수보정일제라아부전상주만장여원과와게면안요세소습"
)
NO_TEXT = re.compile("[\ufffd\ue000-\uf8ff\x80-\x9f\ufffe\uffff]")
# How a text was misread < what it was: Chinese mojibake, which ftfy, made for Latin letters, leaves as it is.
PAIRS = "gb18030<utf-8 cp1252<gb18030 latin-1<gb18030 latin-1<big5 cp1252<big5 big5hkscs<gb18030"
PAIRS += " gb18030<big5hkscs big5hkscs<utf-8 cp932<utf-8 cp1251<utf-8"
MISREADINGS = [pair.split("<") for pair in PAIRS.split()]
SAMPLE_CHARACTERS = 20_000
LOST = re.compile("锟斤拷|烫烫烫|屯屯屯|\ufffd")


def plausibility(text: str) -> float:
    """Return which share of the letters outside of ASCII are common ones: 0 for what is no text at all.

    >>> plausibility("中文的网页") > 0.7, plausibility("涓枃鐨勭綉椤") < 0.1, plausibility("\\ue000的")
    (True, True, 0.0)
    """
    return find_plausibilities([text])[0]


def find_plausibilities(texts: list[str]) -> list[float]:
    """Return for each of many texts what `plausibility` does."""
    codes, bounds = join_codes([text[:SAMPLE_CHARACTERS] for text in texts])
    numbers = np.repeat(np.arange(0, 4 * len(texts), 4), np.diff(bounds)) + _plausibility_table().take(codes)
    _, rare, common, none = np.bincount(numbers, minlength=4 * len(texts)).reshape(-1, 4).T
    return np.where((none > 0) | (common == 0), 0.0, common / np.maximum(rare + common, 1)).tolist()


def scan_plausibility(texts: list[str]) -> list[tuple[float, bool]]:
    """Return for each text its plausibility (1 where it is ASCII), and whether it may hold what replaced lost bytes."""
    wide = [text for text in texts if not text.isascii()]
    found = iter(zip(find_plausibilities(wide), find_kinds(wide), strict=True)) if wide else iter(())
    return [(1.0, False) if text.isascii() else next((p, bool(k & REPLACED)) for p, k in found) for text in texts]


@cache
def _plausibility_table() -> np.ndarray:
    """Return for each code 1: a letter outside of ASCII, 2: a common one, 3: no text, 0: anything else."""
    table = np.zeros(MAX_CODE + 1, np.uint8)
    table[128:-1] = np.fromiter(map(str.isalpha, map(chr, range(128, MAX_CODE))), bool)
    table[[ord(character) for character in COMMON]] = 2
    table[list(map(ord, NO_TEXT.findall("".join(map(chr, range(0x10000))))))] = 3
    return table


def repair_misread(text: str, known: tuple[float, bool] | None = None) -> str | None:
    """Return Chinese that was read in the wrong encoding as it was, the text itself if it is sound, None if it is lost.

    `known` is what `scan_plausibility` says of the text, where that was asked.

    >>> repair_misread("ÖÐÎÄÍøÒ³µÄÄÚÈÝ"), repair_misread("鎴戜滑鐨勪腑鏂囩綉椤甸潰")
    ('中文网页的内容', '我们的中文网页面')
    """
    if text.isascii():
        return text
    before, may_be_lost = known or scan_plausibility([text])[0]
    if before < 0.12 and count_wide(text) >= 4:
        for misread, encoding in MISREADINGS:
            try:
                repaired = text.encode(misread).decode(encoding)
            except UnicodeError:
                continue
            if plausibility(repaired) >= max(0.25, 3 * before):
                return repaired
        lossy = text.replace("\ufffd", "?").encode("gb18030", "replace").decode("utf-8", "ignore")
        if count_wide(lossy) > 0.2 * count_wide(text) and plausibility(lossy) >= max(0.25, 3 * before):
            return None  # bytes are missing: what is left is no text
    return None if may_be_lost and len(LOST.findall(text)) > 0.005 * len(text) else text


def count_wide(text: str) -> int:
    """Return how many characters are not ASCII."""
    return len(text) - len(text.encode("ascii", errors="ignore"))
