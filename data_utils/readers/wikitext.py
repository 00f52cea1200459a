"""Extracts what an article says from wiki markup: no templates, tables, references, files and categories.

One pass over brackets each takes out what nests: templates, tables, language variants. Everything takes time in
proportion to the markup, whatever that is: anybody may edit a wiki. (mwparserfromhell reads 1 MB/s, and takes 20
seconds for 10 kB of tags that are left open.)
"""

import html
import re
from collections.abc import Callable
from functools import cache

PREFIXES = "file image media category 文件 檔案 档案 图像 圖像 媒体 媒體 分类 分類 datei kategorie fichier catégorie"
FILE_PREFIXES = frozenset(PREFIXES.split())
# Templates that stand for text: which argument it is, counted from 1; -1 is the last.
TEXT_TEMPLATES = {"lang": -1, "nowrap": 1, "nobr": 1, "transl": -1, "linktext": -1, "abbr": 1, "small": 1, "big": 1}
TEXT_TEMPLATES |= {"tsl": -1, "link-en": 1, "le": 1, "internal link helper/en": 1, "zh": 1, "ruby": 1, "ruby-zh-p": 1}
MEASURES = ("convert", "cvt")
ENDS = (
    "references|notes|footnotes|see also|external links|further reading|bibliography|sources|citations|gallery|"
    "参考文献|參考文獻|参考资料|參考資料|注释|註釋|注解|參見|参见|外部链接|外部連結|延伸阅读|延伸閱讀|相关条目|"
    "相關條目|脚注|腳註|来源|來源"
)
END_SECTIONS = frozenset(ENDS.split("|"))
COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
PROTECTED = re.compile(r"<(nowiki|pre|code|source|syntaxhighlight|math|chem)\b([^<>]*+)>", re.IGNORECASE)
LEFT_OUT = re.compile(
    r"<(ref|gallery|timeline|imagemap|references|score|graph|mapframe|maplink|templatestyles|style|hiero)\b([^<>]*+)>",
    re.IGNORECASE,
)
MAX_DEPTH = 40  # of templates and tables in one another; MediaWiki expands 100 at most
MAX_VARIANT_DEPTH = 10  # as MediaWiki's
BRACKETS = re.compile(r"(\{\{|\}\}|^[ :*]*+\{\||^[^\S\n]*+\|\}(?!\}))", re.MULTILINE)
VARIANT_BRACKETS = re.compile(r"(-\{|\}-\{?)")
VARIANT_CODE = re.compile(r"\s*(zh(?:-[a-z]+)?)\s*:(.*)", re.DOTALL | re.IGNORECASE)
FALLBACKS = {
    "zh-hans": ("zh-hans", "zh-cn", "zh-sg", "zh-my", "zh", "zh-hant", "zh-tw", "zh-hk", "zh-mo"),
    "zh-hant": ("zh-hant", "zh-tw", "zh-hk", "zh-mo", "zh", "zh-hans", "zh-cn", "zh-sg"),
    "zh-tw": ("zh-tw", "zh-hant", "zh-hk", "zh-mo", "zh", "zh-hans", "zh-cn"),
}
ARGUMENT = re.compile(r"(?:\A|\|)((?:\[\[[^\[\]]*+\]\]|[^|])*+)")  # of a template; a "|" in a link ends none
LINK = re.compile(r"\[\[([^\[\]]++)\]\]")
ADDRESS = re.compile(r"\[(?:(?:https?|ftp):)?//[^\s\[\]]++(?: ++([^\[\]]*+))?+\]")
MAX_LINK_DEPTH = 3  # of links in one another
TAG = re.compile(
    r"</?(abbr|b|bdi|bdo|big|blockquote|br|caption|center|cite|code|dd|del|dfn|div|dl|dt|em|font|gallery|h[1-6]|hr|i"
    r"|includeonly|ins|kbd|li|mark|noinclude|nowiki|ol|onlyinclude|p|poem|pre|q|rb|ref|rp|rt|ruby|s|samp|section|small"
    r"|span|strike|strong|sub|sup|table|tbody|td|th|time|tr|tt|u|ul|var)\b[^<>]*+>",
    re.IGNORECASE,
)
LANGUAGE_LINK = re.compile(r"[a-z]{2,3}(?:-[a-z-]+)?:")
LIST_MARK = re.compile(r"^[*#:;]+\s*")
LONG_NUMBER = re.compile(r"&#(?:\d{9,}+|[xX][0-9a-fA-F]{9,}+);?")
SWITCH = re.compile(r"__[A-Z]{3,}__|__[一-鿿]{2,}__")
EMPTY_BRACKETS = re.compile(
    r"[;,、，；]\s*+(?=[)）])|(?<=[(（])\s*+[;,、，；]|[ \u00a0]?(?:\([\s,;:、，；]*+\)|（[\s,;:、，；]*+）)"
)


def extract_article(markup: str, variant: str = "zh-hans", prefixes: frozenset = FILE_PREFIXES) -> str:
    """Return the text of an article's markup; section titles stand on lines of their own.

    >>> extract_article("{{Info|a={{b}}}}'''Tea''' is a [[drink|hot drink]].<ref>X</ref>\\n== See also ==\\n* [[Cup]]")
    'Tea is a hot drink.'
    >>> extract_article("这是-{zh-hans:计算机;zh-hant:電腦}-（{{lang-en|computer}}）。")
    '这是计算机（computer）。'
    """
    text = COMMENT.sub("", markup)
    text = replace_elements(text, PROTECTED, protect)
    text = replace_elements(text, LEFT_OUT, lambda tag, content: "")
    if "-{" in text:
        text = resolve_variants(text, variant)
    text = expand_brackets(text)
    if "[[" in text:
        text = file_link(prefixes).sub("", text)
    sections: list[tuple[str, list[str]]] = [("", [])]
    for line in text.split("\n"):
        if line.startswith("=") and (title := read_heading(line)):
            sections.append((extract_line(title, prefixes).strip(), []))
        else:
            sections[-1][1].append(extract_line(line, prefixes))
    parts = []
    for title, lines in sections:
        body = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
        if body and title.lower() not in END_SECTIONS:
            parts.append(f"{title}\n\n{body}" if title else body)
    return "\n\n".join(parts)


def read_heading(line: str) -> str:
    """Return what stands between the equals signs of a heading, '' where a line is none.

    >>> read_heading("== Tea =="), read_heading("=== a = b == "), read_heading("= x")
    ('Tea', '= a = b', '')
    """
    line = line.rstrip()
    before, after = len(line) - len(line.lstrip("=")), len(line) - len(line.rstrip("="))
    level = min(before, after, (len(line) - 1) // 2, 6)
    return line[level : len(line) - level].strip() if level > 0 else ""


def replace_elements(text: str, opening: re.Pattern, replace: Callable[[str, str], str]) -> str:
    """Return text with each element, from a tag that `opening` finds to the next end of that name, replaced.

    `replace` is given the name and what stands in the element. A tag without its end stays.

    >>> replace_elements("a<ref x>b<ref/>c</ref>d<ref>", LEFT_OUT, lambda name, content: f"({name}: {content})")
    'a(ref: b<ref/>c)d<ref>'
    """
    parts, place, without_end = [], 0, set()
    for match in opening.finditer(text):
        name, end = match[1].lower(), match
        if match.start() < place:
            continue
        if not match[2].endswith("/"):
            closing = re.compile(rf"</{name}\s*+>", re.IGNORECASE)
            end = None if name in without_end else closing.search(text, match.end())
        if end is None:
            without_end.add(name)  # nor has any further one
        else:
            parts += text[place : match.start()], replace(name, text[match.end() : end.start()])
            place = end.end()
    return "".join([*parts, text[place:]])


@cache
def file_link(prefixes: frozenset) -> re.Pattern:
    """Return the pattern of links to files and categories, with links in their captions."""
    names = "|".join(map(re.escape, sorted(prefixes)))
    inner = r"[^\[\]]|\[\[[^\[\]]*\]\]|\[[^\[\]]*\]"
    return re.compile(rf"\[\[ *(?:{names}) *:(?:{inner})*+\]\]", re.IGNORECASE)


def protect(tag: str, content: str) -> str:
    """Return code, formulas and quoted markup with its signs as entities, which come back at the end."""
    content = unescape(content) if tag == "math" else content
    content = re.sub(r"[\[\]{}'<>|=*#:;_-]", lambda sign: f"&#{ord(sign[0])};", content)
    return f"${content.strip()}$" if tag in ("math", "chem") else content


def unescape(text: str) -> str:
    """Return text with its entities as characters, without those of numbers too long for any character.

    >>> unescape("&eacute;&#" + "9" * 5000 + ";&#33;")
    'é!'
    """
    return html.unescape(LONG_NUMBER.sub("", text))


def resolve_variants(text: str, variant: str) -> str:
    """Return text with `-{zh-hans:...;zh-hant:...}-` replaced by what that variant reads; what is hidden goes."""

    stack: list[list[str]] = [[]]
    for token in VARIANT_BRACKETS.split(text):
        begins = token == "-{" or (token == "}-{" and len(stack) == 1)  # behind the end of a template
        if begins and len(stack) <= MAX_VARIANT_DEPTH:
            stack[-1].append(token[:-2])
            stack.append([])
        elif token.startswith("}-") and len(stack) > 1:
            content = "".join(stack.pop())
            stack[-1] += choose_variant(content, variant), token[2:]
        else:
            stack[-1].append(token)
    return "-{".join(map("".join, stack))  # what is left open is text


def choose_variant(content: str, variant: str) -> str:
    """Return what a variant reads of the content of one `-{...}-`."""
    flags, rules = "", content
    if "|" in content:
        flags, _, rules = content.partition("|")
        if not re.fullmatch(r"[\sA-Z;-]*|[a-z;-]+", flags):
            flags, rules = "", content
    if set("HT") & set(flags):  # rules for the rest of the page, a title
        return ""
    choices = {}
    for part in re.split(r";(?=\s*+zh(?:-[a-z]+)?\s*+:|\s*+$)", rules):
        rule = VARIANT_CODE.fullmatch(part.rpartition("=>")[2])
        if rule:
            choices[rule[1].lower()] = rule[2].strip()
    codes = FALLBACKS.get(variant, FALLBACKS["zh-hans"])
    return next((choices[code] for code in codes if code in choices), "" if choices else rules)


def expand_brackets(text: str) -> str:
    """Return text without tables, and with templates replaced by the text they stand for, mostly none."""
    stack: list[tuple[str, list[str]]] = [("", [])]
    for token in BRACKETS.split(text):
        is_table = token.endswith("{|") and token.strip(" :*") == "{|"
        if (token == "{{" or is_table) and len(stack) <= MAX_DEPTH:
            stack.append((token[-2:], []))
        elif token == "}}" and stack[-1][0] == "{{":
            content = "".join(stack.pop()[1])
            stack[-1][1].append(expand_template(content))
        elif token.strip() == "|}" and any(kind == "{|" for kind, _ in stack):
            while stack.pop()[0] != "{|":  # a template that the table left open ends with it
                pass
        elif token != "}}":
            stack[-1][1].append(token)
    while len(stack) > 1:  # left open: it's text, as readers of the page see it; an open table has no end to trust
        kind, parts = stack.pop()
        stack[-1][1].append("".join(parts) if kind == "{{" else "")
    return "".join(stack[0][1])


def expand_template(content: str) -> str:
    """Return the text that a template stands for.

    >>> expand_template("convert|5|km"), expand_template("lang|fr|thé"), expand_template("Infobox|a=1")
    ('5 km', 'thé', '')
    """
    if "|" not in content:
        return ""
    name, *arguments = ARGUMENT.findall(content)
    name = name.strip().lower().replace("_", " ")
    values = [a.partition("=")[2] if re.match(r"\s*\d+\s*=", a) else a for a in arguments]
    values = [value.strip() for value in values if not re.match(r"\s*[a-z][\w -]*=", value, re.IGNORECASE)]
    if name in MEASURES and len(values) > 1:
        return f"{values[0]} {values[1]}"
    place = TEXT_TEMPLATES.get(name, 1 if name.startswith("lang-") else 0)
    return values[place - 1 if place > 0 else -1] if place and values else ""


def extract_line(line: str, prefixes: frozenset) -> str:
    """Return the text of one line of markup."""
    line = line.replace("'''''", "").replace("'''", "").replace("''", "")
    mark = LIST_MARK.match(line)
    if mark:
        line = line[mark.end() :]
    if "<" in line:
        line = TAG.sub(lambda match: "\n" if match[1].lower() in ("br", "hr") else "", line)
    for _ in range(MAX_LINK_DEPTH):  # from the innermost outwards
        before = line
        if "[" in line:
            line = ADDRESS.sub(r"\1", LINK.sub(lambda match: take_label(match, prefixes), line))
        if line == before:
            break
    if mark and mark[0][0] in "*#" and line.strip():
        line = f"- {line}"
    if "__" in line:
        line = SWITCH.sub("", line)
    if "&" in line:
        line = unescape(line).replace("\xa0", " ")
    return EMPTY_BRACKETS.sub("", line) if "(" in line or "（" in line else line


def take_label(match: re.Match, prefixes: frozenset) -> str:
    """Return what a reader sees of a link: nothing of one to a file, a category or another language."""
    title, _, label = match[1].partition("|")
    prefix, colon, _ = title.partition(":")
    if colon and (prefix.strip().lower() in prefixes or LANGUAGE_LINK.match(title.strip())):
        return ""
    return label if "|" in match[1] else title.removeprefix(":")
