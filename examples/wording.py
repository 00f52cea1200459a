"""What the examples tell their users, in English and Chinese, and which of the two a user reads."""

import os

# What goes wrong; first the server's codes.
ERRORS = {
    "invalid_api_key": ("the API key is missing or wrong; set CHAT_API_KEY", "API 密钥缺失或错误，请设置 CHAT_API_KEY"),
    "context_length_exceeded": ("this is longer than the model's window; shorten it", "内容超出了模型的窗口，请缩短"),
    "request_too_large": ("this is larger than what the server takes", "内容超过了服务器的上限，请缩短"),
    "rate_limit_exceeded": ("the server is busy; try again in a moment", "服务器正忙，请稍后再试"),
    "empty_message": ("this has no words that can be read", "这条消息里没有可读的文字"),
    "refused": ("the server refused this: {}", "服务器拒绝了这个请求：{}"),
    "server": (
        "{}: no answer; is `python chat.py --serve` running?",
        "{}：没有响应；`python chat.py --serve` 在运行吗？",
    ),
    "file": (
        "{}: no such file, no UTF-8 text, or no line '## Question' in it",
        "{}：没有这个文件，或者它不是 UTF-8 文本，或者里面没有“## 问题”这样的行",
    ),
    "port": ("--port {} can't be used; choose another", "--port {} 无法使用，请换一个端口"),
}


def say(error: str, in_chinese: bool, detail: object = "") -> str:
    """Return the line that tells the user of an error."""
    return ERRORS[error][in_chinese].format(detail)


def is_chinese(text: str) -> bool:
    """Tell whether a text has Chinese characters.

    >>> is_chinese("ok 好"), is_chinese("ok")
    (True, False)
    """
    return any("\u4e00" <= char <= "\u9fff" for char in text)


def is_chinese_locale() -> bool:
    """Tell whether the environment's language is Chinese: what is known of a user who has said nothing yet."""
    names = (os.environ.get(name) for name in ("LC_ALL", "LC_MESSAGES", "LANG"))
    return next((name for name in names if name), "").lower().startswith("zh")
