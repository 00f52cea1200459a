"""A partner to practise English or Chinese with, in the terminal. 英汉练习伙伴。

python chat.py --serve &
python examples/practice_partner.py --learn en      # 母语中文，练英语
python examples/practice_partner.py --learn zh      # you speak English and learn Chinese

It opens a topic in the language that you learn and chats on. A line in your own gets a reminder in place
of an answer. /hint translates its opening, /topic takes another, /quit leaves.
"""

import re
import sys

from client import NoReply, parse_options, run_example, stream_reply
from wording import is_chinese

TOPICS = [
    ("What did you eat for breakfast today?", "你今天早饭吃了什么？"),
    ("What do you like to do at the weekend?", "周末你喜欢做什么？"),
    ("How is the weather where you are?", "你那里天气怎么样？"),
    ("Do you have a pet, or would you like one?", "你养宠物吗？想养吗？"),
    ("Which film did you see last?", "你最近看了哪部电影？"),
    ("What is your favourite season?", "你最喜欢哪个季节？"),
]
SYSTEM = {
    "en": "You are a friendly partner. Answer in simple English.",
    "zh": "你是友好的练习伙伴，请用简单的中文回答。",
}
# What is said to the learner stands in the learner's own language.
REMINDER = {"en": "试着用英语说吧！（/hint 看翻译）", "zh": "Try it in Chinese! (/hint translates)"}
WELCOME = {
    "en": "用英语聊天吧。/hint 翻译问题，/topic 换话题，/quit 离开。",
    "zh": "Let's talk in Chinese. /hint translates the question, /topic takes another, /quit leaves.",
}
ENGLISH = re.compile("[A-Za-z][a-z]{2}")  # a word; OK, KTV, 7:30 and 👍 stand in Chinese too
MEMORY_MESSAGES = 12


class Partner:
    """One practice conversation."""

    def __init__(self, url: str, learn: str) -> None:
        self.url, self.learn, self.topic = url, learn, -1
        self.messages: list[dict] = []

    def open_topic(self) -> str:
        """Begin the next topic and return its question."""
        self.topic = (self.topic + 1) % len(TOPICS)
        self.messages = []
        return TOPICS[self.topic][self.learn == "zh"]

    def hint(self) -> str:
        """Return the topic's question in the learner's own language."""
        return TOPICS[self.topic][self.learn != "zh"]

    def answer(self, text: str):
        """Yield the pieces of the reply to what the learner says."""
        if is_chinese(text) if self.learn == "en" else ENGLISH.search(text) and not is_chinese(text):
            yield REMINDER[self.learn]
            return
        messages = [*self.messages[-MEMORY_MESSAGES:], {"role": "user", "content": text}]
        system = {"role": "system", "content": SYSTEM[self.learn]}
        pieces = []
        for piece in stream_reply(self.url, [system, *messages], self.learn == "en", max_tokens=60):
            pieces.append(piece)
            yield piece
        # What was refused is not remembered.
        self.messages = [*messages, {"role": "assistant", "content": "".join(pieces).strip()}]


def practise(partner: Partner) -> None:
    """Read lines until /quit or the end of input."""
    print(WELCOME[partner.learn], partner.open_topic(), sep="\n", flush=True)
    for line in sys.stdin:
        text = line.strip()
        if text == "/quit":
            return
        if text == "/hint":
            print(partner.hint(), flush=True)
        elif text == "/topic":
            print(partner.open_topic(), flush=True)
        elif text:
            try:
                for piece in partner.answer(text):
                    print(piece, end="", flush=True)
            except NoReply as error:
                print(f"[{error}]", end="")
            print(flush=True)


def main() -> None:
    """Practise the language that is asked for."""
    learn = {"choices": ["en", "zh"], "default": "en", "help": "the language to practise (%(default)s)"}
    practise(Partner(**vars(parse_options(__doc__, ("--learn", learn)))))


if __name__ == "__main__":
    run_example(main)
