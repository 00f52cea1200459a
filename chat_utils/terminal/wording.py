"""What the chat itself says, in English and Chinese: at first by the locale, then by what the user types."""

import os
import re

LANGUAGES = ("en", "zh")
HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")
LATIN_WORD = re.compile(r"[A-Za-z]+")

MESSAGES = {
    "welcome": (
        "{model}. Type a message, /help for commands, Ctrl-D to leave.",
        "{model}。输入消息开始聊天，/help 查看命令，Ctrl-D 退出。",
    ),
    "keys": (
        "Enter sends, Alt-Enter begins a new line, arrow keys bring back what you typed.\n"
        "Ctrl-C ends the answer, Ctrl-D leaves.\n"
        "To send a message that begins with /, put a space before it.",
        "Enter 发送，Alt-Enter 换行，方向键找回输入过的内容。\n"
        "Ctrl-C 中断回答，Ctrl-D 退出。\n"
        "要发送以 / 开头的消息，请在前面加一个空格。",
    ),
    "leave": ("Ctrl-D or /quit leaves", "按 Ctrl-D 或输入 /quit 退出"),
    "stopped": ("stopped", "已中断"),
    "loop": ("ended: it repeated itself", "已结束：内容开始重复"),
    "length": ("cut off after {tokens} tokens", "已达到 {tokens} 个词元的上限，回答被截断"),
    "window": (
        "the window is full: the oldest turns are no longer seen by the model",
        "上下文已满：模型看不到最早的几轮对话了",
    ),
    "stats": (
        "first token after {first} ms, {speed} tokens a second, {reply} tokens, "
        "{cached} of {prompt} prompt tokens from the cache",
        "首个词元 {first} 毫秒，每秒 {speed} 个词元，共 {reply} 个；提示 {prompt} 个词元中有 {cached} 个来自缓存",
    ),
    "no_stats": ("no reply yet", "还没有回答"),
    "unknown": ("no command /{name}; /help lists them", "没有命令 /{name}；/help 列出全部命令"),
    "near": ("no command /{name}; did you mean /{near}?", "没有命令 /{name}；是不是 /{near}？"),
    "forgotten": ("forgotten", "已清空对话"),
    "system_set": ("system prompt set", "已设置系统提示"),
    "system_none": ("no system prompt", "没有系统提示"),
    "nothing": ("nothing to /{name} yet", "还没有可以 /{name} 的消息"),
    "edit": ("change your last message and press Enter; Ctrl-C leaves it", "修改上一条消息后按 Enter；Ctrl-C 放弃修改"),
    "unchanged": ("left as it was", "未修改"),
    "needs_file": ("/{name} needs a file name", "/{name} 需要文件名"),
    "saved": ("saved to {path}", "已保存到 {path}"),
    "saved_other": ("there is another {wanted}: saved to {path}", "已有另一个 {wanted}：保存到 {path}"),
    "cannot_save": ("{path}: cannot save: {reason}", "{path}：无法保存：{reason}"),
    "cannot_load": ("{path}: cannot load: {reason}", "{path}：无法读取：{reason}"),
    "loaded": ("{count} messages loaded", "已读取 {count} 条消息"),
    "unanswered": ("the last message has no answer yet: /retry", "最后一条消息还没有回答：/retry"),
    "model": ("{name}; /model FOLDER loads another", "{name}；/model 文件夹 可换一个模型"),
    "model_loaded": ("now talking to {name}; the conversation goes on", "现在由 {name} 回答；对话继续"),
    "refused": ("{reason}", "无法回答：{reason}"),
    "failed": ("the reply failed: {reason}", "回答失败：{reason}"),
    "pasted": ("pasted text {number}: {count} characters", "粘贴的文字 {number}：{count} 个字符"),
}


def say(key: str, language: str, **values: object) -> str:
    """Return a message in a language.

    >>> say("saved", "zh", path="a.json")
    '已保存到 a.json'
    """
    return MESSAGES[key][LANGUAGES.index(language)].format(**values)


def locale_language() -> str:
    """Return "zh" where the environment's locale is Chinese, else "en"."""
    names = (os.environ.get(name) for name in ("LC_ALL", "LC_MESSAGES", "LANG"))
    return "zh" if next((name for name in names if name), "").lower().startswith("zh") else "en"


def typed_language(text: str, language: str) -> str:
    """Return the language that a message is typed in; `language` where it has no words.

    >>> [typed_language(text, "en") for text in ("你好，GPT", "What does 你好 mean?", "12 + 3")]
    ['zh', 'en', 'en']
    """
    text = text[:10_000]
    han, words = len(HAN.findall(text)), len(LATIN_WORD.findall(text))
    if not han and not words:
        return language
    return "zh" if han >= words else "en"
