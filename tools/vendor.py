"""Re-create the third-party browser files that the book and its tests carry, from the npm packages they come from.

    python tools/vendor.py            fetch the packages, verify them, write the files
    python tools/vendor.py --check    fetch nothing; say whether the files here are the ones recorded

The files are committed, so that building, reading and testing the book need no network. To take a new version,
change `version` and `sha256` below, run this script, and read the difference.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = "README.md"
ROW = re.compile(r"^\| `([^`]+)` \| `([0-9a-f]{64})` \|$", re.MULTILINE)


@dataclass(frozen=True)
class Package:
    """One npm package, the files taken from it, and where they go."""

    name: str
    version: str
    licence: str
    sha256: str  # of the tarball that `npm pack` delivers
    purpose: str
    home: str  # the folder of other projects' files, with its README
    files: dict[str, str]  # pattern of a path in the package -> folder below `home`


PACKAGES = (
    Package(
        name="katex",
        version="0.16.47",
        licence="MIT",
        sha256="ad2d1ab2f7fcc227019784320e8a2c5218ff6bb333b36df4136d10365ae29375",
        purpose="typesets the mathematics on the pages",
        home="book/_vendor",
        files={
            "LICENSE": "katex",
            "dist/katex.min.js": "katex",
            "dist/katex.min.css": "katex",
            "dist/fonts/*.woff2": "katex/fonts",
        },
    ),
    Package(
        name="axe-core",
        version="4.14.1",
        licence="MPL-2.0",
        sha256="e6b0ce02b84d892e2e33e403485e7f3d6c29e2be6df65daf44d89ba564139745",
        purpose="looks for accessibility mistakes on the built pages; for the tests only, not published",
        home="tests/vendor",
        files={"LICENSE": ".", "LICENSE-3RD-PARTY.txt": ".", "axe.min.js": "."},
    ),
)


class UnverifiedError(Exception):
    """A file is missing or is not what was recorded."""


def digest(content: bytes) -> str:
    """Return the sha256 of a file's content."""
    return hashlib.sha256(content).hexdigest()


def fetch(package: Package) -> bytes:
    """Return the package's tarball once its checksum is the recorded one."""
    npm = shutil.which("npm")
    if npm is None:
        raise UnverifiedError("npm is needed to fetch the packages: install Node.js")
    wanted = f"{package.name}@{package.version}"
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", "--silent", "--ignore-scripts", wanted]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UnverifiedError(f"npm pack {wanted} failed: {done.stderr.strip()[-300:]}")
        tarball = next(Path(folder).glob("*.tgz")).read_bytes()
    if digest(tarball) != package.sha256:
        raise UnverifiedError(f"{wanted} has sha256 {digest(tarball)}, recorded is {package.sha256}")
    return tarball


def unpack(package: Package, tarball: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield, for each wanted file, its path below the package's home and its content; each pattern must match."""
    with tarfile.open(fileobj=io.BytesIO(tarball)) as archive:
        inside = {member.name.removeprefix("package/"): member for member in archive if member.isfile()}
        for pattern, folder in package.files.items():
            paths = sorted(path for path in inside if fnmatch(path, pattern))
            if not paths:
                raise UnverifiedError(f"{package.name}@{package.version} holds no file {pattern}")
            for path in paths:
                yield (Path(folder) / Path(path).name).as_posix(), archive.extractfile(inside[path]).read()


def readme(packages: list[Package], digests: dict[str, str]) -> str:
    """Say where the files of one home come from: package, version, licence and checksums."""
    lines = [
        "# Files of other projects",
        "",
        "Written by `tools/vendor.py`: do not edit. Licences lie beside them.",
    ]
    for package in packages:
        lines += [
            "",
            f"**{package.name} {package.version}** ({package.licence}) {package.purpose}.",
            f"From the npm package `{package.name}`, tarball sha256 `{package.sha256}`.",
        ]
    lines += ["", "| file | sha256 |", "|---|---|"]
    lines += [f"| `{path}` | `{value}` |" for path, value in sorted(digests.items())]
    return "\n".join(lines) + "\n"


def write(home: str, packages: list[Package]) -> None:
    """Fill one home afresh: nothing that is not recorded stays."""
    files = {path: content for package in packages for path, content in unpack(package, fetch(package))}
    shutil.rmtree(ROOT / home, ignore_errors=True)
    for path, content in files.items():
        target = ROOT / home / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    table = readme(packages, {path: digest(content) for path, content in files.items()})
    (ROOT / home / README).write_text(table, encoding="utf-8")


def breaches(home: Path, packages: list[Package]) -> list[str]:
    """Return what is wrong in one home, one sentence each; an empty list means that all is as recorded."""
    if not (home / README).is_file():
        return [f"{home / README} is missing"]
    text = (home / README).read_text(encoding="utf-8")
    recorded = dict(ROW.findall(text))
    found = {
        path.relative_to(home).as_posix(): digest(path.read_bytes())
        for path in home.rglob("*")
        if path.is_file() and path.name != README
    }
    wrong = [f"{package.name} is not recorded in {README}" for package in packages if package.sha256 not in text]
    wrong += [f"{path} is not recorded in {README}" for path in sorted(found.keys() - recorded.keys())]
    wrong += [f"{path} is missing" for path in sorted(recorded.keys() - found.keys())]
    wrong += [f"{path} was changed" for path in sorted(recorded.keys() & found.keys()) if recorded[path] != found[path]]
    return wrong


def main() -> int:
    """Fetch and write, or check; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="verify the files that are here; fetch nothing")
    only_check = parser.parse_args().check
    wrong = []
    for home in sorted({package.home for package in PACKAGES}):
        packages = [package for package in PACKAGES if package.home == home]
        try:
            if not only_check:
                write(home, packages)
            wrong += [f"{home}: {breach}" for breach in breaches(ROOT / home, packages)]
        except UnverifiedError as error:
            wrong.append(f"{home}: {error}")
    print("\n".join(wrong) or "all files of other projects are as recorded")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
