"""Positions arrive exactly, in every precision, and rotary scores know nothing but the distance."""

import copy
import io
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing import assert_close

from lib.attention import KVCache, MultiHeadAttention, attention_weights
from lib.device import seeded
from lib.positions import Learned, Rotary, Sinusoidal, rotate, sinusoids

no_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: torch.cuda.is_available() is False")
on_each_device = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, no_cuda])])
settled = settings(deadline=None, max_examples=60, derandomize=True)
even = st.integers(1, 5).map(lambda half: 2 * half)

POSITIONS = {
    "sinusoidal": lambda: Sinusoidal(6, 20),
    "learned": lambda: Learned(6, 20),
    "rotary": lambda: Rotary(6),
}
every_kind = pytest.mark.parametrize("make_positions", POSITIONS.values(), ids=POSITIONS)


def exactly(actual, expected):
    """Compare as float64 allows: rounding of a few sums near one, and nothing more."""
    assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def tokens(*shape, seed=1, device="cpu"):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(device)


def make(make_positions, device="cpu"):
    with seeded(0):
        return make_positions().double().to(device)


# ---- Sinusoids -------------------------------------------------------------------------------------------------------


@settled
@given(seq_len=st.integers(0, 12), d_model=even, base=st.sampled_from([2.0, 100.0, 10000.0]))
def test_sines_and_cosines_take_turns_from_fast_to_slow(seq_len, d_model, base):
    table = sinusoids(seq_len, d_model, base=base)
    assert table.shape == (seq_len, d_model)
    for p in range(seq_len):
        for i in range(d_model // 2):
            angle = p / base ** (2 * i / d_model)
            assert table[p, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-12)
            assert table[p, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-12)


def test_position_0_is_0_1_0_1_and_no_two_positions_are_the_same():
    table = sinusoids(5000, 8)
    assert table[0].tolist() == [0, 1, 0, 1, 0, 1, 0, 1]
    assert torch.pdist(table).min() > 1e-4
    assert table.abs().max() <= 1


@settled
@given(d_model=even, distance=st.integers(0, 20))
def test_the_product_of_two_positions_depends_on_their_distance_only(d_model, distance):
    table = sinusoids(60, d_model)
    products = (table[: 60 - distance] * table[distance:]).sum(dim=-1)
    exactly(products, products[:1].expand_as(products))


@on_each_device
@settled
@given(offset=st.integers(0, 15), seq_len=st.integers(1, 5), batch=st.lists(st.integers(1, 3), max_size=2))
def test_sinusoidal_adds_the_rows_from_offset_on(device, offset, seq_len, batch):
    x = tokens(*batch, seq_len, 6, device=device)
    expected = x + sinusoids(20, 6)[offset : offset + seq_len].to(device)
    assert torch.equal(make(POSITIONS["sinusoidal"], device)(x, offset), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_table_is_rounded_once_whatever_the_module_went_through(dtype):
    module, zeros = Sinusoidal(6, 2000).bfloat16().to(dtype), torch.zeros(2000, 6, dtype=dtype)
    assert torch.equal(module(zeros), sinusoids(2000, 6).to(dtype))


@pytest.mark.parametrize("make_positions", [POSITIONS["sinusoidal"], POSITIONS["rotary"]])
def test_fixed_positions_have_no_parameters_and_leave_the_state_dict_alone(make_positions):
    module = make(make_positions)
    module(tokens(3, 6))
    assert not list(module.parameters())
    assert not module.state_dict()


# ---- Learned ---------------------------------------------------------------------------------------------------------


@on_each_device
@settled
@given(offset=st.integers(0, 15), seq_len=st.integers(1, 5), batch=st.lists(st.integers(1, 3), max_size=2))
def test_learned_positions_are_an_embedding_of_the_positions(device, offset, seq_len, batch):
    module, twin = make(POSITIONS["learned"], device), nn.Embedding(20, 6).double().to(device)
    twin.load_state_dict(module.state_dict())
    x = tokens(*batch, seq_len, 6, device=device)
    y, expected = module(x, offset), x + twin(torch.arange(offset, offset + seq_len, device=device))
    assert torch.equal(y, expected)
    y.square().sum().backward()
    expected.square().sum().backward()
    exactly(module.weight.grad, twin.weight.grad)


def test_learned_positions_start_small_and_different():
    weight = make(lambda: Learned(64, 500)).weight
    assert weight.std().item() == pytest.approx(0.02, rel=0.03)  # 32,000 numbers: the standard error is 0.4 %
    assert weight.unique(dim=0).shape == weight.shape


# ---- Rotary ----------------------------------------------------------------------------------------------------------


@on_each_device
@settled
@given(d_head=even, offset=st.integers(0, 30), seq_len=st.integers(1, 5), base=st.sampled_from([2.0, 10000.0]))
def test_rotary_multiplies_each_pair_of_neighbours_as_a_complex_number(device, d_head, offset, seq_len, base):
    x = tokens(2, 3, seq_len, d_head, device=device)
    positions = torch.arange(offset, offset + seq_len, dtype=torch.float64, device=device)
    frequencies = torch.tensor([base ** (-2 * i / d_head) for i in range(d_head // 2)], dtype=torch.float64)
    angles = positions[:, None] * frequencies.to(device)
    turned = torch.view_as_complex(x.unflatten(-1, (-1, 2))) * torch.polar(torch.ones_like(angles), angles)
    exactly(Rotary(d_head, base=base)(x, offset), torch.view_as_real(turned).flatten(-2))


@on_each_device
@settled
@given(d_head=even, offset=st.integers(0, 1000), seq_len=st.integers(1, 6))
def test_rotary_scores_depend_on_the_distance_only(device, d_head, offset, seq_len):
    rotary = Rotary(d_head)
    query, key = tokens(2, seq_len, d_head, device=device), tokens(2, seq_len, d_head, seed=2, device=device)
    weights = attention_weights(rotary(query), rotary(key))
    exactly(attention_weights(rotary(query, offset), rotary(key, offset)), weights)
    same = rotary(query[:, :1].expand_as(query)) @ rotary(key[:, :1].expand_as(key)).mT  # equal tokens everywhere
    for distance in range(1 - seq_len, seq_len):
        line = same.diagonal(distance, dim1=-2, dim2=-1)
        exactly(line, line[:, :1].expand_as(line))
    if seq_len > 2:
        assert (weights - attention_weights(rotary(query), key)).abs().max() > 1e-6


def test_turning_keeps_lengths_and_position_0():
    x = tokens(2, 9, 6)
    y = Rotary(6)(x)
    exactly(y.norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(y[:, 0], x[:, 0])
    assert (y[:, 1:] - x[:, 1:]).abs().amax(dim=-1).min() > 1e-3


def test_pairs_of_halves_are_pairs_of_neighbours_in_another_order():
    x, order = tokens(2, 9, 6), torch.tensor([0, 2, 4, 1, 3, 5])  # the pairs (0, 1), (2, 3), (4, 5), first halves first
    angles = torch.arange(9.0, dtype=torch.float64)[:, None] * 10000.0 ** -(torch.arange(0, 6, 2).double() / 6)
    cos, sin = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)
    halves = x[..., order]
    llama = halves * cos + torch.cat([-halves[..., 3:], halves[..., :3]], dim=-1) * sin
    exactly(Rotary(6)(x)[..., order], llama)


def test_the_angles_can_be_anything():
    x, angles = tokens(3, 4), tokens(3, 2, seed=2)
    exactly(rotate(rotate(x, angles.cos(), angles.sin()), angles.cos(), -angles.sin()), x)
    quarter = torch.zeros(3, 2).double(), torch.ones(3, 2).double()
    exactly(rotate(x, *quarter), torch.stack([-x[:, 1], x[:, 0], -x[:, 3], x[:, 2]], dim=-1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_far_positions_are_as_exact_as_near_ones_in_every_precision(dtype):
    rotary, x = Rotary(6).to(dtype), tokens(1, 6).to(dtype)
    exact = Rotary(6)(x.double(), offset=100_000)
    step = torch.finfo(dtype).eps
    assert_close(rotary(x, offset=100_000).double(), exact, rtol=0, atol=6 * step)  # results to 2, rounded three times


def test_one_table_grows_with_the_sentence_and_rarely():
    rotary, whole, x = Rotary(6), Rotary(6), tokens(1, 300, 6)
    tables = []
    for position in range(300):
        exactly(rotary(x[:, [position]], position), whole(x)[:, [position]])
        tables.append(rotary._tables[x.dtype, x.device])
    assert len(rotary._tables[x.dtype, x.device]) >= 300
    assert len(set(map(id, tables))) <= 10  # 1, 2, 4, ... 512


@pytest.mark.parametrize("start", [0, 1, 2, 3])
def test_a_sentence_turns_alike_wherever_in_memory_it_begins(start):
    x = tokens(1, 2, 4)
    moved = torch.cat([torch.zeros(start).double(), x.flatten()])[start:].view(1, 2, 4).requires_grad_()
    assert moved.storage_offset() == start
    y = Rotary(4)(moved, 3)
    exactly(y, Rotary(4)(x, 3))
    y.square().sum().backward()
    exactly(moved.grad, 2 * x)  # turning changes no length


# ---- In attention ----------------------------------------------------------------------------------------------------


def attention(device="cpu", **options):
    with seeded(0):
        return MultiHeadAttention(12, 2, rotary=Rotary(6), **options).double().to(device)


@on_each_device
def test_attention_with_rotary_positions_sees_the_order_but_not_the_place(device):
    module, x, order = attention(device), tokens(2, 5, 12, device=device), torch.tensor([3, 0, 4, 1, 2])
    y = module(x)
    assert (module(x[:, order]) - y[:, order]).abs().max() > 0.01
    later = torch.cat([tokens(2, 3, 12, seed=2, device=device), x], dim=1)
    first_three_away = (torch.arange(8, device=device) >= 3)[None, :]
    exactly(module(later, mask=first_three_away)[:, 3:], y)


@on_each_device
@settled
@given(chunks=st.lists(st.integers(1, 4), min_size=1, max_size=5), n_kv_heads=st.sampled_from([1, 2]))
def test_cached_rotary_attention_equals_uncached(device, chunks, n_kv_heads):
    module, x = attention(device, n_kv_heads=n_kv_heads), tokens(2, sum(chunks), 12, device=device)
    cache = KVCache()
    with torch.no_grad():
        pieces = [module(piece, is_causal=True, cache=cache) for piece in x.split(chunks, dim=1)]
        exactly(torch.cat(pieces, dim=1), module(x, is_causal=True))


def test_an_attention_with_rotary_positions_has_the_parameters_of_one_without():
    assert list(attention().state_dict()) == list(MultiHeadAttention(12, 2).state_dict())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # inductor's own, torch 2.13
@on_each_device
def test_compiled_it_computes_the_same(device, without_shape_checks):
    modules = nn.ModuleList([Sinusoidal(12, 20), Learned(12, 20), attention(device)]).double().to(device)

    def run(x, offset):
        sinusoidal, learned, rotary = modules
        return rotary(learned(sinusoidal(x, offset), offset), is_causal=True)

    compiled = torch.compile(run, fullgraph=True)
    for x, offset in ((tokens(2, 5, 12, device=device), 0), (tokens(2, 5, 12, device=device), 3)):
        exactly(compiled(x, offset), run(x, offset))
    torch.compiler.reset()


# ---- Everywhere ------------------------------------------------------------------------------------------------------


@on_each_device
@every_kind
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        (torch.float32, 1e-6),  # eps 1.2e-7, results to 4, a sum or two
        (torch.bfloat16, 6e-2),  # eps 7.8e-3, the same
    ],
    ids=str,
)
def test_shorter_numbers_give_the_same_up_to_their_precision(make_positions, dtype, tolerance, device):
    short, x = make(make_positions, device).to(dtype), tokens(2, 9, 6, device=device).to(dtype)
    long = copy.deepcopy(short).double()
    y = short(x, offset=11)
    assert y.dtype == dtype
    assert_close(y.double(), long(x.double(), offset=11), rtol=tolerance, atol=tolerance)


@every_kind
def test_a_token_has_its_place_alone_and_in_company(make_positions):
    module, x = make(make_positions), tokens(2, 9, 6)
    alone = [module(x[:, [position]], offset=position) for position in range(9)]
    exactly(torch.cat(alone, dim=1), module(x))


@every_kind
def test_what_inference_prepared_training_can_use(make_positions):
    module, x = make(make_positions), tokens(2, 9, 6).requires_grad_()
    with torch.inference_mode():
        y = module(x.detach())
    again = module(x)
    assert torch.equal(again, y)
    again.square().sum().backward()
    exactly(x.grad, 2 * x.detach() if isinstance(module, Rotary) else 2 * y.clone())


@every_kind
def test_positions_can_be_made_without_memory_and_print_their_sizes(make_positions):
    with torch.device("meta"):
        module = make_positions()
        assert module(torch.empty(2, 9, 6)).shape == (2, 9, 6)
        assert sinusoids(3, 6).device.type == "cpu"
    assert repr(module) in ("Sinusoidal(6, 20)", "Learned(6, 20)", "Rotary(6, base=10000.0)")


def through_a_file(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "torch.save": through_a_file,
    "pickle": lambda module: pickle.loads(pickle.dumps(module)),
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("kind", [lambda: Sinusoidal(64, 5000), lambda: Rotary(64)], ids=["sinusoidal", "rotary"])
def test_a_copied_or_saved_module_leaves_its_tables_behind_and_computes_the_same(kind, copied):
    module, x = kind(), tokens(5000, 64)
    before = len(pickle.dumps(module))
    y = module(x)
    with torch.device("meta"):
        module(torch.empty(3, 64))  # a device that a file's reader may not have
    assert len(pickle.dumps(module)) == before < 3000
    again = copied(module)
    assert module._tables.keys() == {(torch.float64, x.device), (torch.float32, torch.device("meta"))}
    assert again._tables == {}
    assert torch.equal(again(x), y)


@pytest.mark.parametrize("make_positions", [POSITIONS["sinusoidal"], POSITIONS["rotary"]])
def test_a_pass_without_numbers_takes_no_table_and_leaves_none(make_positions, without_shape_checks):
    module, x = make_positions(), tokens(2, 9, 6)
    for _ in range(2):  # before there is a table, and after
        with FakeTensorMode() as mode:
            assert module(mode.from_tensor(x)).shape == x.shape
        assert torch.equal(module(x), make_positions()(x))


# ---- What is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "remedy"), [(7, 8), (1, 2), (0, 2), (-3, 2)])
def test_an_odd_width_is_refused(width, remedy):
    for make_positions in (lambda: Sinusoidal(width, 5), lambda: Rotary(width), lambda: sinusoids(5, width)):
        with pytest.raises(ValueError, match=rf"must be even and 2 or more, but got d_\w+={width}; {remedy} would do"):
            make_positions()


@pytest.mark.parametrize("max_len", [0, -1])
def test_a_table_without_rows_is_refused(max_len):
    for kind in (Sinusoidal, Learned):
        with pytest.raises(ValueError, match=f"1 row or more, but got max_len={max_len}; give the length of"):
            kind(6, max_len)


def test_learned_positions_without_features_are_refused():
    with pytest.raises(ValueError, match="must be 1 or more, but got d_model=0; give the width"):
        Learned(0, 5)


def test_a_table_of_a_negative_length_or_base_is_refused():
    with pytest.raises(ValueError, match=r"but got seq_len=-1, base=10000\.0; give the length"):
        sinusoids(-1, 6)
    with pytest.raises(ValueError, match=r"but got seq_len=5, base=0\.0"):
        sinusoids(5, 6, base=0.0)
    with pytest.raises(ValueError, match=r"above 0, but got base=-1\.0; 10000"):
        Rotary(6, base=-1.0)


@every_kind
@pytest.mark.parametrize("shape", [(9, 5), (6, 9), (6,), (2, 9, 1)], ids=str)
def test_tokens_of_another_width_are_refused(make_positions, shape, without_shape_checks):
    with pytest.raises(ValueError, match=r"are for \(\.\.\., seq, 6\), but x has the shape \(.*\); put the features"):
        make(make_positions)(tokens(*shape))


@pytest.mark.parametrize("make_positions", [POSITIONS["sinusoidal"], POSITIONS["learned"]])
@pytest.mark.parametrize(("seq_len", "offset"), [(21, 0), (5, 16), (1, 20), (5, -1)])
def test_positions_outside_the_table_are_refused(make_positions, seq_len, offset):
    with pytest.raises(ValueError, match=f"from 0 to 19, but x has {seq_len} tokens from offset={offset} on; shorten"):
        make(make_positions)(tokens(seq_len, 6), offset)


def test_rotary_positions_have_no_end_but_a_beginning():
    assert Rotary(6)(tokens(1, 6), offset=10**5).shape == (1, 6)
    with pytest.raises(ValueError, match="from 0 on, but x has 5 tokens from offset=-1 on"):
        Rotary(6)(tokens(5, 6), -1)


def test_angles_for_other_features_are_refused(without_shape_checks):
    with pytest.raises(ValueError, match="got 3 angles for d_head=4 features; give 6 features"):
        rotate(tokens(5, 4), tokens(5, 3), tokens(5, 3))


@pytest.mark.parametrize("angles", [(4, 2), (1, 2), (2, 5, 2), (2,)], ids=lambda shape: f"{shape}")
def test_angles_for_another_number_of_tokens_are_refused(angles, without_shape_checks):
    cos, sin = tokens(*angles), tokens(5, 2)
    with pytest.raises(ValueError, match=r"cos of the shape \(.*\) and sin of the shape \(5, 2\) for x .*; give both"):
        rotate(tokens(2, 5, 4), cos, sin)
    with pytest.raises(ValueError, match="each token is turned by angles of its own"):
        rotate(tokens(2, 5, 4), sin, cos)


@every_kind
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool], ids=["whole", "boolean"])
def test_tokens_that_are_no_floating_point_numbers_are_refused(make_positions, dtype, without_shape_checks):
    with pytest.raises(ValueError, match=rf"but it is {dtype} of the shape \(2, 9, 6\); pass the vectors"):
        make(make_positions)(torch.ones(2, 9, 6, dtype=dtype))
