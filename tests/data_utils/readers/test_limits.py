"""A document that takes too long costs itself alone, whatever it is read by, and the limit leaves nothing behind."""

import json
import re
import signal
import threading
import time

import pytest

from data_utils.readers import webpages, wikipedia
from data_utils.readers.arguments import ReadArguments, use_limits
from data_utils.readers.limits import OutOfTime, limit_seconds
from data_utils.sources.inputs import read_documents_of

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="Windows has no such limits")
FOREVER = (r"(a|a)*b", "a" * 60)  # order 2^n


def test_a_pattern_that_never_ends_is_ended():
    with pytest.raises(OutOfTime, match=r"longer than 0\.2 s"), limit_seconds(0.2):
        re.match(*FOREVER)
    assert not signal.getitimer(signal.ITIMER_VIRTUAL)[0]
    assert signal.getsignal(signal.SIGVTALRM) == signal.SIG_DFL


def test_the_sooner_of_two_limits_holds_and_the_outer_one_goes_on():
    with pytest.raises(OutOfTime, match=r"longer than 0\.3 s"), limit_seconds(0.3):
        with pytest.raises(OutOfTime, match=r"longer than 0\.1 s"), limit_seconds(0.1):
            re.match(*FOREVER)
        with limit_seconds(50):
            re.match(*FOREVER)


def test_waiting_costs_nothing_and_zero_is_no_limit():
    with limit_seconds(0.05):
        time.sleep(0.3)
    with limit_seconds(0):
        assert not signal.getitimer(signal.ITIMER_VIRTUAL)[0]


def test_another_thread_works_without_a_limit():
    found = []

    def work():
        with limit_seconds(0.001):
            found.append(sum(range(300_000)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [sum(range(300_000))]


def wiki_page(title, markup):
    text = f"<revision><model>wikitext</model><text>{markup}</text></revision>"
    return f"<page><title>{title}</title><ns>0</ns>{text}</page>"


def test_an_article_that_takes_too_long_costs_itself_alone(tmp_path, monkeypatch):
    extract = wikipedia.extract_article

    def extract_article(markup, *arguments):
        if "slow" in markup:
            re.match(*FOREVER)
        if "deep" in markup:
            raise RecursionError("maximum recursion depth exceeded")
        return extract(markup, *arguments)

    monkeypatch.setattr(wikipedia, "extract_article", extract_article)
    path = tmp_path / "a.xml"
    pages = [wiki_page("One", "tea"), wiki_page("Two", "slow"), wiki_page("Three", "deep"), wiki_page("Four", "rain")]
    path.write_text("<mediawiki>" + "".join(pages) + "</mediawiki>")
    faults = []
    documents = list(read_documents_of(str(path), ReadArguments(reader_limits=["seconds=0.2"]), faults.append))
    assert [document["text"] for document in documents] == ["One\n\ntea", "Four\n\nrain"]
    assert [fault.place for fault in faults] == ["Two", "Three"]
    assert "it took more than 0.2 seconds (--reader_limits seconds=0.4 allows more)" in faults[0].reason


def test_a_page_that_takes_too_long_ends_its_parser_and_the_next_page_is_read(tmp_path):
    pytest.importorskip("resiliparse")
    path = tmp_path / "a.html"
    path.write_text("<html><body>" + "".join(f"<font color={n}>x<p>" for n in range(2500)))
    faults = []
    assert list(read_documents_of(str(path), ReadArguments(reader_limits=["seconds=0.5"]), faults.append)) == []
    assert [fault.reason for fault in faults] == [
        "its HTML takes too much memory, or more than 0.5 seconds (--reader_limits seconds=1 allows more); left out"
    ]
    assert webpages.extract_text("<p>今天天气很好。</p>") == "今天天气很好。"


def test_a_filter_drops_the_document_that_takes_too_long_and_keeps_those_beside_it():
    pytest.importorskip("datatrove")
    from datatrove.data import Document

    from data_utils.preparation.filters import each, run_steps
    from data_utils.preparation.tally import Tally

    def step(text, language):
        return re.sub(*FOREVER[:1], "", FOREVER[1]) if text == "slow" else text.upper()

    use_limits(["seconds=0.2"])
    tally = Tally()
    texts = ["one", "slow", "two"]
    documents = [Document(text, text, metadata={"given": "a", "source": "a.txt"}) for text in texts]
    kept = run_steps(documents, steps={"shout": each(step)}, tally=tally)
    assert [document.text for document in kept] == ["ONE", "TWO"]
    assert json.loads(json.dumps(tally.reasons)) == {"shout": {"took too long": 1}}
