"""Tells whether a reply stays on the topic of its question, by the words that people answer like questions with."""

import json
import math
import re
from collections import Counter, defaultdict
from functools import cache

from data_utils.caching import cache_folder, cache_key
from data_utils.sources import builtin
from files import write_whole

NEAREST = 8  # questions that are like the one asked
LEAST = 0.1  # share of the reply's weight in words of the topic


def list_units(text: str) -> list[str]:
    """Return what a text is compared by: English words without their endings, Chinese characters and pairs of them.

    >>> list_units("My dogs are sleeping. 小狗")
    ['my', 'dog', 'are', 'sleep', '小', '狗', '小狗']
    """
    units = []
    for run in re.findall(r"[\u3400-\u9fff]+|[a-z']+|\d+", text.lower()):
        if run[0] >= "\u3400":
            units += [*run, *(run[i : i + 2] for i in range(len(run) - 1))]
        else:
            units.append(re.sub(r"(?<=\w{3})(ing|ed|es|s|'s)$", "", run))
    return units


class TopicIndex:
    """Questions and replies of dialogues, by the units in them."""

    def __init__(self, exchanges: list[tuple[list[str], list[str]]]) -> None:
        """`exchanges`: the units of each question and of its reply."""
        self._exchanges = exchanges
        counts = Counter(unit for question, reply in exchanges for unit in {*question, *reply})
        self._rarity = {unit: math.log((1 + len(exchanges)) / (1 + count)) for unit, count in counts.items()}
        self._unseen = math.log(1 + len(exchanges))
        self._with_unit: dict[str, list[int]] = defaultdict(list)
        for number, (question, _) in enumerate(exchanges):
            for unit in set(question):
                self._with_unit[unit].append(number)
        self._norms = [self._norm(question) for question, _ in exchanges]

    def weigh(self, units: set[str]) -> float:
        """Return the summed weight of units: a rare one tells more of a topic than a common one."""
        return sum(self._rarity.get(unit, self._unseen) for unit in units)

    def _norm(self, units: list[str]) -> float:
        return math.sqrt(sum(self._rarity.get(unit, self._unseen) ** 2 for unit in set(units))) or 1.0

    def find_topic(self, question: str) -> set[str]:
        """Return the units of a question, of the NEAREST questions like it and of their replies."""
        units = list_units(question)
        likeness: Counter[int] = Counter()
        for unit in set(units):
            for number in self._with_unit.get(unit, ()):
                likeness[number] += self._rarity[unit] ** 2 / self._norms[number]
        topic = set(units)
        for number, _ in likeness.most_common(NEAREST):
            topic.update(*self._exchanges[number])
        return topic

    def overlap(self, question: str, reply: str) -> float:
        """Return the share of a reply, by weight, that is in units of the question's topic."""
        units = set(list_units(reply))
        return self.weigh(units & self.find_topic(question)) / (self.weigh(units) or 1.0)


@cache
def load_index() -> TopicIndex:
    """Return the index of the built-in dialogues, which is made once."""
    names = ("own", "chatterbot", "hsk")
    path = cache_folder() / f"topics-{cache_key(*map(builtin.source_version, names), list_units.__code__.co_code)}.json"
    if not path.exists():
        exchanges = []
        for row in (row for name in names for row in builtin.DIALOGUE_SOURCES[name]()):
            said = [list_units(message["content"]) for message in row["messages"] if message["role"] != "system"]
            exchanges += zip(said[::2], said[1::2], strict=False)
        write_whole(path, json.dumps(exchanges, ensure_ascii=False))
    return TopicIndex(json.loads(path.read_text(encoding="utf-8")))


def is_on_topic(question: str, reply: str) -> bool:
    """Tell whether a reply has enough of its question's topic in it."""
    return load_index().overlap(question, reply) >= LEAST
