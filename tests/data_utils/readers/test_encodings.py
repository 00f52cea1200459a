"""Planted wrong encodings and mojibake: all found, and nothing found where nothing is wrong."""

import io
import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_utils.readers.arguments import ReadArguments
from data_utils.readers.encodings import EncodingFault, decode_bytes, detect_encoding, read_lines
from data_utils.sources.inputs import read_documents_of, read_rows
from data_utils.text.cleaning import clean_text
from data_utils.text.mojibake import repair_misread

ZH = "茶是一种很古老的饮料。今天的人们还在喝它，我们在这里说说它的历史和文化，以及它在世界各地的发展。"
ZH_TRADITIONAL = "茶是一種很古老的飲料。今天的人們還在喝它，我們在這裡說說它的歷史和文化，以及它在世界各地的發展。"
NEWS = "据新华社报道，中国经济在今年第一季度有了新的发展，专家认为，这与国家的政策有很大的关系。"
POEM = "床前明月光，疑是地上霜。举头望明月，低头思故乡。\n白日依山尽，黄河入海流。欲穷千里目，更上一层楼。"
CODE = "# 计算两个数的和\ndef add(a, b):\n    return a + b  # 返回结果，很简单\n\nprint(add(1, 2))  # 在这里打印出来\n"
MENU = "首页\t新闻\t图片\n关于我们\t联系方式\t用户登录\n"
SHORT = "你好，我是新来的。"
FRENCH = (
    "Le thé est une boisson très ancienne. "
    "Aujourd’hui, on en boit à toute heure, même l’été : « c’est délicieux », dit-on."
)
GERMAN = (
    "Der Tee ist ein sehr altes Getränk. "
    "Heute trinken ihn die Menschen überall, auch die größten Städte sind voller Teehäuser für Gäste."
)
QUOTES = "He said “tea is warm” and left — it’s the third time this week… She didn’t mind; “nobody’s perfect”."
JAPANESE = "お茶はとても古い飲み物です。今日でも人々はそれを飲んでいます。ここではその歴史と文化について話しましょう。"
KOREAN = (
    "차는 아주 오래된 음료입니다. "
    "오늘날에도 사람들은 그것을 마시고 있습니다. 여기에서 그 역사와 문화에 대해 이야기합시다."
)
RUSSIAN = (
    "Чай — очень древний напиток. "
    "Сегодня люди по-прежнему пьют его, и мы расскажем здесь о его истории и культуре во всём мире."
)

PLANTED_ENCODINGS = [
    *[(text, name) for text in (ZH, NEWS, POEM, CODE, MENU, SHORT) for name in ("gb18030", "utf-16", "utf-8-sig")],
    *[(text, name) for text in (ZH, NEWS, POEM) for name in ("gbk", "utf-16-le", "utf-16-be")],
    *[(ZH_TRADITIONAL, name) for name in ("big5", "gb18030", "utf-16-le", "utf-8", "big5hkscs")],
    (ZH_TRADITIONAL[:20], "big5"),
    *[(text, "cp1252") for text in (FRENCH, GERMAN, QUOTES)],
    *[(QUOTES * 3, name) for name in ("utf-16-le", "utf-16-be", "utf-8-sig")],
    (JAPANESE, "shift_jis"),
    (JAPANESE, "euc_jp"),
    (f"Mail\n{JAPANESE}\nBye\n", "iso2022_jp"),
    (KOREAN, "cp949"),
    (RUSSIAN * 3, "cp1251"),
    (RUSSIAN.replace("—", "-") * 3, "koi8_r"),
]


@pytest.mark.parametrize(("text", "encoding"), PLANTED_ENCODINGS)
def test_planted_encoding_is_found(tmp_path, text, encoding):
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode(encoding))
    assert [row["text"].strip() for row in read_documents_of(str(path))] == [text.strip()]


@pytest.mark.parametrize("ahead", [0, 5000, 300_000])
def test_ascii_ahead_of_another_encoding(ahead):
    data = b"plain line\n" * (ahead // 11) + ZH.encode("gb18030") + b"\n"
    lines = [line for _, line in read_lines(io.BytesIO(data), pytest.fail)]
    assert lines[-1] == ZH + "\n"
    assert len(lines) == ahead // 11 + 1


def test_a_line_of_utf8_among_gb18030_is_no_mojibake():
    data = "\n".join([ZH] * 20).encode("gb18030") + b"\n" + NEWS.encode() + b"\n"
    lines = [line for _, line in read_lines(io.BytesIO(data), pytest.fail)]
    assert lines == [ZH + "\n"] * 20 + [NEWS + "\n"]


def test_a_broken_line_costs_itself_alone():
    data = "\n".join([ZH] * 200).encode() + b"\nbroken \xff\xfe line\n" + ZH.encode()
    faults = []
    lines = [line for _, line in read_lines(io.BytesIO(data), lambda *fault: faults.append(fault))]
    assert lines == [ZH + "\n"] * 200 + [ZH]
    assert faults == [(201, "not valid UTF-8 (byte 0xff); convert the file to UTF-8")]


@pytest.mark.parametrize(
    "data",
    [
        bytes(range(128, 256)) * 20,
        b"\x00\x01\x02\xff" * 100,
        b"caf\xe9",
        "龘靐齉齾爩鱻麤".encode("gb18030"),
        b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" * 20,
        ZH.encode("gb18030") + ZH.encode()[:-1] + ZH.encode("big5", "ignore"),
    ],
)
def test_what_is_unsure_is_a_fault_and_never_mojibake(tmp_path, data):
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    faults = []
    assert [row["text"] for row in read_documents_of(str(path), ReadArguments(), faults.append)] == []
    assert faults
    assert {fault.file for fault in faults} == {str(path)}
    with pytest.raises(EncodingFault):
        decode_bytes(data)


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=80))
def test_utf8_is_always_utf8(text):
    assert detect_encoding(text.encode()) == ("utf-8-sig" if text.startswith("\ufeff") else "utf-8")


@given(st.integers(0, len(ZH) - 20), st.integers(20, 60), st.sampled_from(["gb18030", "utf-16"]))
def test_a_piece_of_chinese_is_read_or_refused_but_never_something_else(start, length, encoding):
    piece = ZH[start : start + length]
    try:
        assert decode_bytes(piece.encode(encoding)) == piece
    except EncodingFault:
        assert len(piece) < 20


# Mojibake that is in the text already


def misread(text: str, encoding: str, wrong: str) -> str:
    """Return a text as somebody saw it who took its bytes for another encoding."""
    return text.encode(encoding).decode(wrong)


def first_misreadable(text: str, encoding: str, wrong: str) -> str:
    """Return the longest beginning of a text whose misreading loses nothing."""
    for end in range(len(text), 6, -1):
        try:
            misread(text[:end], encoding, wrong)
        except UnicodeError:
            continue
        return text[:end]
    raise AssertionError("no beginning of this text can be misread so")


PLANTED_MOJIBAKE = [
    *[(text, "utf-8", "cp1252") for text in ("It’s naïve — “really”", "café à la crème, déjà vu")],
    *[(text, "utf-8", "latin-1") for text in (ZH, NEWS, POEM, ZH_TRADITIONAL, "schöne Grüße aus Köln")],
    *[(text, "gb18030", "latin-1") for text in (ZH, NEWS, POEM)],
    *[(text, "utf-8", "gb18030") for text in ("我们的中文网页面，", "今天天气很好，去公园玩", NEWS)],
    *[(ZH_TRADITIONAL, "big5", wrong) for wrong in ("latin-1", "gb18030")],
]


@pytest.mark.parametrize(("text", "encoding", "wrong"), PLANTED_MOJIBAKE)
def test_planted_mojibake_is_repaired(text, encoding, wrong):
    text = first_misreadable(text, encoding, wrong)
    broken = misread(text, encoding, wrong)
    assert broken != text
    assert repair_misread(clean_text(broken)) == text or repair_misread(broken) == text


@pytest.mark.parametrize(
    "text",
    [
        "锟斤拷锟斤拷的网页锟斤拷",
        "烫烫烫烫烫烫 结果",
        ZH.encode().decode("gb18030", "replace"),
        ZH.encode().decode("gbk", "ignore"),
        f"{ZH[:20]}\ufffd\ufffd\ufffd",
    ],
)
def test_lost_text_is_dropped(text):
    assert repair_misread(text) is None


@pytest.mark.slow
def test_false_alarms_on_clean_text_are_below_one_percent(clean_texts):
    changed = [text for text in clean_texts if repair_misread(clean_text(text)) != clean_text(text)]
    print(f"mojibake: {len(changed)} false alarms in {len(clean_texts)} clean texts")
    assert len(changed) < 0.01 * len(clean_texts)


@pytest.mark.slow
def test_false_alarms_of_detection_are_below_one_percent(clean_texts):
    wrong = refused = 0
    texts = [text for text in clean_texts if not text.isascii() and len(text) >= 12][:600]
    for text in texts:
        try:
            wrong += decode_bytes(text.encode("gb18030")) != text
        except EncodingFault:
            refused += 1
    print(f"GB18030: {wrong} read wrong, {refused} refused of {len(texts)} clean texts")
    assert wrong < 0.01 * len(texts)
    assert refused < 0.2 * len(texts)


def test_what_is_declared_decides_where_little_is_to_be_seen():
    assert decode_bytes("un café, s’il vous plaît".encode("cp1252")[:8], ("cp1252",)) == "un café,"
    with pytest.raises(EncodingFault):
        decode_bytes("un café.".encode("cp1252"))
    assert decode_bytes(ZH.encode("gb18030"), ("big5hkscs", "cp1252", "nonsense")) == ZH


def test_planted_cases_are_many_enough():
    assert len(PLANTED_ENCODINGS) + len(PLANTED_MOJIBAKE) >= 55


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig", "utf-32"])
@pytest.mark.parametrize("text", ["Tea is warm.\n" * 20, "今天天气很好，我们去公园。\n" * 20])
def test_text_of_wide_characters_is_one(encoding, text, tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode(encoding))
    assert "".join(row["text"] for _, row in read_rows(str(path), ReadArguments("document"))) == text


@pytest.mark.parametrize(
    ("kind", "before"),
    [(kind, mark) for kind in ("noise", "numbers") for mark in (b"", b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf")]
    + [("controls", b""), ("controls", b"\xef\xbb\xbf")],
)
def test_bytes_that_are_no_text_are_a_fault_of_their_file(kind, before, tmp_path):
    draw = random.Random(kind)
    data = {
        "noise": draw.randbytes(3000),
        "numbers": struct.pack("<1000H", *(draw.randrange(60_000) for _ in range(1000))),
        "controls": "".join(chr(draw.choice([*range(1, 9), *range(192, 250)])) for _ in range(3000)).encode(),
    }[kind]
    path, faults = tmp_path / "a.txt", []
    path.write_bytes(before + data)
    assert not list(read_rows(str(path), ReadArguments("document"), faults.append))
    assert len(faults) == 1


THAI = "วันนี้อากาศดีมาก\nเราจะไปดื่มชาที่สวนสาธารณะกับเพื่อน\n"
DOS = "Das Wetter ist schön, für Gäste gibt es heißen Tee und süße Kekse.\n"


@pytest.mark.parametrize("times", [1, 3, 40])
def test_bytes_of_other_letters_are_never_read_as_chinese(times):
    assert detect_encoding((THAI * times).encode("cp874")) == "cp874"
    with pytest.raises(EncodingFault):
        detect_encoding((DOS * times).encode("cp437"))
    assert detect_encoding((ZH * times).encode("gb2312")) == "gb18030"
    assert detect_encoding(("Python 编程很简单, API接口和HTTP协议。\n" * times).encode("gb18030")) == "gb18030"
