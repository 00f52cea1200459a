"""The page in a real browser without a window: Debian's chromium and chromium-driver, steered by selenium."""

import json
import re
import shutil
import time

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
webdriver = pytest.importorskip("selenium.webdriver")
if not (shutil.which("chromium") and shutil.which("chromedriver")):
    pytest.skip("chromium and chromedriver are not installed", allow_module_level=True)

from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from chat_utils.server.openai_parameters import NUMBERS
from data_utils.dialogue.pairs import read_pairs
from data_utils.dialogue.reading import read_dialogues
from data_utils.sources.source import open_sources
from data_utils.text.cleaning import clean_text
from tests.conftest import run_server


class Page:
    """The browser, in the words of who uses it."""

    def __init__(self, driver, url: str) -> None:
        self.driver, self.url = driver, url

    def open(self) -> None:
        self.driver.get(self.url)
        self.wait(lambda: self.text("#model") not in ("", "Chat", "聊天"))

    def wait(self, condition, seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.text("body")
            time.sleep(0.03)

    def all(self, selector: str) -> list:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        return self.run("return document.querySelector(arguments[0])?.textContent ?? ''", selector)

    def run(self, script: str, *arguments):
        return self.driver.execute_script(script, *arguments)

    def click(self, selector: str) -> None:
        self.run("document.querySelector(arguments[0]).click()", selector)

    def say(self, text: str, key: str | None = Keys.ENTER) -> None:
        self.one("#input").send_keys(text + (key or ""))

    def is_running(self) -> bool:
        return self.run("return document.getElementById('thread').getAttribute('aria-busy') === 'true'")

    def wait_for_reply(self, messages: int) -> list[str]:
        self.wait(lambda: len(self.all(".message")) == messages and not self.is_running())
        return self.run("return [...document.querySelectorAll('.message .body')].map((node) => node.textContent)")

    def kept(self) -> list[dict]:
        """Return the messages that the browser keeps of the only conversation."""
        values = self.run(
            "return Object.keys(localStorage).filter((k) => k.startsWith('chat:')).map((k) => localStorage[k])"
        )
        (value,) = values
        return json.loads(value)["messages"]

    def refuse(self, is_held: bool = False) -> None:
        """Let the server refuse what is asked from now on as one that is busy does; held: when `release` says so."""
        self.run(
            """const real = window.realFetch ??= fetch;
            const held = arguments[0] ? new Promise((resolve) => { window.release = resolve; }) : null;
            window.fetch = async (path, options) => {
                if (!path.includes('completions')) return real(path, options);
                await held;
                const error = {code: 'rate_limit_exceeded', message: 'busy'};
                return new Response(JSON.stringify({error}), {status: 429});
            }""",
            is_held,
        )

    def emulate(self, width: int, height: int, scheme: str) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


@pytest.fixture(scope="module")
def driver():
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--lang=en-US"):
        options.add_argument(argument)
    options.add_experimental_option("prefs", {"intl.accept_languages": "en-US"})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture
def page(driver, server_url, slow_engine):
    driver.get(f"{server_url}/icon.svg")  # the page's origin, without the page
    driver.execute_script("localStorage.clear(); sessionStorage.clear()")
    page = Page(driver, server_url)
    page.emulate(1100, 720, "light")
    for name in ("browser", "performance"):
        driver.get_log(name)
    page.open()
    yield page
    slow_engine.pause_seconds = 0
    wrong = [
        entry
        for entry in driver.get_log("browser")
        if entry["level"] == "SEVERE" and "status of 4" not in entry["message"]
    ]
    assert wrong == []


def test_type_stream_and_reload(page, slow_engine):
    slow_engine.pause_seconds = 0.03
    page.say("你好，今天怎么样？")
    lengths = set()
    page.wait(lambda: lengths.add(len(page.text(".assistant .body"))) or len(lengths) > 3)  # it grows piece by piece
    slow_engine.pause_seconds = 0
    texts = page.wait_for_reply(2)
    assert texts[0] == "你好，今天怎么样？"
    assert re.search(r"[1-9]\d+ tokens in", page.text(".assistant .notes"))  # how many is the random model's affair
    page.open()
    assert page.wait_for_reply(2) == texts
    assert page.text("#list .open") == texts[0]
    assert [message["role"] for message in page.kept()] == ["user", "assistant"]


def test_a_reply_streams_on_when_the_language_changes(page, slow_engine):
    slow_engine.pause_seconds = 0.03
    page.say("Hello")
    page.wait(lambda: page.text(".assistant .body"))
    page.click("#language")
    shown = page.text(".assistant .body")
    page.wait(lambda: len(page.text(".assistant .body")) > len(shown) + 5)
    assert page.is_running()
    slow_engine.pause_seconds = 0
    assert page.wait_for_reply(2)[1].startswith(shown)
    assert "个词元" in page.text(".assistant .notes")


def test_nothing_is_loaded_from_other_hosts(page):
    page.say("Hello")
    page.wait_for_reply(2)
    events = [json.loads(entry["message"])["message"] for entry in page.driver.get_log("performance")]
    asked = {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}
    assert len(asked) >= 7
    assert [url for url in asked if not url.startswith(page.url)] == []


def test_stop_keeps_what_was_said_and_frees_the_slot(page, slow_engine):
    slow_engine.pause_seconds = 0.05
    page.say("Hello")
    page.wait(lambda: len(page.text(".assistant .body")) > 5)
    assert page.one("#send").get_attribute("aria-label") == "Stop"
    page.click("#send")
    page.wait(lambda: not page.is_running())
    health = "const r = await fetch('health'); return (await r.json()).replies_open"
    page.wait(lambda: page.run(health) == 0, 3)
    text = page.text(".assistant .body")
    assert page.text(".assistant .notes") == "Stopped"
    assert (
        page.kept()[1] == {"role": "assistant", "content": text, "note": "stopped"}
        or page.kept()[1]["note"] == "stopped"
    )
    slow_engine.pause_seconds = 0
    page.say("And now?")
    assert len(page.wait_for_reply(4)) == 4


def test_retry_and_edit(page):
    page.say("Hello")
    first = page.wait_for_reply(2)
    page.say("More")
    page.wait_for_reply(4)
    page.click(".assistant:nth-child(2) [aria-label='Try again']")
    page.wait(lambda: len(page.kept()) == 2)
    again = page.wait_for_reply(2)
    assert again[0] == first[0]
    page.click(".user [aria-label='Edit']")
    area = page.one(".editing textarea")
    assert area.get_attribute("value") == "Hello"
    area.clear()
    area.send_keys("改成中文" + Keys.ENTER)
    page.wait(lambda: page.kept()[0]["content"] == "改成中文")
    assert page.wait_for_reply(2)[0] == "改成中文"


def test_enter_that_ends_composing_does_not_send(page):
    page.one("#input").click()
    page.driver.execute_cdp_cmd("Input.imeSetComposition", {"text": "ni hao", "selectionStart": 6, "selectionEnd": 6})
    for kind in ("rawKeyDown", "keyUp"):
        page.driver.execute_cdp_cmd(
            "Input.dispatchKeyEvent", {"type": kind, "key": "Enter", "windowsVirtualKeyCode": 229}
        )
    composing = "new KeyboardEvent('keydown', {key: 'Enter', isComposing: true, bubbles: true, cancelable: true})"
    page.run(f"document.getElementById('input').dispatchEvent({composing})")
    assert page.all(".message") == []
    page.driver.execute_cdp_cmd("Input.insertText", {"text": "你好"})
    page.one("#input").send_keys(Keys.SHIFT + Keys.ENTER + Keys.NULL + "世界")
    assert page.all(".message") == []
    page.say("")
    assert page.wait_for_reply(2)[0] == "你好\n世界"


def test_html_and_odd_texts_show_as_text(page):
    attack = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    page.say(attack)
    assert page.wait_for_reply(2)[0] == attack
    reply = f"{attack}\n\n**{attack}**\n\n`{attack}`\n\n- {attack}\n\n```html\n{attack}\n```\n\n"
    reply += f"| {attack} |\n|---|\n| x |\n\n"
    reply += (
        "[go](javascript:document.title='owned') [ok](https://example.org/a_(b)) \u202eright\u200b ## no\n\n# " + attack
    )
    change = """const key = Object.keys(localStorage).find((name) => name.startsWith('chat:'));
    const kept = JSON.parse(localStorage[key]); kept.messages[1].content = arguments[0];
    localStorage[key] = JSON.stringify(kept)"""
    page.run(change, reply)
    page.open()
    page.wait(lambda: page.text(".assistant .body").count(attack) == 7)
    assert page.all(".message img, .message script, .message a[href^=javascript]") == []
    assert [link.get_attribute("href") for link in page.all(".message a")] == ["https://example.org/a_(b)"]
    assert page.all(".assistant strong, .assistant .code pre, .assistant li, .assistant th, .assistant h3")
    assert page.driver.title != "owned"
    assert "script-src 'self'" in page.run(
        "const r = await fetch('.'); return r.headers.get('content-security-policy')"
    )
    blocked = """const script = document.createElement('script'); script.textContent = 'window.owned = 1';
    document.body.append(script); return window.owned"""
    assert page.run(blocked) is None
    page.driver.get_log("browser")  # the block is a line there


def test_settings_reach_the_server(page, slow_engine, monkeypatch):
    asked = []
    reply = slow_engine.reply_cleaned
    monkeypatch.setattr(slow_engine, "reply_cleaned", lambda *a, **more: asked.append(a) or reply(*a, **more))
    page.click("#settings")
    assert page.one("[name=temperature]").get_attribute("placeholder") == "0.4"
    for name, value in (("system", "Be kind. 友好。"), ("temperature", "0"), ("max_tokens", "6"), ("seed", "3")):
        page.one(f"[name={name}]").send_keys(value)
    page.click("dialog .primary")
    page.say("Hello")
    page.wait_for_reply(2)
    ((dialogue, sampling),) = asked
    assert dialogue[0] == {"role": "system", "content": "Be kind. 友好。"}
    assert (sampling.temperature, sampling.max_new_tokens, sampling.seed) == (0, 6, 3)
    page.open()
    page.click("#settings")
    assert page.one("[name=system]").get_attribute("value") == "Be kind. 友好。"


def test_a_retry_with_a_seed_takes_the_next_one(page, slow_engine, monkeypatch):
    seeds = []
    reply = slow_engine.reply_cleaned
    monkeypatch.setattr(slow_engine, "reply_cleaned", lambda *a, **more: seeds.append(a[1].seed) or reply(*a, **more))
    retry = ".assistant:last-child [aria-label='Try again']"
    page.say("Hello")
    page.wait_for_reply(2)
    page.click(retry)
    page.wait_for_reply(2)
    assert seeds == [0, 1]  # the server's own seed, which the page does not repeat
    page.click("#settings")
    page.one("[name=seed]").send_keys("7")
    page.click("dialog .primary")
    page.wait(lambda: page.run("return JSON.parse(localStorage['chat-page:settings'] ?? '{}').seed") == 7)
    page.click(retry)
    page.wait_for_reply(2)
    page.refuse()
    page.click(retry)
    page.wait(lambda: page.text("#error") == BUSY)
    page.run("window.fetch = window.realFetch")
    page.open()
    page.click(retry)
    page.wait(lambda: page.kept()[1].get("tries") == 3)
    page.say("More")
    page.wait_for_reply(4)
    assert seeds[2:] == [9, 10, 7]


def test_a_saved_conversation_is_one_that_can_be_learned_from(page, slow_engine, tmp_path):
    page.driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    assert not page.one("#save").is_enabled()  # there is nothing yet
    slow_engine.pause_seconds = 0.5
    page.say("Hello")
    page.click("#send")
    assert page.wait_for_reply(2)[1] == ""
    slow_engine.pause_seconds = 0
    page.say("你好")
    reply = page.wait_for_reply(4)[3]
    page.click(".assistant:last-child [aria-pressed]")
    assert page.one(".assistant:last-child [aria-pressed]").get_attribute("aria-pressed") == "true"
    page.click("#save")
    file = tmp_path / "conversation.json"
    page.wait(file.exists)
    [pair] = read_pairs(open_sources([str(file)])).dialogues
    assert [message["content"] for message in pair["prompt"]] == ["Hello", "…", "你好"]
    assert clean_text(reply)[:3] in pair["chosen"]
    assert pair["rejected"] == ""
    (dialogue,) = read_dialogues(open_sources([str(file)]))
    assert [message["content"] for message in dialogue["messages"]][:3] == ["Hello", "…", "你好"]
    assert dialogue["messages"][3]["role"] == "assistant"
    assert clean_text(reply)[:5] in dialogue["messages"][3]["content"]


def test_each_number_that_the_server_takes_is_taken_and_no_other(page):
    values = {"temperature": "0.72", "top_p": "0.97", "repetition_penalty": "1.12", "seed": "-3"}
    page.click("#settings")
    for name, value in values.items():
        page.one(f"[name={name}]").send_keys(value)
    for name, (_, low, high) in NUMBERS.items():
        field = page.run("const f = document.querySelector(`[name=${arguments[0]}]`); return f && [f.min, f.max]", name)
        exact = 2**53 - 1  # the largest whole number that JavaScript has in full
        assert field in (None, [str(max(low, -exact)), str(min(high, exact))]), name
    page.one("[name=top_p]").send_keys("1")  # 0.971 still is; then 2.5 is not
    page.one("[name=temperature]").clear()
    page.one("[name=temperature]").send_keys("2.5")
    page.click("dialog .primary")
    assert page.one("dialog").is_displayed()  # Chromium says what is wrong
    page.one("[name=temperature]").send_keys(Keys.ESCAPE)
    assert page.one("dialog").is_displayed()
    page.run("document.getElementById('dialog').close()")  # as a second Escape does
    stored = "return JSON.parse(localStorage['chat-page:settings'])"
    page.wait(lambda: page.run("return localStorage['chat-page:settings']"))
    assert page.run(stored) == {"top_p": 0.971, "repetition_penalty": 1.12, "seed": -3}
    page.click("#settings")
    page.one("[name=temperature]").send_keys("0.72")
    page.click("dialog .primary")
    page.wait(lambda: page.run(stored).get("temperature") == 0.72)
    page.click("#settings")
    page.run("document.querySelector('[name=temperature]').value = '9'")
    page.run("document.querySelector('[name=top_p]').value = '0.5'; document.getElementById('dialog').close()")
    page.wait(lambda: page.run(stored)["top_p"] == 0.5)
    assert page.run(stored)["temperature"] == 0.72  # what is wrong does not take its place


def test_phone_in_the_dark_and_in_chinese(page):
    page.emulate(390, 844, "dark")
    page.open()
    page.click("#language")
    assert page.one("#input").get_attribute("placeholder") == "输入消息"
    assert page.one("html").get_attribute("lang") == "zh-Hans"
    page.say("很长" * 20 + " " + "w" * 60)
    page.wait_for_reply(2)
    assert page.run("return document.documentElement.scrollWidth") == 390
    look = "const c = getComputedStyle(document.body); return [c.backgroundColor, c.color]"
    dark = page.run(look)
    page.click("#theme")
    assert page.run(look) != dark
    assert not page.one("#side").is_displayed()
    page.click("#menu")
    page.wait(lambda: page.one("#new").is_displayed())
    page.click("#new")
    assert page.text(".welcome h2") == "想聊点什么？"
    page.open()
    assert page.one("#input").get_attribute("placeholder") == "输入消息"
    assert page.run(look) != dark


def test_failure_gives_the_message_back(page):
    page.run("document.getElementById('input').value = 'long '.repeat(300)")
    page.say("")
    page.wait(lambda: page.one("#error").is_displayed())
    assert page.text("#error") == "This message is longer than what the model can read. Shorten it."
    assert page.one("#input").get_attribute("value").startswith("long long")
    assert page.all(".message, #list li") == []
    page.one("#input").clear()
    page.say("Hi")
    page.wait_for_reply(2)
    assert not page.one("#error").is_displayed()


def without_spaces(text: str) -> str:
    """Return a text as far as the page shows it as it is: a reply's lines are paragraphs there."""
    return "".join(text.split())


BUSY = "The server is busy. Try again in a moment."


@pytest.fixture
def two_turns(page) -> list[dict]:
    """The messages of a conversation of two turns, as the browser keeps them."""
    page.say("Hello")
    page.wait_for_reply(2)
    page.say("More")
    page.wait_for_reply(4)
    return page.kept()


def test_a_retry_that_fails_leaves_the_conversation_as_it_was(page, two_turns):
    page.refuse()
    page.click(".assistant:nth-child(2) [aria-label='Try again']")
    page.wait(lambda: page.text("#error") == BUSY)
    assert without_spaces(page.wait_for_reply(4)[1]) == without_spaces(two_turns[1]["content"])
    assert page.kept() == two_turns
    assert page.one("#input").get_attribute("value") == ""
    page.open()
    assert len(page.wait_for_reply(4)) == 4


def test_an_edit_that_fails_leaves_the_conversation_and_what_was_written(page, two_turns):
    page.refuse(is_held=True)
    page.click(".user:nth-child(1) [aria-label='Edit']")
    page.one(".editing textarea").send_keys(" there" + Keys.ENTER)
    page.wait(page.is_running)
    page.say("a draft", key=None)
    page.run("release()")
    page.wait(lambda: page.text("#error") == BUSY)
    assert page.one(".editing textarea").get_attribute("value") == "Hello there"
    assert page.one("#input").get_attribute("value") == "a draft"
    assert page.run("return document.activeElement.id") == "input"
    assert page.kept() == two_turns
    page.run("window.fetch = window.realFetch")
    page.one(".editing textarea").send_keys(Keys.ENTER)
    page.wait(lambda: page.kept()[0]["content"] == "Hello there")
    assert len(page.wait_for_reply(2)) == 2


def test_a_message_that_fails_stays_beside_a_draft(page):
    page.refuse(is_held=True)
    page.say("Hello")
    page.wait(page.is_running)
    page.say("a draft", key=None)
    page.run("release()")
    page.wait(lambda: page.text("#error") == BUSY)
    assert page.wait_for_reply(2) == ["Hello", ""]
    assert page.one("#input").get_attribute("value") == "a draft"
    assert page.kept() == [
        {"role": "user", "content": "Hello"}, {"role": "assistant", "content": "", "note": "failed"}
    ]  # fmt: skip
    page.click(".assistant [aria-label='Try again']")
    page.wait(lambda: page.text("#error") == BUSY and not page.is_running())
    assert page.wait_for_reply(2) == ["Hello", ""]
    page.run("window.fetch = window.realFetch")
    page.click(".assistant [aria-label='Try again']")
    assert without_spaces(page.wait_for_reply(2)[1]) == without_spaces(page.kept()[1]["content"]) != ""


def test_a_retry_that_is_stopped_or_left_before_its_first_word_loses_nothing(page, two_turns, slow_engine):
    slow_engine.pause_seconds = 0.5
    for leave in ("document.getElementById('send').click()", "location.reload()"):
        page.click(".assistant:nth-child(2) [aria-label='Try again']")
        assert page.is_running()
        page.run(leave)
        page.wait(lambda: len(page.all(".message")) == 4 and not page.is_running())
        assert page.kept() == two_turns


def test_a_megabyte_is_refused_at_once_and_stays_to_be_edited(page):
    page.run("document.getElementById('input').value = 'word '.repeat(200000)")
    milliseconds = """const started = performance.now(), enter = {key: 'Enter', bubbles: true, cancelable: true};
    document.getElementById('input').dispatchEvent(new KeyboardEvent('keydown', enter));
    return document.getElementById('error').hidden ? null : performance.now() - started"""
    assert page.run(milliseconds) < 1000
    assert page.text("#error") == "This message is longer than what the model can read. Shorten it."
    assert page.run("return document.getElementById('input').value === 'word '.repeat(200000)")
    assert page.all(".message, #list li") == []


def test_a_megabyte_is_not_pasted(page):
    permissions = {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"], "origin": page.url}
    page.driver.execute_cdp_cmd("Browser.grantPermissions", permissions)
    for words, taken in ((20, "word " * 20), (200_000, "")):
        page.one("#input").clear()
        page.run("return navigator.clipboard.writeText('word '.repeat(arguments[0]))", words)
        page.say(Keys.CONTROL + "v", key=None)
        assert page.run("return document.getElementById('input').value") == taken
        assert page.one("#error").is_displayed() == (not taken)


def test_what_is_refused_is_said_in_the_language_chosen(page):
    page.click("#language")
    page.run("document.getElementById('input').value = 'long '.repeat(300)")
    page.say("")
    page.wait(lambda: page.one("#error").is_displayed())
    assert page.text("#error") == "这条消息超出了模型能读的长度，请缩短。"
    page.click("#language")
    assert page.text("#error") == "This message is longer than what the model can read. Shorten it."
    refused = (
        "const { WORDS } = await import('/words.js'); return WORDS.zh.refused({code: 'HTTP 408', message: 'late'})"
    )
    assert page.run(refused) == "服务器拒绝了这个请求（HTTP 408）。"
    codes = """const { WORDS } = await import('/words.js');
    return Object.values(WORDS).map((words) => Object.keys(words.errors).join())"""
    assert len(set(page.run(codes))) == 1


def test_every_button_has_a_name_and_the_keyboard_reaches_it(page):
    page.say("Hello")
    page.wait_for_reply(2)
    nameless = """return [...document.querySelectorAll('button')].filter(
        (button) => !(button.getAttribute('aria-label') || button.textContent.trim())).length"""
    assert page.run(nameless) == 0
    assert page.text("#heard").startswith("Assistant: ")
    page.one("#input").send_keys(Keys.SHIFT + Keys.TAB)
    assert page.run("return document.activeElement.tagName") == "BUTTON"


def test_key_is_asked_for(driver, slow_engine):
    with run_server(slow_engine, with_page=True, api_key="secret") as url:
        page = Page(driver, url)
        driver.get(url)
        page.wait(lambda: "API key is missing" in page.text("#error"))
        page.click("#settings")
        page.one("[name=key]").send_keys("secret")
        page.click("dialog .primary")
        page.wait(lambda: page.text("#model") == slow_engine.name)
        page.say("Hi")
        page.wait_for_reply(2)
        driver.refresh()
        page.wait(lambda: page.text("#model") == slow_engine.name)
        assert "secret" not in page.run("return JSON.stringify(localStorage)")  # it goes with its tab
        salts = page.run("return Object.values(localStorage).map((one) => JSON.parse(one).salt).filter(Boolean)")
        assert len(salts) == 1
        assert len(salts[0]) >= 20
