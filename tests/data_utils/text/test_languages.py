"""Languages: English and Chinese are exact on a planted mixed set, the rest is told apart from them."""

import pytest

from data_utils.text.languages import count_scripts, identify_language

CODE = "```python\ndef add(a, b):\n    return a + b\n\nprint(add(1, 2))\nfor i in range(10): print(i)\n```"
PLANTED = [
    ("zh", "今天下雨，我们在家看书。"),
    ("zh", "今天下雨，我們在家看書，後來去了圖書館。"),
    ("zh", f"用下面的代码可以把两个数加起来：\n{CODE}\n运行以后会显示结果。"),
    ("zh", "安装 Python 3.11 和 PyTorch，然后运行 pip install transformers datasets accelerate 就可以了。"),
    ("zh", "我喜欢这家店的の招牌，日式拉面的味道很好，服务也不错，下次还会再来。"),
    ("zh", "床前明月光，疑是地上霜。举头望明月，低头思故乡。"),
    ("zh", "佢哋今日去咗邊度食飯呀？我都唔知喎。"),
    ("zh", "The Great Wall（长城）是中国古代的军事防御工程，位于中国北部，全长两万多公里。"),
    ("zh", "你好"),
    ("en", "The rain has come, and we stay at home with a book."),
    ("en", "Hello, how are you?"),
    ("en", f"You can add two numbers with this function:\n{CODE}\nThe result will be printed."),
    ("en", "The word 茶 means tea in Chinese, and it is pronounced chá."),
    ("en", "Tokyo (東京) is the capital of Japan and one of the largest cities in the world."),
    ("en", "WE HOLD THESE TRUTHS TO BE SELF-EVIDENT, THAT ALL MEN ARE CREATED EQUAL."),
    ("en", "Don’t worry — it’s only the café’s naïve façade that they’ve painted."),
    ("ja", "今日は雨です。家で本を読みます。"),
    ("ja", "東京都は日本の首都であり、世界最大級の都市圏を形成している。"),
    ("ja", "コーヒーを一杯ください。"),
    ("ko", "오늘은 비가 와서 집에서 책을 읽습니다."),
    ("de", "Heute regnet es, und wir bleiben zu Hause und lesen ein Buch über die Geschichte des Tees."),
    ("fr", "Aujourd’hui il pleut, nous restons à la maison pour lire un livre sur l’histoire du thé."),
    ("es", "Hoy llueve y nos quedamos en casa para leer un libro sobre la historia del té."),
    ("it", "Oggi piove e restiamo a casa a leggere un libro sulla storia del tè e della sua cultura."),
    ("nl", "Vandaag regent het en we blijven thuis om een boek over de geschiedenis van thee te lezen."),
    ("ru", "Сегодня идёт дождь, и мы остаёмся дома читать книгу об истории чая."),
    ("ar", "اليوم تمطر ونبقى في المنزل لنقرأ كتابا عن تاريخ الشاي."),
    ("vi", "Hôm nay trời mưa và chúng tôi ở nhà đọc một cuốn sách về lịch sử của trà."),
    ("", "12345 67890 !!! 😀"),
]


@pytest.mark.parametrize(("language", "text"), PLANTED)
def test_language(language, text):
    if language not in ("zh", "en", "ja", "ko", ""):
        pytest.importorskip("py3langid")
    assert identify_language(text) == language


def test_own_dialogues_are_in_their_language():
    from data_utils.sources import builtin as sources
    from data_utils.sources.builtin import dialogue_text

    pytest.importorskip("py3langid")
    rows = [row for row in sources.read_own() if len(dialogue_text(row["messages"])) > 80]
    wrong = [row for row in rows if identify_language(dialogue_text(row["messages"])) != row["language"]]
    print(f"language: {len(wrong)} wrong of {len(rows)} dialogues")
    assert len(wrong) < 0.01 * len(rows)


def test_a_page_in_three_languages_is_in_that_of_most_of_it():
    pytest.importorskip("py3langid")
    zh, en, de = (next(text for language, text in PLANTED if language == name) for name in ("zh", "en", "de"))
    assert identify_language(f"{zh * 20}\n{en}\n{de}") == "zh"
    assert identify_language(f"{de}\n{en * 12}\n{zh}") == "en"


def test_count_scripts_counts_letters_only():
    assert count_scripts("茶 tea かな 한 чай 1,。 é 😀") == {"han": 1, "kana": 2, "hangul": 1, "latin": 4, "other": 3}
