"""Words the chat's own messages in English and Chinese: at first by the locale, then by what the user types."""

import errno
import os
import re
from json import JSONDecodeError

from errors import first_line

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
    "system_set": ("system prompt set", "已设置系统提示词"),
    "system_none": ("no system prompt", "没有系统提示词"),
    "nothing": ("nothing to /{name} yet", "还没有可以 /{name} 的消息"),
    "rated": ("noted; /save keeps it for tune_preferences.py", "已记下；/save 保存后可供 tune_preferences.py 使用"),
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
    "no_system": ("{reason}", "无法设置系统提示词：{reason}"),
    "no_model": ("{reason}", "无法换模型：{reason}"),
    "failed": ("the reply failed: {reason}", "回答失败：{reason}"),
    "pasted": ("pasted text {number}: {count} characters", "粘贴的文字 {number}：{count} 个字符"),
}

# What the chat's own code says in English about what it refuses, and how it reads in Chinese.
REASONS = {
    r"the message is longer .+ window of (\d+) tokens allows; .+": r"消息超出了模型 \1 个词元的窗口，请缩短",
    r"the message is longer .+ window of (\d+) .+ leaves it (\d+); .+": (
        r"消息太长：模型 \1 个词元的窗口只给它留下 \2 个，请缩短"
    ),
    r"the system prompt is longer .+ window of (\d+) tokens allows; .+": (
        r"系统提示词超出了模型 \1 个词元的窗口，请缩短"
    ),
    r"the system prompt is longer .+ window of (\d+) .+ leaves it (\d+); .+": (
        r"系统提示词太长：模型 \1 个词元的窗口只给它留下 \2 个，请缩短"
    ),
    r"the message has no words that can be read": "消息里没有可读的文字",
    r"the dialogue has no message of the user's": "对话里没有用户的消息",
    r"the chat template refuses this dialogue: (.+)": r"对话模板不接受这段对话：\1",
    r"the chat template leaves out a message": "对话模板漏掉了一条消息",
    r"no such file": "没有这个文件",
    r"(\{.+\}) is expected": r"内容应为 \1",
    r"each message must be an object with 'role' and 'content'": "每条消息都应是含 'role' 和 'content' 的对象",
    r"the dialogue has no messages": "对话里没有消息",
    r"role (.+) is not user, assistant or system; rename it": r"角色 \1 不是 user、assistant 或 system，请改名",
    r"message (\d+) \((\w+)\) has no text in 'content'": r"第 \1 条消息（\2）的 'content' 不是文字",
    r"message (\d+) \((\w+)\) is empty": r"第 \1 条消息（\2）是空的",
    r"wrong order of roles: (\w+) expected, (\w+) found; .+": r"角色顺序不对：应为 \1，却是 \2；必须交替",
    r"the last message must be the assistant's, since that is what is learned": "最后一条消息必须是 assistant 的",
    r"(.+): is a file, not a checkpoint folder; .+": r"\1：是文件，不是检查点文件夹",
    r"(.+): no such checkpoint; .+": r"\1：没有这个检查点；请先用 train.py 和 finetune_dialogue.py 训练",
    r"(.+): holds no model yet \((.+) is missing\); .+": r"\1：里面还没有模型（缺少 \2）；训练完成了吗？",
    r"(.+): its tokenizer has more tokens than its model; .+": r"\1：分词器的词元比模型多，两者不配套",
    r"(.+): cannot be loaded: (.+)": r"\1：无法读取：“\2”",
    r"a file's name has no null character": "文件名里不能有空字符",
    r"(.+) is a folder": r"\1 是文件夹",
}
# The same of errors that libraries and the system raise, by their type or their number.
TYPES: dict[type, str] = {UnicodeDecodeError: "不是 UTF-8 文本", RecursionError: "嵌套太深", MemoryError: "内存不足"}
NUMBERS = {
    errno.ENOENT: "没有这个文件或文件夹",
    errno.EACCES: "没有权限",
    errno.EPERM: "不允许这样做",
    errno.EISDIR: "这是文件夹",
    errno.ENOTDIR: "路径中有一段不是文件夹",
    errno.ENAMETOOLONG: "名字太长",
    errno.ENOSPC: "磁盘空间不足",
    errno.EROFS: "磁盘只读",
    errno.EDQUOT: "磁盘配额已满",
    errno.EIO: "磁盘读写出错",
}


def translate_cause(error: BaseException | None) -> str | None:
    """Return in Chinese what a library or the system raised; None where it is none of those known."""
    if isinstance(error, JSONDecodeError):
        return f"不是有效的 JSON：第 {error.lineno} 行第 {error.colno} 列"
    if isinstance(error, OSError):
        return NUMBERS.get(error.errno or 0)
    return TYPES.get(type(error))


def put_reason(error: Exception, language: str) -> str:
    """Return in one line why something failed, in a language; a library's own words stay, in quotation marks.

    >>> put_reason(ValueError("no such file"), "zh"), put_reason(ValueError("bad magic"), "zh")
    ('没有这个文件', '程序出错：“bad magic”')
    """
    reason = getattr(error, "strerror", None) or first_line(error)
    if language == "en":
        return reason
    found = ((re.fullmatch(pattern, reason), words) for pattern, words in REASONS.items())
    known = next((match.expand(words) for match, words in found if match), None)
    return known or translate_cause(error) or translate_cause(error.__cause__) or f"程序出错：“{reason}”"


def say(key: str, language: str, **values: object) -> str:
    """Return a message in a language.

    >>> say("saved", "zh", path="a.json")
    '已保存到 a.json'
    """
    reason = values.get("reason")
    if isinstance(reason, Exception):
        values["reason"] = put_reason(reason, language)
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
