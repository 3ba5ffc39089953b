"""The built book as files: what every page must have, where its links lead, what it weighs, whose links it carries."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urljoin, urlsplit

import pytest
from bs4 import BeautifulSoup
from conftest import ROOT, missing, page_paths

FIRST_VIEW = 700_000  # bytes, gzipped: page, styles, scripts, pictures, and the fonts that mathematics can need
ICON_LIMIT = 30_000
BASE = urlsplit(os.environ.get("BOOK_BASE_URL", "")).path.rstrip("/")  # the 404 page's links start with it
LOADED = (("link[href]", "href"), ("script[src]", "src"), ("img[src]", "src"), ("source[src]", "src"))
NOT_LOADED = {"canonical", "next", "prev", "search", "index", "author", "license"}  # links to pages, not parts of one
RAW_TEX = re.compile(r"\$[^$\s][^$]*\$|\\[([]|\\begin\{|\\(?:frac|mathrm|mathbb|text|sum|sqrt)\b")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Ask each question of each page."""
    if "path" in metafunc.fixturenames:
        metafunc.parametrize("path", page_paths(metafunc.config))


@cache
def parse(file: Path) -> BeautifulSoup:
    """Read one page."""
    return BeautifulSoup(file.read_text(encoding="utf-8"), "html.parser")


@pytest.fixture
def page(site: Path, path: str) -> BeautifulSoup:
    """Return the page that a test is about."""
    return parse(site / path)


def is_redirect(page: BeautifulSoup) -> bool:
    """Tell whether the page only leads on to another."""
    return page.select_one('meta[http-equiv="refresh" i]') is not None


def target(site: Path, path: str, link: str) -> tuple[Path, str]:
    """Return the file and the anchor that a page's link leads to."""
    parts = urlsplit(urljoin(f"/{path}", link))
    inside = unquote(parts.path).removeprefix(BASE).lstrip("/")
    file = site / inside
    return (file / "index.html" if file.is_dir() else file), unquote(parts.fragment)


def loaded(page: BeautifulSoup) -> list[str]:
    """Return the addresses of everything that a browser fetches to show the page."""
    found = []
    for selector, attribute in LOADED:
        for tag in page.select(selector):
            if not NOT_LOADED & set(tag.get("rel", [])) and not tag[attribute].startswith("data:"):
                found.append(tag[attribute])
    return found


def test_a_page_says_its_title_language_heading_and_subject(page: BeautifulSoup) -> None:
    assert page.html["lang"] == "en"
    assert page.title.get_text(strip=True)
    assert len(page.select("h1")) == 1
    assert page.h1.get_text(strip=True)
    descriptions = [tag["content"] for tag in page.select('meta[name="description"]')]
    assert len(descriptions) == 1
    assert 10 <= len(descriptions[0]) <= 210
    assert not RAW_TEX.search(descriptions[0])


def test_pages_have_titles_of_their_own(site: Path, pytestconfig: pytest.Config) -> None:
    pages = [parse(site / path) for path in page_paths(pytestconfig)]
    titles = [page.title.get_text(strip=True) for page in pages if not is_redirect(page)]
    assert len(titles) == len(set(titles))


def test_every_picture_is_described_in_words(page: BeautifulSoup) -> None:
    for image in page.select("img"):
        words = image.get("alt", "").strip()
        in_the_text = image.find_parent("article") is not None
        assert len(words.split()) >= (3 if in_the_text else 1), image.attrs
        assert not re.search(r"\.(png|svg|jpe?g|webp)$|_images/", words), image.attrs


def test_pictures_wait_and_keep_their_place(page: BeautifulSoup) -> None:
    for image in page.select("article img[src]:not([src^='data:'])"):
        assert image.get("loading") == "lazy", image.attrs
        assert (image.has_attr("width") and image.has_attr("height")) or image["src"].endswith(".svg"), image.attrs


def test_every_internal_link_and_anchor_leads_somewhere(site: Path, path: str, page: BeautifulSoup) -> None:
    links = [tag["href"] for tag in page.select("a[href]")] + loaded(page)
    dead = []
    for link in links:
        if urlsplit(link).scheme or link.startswith("//"):
            continue
        file, anchor = target(site, path, link)
        found = file.is_file() and (file.suffix != ".html" or not anchor or parse(file).find(id=anchor))
        if not found:
            dead.append(link)
    assert dead == []


def test_nothing_is_loaded_from_another_host(site: Path, path: str, page: BeautifulSoup) -> None:
    assert [link for link in loaded(page) if urlsplit(link).netloc] == []
    inline = " ".join(tag.get_text() for tag in page.select("style")) + " ".join(
        tag["style"] for tag in page.select("[style]")
    )
    sheets = [target(site, path, tag["href"])[0] for tag in page.select('link[rel~="stylesheet"]')]
    for css in [inline, *(sheet.read_text(encoding="utf-8") for sheet in sheets)]:
        assert re.findall(r"(?:@import\s+|url\()\s*[\"']?(?:https?:)?//[^)\"']*", css) == []


def test_no_formula_is_left_as_typed(page: BeautifulSoup) -> None:
    article = page.select_one("article") or page
    typed = [
        text
        for text in article.find_all(string=RAW_TEX)
        if not text.find_parent(["code", "pre", "script", "style"]) and not text.find_parent(class_="math")
    ]
    assert typed == []


def test_katex_is_loaded_where_there_is_mathematics_and_nowhere_else(page: BeautifulSoup) -> None:
    wanted = bool(page.select(".math"))
    assert [bool(page.select(f'[{key}*="katex.min"]')) for key in ("src", "href")] == [wanted, wanted]


def test_a_page_fits_its_budget_with_all_its_pictures(site: Path, path: str, page: BeautifulSoup) -> None:
    files = {target(site, path, link)[0] for link in loaded(page)} | {site / path}
    if page.select(".math"):
        fonts = site / "_static/katex/fonts"
        files |= {font for family in ("Main", "Math", "Size", "AMS") for font in fonts.glob(f"KaTeX_{family}*.woff2")}
    weights = sorted(((len(gzip.compress(file.read_bytes(), 6)), file) for file in files), reverse=True)
    table = "\n".join(f"{size:>9,} {file.relative_to(site)}" for size, file in weights)
    total = sum(size for size, _ in weights)
    print(f"{total:>9,} {path}, gzipped\n{table}")
    assert total < FIRST_VIEW, table


def test_every_icon_of_the_pages_is_in_the_small_file(site: Path, pytestconfig: pytest.Config) -> None:
    css = (site / "_static/styles/pydata-sphinx-theme.css").read_text(encoding="utf-8")
    small = (site / "_static/book-icons.css").read_text(encoding="utf-8")
    held = {int(code, 16) for codes in re.findall(r"unicode-range:([^}]+)", small) for code in codes[2:].split(",U+")}
    meaning = {
        name: int(code, 16)
        for names, code in re.findall(r'([^{}]+)\{content:"\\([0-9a-f]+)\s?"\}', css)
        for name in re.findall(r"\.(fa-[a-z0-9-]+):", names)
    }
    used = {
        name
        for path in page_paths(pytestconfig)
        for tag in parse(site / path).select("[class*='fa-']")
        for name in tag["class"]
        if name in meaning
    }
    assert {"fa-bars", "fa-magnifying-glass", "fa-download"} <= used
    assert [name for name in sorted(used) if meaning[name] not in held] == []
    assert len(small) < ICON_LIMIT
    assert not (site / "_static/scripts/fontawesome.js").exists()


@pytest.mark.parametrize("home", ["book/_vendor", "tests/vendor"])
def test_files_of_other_projects_are_as_recorded(home: str) -> None:
    tool = module(ROOT / "tools", "vendor")
    packages = [package for package in tool.PACKAGES if package.home == home]
    assert packages
    assert tool.breaches(ROOT / home, packages) == []


def test_a_changed_file_of_another_project_is_noticed(tmp_path: Path) -> None:
    tool = module(ROOT / "tools", "vendor")
    home = tmp_path / "vendor"
    shutil.copytree(ROOT / "tests/vendor", home)
    (home / "axe.min.js").write_text("changed", encoding="utf-8")
    (home / "LICENSE").unlink()
    (home / "extra.js").write_text("new", encoding="utf-8")
    packages = [package for package in tool.PACKAGES if package.name == "axe-core"]
    assert tool.breaches(home, packages) == [
        "extra.js is not recorded in README.md",
        "LICENSE is missing",
        "axe.min.js was changed",
    ]


def test_what_is_missing_is_skipped_here_and_fails_under_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="install it"):
        missing("no browser: install it")
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match="install it"):
        missing("no browser: install it")


def test_tests_reach_no_other_machine() -> None:
    with socket.socket() as connection, pytest.raises(ConnectionRefusedError, match="tests use no network"):
        connection.connect(("192.0.2.1", 80))


# ---- Links that follow the repository --------------------------------------------------------------------------------


def module(folder: Path, name: str) -> ModuleType:
    """Import a module that is not on Python's path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        return __import__(name, fromlist=["_"])


REPOSITORY = module(ROOT / "book/_ext", "book_site.repository")
PAGES = module(ROOT / "book/_ext", "book_site.pages")


def written_table(columns: int) -> str:
    """Return a table as the theme writes it, with a formula in its head and in its cells."""
    head = "".join(f'<th class="head"><p>a  <em>b</em> \\({number}\\)</p></th>' for number in range(columns))
    cells = "".join(f'<td><p><span class="math">\\(1 &lt; {number}\\)</span></p></td>' for number in range(columns))
    rows = f'<tr class="row-even">{cells}</tr>\n<tr class="row-odd">{cells}</tr>'
    return f'<table class="table">\n<thead>\n<tr>{head}</tr>\n</thead>\n<tbody>\n{rows}\n</tbody>\n</table>'


def test_the_cells_of_a_wide_table_know_their_column_and_their_role() -> None:
    given = f"<p>before</p>{written_table(4)}<p>between</p>{written_table(3)}"
    mended = PAGES.TABLE.sub(PAGES.stackable, given)
    assert mended.endswith(f"<p>between</p>{written_table(3)}"), "a narrow table fits and stays as it is"
    table = BeautifulSoup(mended, "html.parser").table
    assert table["class"] == ["table", "stacks"]
    for row in table.select("tbody tr"):
        assert [cell["data-label"] for cell in row("td")] == ["a b 0", "a b 1", "a b 2", "a b 3"]
    roles = {tag.name: tag["role"] for tag in (table, *table(["thead", "tbody", "tr", "th", "td"]))}
    assert roles == PAGES.ROLES
    for tag in (table, *table(True)):
        for added in ("role", "data-label"):
            del tag[added]
    del table["class"]
    assert str(table) == written_table(4).replace(' class="table"', ""), "and nothing else is changed"


C_D = {"GITHUB_REPOSITORY": "c/d"}
PUSH = {"GITHUB_EVENT_NAME": "push", "GITHUB_REF_TYPE": "branch", "GITHUB_REF_NAME": "dev"}


@pytest.mark.parametrize(
    ("remote", "address"),
    [
        ("https://github.com/ada/book.git", "https://github.com/ada/book"),
        ("https://github.com/ada/book/", "https://github.com/ada/book"),
        ("git@github.com:ada/book.git", "https://github.com/ada/book"),
        ("ssh://git@github.com/ada/my.book", "https://github.com/ada/my.book"),
        ("https://ada:secret@github.com/ada/book.git", None),  # a password must not reach a page
        ("https://token@github.com/ada/book.git", None),
        ("/home/ada/book", None),
        ("../book.git", None),
        ("", None),
    ],
)
def test_a_git_remote_becomes_an_address_or_nothing(remote: str, address: str | None) -> None:
    assert REPOSITORY.web_address(remote) == address


@pytest.mark.parametrize(
    ("env", "url", "branch"),
    [
        ({"BOOK_REPOSITORY_URL": "https://github.com/a/b"} | C_D, "https://github.com/a/b", "main"),
        (C_D, "https://github.com/c/d", "main"),
        (C_D | {"GITHUB_SERVER_URL": "https://git.example.org"}, "https://git.example.org/c/d", "main"),
        (C_D | PUSH, "https://github.com/c/d", "dev"),
        (C_D | PUSH | {"GITHUB_EVENT_NAME": "pull_request"}, "https://github.com/c/d", "main"),
        ({"BOOK_REPOSITORY_BRANCH": "draft"}, None, "draft"),
        ({"BOOK_REPOSITORY_URL": "not an address"} | C_D, None, "main"),
    ],
)
def test_the_environment_decides_whose_links_the_book_carries(
    tmp_path: Path, env: dict[str, str], url: str | None, branch: str
) -> None:
    assert REPOSITORY.repository_url(tmp_path, env) == url
    assert REPOSITORY.branch(env) == branch


def git(folder: Path, *words: str) -> None:
    """Run git quietly in a folder."""
    subprocess.run(["git", "-C", str(folder), *words], check=True, capture_output=True)


def test_without_environment_the_git_remote_decides(tmp_path: Path) -> None:
    git(tmp_path, "init")
    assert REPOSITORY.repository_url(tmp_path, {}) is None
    git(tmp_path, "remote", "add", "origin", "git@github.com:forker/mybook.git")
    assert REPOSITORY.repository_url(tmp_path, {}) == "https://github.com/forker/mybook"


JUPYTER_BOOK = "from jupyter_book.cli.main import main; main()"  # run with -m, its module does nothing
NOTEBOOK = """{"cells": [
 {"cell_type": "markdown", "id": "a", "metadata": {}, "source": ["# A chapter\\n\\nWords about it.\\n\\n$x$"]}],
 "metadata": {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}},
 "nbformat": 4, "nbformat_minor": 5}"""


def build_small_book(folder: Path, env: dict[str, str]) -> Path:
    """Build, with the book's own settings, a book of one page and one notebook; return the folder of its pages."""
    shutil.copy(ROOT / "_config.yml", folder)
    (folder / "book").mkdir()
    for shared in ("_ext", "_static", "_vendor"):
        shutil.copytree(ROOT / "book" / shared, folder / "book" / shared)
    (folder / "_toc.yml").write_text(
        "format: jb-book\nroot: book/intro\nchapters:\n  - file: book/chapter\n", encoding="utf-8"
    )
    (folder / "book/intro.md").write_text("# A book\n\nIt is short and says so.\n", encoding="utf-8")
    (folder / "book/chapter.ipynb").write_text(NOTEBOOK, encoding="utf-8")
    return run_jupyter_book(folder, env)


def run_jupyter_book(folder: Path, env: dict[str, str]) -> Path:
    """Build the book in a folder with nothing of the caller's environment that names a repository."""
    silent = {name: value for name, value in os.environ.items() if not name.startswith(("GITHUB_", "BOOK_"))}
    command = [sys.executable, "-c", JUPYTER_BOOK, "build", ".", "-W", "-n", "--keep-going"]
    done = subprocess.run(command, cwd=folder, env=silent | env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "_build/html"


def links_out(file: Path) -> set[str]:
    """Return the page's links to other hosts."""
    return {tag["href"] for tag in parse(file).select("a[href]") if urlsplit(tag["href"]).netloc}


@pytest.mark.slow
def test_a_fork_s_book_links_to_the_fork(tmp_path: Path) -> None:
    env = PUSH | {"GITHUB_REPOSITORY": "ada/fork", "BOOK_BASE_URL": "https://ada.example.org/fork"}
    html = build_small_book(tmp_path, env)
    links = links_out(html / "book/chapter.html")
    assert {
        "https://colab.research.google.com/github/ada/fork/blob/dev/book/chapter.ipynb",
        "https://github.com/ada/fork",
        "https://github.com/ada/fork/blob/dev/book/chapter.ipynb?plain=1",
        "https://github.com/ada/fork/edit/dev/book/chapter.ipynb",
    } <= links
    assert any(link.startswith("https://github.com/ada/fork/issues/new") for link in links)
    canonical = parse(html / "book/chapter.html").select_one('link[rel="canonical"]')["href"]
    assert canonical == "https://ada.example.org/fork/book/chapter.html"
    assert canonical in (html / "sitemap.xml").read_text(encoding="utf-8")
    rocket = parse(html / "book/chapter.html").select_one(".fa-rocket")
    assert rocket
    assert "U+f135" in (html / "_static/book-icons.css").read_text(encoding="utf-8")
    assert parse(html / "404.html").select_one('link[rel="stylesheet"]')["href"].startswith("/fork/_static/")


@pytest.mark.slow
def test_a_book_from_nowhere_has_no_dead_links_to_a_repository(tmp_path: Path) -> None:
    git(tmp_path, "init")  # so that git does not look further up
    html = build_small_book(tmp_path, {})
    for name in ("intro", "chapter"):
        assert links_out(html / f"book/{name}.html") == set()
    assert not (html / "sitemap.xml").exists()


@pytest.mark.slow
def test_an_edited_style_sheet_reaches_the_pages_of_the_next_build(tmp_path: Path) -> None:
    git(tmp_path, "init")
    html = build_small_book(tmp_path, {})
    before = (html / "book/chapter.html").read_text(encoding="utf-8")
    with (tmp_path / "book/_static/book.css").open("a", encoding="utf-8") as file:
        file.write("p { color: teal }")
    run_jupyter_book(tmp_path, {})
    assert "teal" in (html / "_static/book.css").read_text(encoding="utf-8")
    assert (html / "book/chapter.html").read_text(encoding="utf-8") != before  # it asks for the new one by its checksum
