"""The checkers are checked: they accept right answers, name wrong ones, survive the rest, and let no mutant pass."""

import ast
import subprocess
import sys
import time
from functools import partial
from importlib import import_module
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from wrong_answers import equivalents, function_in
from wrong_answers.feed_forward import BUG
from wrong_answers.mutants import mutants

from lib.checks.feed_forward.balance import CROSSOVER_SIZES, attention_flops, crossover
from lib.checks.feed_forward.counts import FLOP_SIZES, flops
from lib.checks.feed_forward.network import SIZES, network, network_inputs
from lib.checks.verdict import Verdict, attempt
from lib.costs import count_flops
from lib.device import seeded

ANSWERS = Path(__file__).parent / "wrong_answers"
CHAPTERS = sorted(path.stem for path in ANSWERS.glob("*.py") if path.stem not in ("__init__", "equivalents", "mutants"))
EXERCISES, CHECKS, EQUIVALENT = {}, {}, {}
for chapter in CHAPTERS:
    own, checks = import_module(f"wrong_answers.{chapter}").EXERCISES, import_module(f"lib.checks.{chapter}")
    assert not own.keys() & EXERCISES.keys(), f"two chapters have an exercise {own.keys() & EXERCISES.keys()}"
    EXERCISES |= own
    CHECKS |= {exercise: getattr(checks, f"check_{exercise}") for exercise in own}
    EQUIVALENT |= getattr(equivalents, chapter.upper(), {})
# Seconds, for hostile answers: the check gives them ALL_SECONDS, 3, and the rest is for the slowest machine that runs
# these tests beside others. A right answer takes milliseconds, which are printed and not held to a number: a test that
# is timed fails on a busy machine, and says nothing there.
BOUND = 5

no_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: torch.cuda.is_available() is False")
on_cuda = pytest.param("cuda", marks=[pytest.mark.gpu, no_cuda])

RIGHT = [
    pytest.param(exercise, body, id=f"{exercise}-{number}")
    for exercise, answers in EXERCISES.items()
    for number, body in enumerate(answers.right)
]
WRONG = [
    pytest.param(exercise, mistake, cell, id=f"{exercise}-{mistake}-{number}")
    for exercise, answers in EXERCISES.items()
    for number, (mistake, cell) in enumerate(answers.wrong_ones())
]


def judge(exercise, cell):
    return CHECKS[exercise](function_in(cell))


def timed(exercise, function):
    started = time.perf_counter()
    verdict = CHECKS[exercise](function)
    assert time.perf_counter() - started < BOUND
    assert isinstance(verdict, Verdict)
    assert repr(verdict)
    assert verdict._repr_html_().endswith("</div>")
    return verdict


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
    def state():
        settings = torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled(), sys.gettrace()
        return *settings, torch.get_rng_state().sum().item(), torch.initial_seed()

    before = state()
    yield
    assert state() == before


def test_every_check_of_every_chapter_has_answers():
    """Among them those of `feed_forward`, or the tests below would have nothing to try."""
    rooms = Path(sys.modules["lib.checks.verdict"].__file__).parents[1]
    assert (
        sorted(path.stem for path in rooms.iterdir() if path.stem not in ("__init__", "verdict", "__pycache__"))
        == CHAPTERS
    )
    assert "feed_forward" in CHAPTERS
    named = {
        name for chapter in CHAPTERS for name in vars(import_module(f"lib.checks.{chapter}")) if name[:6] == "check_"
    }
    assert named == {f"check_{exercise}" for exercise in EXERCISES}


# ---- Both directions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu", on_cuda])
@pytest.mark.parametrize(("exercise", "body"), RIGHT)
def test_a_right_answer_passes(exercise, body, device):
    function = function_in(EXERCISES[exercise].source(body))
    torch.set_default_device(device if device != "cpu" else None)
    try:
        verdict = CHECKS[exercise](function)
    finally:
        torch.set_default_device(None)
    assert (verdict.status, verdict.mistake, verdict.hint) == ("passed", None, ""), repr(verdict)


@pytest.mark.parametrize(("exercise", "mistake", "cell"), WRONG)
def test_a_wrong_answer_is_told_its_own_mistake(exercise, mistake, cell):
    verdict = judge(exercise, cell)
    assert (verdict.status, verdict.mistake) == ("failed", mistake), repr(verdict)
    assert verdict.message
    assert verdict.hint
    assert verdict.comparison or verdict.line or mistake in ("not_a_pair", "swapped", "not_whole", "no_gradient")


@pytest.mark.parametrize("exercise", EXERCISES)
def test_no_two_mistakes_of_an_exercise_get_the_same_message(exercise):
    said = {}
    for mistake, cell in EXERCISES[exercise].wrong_ones():
        said.setdefault(judge(exercise, cell).message, set()).add(mistake)
    assert [mistakes for mistakes in said.values() if len(mistakes) > 1] == []


@pytest.mark.parametrize("exercise", EXERCISES)
def test_an_exercise_has_enough_answers_of_both_kinds(exercise):
    answers = EXERCISES[exercise]
    assert len(answers.right) >= 3
    assert len(answers.wrong) >= 8
    assert len({ast.unparse(ast.parse(answers.source(body))) for body in answers.right}) == len(answers.right)


@pytest.mark.parametrize("exercise", EXERCISES)
def test_a_stub_is_not_attempted_and_costs_nothing(exercise):
    verdict = judge(exercise, EXERCISES[exercise].source("raise NotImplementedError"))
    assert verdict.status == "not attempted"
    assert repr(verdict).startswith(f"⬜ {exercise}: not attempted yet.")


@pytest.mark.parametrize("d_model", range(1, 7))
def test_the_length_found_by_counting_is_the_one_of_the_formula_at_every_width(d_model):
    found = {d_ff: crossover(d_model, d_ff) for d_ff in range(1, 4 * d_model + 4)}
    assert found == {d_ff: max(0, d_ff - 2 * d_model) for d_ff in found}
    assert (found[2 * d_model], found[2 * d_model + 1]) == (0, 1)


SIGNS_LOST = {
    "b_1 cut": lambda x, w_1, b_1, w_2, b_2: network(x, w_1, b_1.relu(), w_2, b_2),
    "b_1 negative": lambda x, w_1, b_1, w_2, b_2: network(x, w_1, b_1.clamp(max=0), w_2, b_2),
    "b_1 unsigned": lambda x, w_1, b_1, w_2, b_2: network(x, w_1, b_1.abs(), w_2, b_2),
    "b_2 unsigned": lambda x, w_1, b_1, w_2, b_2: network(x, w_1, b_1, w_2, b_2.abs()),
    "x cut": lambda x, *weights: network(x.relu(), *weights),
    "a small slope": lambda x, w_1, b_1, w_2, b_2: F.leaky_relu(x @ w_1 + b_1, 1e-5) @ w_2 + b_2,
    "a short curve": lambda x, w_1, b_1, w_2, b_2: F.celu(x @ w_1 + b_1, 1e-4) @ w_2 + b_2,
}


@pytest.mark.parametrize("name", SIGNS_LOST)
def test_a_lost_sign_shows_on_the_first_trial_and_is_not_blamed_on_sizes(name):
    verdict = CHECKS["feed_forward"](SIGNS_LOST[name])
    assert verdict.status == "failed"
    assert "smallest sizes" not in verdict.message
    assert "x: (1, 2, 3)" in verdict.comparison.tried


@pytest.mark.parametrize("sizes", SIZES)
def test_on_each_trial_of_the_network_something_is_cut_and_something_kept(sizes):
    x, w_1, b_1, *_ = network_inputs(*sizes)
    hidden = x @ w_1 + b_1
    assert (hidden > 0).any()
    assert (hidden < 0).any()
    assert (b_1 < 0).any()
    assert (b_1 > 0).any()


def meta(*shape):
    return torch.empty(shape, device="meta")


def explicit_attention(x, projection):
    query, key, value = (x @ projection for _ in range(3))
    return (query @ key.mT) @ value @ projection


@pytest.mark.parametrize(("seq_len", "d_model", "d_ff"), FLOP_SIZES)
def test_the_flops_are_those_that_pytorchs_counter_finds_in_the_products(seq_len, d_model, d_ff):
    x, w_1, w_2 = meta(seq_len, d_model), meta(d_model, d_ff), meta(d_ff, d_model)
    assert flops(seq_len, d_model, d_ff) == count_flops(lambda: torch.relu(x @ w_1) @ w_2)
    assert attention_flops(seq_len, d_model) == count_flops(lambda: explicit_attention(x, meta(d_model, d_model)))


FIRST_CHECKS = """
import sys, torch
sys.path.insert(0, {tests!r})
from importlib import import_module
from wrong_answers import function_in
for chapter in {chapters!r}:
    checks, answers = import_module("lib.checks." + chapter), import_module("wrong_answers." + chapter).EXERCISES
    for exercise, own in answers.items():
        before = len(sys.modules)
        verdict = getattr(checks, "check_" + exercise)(function_in(own.source(own.right[0])))
        print(exercise, verdict.status, len(sys.modules) - before)
"""


def test_the_first_check_of_a_process_loads_no_more_than_a_few_modules():
    """PyTorch's FLOP counter loads 800 when it first watches a product, which takes one to four seconds."""
    program = FIRST_CHECKS.format(tests=str(ANSWERS.parent), chapters=CHAPTERS)
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ANSWERS.parents[1])
    assert ran.returncode == 0, ran.stderr
    lines = [line.split() for line in ran.stdout.splitlines()]
    assert {exercise: status for exercise, status, _ in lines} == dict.fromkeys(EXERCISES, "passed")
    assert {exercise: int(loaded) for exercise, _, loaded in lines if int(loaded) > 50} == {}


def test_an_answer_that_counts_with_pytorchs_counter_has_time_to_load_it():
    program = """
import torch
from lib.checks.feed_forward import check_flops
from lib.costs import count_flops
ones = torch.ones
print(check_flops(lambda n, d, f: count_flops(lambda: ones(n, d) @ ones(d, f) @ ones(f, d))).status)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ANSWERS.parents[1])
    assert ran.stdout == "passed\n", ran.stdout + ran.stderr


def test_the_widths_where_the_length_is_the_last_0_and_the_first_1_are_tried():
    assert {0, 1} <= {d_ff - 2 * d_model for d_model, d_ff in CROSSOVER_SIZES}


def test_the_bug_is_shown_by_the_tokens_that_moved():
    verdict = judge("find_the_bug", EXERCISES["find_the_bug"].source(BUG))
    assert "The bug is still there. I changed token 0 and nothing else, and tokens 0, 1, 2, 3 moved" in verdict.message
    still, moved = verdict.comparison.expected, verdict.comparison.received
    assert not still[:, 1:].any()
    assert (moved[0].sum(dim=1) > 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("exercise", EXERCISES)
def test_the_default_dtype_of_the_reader_does_not_matter(exercise, dtype):
    torch.set_default_dtype(dtype)
    try:
        for body in EXERCISES[exercise].right:
            assert judge(exercise, EXERCISES[exercise].source(body)).status == "passed"
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_check_takes_milliseconds(capsys):
    lines = []
    for exercise, answers in EXERCISES.items():
        judge(exercise, answers.source(answers.right[0]))  # the first call loads what it needs
        started = time.perf_counter()
        verdict = timed(exercise, function_in(answers.source(answers.right[0])))
        lines.append(f"{exercise:15} {1000 * (time.perf_counter() - started):6.1f} ms  {verdict.status}")
    with capsys.disabled():
        print("", *lines, sep="\n")


# ---- Hostile answers -------------------------------------------------------------------------------------------------


def wrong_device(*inputs):
    return torch.empty_like(inputs[0], device="meta") if isinstance(inputs[0], torch.Tensor) else torch.empty(3)


def aliasing(*inputs):
    return inputs[0].T if isinstance(inputs[0], torch.Tensor) else inputs


def recursion(*inputs):
    return recursion(*inputs)


def endless(*inputs):
    while True:
        try:
            inputs = inputs[::-1]
        except:  # noqa: E722
            continue


def greedy(*inputs):
    print("x" * 1000)
    return [0] * 10**15


def vandal(*inputs):
    torch.manual_seed(3)
    torch.set_default_dtype(torch.float16)
    torch.set_default_device("meta")
    torch.set_grad_enabled(False)


def changing(*inputs):
    for value in inputs:
        if isinstance(value, torch.Tensor):
            value.zero_()
    return inputs[0]


def lazy(*inputs):
    return (value for value in inputs)


class Awkward(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, types, arguments=(), named=None):
        raise RuntimeError("I will not be computed with")


class Liar(float):
    def __eq__(self, other):
        return True

    __hash__ = float.__hash__


class Broken:
    def __repr__(self):
        raise RuntimeError("no text")


HOSTILE = {
    "raises": (lambda *inputs: [][0], "failed", "index"),
    "none": (lambda *inputs: None, "failed", None),
    "text": (lambda *inputs: "right", "failed", None),
    "endless": (endless, "failed", "too_slow"),
    "sleeps": (lambda *inputs: time.sleep(30), "failed", "too_slow"),
    "exits": (lambda *inputs: sys.exit(0), "failed", "exits"),
    "recursion": (recursion, "failed", "recursion"),
    "greedy": (greedy, "failed", "memory"),
    "wrong_device": (wrong_device, "failed", None),
    "wrong_shape": (lambda *inputs: torch.zeros(9, 9, 9), "failed", None),
    "wrong_dtype": (lambda *inputs: torch.zeros(1, 2, 3, dtype=torch.int8), "failed", None),
    "bool": (lambda *inputs: True, "failed", None),
    "nan": (lambda *inputs: inputs[0] * float("nan"), "failed", None),
    "complex": (lambda *inputs: inputs[0] * 1j, "failed", None),
    "aliasing": (aliasing, "failed", None),
    "changing": (changing, "failed", None),
    "vandal": (vandal, "failed", None),
    "lazy": (lazy, "failed", None),
    "awkward": (lambda *inputs: torch.zeros(1, 2, 3).as_subclass(Awkward), "failed", None),
    "liar": (lambda *inputs: Liar(3.0), "failed", None),
    "broken": (lambda *inputs: Broken(), "failed", None),
    "function": (lambda *inputs: torch.relu, "failed", None),
    "empty": (lambda *inputs: torch.empty(0), "failed", None),
    "huge": (lambda *inputs: 10**400, "failed", None),
    "too_few": (lambda: 0, "failed", "arguments"),
    "too_many": (lambda a, b, c, d, e, f: 0, "failed", "arguments"),
    "class": (Broken, "failed", "a_class"),
    "not_callable": (3, "failed", "not_a_function"),
    "module": (torch.nn.Linear(2, 2), "failed", None),
    "partial": (partial(lambda a, *rest: None, 1), "failed", None),
    "raises_base": (lambda *inputs: (_ for _ in ()).throw(BaseException("?")), "failed", "raises"),
    "stops": (lambda *inputs: next(iter(())), "failed", "raises"),
    "group": (lambda *inputs: (_ for _ in ()).throw(ExceptionGroup("two", [ValueError(), KeyError()])), "failed", None),
    "stub": (lambda *inputs: (_ for _ in ()).throw(NotImplementedError), "not attempted", None),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("exercise", EXERCISES)
def test_a_hostile_answer_gets_a_clear_verdict_in_bounded_time(exercise, name):
    function, status, mistake = HOSTILE[name]
    verdict = timed(exercise, function)
    assert verdict.status == status
    assert mistake in (None, verdict.mistake)
    assert verdict.message
    assert "Traceback" not in repr(verdict)


# ---- Mutants ---------------------------------------------------------------------------------------------------------


def changed_lines(cell, mutant):
    before = ast.unparse(ast.parse(cell)).splitlines()
    return " / ".join(line.strip() for line in mutant.splitlines() if line not in before)


@pytest.fixture
def impatient(monkeypatch):
    """Stop after a fifth of the usual time: many a mutant loops without end, and right answers take milliseconds."""
    monkeypatch.setattr(attempt, "SECONDS", attempt.SECONDS / 5)
    monkeypatch.setattr(attempt, "ALL_SECONDS", attempt.ALL_SECONDS / 5)


@pytest.mark.slow
@pytest.mark.parametrize("exercise", EXERCISES)
def test_no_mutant_of_a_right_answer_passes_but_those_that_are_right(exercise, capsys, impatient):
    answers, alive, excused, total = EXERCISES[exercise], [], set(), 0
    for body in answers.right:
        cell = answers.source(body)
        for mutant in mutants(cell):
            try:
                function = function_in(mutant)
            except SyntaxError:
                continue
            total += 1
            if CHECKS[exercise](function).status != "failed":
                change = changed_lines(cell, mutant)
                reasons = {known for known in EQUIVALENT.get(exercise, {}) if known in change}
                excused |= reasons
                alive += [] if reasons else [change]
    with capsys.disabled():
        print(f"\n{exercise:15} {total} mutants, {len(alive)} passed unexplained", end="")
    assert alive == []
    assert excused == set(EQUIVALENT.get(exercise, {})), "an excuse that no mutant needs"
    assert total >= 50


@pytest.mark.parametrize(
    ("cell", "wanted"),
    [
        ("def f(a, b):\n    return a - b", {"a + b", "a * b", "a", "b", "b - a", "b - b", "a - a"}),
        ("def f(a):\n    return max(0, a)", {"min(0, a)", "max(1, a)", "max(-1, a)", "max(a, 0)", "0", "a"}),
        ("def f(a):\n    return a.sum(dim=1)", {"a", "a.mean(dim=1)", "a.sum()", "a.sum(dim=2)", "a.sum(dim=0)"}),
    ],
)
def test_the_mutator_swaps_operators_drops_terms_and_changes_constants(cell, wanted):
    made = {mutant.rpartition("return ")[2] for mutant in mutants(cell)}
    assert wanted | {mutant for mutant in made if mutant.startswith("def ")} <= made | wanted
    assert wanted <= made


def test_the_bug_is_a_realistic_one():
    buggy, right = (
        function_in(EXERCISES["find_the_bug"].source(body)) for body in (BUG, EXERCISES["find_the_bug"].right[0])
    )
    with seeded(0):
        inputs = torch.randn(2, 4, 3), torch.randn(3, 5), torch.randn(5), torch.randn(5, 3), torch.randn(3)
    assert buggy(*inputs).shape == right(*inputs).shape
    assert buggy(*inputs).isfinite().all()
    alone = inputs[0][:, :1]
    assert buggy(alone, *inputs[1:]).isfinite().all()
    assert 4 <= len(BUG.strip().splitlines()) <= 6
