"""A verdict shows itself the same everywhere, and whatever a reader's function does, it does it safely."""

import random
import re
import signal
import sys
import textwrap
import threading
import time
from html.parser import HTMLParser

import pytest
import torch

import lib.checks.verdict as package
from lib.checks.verdict import (
    Attempt,
    Comparison,
    Finding,
    Line,
    Mistake,
    Verdict,
    agree,
    check,
    draw,
    gradients_flow,
    read_number,
    read_pair,
    read_tensor,
    read_whole_number,
)
from lib.checks.verdict.attempt import FirstLines, NotAttempted, _sealed
from lib.checks.verdict.deadline import OutOfTime, call_within
from lib.checks.verdict.outcome import SIGNS
from lib.checks.verdict.page import DRAWINGS
from lib.checks.verdict.words import in_words
from lib.device import seeded

TENSOR = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)


@check("x")
def check_double(attempt):
    """Check that a number is doubled."""
    agree(
        attempt,
        draw_rows(),
        lambda x: x + x,
        [Mistake("square", lambda x: x * x, "You square it.", "Add it to itself.")],
        read=read_tensor,
        square=draw((3, 3)),
    )
    return "right. It is twice as much."


def draw_rows():
    return [draw((1, 2)), draw((2, 3))]


def attempt(function, *parameters):
    return Attempt("double", function, parameters or ("x",))


def found(function, *inputs):
    with pytest.raises(Finding) as caught:
        attempt(function, *"xyz"[: len(inputs)])(*inputs)
    return caught.value


# ---- The verdict -----------------------------------------------------------------------------------------------------


class Reader(HTMLParser):
    """Read what a browser would: tags that are closed, and text."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.text = [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1] != "style":
            self.text.append(data)


def full_verdict(**changes):
    parts = {
        "exercise": "double",
        "status": "failed",
        "message": "You square it.",
        "mistake": "square",
        "hint": "Add it to itself.",
        "comparison": Comparison("double(x: (2, 2))", TENSOR, TENSOR.clone().fill_(2.0), rows="token"),
        "line": Line(2, "return x * x"),
        "printed": "hello\n",
    }
    return Verdict(**parts | changes)


def test_the_verdict_on_a_stub_is_always_the_same_text():
    def double(x):
        raise NotImplementedError

    verdict = check_double(double)
    assert repr(verdict) == (
        "⬜ double: not attempted yet. Replace the line that raises NotImplementedError, then run both cells."
    )
    assert verdict._repr_html_() == check_double(double)._repr_html_()
    assert 'class="verdict verdict-not-attempted"' in verdict._repr_html_()


def test_a_failed_verdict_as_text_says_everything():
    assert repr(full_verdict()).splitlines() == [
        "❌ double: You square it.",
        "   Way out: Add it to itself.",
        "   Line 2: return x * x",
        "   Tried: double(x: (2, 2))",
        "   Expected and received, ≠ marks what differs:",
        "   token 0:    1.00     2.00  |  ≠   2.00     2.00",
        "   token 1:    3.00     4.00  |  ≠   2.00 ≠   2.00",
        "   Printed:",
        "   | hello",
    ]


def test_a_passed_verdict_begins_with_its_sign():
    verdict = check_double(lambda x: 2 * x)
    assert repr(verdict) == "✅ double: right. It is twice as much."
    assert "verdict-passed" in verdict._repr_html_()


def emoji(text):
    return set(text) & set("✅❌⬜")


def luminance(colour):
    """The relative luminance of "#rrggbb", from 0 to 1, as WCAG defines it."""
    parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("status", SIGNS)
def test_text_begins_with_an_emoji_and_html_with_a_drawing_that_says_the_status(status):
    verdict = full_verdict(status=status)
    assert repr(verdict)[0] == SIGNS[status]
    html = verdict._repr_html_()
    assert emoji(html) == set(), "a machine without a font for emoji shows an empty box"
    page = Reader(html)
    assert page.text[:2] == [status, " "], "what is read aloud, and what is left where drawings are stripped"
    [drawing] = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert drawing["role"] == "img"
    assert drawing["width"] == drawing["height"] == "1em"


def test_the_signs_need_no_style_sheet_no_script_and_no_file():
    for drawing in DRAWINGS.values():
        tags = {tag for tag, _ in Reader(f"<svg>{drawing}</svg>").tags}
        assert tags <= {"svg", "rect", "circle", "path"}
        assert not re.search(r"class=|id=|href|url\(|style=|//", drawing)


def test_the_signs_differ_in_form_and_each_reads_on_light_and_dark_pages():
    forms = {re.sub(r'(?:fill|stroke)="[^"]*"', "", drawing) for drawing in DRAWINGS.values()}
    assert len(forms) == len(DRAWINGS) == len(SIGNS)
    for status, drawing in DRAWINGS.items():
        colours = re.findall(r'(?:fill|stroke)="(?!none)([^"]+)"', drawing)
        if "currentColor" in colours:
            assert colours == ["currentColor"], "it is as readable as the text beside it"
            continue
        ground, line = map(luminance, colours)
        contrast = (line + 0.05) / (ground + 0.05)
        assert contrast >= 3, f"{status}: {contrast:.1f}; WCAG 1.4.11 wants 3 for what has a meaning"


def test_html_says_the_same_as_text_and_is_well_formed():
    verdict = full_verdict()
    page = Reader(verdict._repr_html_())
    assert page.open == []
    text = " ".join(page.text)
    for said in ("You square it.", "Add it to itself.", "return x * x", "double(x: (2, 2))", "Expected", "hello"):
        assert said in text


def test_each_table_has_a_caption_and_a_heading_for_each_row():
    page = Reader(full_verdict()._repr_html_())
    tags = [tag for tag, _ in page.tags]
    assert tags.count("table") == tags.count("caption") == 2
    assert [attributes for tag, attributes in page.tags if tag == "th"] == [{"scope": "row"}] * 4


def test_numbers_that_differ_carry_a_sign_and_not_only_a_colour():
    html = full_verdict()._repr_html_()
    marked = re.findall(r'<td class="verdict-off"[^>]*>(.*?)</td>', html)
    assert marked == ["≠ 2.00"] * 3


def test_what_a_reader_wrote_is_escaped():
    evil = "<script>alert(1)</script>"
    verdict = full_verdict(message=evil, hint=evil, line=Line(1, evil), printed=evil, exercise=evil)
    verdict = full_verdict(**vars(verdict) | {"comparison": Comparison(evil, evil, evil, evil)})
    assert "<script" not in verdict._repr_html_()
    assert verdict._repr_html_().count("&lt;script&gt;") == 8


@pytest.mark.parametrize("size", [(1,), (3, 9), (40, 2), (2, 3, 4, 5), ()])
def test_of_a_tensor_of_any_size_a_part_with_a_difference_is_shown(size):
    expected, received = torch.zeros(size), torch.zeros(size)
    received.view(-1)[-1] = 1.0
    text = repr(full_verdict(comparison=Comparison("f()", expected, received)))
    assert "≠   1.00" in text or size == (3, 9)
    assert len(text.splitlines()) < 15


def test_a_small_difference_is_shown_with_enough_digits():
    received = TENSOR + torch.tensor([[0.0, 0.0], [0.0, 3e-4]])
    assert "≠ 4.0003" in repr(full_verdict(comparison=Comparison("f()", TENSOR, received)))


def test_nan_and_infinity_are_shown():
    received = torch.tensor([[float("nan"), float("inf")], [3.0, -float("inf")]], dtype=torch.float64)
    verdict = full_verdict(comparison=Comparison("f()", TENSOR, received))
    assert re.search(r"≠\s+nan ≠\s+inf", repr(verdict))
    assert "≠ nan" in verdict._repr_html_()


def test_numbers_and_other_shapes_are_written_out():
    assert "Expected: 17\n   Received: 12" in repr(full_verdict(comparison=Comparison("f()", 17, 12)))
    text = repr(full_verdict(comparison=Comparison("f()", TENSOR, TENSOR[0])))
    assert "Received: a tensor of shape (2,)" in text


def test_numbers_get_as_many_digits_as_it_takes_to_see_that_they_differ():
    for expected, received, shown in ((120, 120.000012, "120.00001"), (120.5, 120.50000001, "120.50000001")):
        text = repr(full_verdict(comparison=Comparison("f()", expected, received)))
        assert f"Expected: {expected}\n   Received: {shown}" in text
    assert "Received: 0.333333" in repr(full_verdict(comparison=Comparison("f()", 17, 1 / 3))), "and no more than that"


@pytest.mark.parametrize(
    ("change", "wanted", "got"),
    [
        (lambda x: x.float(), ", dtype float64", ", dtype float32"),
        (lambda x: x.to("meta"), ", device cpu", ", device meta"),
        (lambda x: x.to_sparse(), ", layout strided", ", layout sparse_coo"),
        (lambda x: x[0], "", ""),
    ],
)
def test_tensors_of_one_shape_are_told_apart_by_what_differs(change, wanted, got):
    text = repr(check_double(lambda x: change(2 * x)))
    assert f"Expected: a tensor of shape (1, 2){wanted}\n" in text
    assert re.search(rf"Received: a tensor of shape \([^)]*\){got}$", text)


# ---- Calling ---------------------------------------------------------------------------------------------------------


def test_the_function_gets_copies():
    seen = []
    assert torch.equal(attempt(lambda x: seen.append(x) or 2 * x)(TENSOR), 2 * TENSOR)
    assert seen[0] is not TENSOR
    assert seen[0].data_ptr() != TENSOR.data_ptr()


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.add_(1),
        lambda x: x.relu_(),
        lambda x: x.t_(),
        lambda x: x.resize_(1, 4),
        lambda x: x.data.fill_(0),
        lambda x: x.requires_grad_(),
        lambda x: x.__setitem__((0, 0), -9),
    ],
)
def test_changing_an_input_is_found_and_the_callers_tensor_stays(change):
    x = TENSOR - 2
    before = x.clone()
    finding = found(lambda y, x: (change(x), y)[1], TENSOR, x)
    assert finding.mistake == "changes_its_input"
    assert "tensor y in place" in finding.message
    assert torch.equal(x, before)


def test_what_is_printed_is_kept_and_not_shown(capsys):
    def double(x):
        print("hello")
        print("to errors", file=sys.stderr)
        return 3 * x

    verdict = check_double(double)
    assert verdict.printed.startswith("hello\nto errors\n")
    assert capsys.readouterr() == ("", "")


def test_of_endless_printing_the_beginning_is_kept():
    lines = FirstLines(characters=10)
    assert [lines.write("abcdef") for _ in range(3)] == [6, 6, 6]
    assert lines.text == "abcdefabcd"


def test_random_numbers_and_settings_of_the_caller_survive():
    def vandal(x):
        torch.manual_seed(5)
        torch.set_default_dtype(torch.float16)
        torch.set_default_device("meta")
        torch.set_grad_enabled(False)
        sys.stdout = sys.stderr
        return 2 * x

    with seeded(1):
        wanted, out = torch.rand(3), sys.stdout
    with seeded(1):
        attempt(vandal)(TENSOR)
        assert torch.equal(torch.rand(3), wanted)
    assert torch.get_default_dtype() == torch.float32
    assert torch.get_default_device() == torch.device("cpu")
    assert torch.is_grad_enabled()
    assert sys.stdout is out


def test_pythons_random_numbers_survive_as_well():
    sealed = _sealed(FirstLines(), seed=1)  # the type checker of these tests draws random numbers of its own
    state = random.getstate()
    with sealed:
        random.seed(5)
    assert random.getstate() == state


def test_each_call_has_other_random_numbers_and_each_check_the_same():
    def runs():
        one = attempt(lambda x: torch.rand(2))
        return one(TENSOR), one(TENSOR)

    (first, second), (again, _) = runs(), runs()
    assert not torch.equal(first, second)
    assert torch.equal(first, again)


def test_warnings_of_the_reader_stay_with_the_reader():
    import warnings

    assert check_double(lambda x: warnings.warn("old", stacklevel=1) or 2 * x).status == "passed"


def test_new_tensors_of_the_reader_have_the_dtype_of_the_inputs():
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        torch.set_default_dtype(dtype)
        try:
            assert check_double(lambda x: torch.zeros(x.shape) + x + x).status == "passed"
            assert torch.get_default_dtype() == dtype
        finally:
            torch.set_default_dtype(torch.float32)


def test_ctrl_c_goes_through():
    def interrupted(x):
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        attempt(interrupted)(TENSOR)


def test_the_line_is_the_innermost_one_of_the_readers_cell():
    def divide(x):
        return x / 0

    def double(x):
        steps = [1, 2]
        return (
            divide(steps[0])
            and 2 * x
        )  # fmt: skip

    line = found(double, TENSOR).line
    assert line.text == "return x / 0"  # a function of their own in the same file
    assert found(lambda x: torch.einsum("ab", x, x), TENSOR).line.text.startswith("assert found(lambda x:")


def test_an_exception_without_a_sound_text_is_survived():
    class SilentError(Exception):
        def __str__(self):
            raise ValueError

    def double(x):
        raise SilentError

    assert found(double, TENSOR).mistake == "raises"


def test_a_missing_operation_of_pytorch_is_not_a_stub():
    finding = found(lambda x: (x > 0) @ (x > 0), TENSOR)
    assert finding.mistake in ("raises", "dtypes_meet")

    def stub(x):
        raise NotImplementedError("write this")

    with pytest.raises(NotAttempted):
        attempt(stub)(TENSOR)


@pytest.mark.parametrize(
    ("function", "mistake", "said"),
    [
        (
            lambda x, y: x @ y,
            "matmul_shapes",
            r"shapes \(2, 2\) and \(3, 2\): the inner numbers, 2 and 3, must",
        ),
        (lambda x, y: x + y, "sizes_differ", "have 2 and 3 entries on axis 0"),
        (lambda x, y: x.view(7), "shape", "shape that it cannot have: shape '.7.' is invalid"),
        (lambda x, y: x @ x.float(), "dtypes_meet", "kinds met"),
        (lambda x, y: x @ z, "unknown_name", "does not know a name: name 'z'"),  # noqa: F821
        (lambda x, y: x[5], "index", "index 5 is out of bounds"),
        (lambda x, y: 1 / 0, "division", "divide by 0"),
        (lambda x, y: sys.exit(), "exits", "ends Python"),
        (lambda x, y: x.rleu(), "raises", "'Tensor' object has no attribute 'rleu'"),
        (lambda x, y: torch.zeros(10**15), "memory", "not fit into memory"),
    ],
)
def test_a_common_error_is_put_into_words(function, mistake, said):
    finding = found(function, TENSOR, torch.ones(3, 2, dtype=torch.float64))
    assert finding.mistake == mistake
    assert re.search(said, finding.message)
    assert "It happened in double(x: (2, 2), y: (3, 2))." in finding.message


@pytest.mark.parametrize(
    "error",
    [
        AssertionError("Torch not compiled with CUDA enabled"),
        RuntimeError("No CUDA GPUs are available"),
        RuntimeError("Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU"),
        RuntimeError("PyTorch is not linked with support for mps devices"),
    ],
)
def test_a_gpu_that_is_not_there_is_named_and_an_assert_of_the_reader_is_not_taken_for_it(error):
    mistake, message, hint = in_words(error)
    assert mistake == "no_gpu"
    assert message.startswith("There is no GPU here")
    assert "device=x.device" in hint
    assert in_words(AssertionError("CUDA sizes differ"))[0] == "assertion"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device: torch.cuda.is_available() is True")
@pytest.mark.parametrize("function", [lambda x: x.to("cuda"), lambda x: x + torch.zeros(1, device="cuda")])
def test_without_a_gpu_an_answer_that_asks_for_one_is_told_so(function):
    finding = found(function, TENSOR)
    assert finding.mistake == "no_gpu"
    assert finding.line is not None


@pytest.mark.parametrize("thing", [torch.relu, torch.nn.Linear(3, 3), torch.nn.ReLU(), torch.matmul, torch.sum])
def test_an_object_of_pytorch_that_takes_other_arguments_is_told_so_and_no_line_is_promised(thing):
    with pytest.raises(
        Finding, match="What you passed takes other arguments than the 4 of the task: x, y, z, w"
    ) as one:
        attempt(thing, "x", "y", "z", "w")(TENSOR, TENSOR, TENSOR, TENSOR)
    assert one.value.mistake == "arguments"
    assert one.value.hint == "Write a function that calls it, and pass that: def double(x, y, z, w):"


def test_an_error_without_a_line_of_the_reader_points_to_none():
    assert "line below" not in found(getattr, TENSOR, "shap").hint
    assert found(lambda x: getattr(x, "shap"), TENSOR).hint == "Look at the line below."  # noqa: B009  it is to fail
    assert found(lambda x: max(x, 1, 2, kind=3), TENSOR).mistake == "raises", "a call inside has a line of the reader"


def test_tensors_on_two_devices_are_put_into_words():
    text = "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"
    assert in_words(RuntimeError(text))[:2] == ("devices_meet", f"Tensors on different devices met: {text}")


class Double(torch.nn.Module):
    def forward(self, x):
        return x + x


async def coroutine(x):
    return x


def generator(x):
    yield x


@pytest.mark.parametrize(
    ("thing", "mistake", "said"),
    [
        (Double, "a_class", "You passed a class"),
        (None, "not_a_function", "a NoneType"),
        (TENSOR, "not_a_function", "a Tensor, which cannot be called"),
        (lambda: 1, "arguments", "other arguments than the 1 of the task: x"),
        (lambda x, y: 1, "arguments", "other arguments"),
        (coroutine, "async", "async"),
        (generator, "generator", "yields"),
    ],
)
def test_what_is_no_function_of_these_arguments_is_refused_before_any_call(thing, mistake, said):
    with pytest.raises(Finding, match=said) as caught:
        attempt(thing).look()
    assert caught.value.mistake == mistake
    assert caught.value.hint


def test_a_call_is_written_with_the_name_that_the_reader_gave():
    def mended(x):
        return x @ torch.ones(3, 3)

    assert "It happened in mended(x: (2, 2))." in found(mended, TENSOR).message
    assert "It happened in double(x: (2, 2))." in found(lambda x: x @ torch.ones(3, 3), TENSOR).message


@pytest.mark.parametrize("thing", [Double(), lambda x, more=1: x + x, lambda *all: 2 * all[0], torch.neg])
def test_whatever_can_be_called_with_these_arguments_is_welcome(thing):
    attempt(thing).look()


# ---- The time limit --------------------------------------------------------------------------------------------------


def forever():
    while True:
        pass


def stubborn():
    while True:
        try:
            time.sleep(0.001)
        except:  # noqa: E722
            continue


def busy():
    number = 0
    while True:
        try:
            number += 1
        except:  # noqa: E722
            continue


def in_thread(function):
    results = []

    def work():
        try:
            results.append(function())
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(timeout=20)
    assert not thread.is_alive()
    return results[0]


@pytest.mark.parametrize("endless", [forever, busy, stubborn])
def test_an_endless_loop_is_stopped_on_the_main_thread(endless):
    started = time.monotonic()
    with pytest.raises(OutOfTime):
        call_within(0.1, endless)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("endless", [forever, busy])
def test_an_endless_loop_is_stopped_on_any_other_thread(endless):
    started = time.monotonic()
    assert isinstance(in_thread(lambda: call_within(0.1, endless)), OutOfTime)
    assert time.monotonic() - started < 5


def test_sleep_is_interrupted_where_there_are_timers():
    started = time.monotonic()
    with pytest.raises(OutOfTime):
        call_within(0.1, time.sleep, 30)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("run", [lambda function: function(), in_thread], ids=["main", "other"])
def test_the_limit_leaves_no_thread_timer_or_exception_behind(run):
    threads, handler = threading.active_count(), signal.getsignal(signal.SIGALRM)

    def quick():
        results = [call_within(0.02, int, "7") for _ in range(20)]
        time.sleep(0.05)  # longer than the limit: nothing may ring now
        return results

    assert run(quick) == [7] * 20
    assert threading.active_count() == threads
    assert signal.getsignal(signal.SIGALRM) is handler


def test_tracing_works_after_a_loop_was_stopped_on_another_thread():
    in_thread(lambda: call_within(0.05, forever))
    outer, events = sys.gettrace(), []

    def trace(frame, event, argument):
        events.append(event)
        return trace

    try:
        sys.settrace(trace)
        int("7") + attempt(len).parameters.index("x")
    finally:
        sys.settrace(outer)
    assert "call" in events


def test_a_timer_that_was_set_before_goes_on():
    rung = []
    handler = signal.signal(signal.SIGALRM, lambda *_: rung.append(True))
    outer = signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(OutOfTime):
            call_within(0.05, stubborn)
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] < 0.26
        time.sleep(0.5)
        assert rung == [True]
    finally:
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, *outer)


def test_a_trace_function_survives_and_a_debugger_has_all_the_time():
    class Debugger:
        def trace(self, frame, event, argument):
            return self.trace

    outer, debugger = sys.gettrace(), Debugger()
    for module, ends in (("coverage.tracer", OutOfTime), ("bdb", None)):
        Debugger.trace.__module__ = module
        trace = debugger.trace
        try:
            sys.settrace(trace)
            if ends:
                with pytest.raises(ends):
                    call_within(0.05, stubborn)
            else:
                call_within(0.05, time.sleep, 0.2)
            assert sys.gettrace() is trace
        finally:
            sys.settrace(outer)


def test_exceptions_and_results_pass_the_limit():
    assert call_within(1.0, max, 3, 4) == 4
    with pytest.raises(ZeroDivisionError):
        call_within(1.0, divmod, 1, 0)


def test_a_slow_function_gets_one_second_for_a_call_and_three_for_all():
    def slow(x):
        time.sleep(0.7)
        return x

    one, started = attempt(slow), time.monotonic()
    with pytest.raises(Finding, match="more than 1 second"):
        [one(TENSOR) for _ in range(9)]
    assert time.monotonic() - started < 5


# ---- What came back --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("result", "mistake", "said"),
    [
        (None, "returns_none", "You return None"),
        (TENSOR.numpy(), "returns_numpy", "NumPy array"),
        (TENSOR.tolist(), "returns_list", "a list"),
        ((TENSOR,), "returns_tuple", "a tuple"),
        (3.0, "returns_float", "float: 3.0"),
        (TENSOR[0], "wrong_shape", r"shape \(2,\); wanted is \(2, 2\)"),
        (TENSOR[None], "wrong_shape", r"shape \(1, 2, 2\)"),
        (TENSOR.float(), "wrong_dtype", "float32, the inputs are float64"),
        (TENSOR.int(), "wrong_dtype", "int32"),
        (TENSOR.to("meta"), "wrong_device", "device meta"),
        (TENSOR.to_sparse(), "sparse", "sparse"),
        ((row for row in TENSOR), "returns_generator", "a generator"),
        (Double(), "returns_double", "class Double"),
    ],
)
def test_what_is_not_the_wanted_tensor_is_named(result, mistake, said):
    with pytest.raises(Finding, match=said) as caught:
        read_tensor(result, TENSOR)
    assert caught.value.mistake == mistake


def test_a_tensor_is_taken_without_its_graph():
    assert not read_tensor(TENSOR.clone().requires_grad_(), TENSOR).requires_grad


def test_a_pair_may_be_a_list_and_its_bias_a_row():
    w, b = TENSOR, TENSOR[0]
    assert torch.equal(read_pair([w, b[None]], (w, b))[1], b)
    with pytest.raises(Finding, match="b before w"):
        read_pair((b, w), (w, b))
    with pytest.raises(Finding, match="a tensor of shape"):
        read_pair(w, (w, b))
    with pytest.raises(Finding, match="3 things"):
        read_pair((w, b, b), (w, b))
    with pytest.raises(Finding, match="You return None"):
        read_pair((w, None), (w, b))


@pytest.mark.parametrize("number", [7, 7.0, torch.tensor(7), torch.tensor([7.0]), TENSOR.numpy()[0, 0] + 6])
def test_a_number_comes_in_many_forms(number):
    assert read_number(number, 7) == 7
    assert isinstance(read_number(number, 7), int)


@pytest.mark.parametrize("result", [None, "7", True, TENSOR, float("nan"), float("inf"), 7j, [7]])
def test_what_is_no_number_is_named(result):
    with pytest.raises(Finding) as caught:
        read_number(result, 7)
    assert caught.value.mistake == "not_a_number"


def test_a_width_is_whole():
    assert read_whole_number(7, 7) == 7
    for number in (7.0, 6.5):
        with pytest.raises(Finding, match="a layer cannot be that wide"):
            read_whole_number(number, 7)


# ---- Agreement -------------------------------------------------------------------------------------------------------


def test_a_known_mistake_is_named_with_its_way_out():
    verdict = check_double(lambda x: x**2)
    assert (verdict.status, verdict.mistake) == ("failed", "square")
    assert (verdict.message, verdict.hint) == ("You square it.", "Add it to itself.")
    assert verdict.comparison.tried == "double(x: (1, 2))"


def test_an_unknown_mistake_is_shown():
    verdict = check_double(lambda x: 3 * x)
    assert verdict.mistake == "other"
    assert torch.equal(verdict.comparison.received, 3 * draw((1, 2))[0])


def test_an_answer_for_one_size_only_is_found():
    verdict = check_double(lambda x: x.reshape(1, 2) * 2)
    assert verdict.mistake == "other_sizes"
    assert verdict.message.startswith("It is right for the smallest sizes, but not for others.")


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda x: 2 * x + torch.log(-x.abs()), "the first nan is at row 0."),
        (lambda x: 2 * x / 0, "inf is at row 0."),
        (lambda x: torch.where(torch.arange(len(x))[:, None] == 1, x / 0, 2 * x), "inf is at row 1."),
    ],
)
def test_a_result_that_is_not_finite_is_named_with_its_first_place_and_the_usual_causes(function, said):
    verdict = check_double(function)
    assert verdict.mistake == "not_finite"
    assert verdict.message.startswith("Your result is not finite: the first ")
    assert verdict.message.endswith(said)
    assert "logarithm of a negative number" in verdict.hint
    assert not verdict.comparison.received.isfinite().all()


def test_a_mistake_that_is_known_by_its_finite_results_keeps_its_name():
    large = [draw((1, 2)), draw((1, 2), scale=1e200)]

    @check("x")
    def check_cube(attempt):
        """Check the same number; its square overflows."""
        known_one = [Mistake("cube", lambda x: x**3, "You cube it.", "Leave it.")]
        agree(attempt, large, lambda x: x, known_one, read=read_tensor)
        return "right."

    assert check_cube(lambda x: x**3).mistake == "cube"
    assert check_cube(lambda x: x**2).mistake == "not_finite"
    assert check_cube(lambda x: x).status == "passed"


def test_an_infinity_that_is_wanted_is_no_mistake():
    @check("x")
    def check_log(attempt):
        """Check a logarithm at 0."""
        agree(attempt, [(torch.zeros(1, 1, dtype=torch.float64),)], torch.log, [], read=read_tensor, accept=torch.equal)
        return "right."

    assert check_log(torch.log).status == "passed"
    assert check_log(lambda x: x).mistake == "other"


def test_a_result_cannot_be_changed_afterwards():
    shared = torch.zeros(1, 2, dtype=torch.float64)

    def double(x):
        shared.copy_(x * x) if x.shape == shared.shape else shared.zero_()
        return shared if x.shape == shared.shape else x * x

    assert check_double(double).mistake == "square"


def test_one_mistake_at_equal_widths_explains_a_clash_of_shapes():
    @check("x")
    def check_twice(attempt):
        """Check x + x."""
        turned = [Mistake("turned", lambda x: x + x.T, "You turn x.", "Leave .T out.")]
        agree(attempt, [draw((2, 3))], lambda x: x + x, turned, read=read_tensor, square=draw((3, 3)))
        return "right."

    verdict = check_twice(lambda x: x + x.T)
    assert verdict.mistake == "turned"
    assert verdict.line is not None


def test_gradients_that_stop_or_change_are_found():
    inputs = draw((2, 2), (2, 2))
    both = attempt(lambda x, y: x @ y, "x", "y")
    gradients_flow(both, inputs, torch.matmul)
    for function, said in (
        (lambda x, y: x.detach() @ y, "no gradient reaches x"),
        (lambda x, y: (x @ y).detach(), "no gradient reaches x"),
        (lambda x, y: 2 * (x @ y) - (x @ y).detach(), "no gradient that is right reaches x"),
        (lambda x, y: torch.tensor(x.detach().numpy() @ y.numpy()), "nothing can be learned"),
    ):
        with pytest.raises(Finding, match=said) as caught:
            gradients_flow(attempt(function, "x", "y"), inputs, torch.matmul)
        assert caught.value.mistake in ("no_gradient", "cuts_the_gradient")


def test_the_same_inputs_are_drawn_every_time_and_on_every_device():
    (first,), (again,) = draw((2, 3), seed=4), draw((2, 3), seed=4)
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert first.dtype == torch.float64
    torch.set_default_device("meta")
    try:
        assert draw((2, 3))[0].is_meta
    finally:
        torch.set_default_device(None)


def test_the_example_in_the_package_s_docstring_works():
    space = vars(package) | {"torch": torch}
    exec(textwrap.dedent(package.__doc__.split("\n\n")[1]), space)
    right, turned, twice = map(space["check_linear"], [torch.matmul, lambda x, w: (x @ w).mT, lambda x, w: 2 * (x @ w)])
    assert [verdict.status for verdict in (right, turned, twice)] == ["passed", "failed", "failed"]
    assert (turned.mistake, twice.mistake) == ("turned", "other")
