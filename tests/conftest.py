"""What tests share: one thread, no network, checked shapes in `lib`, and the built book in a real browser.

The book's own tests need `make book` first and, where they open pages, Chromium. What is missing is named; on a
developer's machine only the tests that need it are skipped, under CI they fail.
"""

from __future__ import annotations

import gzip
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # before torch is imported: equal numbers, fair sharing

import pytest
from jaxtyping import config, install_import_hook

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Request, Route

install_import_hook("lib", "shapes.checked")  # every shape in a signature of lib is checked on every call

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "_build" / "html"
LOCAL = ("127.0.0.1", "::1", "localhost")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--screenshots DIR` (a picture of each page in each mode, to look at) and `--site DIR`."""
    parser.addoption("--screenshots", metavar="DIR", type=Path, help="keep pictures of the pages in this folder")
    parser.addoption("--site", metavar="DIR", type=Path, default=SITE, help="the built book (default: _build/html)")


def missing(what: str) -> None:
    """Fail under CI; elsewhere skip, saying what is missing and how to get it."""
    if os.environ.get("CI", "").lower() in ("", "0", "false"):
        pytest.skip(what)
    pytest.fail(what, pytrace=False)


@pytest.fixture(autouse=True, scope="session")
def no_network() -> Iterator[None]:
    """Refuse every connection to another machine, so that no test depends on one."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in LOCAL:
            raise ConnectionRefusedError(f"tests use no network, and this one connects to {address[0]}")
        return connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        yield


@pytest.fixture(scope="session")
def site(request: pytest.FixtureRequest) -> Path:
    """Return the folder of the built book."""
    folder = request.config.getoption("--site")
    if not (folder / "index.html").is_file():
        missing(f"{folder} holds no built book: run `make book`")
    return folder


class Handler(SimpleHTTPRequestHandler):
    """Serve files compressed, as the places that host books do, and in silence."""

    protocol_version = "HTTP/1.1"
    compressible = (".html", ".css", ".js", ".svg", ".json", ".txt", ".xml")

    def do_GET(self) -> None:
        """Answer with the file, gzipped where that helps."""
        path = Path(self.translate_path(self.path))
        path = path / "index.html" if path.is_dir() else path
        if not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        self.send_response(200)
        self.send_header("Content-Type", self.guess_type(path))
        if path.suffix in self.compressible:
            content = gzip.compress(content, compresslevel=6)
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing: failed requests are the tests' to report."""


@pytest.fixture(scope="session")
def server(site: Path) -> Iterator[str]:
    """Serve the built book and return its address, without a slash at the end."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(site))) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


def chromium() -> str | None:
    """Return the path of an installed Chromium; the environment variable CHROMIUM names one."""
    return next(filter(None, map(shutil.which, filter(None, (os.environ.get("CHROMIUM"), *BROWSERS)))), None)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Start the installed Chromium, which can reach this machine only. Open pages with `open_page`."""
    path = chromium()
    if path is None:
        missing("no Chromium: install the package `chromium` (Debian, Fedora, brew), or name one in CHROMIUM")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield started
        started.close()


@dataclass
class Visit:
    """One opened page and everything that went wrong on it."""

    page: Page
    requests: list[str] = field(default_factory=list)  # all of them, in order
    outside: list[str] = field(default_factory=list)  # to other machines; each was refused
    failed: list[str] = field(default_factory=list)  # to this machine, without a good answer
    errors: list[str] = field(default_factory=list)  # exceptions and console errors

    def __post_init__(self) -> None:
        """Record from now on; refuse what goes to another machine."""
        self.page.route("**/*", self._route)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("response", lambda r: r.status >= 400 and self.failed.append(f"{r.status} {r.url}"))
        self.page.on("requestfailed", self._failed)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda message: message.type == "error" and self.errors.append(message.text))

    @property
    def trouble(self) -> list[str]:
        """Everything that a good page has none of."""
        return [*self.outside, *self.failed, *self.errors]

    def _route(self, route: Route) -> None:
        if urlsplit(route.request.url).hostname in LOCAL:
            route.continue_()
        else:
            self.outside.append(route.request.url)
            route.abort()

    def _failed(self, request: Request) -> None:
        if request.url not in self.outside:
            self.failed.append(f"{request.failure} {request.url}")


@contextmanager
def visiting(
    browser: Browser, address: str, *, width: int = 1280, height: int = 900, dark: bool = False, script: bool = True
) -> Iterator[Visit]:
    """Open one address as a reader with this screen, this taste and these settings would."""
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if dark else "light",
        java_script_enabled=script,
        has_touch=width < 600,
        reduced_motion="reduce",
    )
    try:
        visit = Visit(context.new_page())
        visit.page.goto(address, wait_until="load")
        yield visit
    finally:
        context.close()


OpenPage = Callable[..., Visit]


@pytest.fixture
def open_page(browser: Browser, server: str) -> Iterator[OpenPage]:
    """Return a function that opens a page of the book: open_page("book/intro.html", width=360, dark=True)."""
    with ExitStack() as stack:
        yield lambda path, **reader: stack.enter_context(visiting(browser, f"{server}/{path}", **reader))


def page_paths(config: pytest.Config) -> list[str]:
    """Return the path of every page of the built book; only the first page's where it is not built."""
    folder = config.getoption("--site")
    built = (path.relative_to(folder).as_posix() for path in folder.rglob("*.html") if "_static" not in path.parts)
    return sorted(built) or ["index.html"]


@pytest.fixture
def without_shape_checks() -> Iterator[None]:
    """Run lib as readers do, whose calls no type checker sees first."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)
