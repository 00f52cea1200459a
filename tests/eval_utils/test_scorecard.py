"""What a reader sees: loops, greetings, a name, what was told a turn ago, the topic, and what nobody can know."""

import pytest

from eval_utils import scorecard, topic
from eval_utils.scorecard import Answer, is_loop, judge_prompts, measure_scorecard, read_questions, says_one
from eval_utils.topic import TopicIndex, list_units


@pytest.mark.parametrize(
    "text",
    [
        "very very very very very very good",
        "I like tea and cake. I like tea and rice. I like tea and milk.",
        "哈哈哈哈哈哈",
        "我喜欢你，我喜欢你，我喜欢你。",
        "Yes, YES, yes, Yes, yes, yes!",  # case and punctuation don't hide it
        "1 2 3 4 1 2 3 4 1 2 3 4",
    ],
)
def test_loops_are_found(text):
    assert is_loop(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a calm day by the sea",
        "哈哈哈",
        "I like tea and cake. I like tea and rice.",  # twice is no loop yet
        "我喜欢喝茶，你喜欢喝咖啡，他喜欢喝水。",
        "今天天气很好，我们一起去公园散步吧，然后去吃饭。",
        "the cat and the dog and the bird",
        "-------- ........ ********",
    ],
)
def test_ordinary_text_is_no_loop(text):
    assert not is_loop(text)


EXCHANGES = [
    ("I have a cat", "Cats are lovely animals. What is your cat called?"),
    ("I like soup", "Soup is warm and tasty. Which soup do you cook?"),
    ("我的小狗病了", "小狗怎么了？快带它去看医生吧。"),
    ("我饿了", "那快去吃饭吧，你想吃什么？"),
]


@pytest.fixture(autouse=True)
def small_index(monkeypatch):
    """The topics of a few dialogues, not of all built-in ones."""
    others = [(f"alpha{number}", f"beta{number}") for number in range(300)]  # beside which a word is rare
    index = TopicIndex([(list_units(question), list_units(reply)) for question, reply in [*EXCHANGES, *others]])
    monkeypatch.setattr(topic, "load_index", lambda: index)


@pytest.mark.parametrize(
    ("question", "reply", "fits"),
    [
        ("My cat is sick", "Oh no, what happened to your cat?", True),
        ("My cat is sick", "Such animals need rest.", True),  # a word of the replies to questions like it
        ("My cat is sick", "The train leaves at nine.", False),
        ("我好饿", "去吃饭吧", True),
        ("我好饿", "火车九点开。", False),
        ("我好饿", "", False),
    ],
)
def test_topic(question, reply, fits):
    assert topic.is_on_topic(question, reply) == fits


def test_what_was_learned_with_a_question_tells_nothing_of_its_topic():
    question, reply = EXCHANGES[2]
    assert not topic.is_on_topic(question, "看医生。")
    assert topic.is_on_topic(f"{question}啊", "看医生。")
    assert topic.is_on_topic(question, reply)  # which has a word of the question


class Scripted:
    """Answers by rule, and keeps what it was asked."""

    def __init__(self, rule) -> None:
        self.rule, self.asked = rule, []

    def __call__(self, asked):
        self.asked += asked
        return [Answer(*self.rule(dialogue, seed)) for dialogue, seed in asked]


def values(figures) -> dict[str, float]:
    return {figure.name: figure.value for figure in figures}


def test_a_model_that_says_all_that_is_wanted():
    questions = read_questions()
    known = {turns[2]: turns[3].split("/")[0] for turns in questions["memory"]}
    known |= {greeting: words[0] for greeting, words in questions["greetings"].items()}
    known |= dict.fromkeys(questions["name"], "I am Momo")
    known |= {text: "I don't know" for texts in questions["unknown"].values() for text in texts}
    ask = Scripted(lambda dialogue, _: (known.get(dialogue[-1]["content"], dialogue[-1]["content"]), True))
    figures = measure_scorecard(ask, "Momo")
    assert {name: value for name, value in values(figures).items() if value != 1} == {}
    assert len(ask.asked) == 3 * (40 + 2 + 2 + 20 + 20)
    assert {len(dialogue) for dialogue, _ in ask.asked} == {1, 3}


def test_a_model_that_says_none_of_it():
    figures = values(measure_scorecard(Scripted(lambda *_: ("la la la la la la la la la", False)), "Momo", limit=2))
    assert {name: value for name, value in figures.items() if value} == {"in the asker's language": 0.5}


def test_a_question_counts_by_the_share_of_its_seeds():
    ask = Scripted(lambda _, seed: ("Momo" if seed == 1 else "no", True))
    figure = next(figure for figure in measure_scorecard(ask, "Momo") if figure.name == "gives its name")
    assert figure.values == pytest.approx([1 / 3, 1 / 3])


def test_an_unknown_name_is_not_asked():
    ask = Scripted(lambda *_: ("hm", True))
    assert "gives its name" not in values(measure_scorecard(ask, None))
    assert not {dialogue[-1]["content"] for dialogue, _ in ask.asked} & set(read_questions()["name"])


def test_language_is_that_of_the_question():
    seen = [("zh", "你好吗", [Answer("很好", True)]), ("en", "how are you", [Answer("很好", True)])]
    assert values(judge_prompts(seen))["in the asker's language"] == 0.5


@pytest.mark.parametrize(
    ("words", "text", "found"),
    [
        (["hi"], "Hi there", True),
        (["hi"], "This is it", False),  # no whole word
        (["你好"], "你好呀", True),
        (["don't know"], "Sorry, I DON'T KNOW that.", True),
    ],
)
def test_words_are_found(words, text, found):
    assert bool(says_one(words)(Answer(text, True))) == found


def test_every_question_is_of_its_language():
    questions = read_questions()
    for kind in ("prompts", "unknown"):
        for language, texts in questions[kind].items():
            assert [text for text in texts if scorecard.detect_language(text) != language] == []
    for fact, answer, question, words in questions["memory"]:
        assert any(word.lower() in fact.lower() for word in words.split("/")), fact
        assert not any(word.lower() in question.lower() for word in words.split("/")), question
        assert answer
