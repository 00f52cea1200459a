"""Masks private data in both languages: mail addresses, phone, identity and card numbers, network addresses, keys.

What can be checked is checked (dates, check digits, ranges), so that other numbers stay, and so does any of fewer than
seven digits: 1.2.3.4 is a version as often as an address. Names and street addresses are not found: that needs a model.
Each pattern takes time in proportion to the text, whatever that is: what repeats is bounded or possessive.
"""

import ipaddress
import re

from stdnum import iban, luhn
from stdnum.cn import ric
from stdnum.exceptions import ValidationError

EMAIL = re.compile(
    r"(?<![\w.+-])[\w.+-]{1,64}(?:@|＠| ?\[at\] ?| ?\(at\) ?)(?:[a-z0-9](?:[a-z0-9-]{0,62})\.)+[a-z]{2,24}"
    r"(?![\w-])",
    re.IGNORECASE | re.ASCII,
)
# Apart, since each is found by its bracket.
AT_SIGNS = (re.compile(r"\(at\)", re.IGNORECASE), re.compile(r"\[at\]", re.IGNORECASE))
PUBLIC_MAIL = re.compile(
    r"@(?:[\w-]+\.)*example\.(?:com|org|net)$|^git@|\.(?:png|jpg|gif|svg|webp|js|css)$", re.IGNORECASE
)
# Numbers, with what may stand between their digits; none inside of a longer number or word.
CHINESE_ID = re.compile(r"(?<![0-9A-Za-z])[1-9]\d{5}(?:18|19|20)\d{2}[01]\d[0-3]\d{4}[\dXx](?![0-9A-Za-z])", re.ASCII)
OLD_CHINESE_ID = re.compile(r"(?<=身份证)\D{0,8}\d{15}(?!\d)", re.ASCII)
SSN = re.compile(r"(?<![\d-])(?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])", re.ASCII)
CARD = re.compile(r"(?<![\w.])(?<!\d[- ])[2-6]\d(?:[ -]?\d){11,17}(?![ -]?\d|\w)", re.ASCII)
CARD_GROUPS = re.compile(r"\d{4}([ -])\d{4}\1\d{4}\1\d{4}(?:\1\d{1,3})?|\d{4}([ -])\d{6}\2\d{4,5}", re.ASCII)
MOBILE = re.compile(
    r"(?<![0-9A-Za-z.])(?:(?:\+|00)?86[- ]?)?1(?:3\d|4[5-9]|5[0-35-9]|6[2567]|7[0-8]|8\d|9\d)"
    r"(?:\d{8}|[- ]\d{4}[- ]\d{4})(?![0-9A-Za-z]|[.]\d)",
    re.ASCII,
)
LANDLINE = re.compile(
    r"(?<![\d-])(?:\(0\d{2,3}\)\s?|（0\d{2,3}）|0\d{2,3}[- ])[2-9]\d{6,7}(?![\d])(?:-\d{1,4})?", re.ASCII
)
INTERNATIONAL = re.compile(r"(?<![\w+])\+[1-9]\d{0,2}(?:[ .-]?\(?\d{1,5}+\)?){2,5}(?!\d)", re.ASCII)
AMERICAN = re.compile(
    r"(?<![\w.-])(?:1[-. ])?(?:\([2-9]\d{2}\) ?|[2-9]\d{2}[-.])[2-9]\d{2}[-. ]\d{4}(?![\w-])", re.ASCII
)
NAMED_PHONE = re.compile(
    r"(?:\b(?:tel|phone|mobile|cell|fax|call|whatsapp)|电话|電話|手机|手機|致电|传真|热线)"
    r"(?:\s?(?:number|no\.?|号码?|me at|us at|at))?"
    r"[\s:：.是为]{0,3}(?P<value>\+?[(（]?\d[\d ().（）-]{5,17}\d)(?!\d)",
    re.IGNORECASE | re.ASCII,
)
NAMED_ACCOUNT = re.compile(
    r"(?:QQ|微信|薇信|weixin|wechat)(?:\s?(?:群|号|号码|id))?\s?[:：是]\s?(?P<value>[A-Za-z0-9][\w-]{4,19})(?![\w@])",
    re.IGNORECASE | re.ASCII,
)
IPV4 = re.compile(r"(?<![\w.-])(?<![vV]ersion )\d{1,3}(?:\.\d{1,3}){3}(?![\w-]|\.\d)", re.ASCII)
IPV6 = re.compile(
    r"(?<![\w:.])(?:[0-9a-f]{1,4}:|::)(?:[0-9a-f]{0,4}:){1,6}[0-9a-f]{1,4}(?![\w:]|\.\d)", re.IGNORECASE | re.ASCII
)
IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?(?!\w)", re.ASCII)
BREAK = r"(?:[\s\"'>]|\\[nr])*+"  # between the lines of a key, which stand in code or a quotation too
KEY = re.compile(
    r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----"
    # Its headers and lines of material, as far as they go; possessive, so that a long text costs one pass.
    rf"(?:{BREAK}(?:Proc-Type|DEK-Info):[^\n\\]*+)*(?:{BREAK}[A-Za-z0-9+/=]{{20,}}+)*"
    rf"(?:{BREAK}[A-Za-z0-9+/=]{{0,24}}+{BREAK}-----END (?:[A-Z]+ )*PRIVATE KEY-----)?"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bLTAI[0-9A-Za-z]{12,24}\b|\bAKID[0-9A-Za-z]{32}\b|\bAIza[\w-]{35}"
    r"|\bgh[pousr]_\w{36,}|\bgithub_pat_\w{50,}|\bglpat-[\w-]{20,}|\bhf_[A-Za-z0-9]{30,}|\bnpm_[A-Za-z0-9]{36}|\bpypi-\w{50,}"
    r"|\bxox[abprs]-[\w-]{10,}|\bsk-(?:[a-z]+-)?[\w-]{20,}|\b[rs]k_live_\w{20,}|\bSG\.[\w-]{20,}\.[\w-]{20,}"
    r"|\beyJ[\w-]{10,2000}+\.eyJ[\w-]{10,}+\.[\w-]{10,}",
    re.ASCII,
)
SECRET = re.compile(
    r"(?:api[_-]?key|secret(?:[_-]?(?:access)?[_-]?key)?|access[_-]?token|auth[_-]?token|passw(?:or)?d|pwd|密码|密钥|口令)"
    r"[\"']?\s{0,2}[:=：]\s{0,2}[\"']?(?P<value>[A-Za-z0-9+/=_!@#$%^&*.-]{8,})",
    re.IGNORECASE | re.ASCII,
)
# Looked for first, since SECRET and NAMED_ACCOUNT are slow: what both end with, and words that they begin with.
NAMED_VALUE = re.compile(r"[:=：是]\s{0,2}[\"']?[A-Za-z0-9+/=_!@#$%^&*.-]{5}", re.ASCII)
VALUE_NAMES = ("api", "secret", "token", "passw", "pwd", "密码", "密钥", "口令")
VALUE_NAMES += ("qq", "微信", "薇信", "weixin", "wechat")
# Each KEY but a private one begins with one of these; those that few texts could hold are looked for in those alone.
KEY_SIGNS = ("AKI", "ASIA", "LTAI", "AIza", "glpat-", "pypi-", "xox", "sk-", "SG.", "eyJ")
KEY_SIGNS_WITH_LINE = ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "hf_", "npm_", "k_live_")
COLONS = re.compile(r":[0-9a-fA-F]{0,4}:")
NUMBER = re.compile(r"\d(?:[. ()（）-]*+\d){6}", re.ASCII)  # seven digits, whatever stands between them


def mask_private(text: str) -> str:
    """Return text in which private data stands as [EMAIL], [PHONE], [ID], [CARD], [IP], [ACCOUNT] or [KEY].

    >>> mask_private("写信给 li.lei@qq.com 或打 138-1234-5678。")
    '写信给 [EMAIL] 或打 [PHONE]。'
    >>> mask_private("Build 1.2.3.4 of 2024-01-02, order 1234567890, see user@example.com")
    'Build 1.2.3.4 of 2024-01-02, order 1234567890, see user@example.com'
    """
    signs = KEY_SIGNS + KEY_SIGNS_WITH_LINE if "_" in text else KEY_SIGNS
    if "PRIVATE KEY" in text or any(map(text.__contains__, signs)):
        text = KEY.sub("[KEY]", text)
    if "@" in text or "＠" in text or any(sign.search(text) for sign in AT_SIGNS):
        text = EMAIL.sub(lambda match: match[0] if PUBLIC_MAIL.search(match[0]) else "[EMAIL]", text)
    if ":" in text and COLONS.search(text):
        text = IPV6.sub(lambda match: "[IP]" if is_public_ip(match[0]) else match[0], text)
    if names_value(text):
        text = "\n".join([mask_values(line) if names_value(line) else line for line in text.split("\n")])
    if NUMBER.search(text):
        text = "\n".join([mask_numbers(line) if NUMBER.search(line) else line for line in text.split("\n")])
    return text


def names_value(text: str) -> bool:
    """Tell quickly whether a text may name a password, key or account, with a sign after which its value stands."""
    if not NAMED_VALUE.search(text):
        return False
    lowered = text.lower()
    return any(name in lowered for name in VALUE_NAMES)


def mask_values(line: str) -> str:
    """Return a line with the values of passwords, keys and accounts masked that it names."""
    line = SECRET.sub(lambda match: replace_value(match, "[KEY]") if is_secret(match["value"]) else match[0], line)
    return NAMED_ACCOUNT.sub(lambda match: replace_value(match, "[ACCOUNT]"), line)


def mask_numbers(line: str) -> str:
    """Return a line with its private numbers masked; the stricter patterns come first."""
    line = CHINESE_ID.sub(lambda match: "[ID]" if is_chinese_id(match[0]) else match[0], line)
    line = OLD_CHINESE_ID.sub(lambda match: match[0][:-15] + "[ID]", line)
    line = SSN.sub("[ID]", line)
    line = IBAN.sub(lambda match: "[CARD]" if iban.is_valid(match[0]) else match[0], line)
    line = CARD.sub(lambda match: "[CARD]" if is_card(match[0]) else match[0], line)
    line = IPV4.sub(lambda match: "[IP]" if is_public_ip(match[0]) else match[0], line)
    line = NAMED_PHONE.sub(lambda match: replace_value(match, "[PHONE]"), line)
    for pattern in (MOBILE, LANDLINE, AMERICAN):
        line = pattern.sub("[PHONE]", line)
    return INTERNATIONAL.sub(lambda m: "[PHONE]" if 8 <= sum(map(str.isdigit, m[0])) <= 15 else m[0], line)


def replace_value(match: re.Match, mask: str) -> str:
    """Return a match with its group `value` masked."""
    start, end = match.start("value") - match.start(), match.end("value") - match.start()
    return match[0][:start] + mask + match[0][end:]


def is_chinese_id(number: str) -> bool:
    """Check the date and the last digit of a Chinese identity number (GB 11643, ISO 7064 MOD 11-2).

    >>> is_chinese_id("11010519491231002X"), is_chinese_id("110105194912310021")
    (True, False)
    """
    try:
        ric.get_birth_date(number)
    except ValidationError:
        return False
    return ric.calc_check_digit(number) == number[17].upper()


def is_card(number: str) -> bool:
    """Check the length, the issuer and the last digit (Luhn) of a payment card.

    >>> is_card("4111 1111 1111 1111"), is_card("4111 1111 1111 1112")
    (True, False)
    """
    digits = re.sub(r"\D", "", number)
    if digits != number and not CARD_GROUPS.fullmatch(number):
        return False
    if not re.match(r"4|5[1-5]|2[2-7]|3[47]|3[068]|35|6011|62|64|65", digits) or len(set(digits)) < 2:
        return False
    return 13 <= len(digits) <= 19 and luhn.is_valid(digits)


def is_public_ip(address: str) -> bool:
    """Tell whether a network address may be somebody's: neither of a private network nor of documentation.

    >>> is_public_ip("114.247.50.2"), is_public_ip("192.168.0.1"), is_public_ip("1.2.3.4"), is_public_ip("300.1.1.1")
    (True, False, False, False)
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    # Of one digit each it is rather a version or the number of a section.
    if parsed.version == 6 and len(address) < 10:  # rather a port after "::1"
        return False
    return parsed.is_global and not re.fullmatch(r"(?:\d\.){3}\d{1,2}", address)


def is_secret(value: str) -> bool:
    """Tell whether a value is a key or password, and no word or placeholder: it mixes letters with digits.

    >>> is_secret("hunter2hunter2"), is_secret("your_password_here"), is_secret("os.environ")
    (True, False, False)
    """
    return bool(re.search(r"\d", value) and re.search(r"[A-Za-z]", value)) and len(set(value)) >= 6
