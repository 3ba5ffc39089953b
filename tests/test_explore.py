"""Explorables without a browser: three lives from one declaration, the same every time, small, and hard to misuse."""

import base64
import configparser
import contextlib
import hashlib
import inspect
import io
import json
import os
import random
import re
import subprocess
import sys
import tomllib
import types
from fractions import Fraction
from html import unescape
from html.parser import HTMLParser
from itertools import product
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

matplotlib.use("agg")
from matplotlib import pyplot as plt

from lib.explore import explore
from lib.explore.frames import draw_frame, minify, pack_svg, prefix_ids, unpack_svg

ROOT = Path(__file__).resolve().parents[1]
AXES = {"d_ff": [2, 8, 32], "form": ["plain", "gated"], "bias": [False, True]}
ALT = "A line and a cloud"
LIVES = ("static", "live")


def draw(d_ff, form, bias):
    """Draw a state that would differ between two calls if the seeds did not."""
    fig, ax = plt.subplots(figsize=(4, 3))
    ax.plot([0, 1], [0, d_ff], "-o" if bias else "--", label=form)
    ax.scatter(torch.rand(3), np.random.rand(3))
    ax.set_title(f"{form} {random.random():.3f}")
    ax.set(xlim=(0, 1), ylim=(0, 40))
    ax.text(0.5, 20, "tilted", rotation=30)
    return fig, {"parameters": d_ff * 1000 + bias, "error": torch.rand(()) / d_ff, "form": form}


@pytest.fixture(autouse=True)
def mode_unset(monkeypatch):
    """Tests choose the mode themselves, wherever they run."""
    for name in ("EXPLORE_MODE", "JPY_SESSION_NAME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def static():
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("EXPLORE_MODE", raising=False)
        return explore(draw, alt=ALT, mode="static", start={"d_ff": 8}, **AXES)


def parts(html):
    """Return the key, META and FRAMES that a static output hands to its script."""
    key, meta, frames = re.search(
        r'\}\)\("(\w+)", (\{.*\}), /\*xpl-frames\*/(.*)/\*end\*/\);</script>$', html, re.DOTALL
    ).groups()
    return key, json.loads(meta), json.loads(frames)


def sanitized(html):
    """Mask the output as nbval does."""
    rules = configparser.ConfigParser()
    rules.read(ROOT / "tools/nbval_sanitize.cfg")
    assert rules.sections()
    for name in rules.sections():
        html = re.sub(rules[name]["regex"], rules[name]["replace"], html)
    return html


def every(axes):
    return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]


class Tags(HTMLParser):
    """Collect the tags of a page."""

    def __init__(self, html):
        super().__init__()
        self.found = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def __getitem__(self, name):
        return [attrs for tag, attrs in self.found if tag == name]


# ---- The same every time ---------------------------------------------------------------------------------------------


def test_every_packed_frame_equals_a_fresh_draw_whatever_was_drawn_before(static):
    _, meta, frames = parts(static.html)
    packed = unpack_svg(frames["svg"])
    assert len(packed) == len(every(AXES)) == len(set(packed))
    for number, state in reversed(list(enumerate(every(AXES)))):
        random.seed(number), torch.rand(number)
        fresh = draw_frame(draw, state, "svg")
        assert fresh.picture == packed[number]
        assert [*fresh.readouts.values()] == meta["readouts"][number]


def run_alone(code, **environment):
    """Run code in a process of its own, without the tests' check of types, which draws random numbers itself."""
    code = f"import sys; sys.path.insert(0, 'tests'); import test_explore; {code}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def print_digest():
    made = explore(draw, alt=ALT, mode="static", **AXES)
    print(hashlib.sha256((made.html + made.png + made.text).encode()).hexdigest())


def test_two_processes_with_different_hash_seeds_write_the_same_bytes():
    one, other = (run_alone("test_explore.print_digest()", PYTHONHASHSEED=seed) for seed in "12")
    assert one == other
    assert len(one.strip()) == 64


def test_the_notebook_s_own_style_changes_no_frame_and_is_left_as_it_was(static):
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "none", "savefig.bbox": "tight"}):
        before = dict(matplotlib.rcParams)
        again = explore(draw, alt=ALT, mode="static", start={"d_ff": 8}, **AXES)
        assert dict(matplotlib.rcParams) == before
    assert again == static


def draw_between_random_numbers(mode, fails):
    def careless(d_ff):
        random.random(), np.random.rand(), torch.rand(1), torch.manual_seed(d_ff)
        if fails:
            raise KeyError(d_ff)
        return Figure(), {"d_ff": d_ff}

    def numbers(between):
        random.seed(5), np.random.seed(5), torch.manual_seed(5)
        between()
        return random.random(), np.random.rand(), torch.rand(1).item()

    def explored():
        with pytest.raises(RuntimeError) if fails else contextlib.nullcontext():
            explore(careless, alt=ALT, mode=mode, labels={"d_ff": {"numbers_only": True}}, d_ff=[1, 2])

    assert numbers(explored) == numbers(lambda: None)


def test_the_random_generators_go_on_as_if_nothing_had_been_drawn():
    calls = (
        f"test_explore.draw_between_random_numbers({mode!r}, {fails})" for mode in LIVES for fails in (False, True)
    )
    run_alone("; ".join(calls))


@pytest.mark.parametrize("mode", LIVES)
def test_no_figure_is_left_open_and_none_of_the_reader_s_is_closed(mode):
    plt.close("all")
    mine = plt.figure()

    def untidy(d_ff):
        plt.figure()
        if d_ff == 3:
            raise KeyError(d_ff)
        return draw(d_ff, "plain", False)

    explore(untidy, alt=ALT, mode=mode, d_ff=[1, 2])
    with pytest.raises(RuntimeError):
        explore(untidy, alt=ALT, mode=mode, d_ff=[3, 2])
    assert plt.get_fignums() == [mine.number]
    plt.close(mine)


# ---- Three lives -----------------------------------------------------------------------------------------------------


def plain_picture(html):
    """Take from a live picture what only a live one has: the prefix of its ids and its spoken name."""
    svg = re.search(r"<svg.*</svg>", html, re.DOTALL)[0]
    svg = re.sub(r' role="img" aria-label="[^"]*"', "", svg, count=1)
    return re.sub(r"\bxpl\d+-", "", svg)


def test_a_live_explorable_shows_the_picture_numbers_and_words_of_the_static_one_in_every_state(static):
    _, meta, frames = parts(static.html)
    packed = unpack_svg(frames["svg"])
    live = explore(draw, alt=ALT, mode="live", start={"d_ff": 8}, **AXES)
    for number, positions in enumerate(product(*(range(len(values)) for values in AXES.values()))):
        for control, position in zip(live.controls.values(), positions, strict=True):
            control.index = position
        html = live.shown.value
        said = ", ".join(
            f"{axis['name']} = {axis['values'][k]}" for axis, k in zip(meta["axes"], positions, strict=True)
        )
        assert plain_picture(html) == packed[number]
        assert re.findall(r"<td><span[^>]*>(.*?)</span>", html) == meta["readouts"][number]
        assert re.search(r'<p class="xpl-state"><span>(.*?)</span>', html)[1] == said
        assert Tags(html)["svg"][0]["aria-label"] == f"{ALT}: {said}"


def test_live_controls_wait_until_they_rest_and_reset_draws_once():
    drawn = []

    def watched(**state):
        drawn.append(state)
        return draw(**state)

    live = explore(watched, alt=ALT, mode="live", start={"d_ff": 8}, **AXES)
    assert [type(control).__name__ for control in live.controls.values()] == [
        "SelectionSlider",
        "ToggleButtons",
        "ToggleButtons",
    ]
    assert live.controls["d_ff"].continuous_update is False
    first = live.shown.value
    live.controls["d_ff"].value = "32"
    live.controls["form"].value = "gated"
    assert live.shown.value != first
    live.reset.click()
    assert drawn == [dict(zip(AXES, values, strict=True)) for values in [
        (8, "plain", False), (32, "plain", False), (32, "gated", False), (8, "plain", False),
    ]]  # fmt: skip
    assert plain_picture(live.shown.value) == plain_picture(first)


def test_live_numbers_that_changed_are_marked():
    live = explore(draw, alt=ALT, mode="live", **AXES)
    assert "xpl-new" not in live.shown.value.partition("</style>")[2]
    live.controls["form"].index = 1
    assert re.findall(r'class="xpl-new">(.*?)<', live.shown.value) == ["gated"]


def test_a_live_state_that_cannot_be_drawn_says_so_instead_of_keeping_the_old_picture():
    def fragile(d_ff):
        return draw(1 // (d_ff - 8) and d_ff, "plain", False)

    live = explore(fragile, alt=ALT, mode="live", d_ff=[2, 8, 32])
    with pytest.raises(RuntimeError, match=r"draw\(d_ff=8\) raised ZeroDivisionError"):
        live.controls["d_ff"].index = 1
    assert "<svg" not in live.shown.value
    assert "Nothing to show for d_ff = 8" in live.shown.value
    live.controls["d_ff"].index = 2
    assert "<svg" in live.shown.value


def test_the_static_output_is_one_bundle_with_html_a_picture_for_paper_and_text(static, monkeypatch):
    sent = []
    monkeypatch.setattr("IPython.display.display", lambda *data, **options: sent.append((data, options)))
    static._ipython_display_()
    [((bundle,), options)] = sent
    assert options == {"raw": True}
    assert set(bundle) == {"text/html", "image/png", "text/plain"}
    assert Image.open(io.BytesIO(base64.b64decode(bundle["image/png"]))).size == (600, 450)
    assert bundle["text/plain"].splitlines()[:2] == [
        f"{ALT}: d_ff = 8, form = plain, bias = False",
        "parameters: 8,000",
    ]


def test_without_its_script_the_output_shows_the_first_state_and_nothing_that_could_be_pressed(static):
    readable = static.html.partition("<script>")[0]
    tags = Tags(readable)
    assert not tags["input"] + tags["button"] + tags["select"]
    [image] = tags["img"]
    assert image["alt"] == f"{ALT}: d_ff = 8, form = plain, bias = False"
    assert image["src"] == f"data:image/png;base64,{static.png}"
    _, meta, _ = parts(static.html)
    shown = re.findall(r'<th scope="row">(.*?)</th><td><span>(.*?)</span></td>', readable)
    assert shown == [*zip(meta["names"], meta["readouts"][4], strict=True)]


def test_words_cannot_end_the_script_or_leave_their_attribute():
    nasty = "</script><b x=\"'&\u2028/*end*/"
    labels = {"d_ff": nasty, "form": {"label": nasty, "values": {"a": nasty, "bb": "<!-- <script>"}}}

    def nastily_named(d_ff, form):
        return draw(d_ff + len(form), form, False)[0], {nasty: f"</script><b x='&{d_ff}"}

    made = explore(nastily_named, alt=nasty, mode="static", labels=labels, d_ff=[1, 2], form=["a", "bb"])
    tags = Tags(made.html)
    assert len(tags["script"]) == 1
    assert not tags["b"]
    assert tags["div"][0]["aria-label"] == nasty
    assert tags["img"][0]["alt"].startswith(nasty)
    _, meta, _ = parts(made.html)
    assert meta["alt"] == meta["axes"][0]["label"] == meta["axes"][1]["values"][0] == meta["names"][0] == nasty
    live = explore(nastily_named, alt=nasty, mode="live", labels=labels, d_ff=[1, 2], form=["a", "bb"])
    assert not Tags(live.shown.value)["script"] + Tags(live.shown.value)["b"]


# ---- nbval and size --------------------------------------------------------------------------------------------------


def test_nbval_compares_every_number_and_no_picture():
    def variant(colour, number):
        def drawn(d_ff):
            fig = Figure(figsize=(2, 2))
            fig.subplots().plot([0, d_ff], color=colour)
            return fig, {"number": d_ff * number}

        return explore(drawn, alt=ALT, mode="static", d_ff=[1, 2]).html

    stored, other_picture, other_number = variant("red", 1), variant("blue", 1), variant("red", 2)
    assert stored != other_picture
    assert sanitized(stored) == sanitized(other_picture)
    assert sanitized(stored) != sanitized(other_number)
    assert len({parts(html)[0] for html in (stored, other_picture, other_number)}) == 2


def test_forty_eight_states_of_a_book_figure_weigh_less_than_60_kilobytes():
    from lib import plots

    x = torch.linspace(-3, 3, 61)

    def book_like(d_ff, activation, form):
        fig, (ax, bar) = plots.figure(5, 4, rows=2, height_ratios=[5, 1], margins=(0.13, 0.09, 0.97, 0.97))
        fitted = torch.sin(2 * x + activation) + torch.randn(61) / d_ff + form
        plots.fit(ax, x, torch.sin(2 * x), fitted, switches=torch.randn(d_ff // 2).tolist(), limits=(-1.6, 2.6))
        plots.shares(bar, {"": {"attention": 64.0, "feed-forward": d_ff}})
        return fig, {"parameters": d_ff}

    axes = {"d_ff": [2, 4, 8, 16, 32, 64], "activation": [0, 1, 2, 3], "form": [0, 1]}
    made = explore(book_like, alt=ALT, mode="static", **axes)
    assert len(unpack_svg(parts(made.html)[2]["svg"])) == 48
    assert len(made.html) - len(made.png) < 80_000  # with script and style; in base64, so a quarter less on the wire


def test_lines_or_dots_are_chosen_by_weight():
    def cloud(seed):
        fig = Figure(figsize=(2, 2))
        fig.subplots().scatter(torch.rand(9000), torch.rand(9000) + seed, s=4)
        return fig

    assert "png" in parts(explore(cloud, alt=ALT, mode="static", seed=[0, 1]).html)[2]
    with pytest.raises(ValueError, match=r"may take 9,000 bytes, but these 2 SVG frames take \d+,\d+.*fmt='png'"):
        explore(cloud, alt=ALT, mode="static", fmt="svg", max_bytes=9_000, seed=[0, 1])

    dots = parts(explore(draw, alt=ALT, mode="static", fmt="png", **AXES).html)[2]["png"]
    assert len(dots) == 12
    assert all(len(Image.open(io.BytesIO(base64.b64decode(one))).getcolors()) <= 64 for one in dots)
    live = explore(draw, alt=ALT, mode="live", fmt="png", **AXES)
    assert Tags(live.shown.value)["img"][0]["src"] == f"data:image/png;base64,{dots[0]}"


lines = st.text(st.sampled_from('ab<"\\é\u2028\n\r'), max_size=12)


@given(st.lists(lines, min_size=1, max_size=8))
def test_unpacking_gives_back_every_picture(pictures):
    assert unpack_svg(pack_svg(pictures)) == pictures


def test_pictures_that_share_their_lines_cost_little():
    shared = "\n".join(f"M {number} {number**2 % 977}" for number in range(500))
    one, many = (pack_svg([f"{shared}\n{k}" for k in range(count)]) for count in (1, 40))
    assert len(many) < 1.5 * len(one)


# ---- The minifier ----------------------------------------------------------------------------------------------------


def saved(figure):
    target = io.StringIO()
    figure.savefig(target, format="svg", transparent=True)
    return target.getvalue()


def rich_figure():
    fig, ax = plt.subplots(figsize=(4, 3))
    ax.plot([0, 1.23456789], [3.333333, 7.777777], "o-", color="#000080")
    ax.bar([0], [5], hatch="//", edgecolor="black")
    ax.imshow(np.eye(3), extent=(0, 1, 0, 1))
    ax.text(0.5, 4, "tilted & <bold>", rotation=33)
    plt.close(fig)
    return fig


def test_the_minifier_rounds_coordinates_and_leaves_factors_alone():
    full = saved(rich_figure())
    small = minify(full)
    for factor in ("scale", "matrix", "rotate"):
        pattern = rf"{factor}\([^)]*\)"
        assert re.findall(pattern, small) == re.findall(pattern, full)
    assert "scale(0.015625)" in small
    assert "rotate(-33)" in small
    coordinates = r'(?: d="|translate\(|points="| x=")([^")]*)'
    before, after = (
        [float(number) for part in re.findall(coordinates, svg) for number in re.findall(r"-?\d+\.?\d*", part)]
        for svg in (re.sub(r"<!--.*?-->", "", full, flags=re.DOTALL), small)
    )
    assert len(before) == len(after) > 100
    np.testing.assert_allclose(after, before, atol=0.0051)
    assert any(number != round(number, 2) for number in before)


def test_the_minifier_keeps_image_data_and_colours_and_follows_the_page_where_the_picture_was_black():
    full = saved(rich_figure())
    small = minify(full)
    data = r"data:image/png;base64,\s*([A-Za-z0-9+/=\s]+)"
    assert re.sub(r"\s", "", re.search(data, small)[1]) == re.sub(r"\s", "", re.search(data, full)[1])
    assert "#000080" in small
    assert not re.search(r"#000(000)?\b", small)
    assert small.startswith("<svg ")
    assert 'fill="currentColor"' in small.partition(">")[0]
    assert not re.search(r"<style|<metadata|<\?xml|<!|xlink|width=\"\d+pt", small)
    assert len(small) < 0.8 * len(full)


def test_prefixed_ids_are_still_the_ones_that_are_referred_to():
    svg = prefix_ids(minify(saved(rich_figure())), "mine-")
    names = re.findall(r' id="([^"]*)"', svg)
    referred = re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', svg)
    assert names
    assert all(name.startswith("mine-") for name in names)
    assert {first or second for first, second in referred} <= set(names)
    assert len(names) == len(set(names))


# ---- What is declared ------------------------------------------------------------------------------------------------


def test_numbers_slide_names_are_buttons_and_many_names_a_menu():
    def quick(**state):
        fig = Figure(figsize=(1, 1))
        fig.text(0, 0, str(state.values()))
        return fig

    axes = {
        "width": [2, 0.5],
        "share": [Fraction(1, 3), Fraction(1, 2)],
        "bias": [True, False],
        "norm": [None, "layer"],
        "bend": [F.relu, F.gelu],
        "order": list("ABCDEFG"),
    }
    labels = {"norm": {"values": {None: "no norm"}}, "bias": "biases"}
    live = explore(quick, alt=ALT, mode="live", max_states=224, labels=labels, **axes)
    assert {name: (type(one).__name__, one.options) for name, one in live.controls.items()} == {
        "width": ("SelectionSlider", ("2", "0.5")),
        "share": ("SelectionSlider", ("1/3", "1/2")),
        "bias": ("ToggleButtons", ("True", "False")),
        "norm": ("ToggleButtons", ("no norm", "layer")),
        "bend": ("ToggleButtons", ("relu", "gelu")),
        "order": ("Dropdown", tuple("ABCDEFG")),
    }
    assert live.controls["bias"].description == "biases"
    other = explore(
        quick, alt=ALT, mode="live", controls={"width": "radio", "bias": "select"}, width=[1, 2], bias=[0, 1]
    )
    assert [type(one).__name__ for one in other.controls.values()] == ["ToggleButtons", "Dropdown"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (4096, "4,096"),
        (-3, "−3"),
        (np.int64(12345), "12,345"),
        (0.123456, "0.123"),
        (0.5, "0.500"),
        (99.96, "100"),
        (1234.5, "1,230"),
        (-0.25, "−0.250"),
        (1e-5, "1.00e−05"),
        (0.0, "0.00"),
        (float("nan"), "nan"),
        (torch.tensor(2.5), "2.50"),
        (np.float32(7), "7.00"),
        (True, "yes"),
        ("3 of 4", "3 of 4"),
    ],
)
def test_a_number_is_written_as_a_person_would(value, text):
    assert draw_frame(lambda: (Figure(), {"it": value}), {}, "svg").readouts == {"it": text}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "at least one axis.*got 0"),
        ({"d_ff": []}, "two values or more, but d_ff has 0"),
        ({"d_ff": [64]}, "two values or more, but d_ff has 1.*constant"),
        ({"d_ff": [1, 2, 1.0]}, r"must differ, but 1\.0 equals"),
        ({"d_ff": "ab"}, "must be a list.*d_ff="),
        ({"d_ff": [[1], [2]]}, r"must be hashable, but \[1\]"),
        ({"d_ff": [0.1, "0.1"]}, "a text of its own.*'0.1'"),
        ({"d_ff": ["", "a"]}, "a text of its own"),
        ({"d_ff": [object(), 1]}, "a text of its own.*labels="),
        ({"d_ff": [1, 2], "start": {"d_ff": 3}}, r"d_ff has \[1, 2\], but start has 3"),
        ({"d_ff": [1, 2], "start": {"width": 1}}, "start may name only the axes d_ff, but names width"),
        ({"d_ff": [1, 2], "labels": {"width": "w"}}, "labels may name only the axes d_ff, but names width"),
        ({"d_ff": [1, 2], "labels": {"d_ff": {"name": "w"}}}, "keys label, numbers_only, values.*name"),
        ({"d_ff": [1, 2], "labels": {"d_ff": {"values": {3: "three"}}}}, r"values \[1, 2\] to texts.*three"),
        ({"d_ff": [1, 2], "labels": {"d_ff": {"values": {1: "x", 2: "x"}}}}, "a text of its own"),
        ({"d_ff": [1, 2], "controls": {"width": "radio"}}, "controls may name only"),
        ({"d_ff": [1, 2], "controls": {"d_ff": "knob"}}, "slider, radio, select, but d_ff has 'knob'"),
        ({"d_ff": range(11), "form": range(10)}, "at most 100 states.*11 × 10 = 110"),
        ({"d_ff": [1, 2], "fmt": "gif"}, "fmt is one of auto, svg, png, but is 'gif'"),
        ({"d_ff": [1, 2], "mode": "dead"}, "mode is one of"),
        ({"d_ff": [1, 2], "alt": " "}, "alt says what the picture shows"),
        ({"d_ff": [1, 2], "fmt": ["a", "b"]}, "may not have the name of an option of explore, but fmt has"),
        ({"d_ff": [1, 2], "max_states": [1, 2]}, "but max_states has"),
    ],
)
@pytest.mark.parametrize("mode", LIVES)
def test_a_declaration_that_cannot_work_is_refused_before_anything_is_drawn(arguments, message, mode):
    def never(**_):
        pytest.fail("drew before checking")

    bare = inspect.unwrap(explore)  # without the tests' own check of types, as a reader calls it
    with pytest.raises(ValueError, match=message):
        bare(never, **({"alt": ALT, "mode": mode} | arguments))


@pytest.mark.parametrize(
    ("drawing", "message"),
    [
        (lambda d_ff: None, "returns a Figure.*but returned None"),
        (lambda d_ff: plt.subplots(), "returns a Figure.*axes"),
        (lambda d_ff: (Figure(), [d_ff]), "returns a Figure"),
        (lambda d_ff: (Figure(), {"list": [d_ff]}), r"a number or a text, but 'list' is \[1\]"),
        (lambda d_ff: (Figure(), {"many": torch.ones(2)}), "a number or a text, but 'many'"),
        (lambda d_ff: (Figure(), {"essay": "word " * 5}), "at most 24 characters.*but 'essay' has 25"),
        (lambda d_ff: (Figure(), {f"at {d_ff}": 1}), r"same readouts, but d_ff = 1 has \['at 1'\] and d_ff = 2 has"),
        (lambda d_ff: Figure(figsize=(d_ff, 2)), r"same size, but d_ff = 1 has \(96, 192\) pixels and d_ff = 2 has"),
        (lambda d_ff: Figure(), "must change the picture.*d_ff = 1 and d_ff = 2 give the same"),
    ],
)
def test_a_drawing_that_cannot_be_explored_is_refused_with_the_reason(drawing, message):
    with pytest.raises(ValueError, match=message):
        explore(drawing, alt=ALT, mode="static", d_ff=[1, 2])


def test_an_axis_may_change_only_the_numbers_if_that_is_declared_and_then_it_must():
    labels = {"d_ff": {"numbers_only": True}}
    made = explore(lambda d_ff: (Figure(), {"n": d_ff}), alt=ALT, mode="static", labels=labels, d_ff=[1, 2])
    assert parts(made.html)[1]["axes"][0]["numbersOnly"] is True
    with pytest.raises(ValueError, match="must change the numbers"):
        explore(lambda d_ff: (Figure(), {"n": 1}), alt=ALT, mode="static", labels=labels, d_ff=[1, 2])


def test_a_state_that_raises_fails_the_cell_and_is_named():
    def fragile(d_ff, form):
        if (d_ff, form) == (8, "gated"):
            raise IndexError("no such unit")
        return draw(d_ff, form, False)

    with pytest.raises(RuntimeError, match=r"draw\(d_ff=8, form='gated'\) raised IndexError: no such unit") as caught:
        explore(fragile, alt=ALT, mode="static", d_ff=[2, 8], form=["plain", "gated"])
    assert isinstance(caught.value.__cause__, IndexError)


# ---- Which life ------------------------------------------------------------------------------------------------------


def life(**options):
    return type(explore(draw, alt=ALT, d_ff=[1, 2], form=["plain", "gated"], bias=[False, True], **options)).__name__


STATIC, LIVE = "StaticExplorable", "LiveExplorable"


def test_without_a_front_end_the_explorable_is_static():
    assert life() == STATIC


def test_a_jupyter_server_and_colab_and_vs_code_get_a_live_one(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv("JPY_SESSION_NAME", "book.ipynb")
        assert life() == LIVE
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
        assert life() == LIVE
    shell = types.SimpleNamespace(user_ns={"__vsc_ipynb_file__": "book.ipynb"})
    with monkeypatch.context() as patch:
        patch.setattr("IPython.get_ipython", lambda: shell)
        assert life() == LIVE


def test_the_environment_outranks_the_call_and_the_call_outranks_the_front_end(monkeypatch):
    monkeypatch.setenv("JPY_SESSION_NAME", "book.ipynb")
    assert life(mode="static") == STATIC
    monkeypatch.setenv("EXPLORE_MODE", "static")
    assert life(mode="live") == STATIC
    monkeypatch.setenv("EXPLORE_MODE", "live")
    assert life(mode="static") == LIVE
    monkeypatch.setenv("EXPLORE_MODE", "alive")
    with pytest.raises(ValueError, match="EXPLORE_MODE is one of auto, static, live, but is 'alive'"):
        life()


def test_the_script_and_the_style_travel_with_the_package():
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    listed = {
        path
        for name, globs in packages.items()
        for glob in globs
        for path in (ROOT / name.replace(".", "/")).glob(glob)
    }
    data = {path for path in (ROOT / "lib/explore").iterdir() if path.is_file() and path.suffix != ".py"}
    assert {path.name for path in data} == {"page.css", "page.js"}
    assert data <= listed


def test_the_words_of_the_output_survive_being_html(static):
    assert unescape(static.html).count(f"{ALT}: d_ff = 8") == 1
