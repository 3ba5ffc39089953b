"""True = may attend: nobody looks ahead, nobody looks at padding, and masks combine with &."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lib.masks import causal_mask, padding_mask

no_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: torch.cuda.is_available() is False")
on_each_device = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, no_cuda])])
settled = settings(deadline=None, max_examples=60, derandomize=True)
PAD = 0


@st.composite
def padded_ids(draw):
    """Draw sentences of ids, some of them padded, some nothing but padding."""
    lengths = draw(st.lists(st.integers(0, 5), min_size=1, max_size=4))
    width = max(lengths) + draw(st.integers(1, 3))
    return torch.where(torch.arange(width) < torch.tensor(lengths)[:, None], torch.arange(width) + 7, PAD)


def test_three_tokens_see_one_two_and_three():
    assert causal_mask(3).int().tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]


def test_after_two_cached_tokens_the_next_two_see_three_and_four():
    assert causal_mask(2, offset=2).int().tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]


def test_padding_is_closed_for_every_query_and_head():
    mask = padding_mask(torch.tensor([[5, 6, PAD], [7, PAD, PAD]]), PAD)
    assert mask.shape == (2, 1, 1, 3)
    assert mask.flatten(1).int().tolist() == [[1, 1, 0], [1, 0, 0]]


@settled
@given(seq_len=st.integers(1, 9), offset=st.integers(0, 9))
def test_a_token_sees_itself_and_the_past_and_nothing_else(seq_len, offset):
    mask = causal_mask(seq_len, offset=offset)
    for i in range(seq_len):
        assert mask[i].nonzero().flatten().tolist() == list(range(offset + i + 1))


@settled
@given(seq_len=st.integers(1, 9), offset=st.integers(0, 9))
def test_the_mask_with_an_offset_is_the_last_rows_of_the_whole_one(seq_len, offset):
    assert torch.equal(causal_mask(seq_len, offset=offset), causal_mask(offset + seq_len)[offset:])


@settled
@given(seq_len=st.integers(1, 9))
def test_pytorchs_additive_mask_blocks_the_same(seq_len):
    additive = nn.Transformer.generate_square_subsequent_mask(seq_len)
    assert torch.equal(causal_mask(seq_len), additive == 0)
    assert torch.equal(~causal_mask(seq_len), additive.isneginf())


@settled
@given(ids=padded_ids())
def test_both_at_once_is_what_both_allow(ids):
    batch, seq_len = ids.shape
    mask = causal_mask(seq_len) & padding_mask(ids, PAD)
    assert mask.shape == (batch, 1, seq_len, seq_len)
    for b in range(batch):
        for i in range(seq_len):
            assert mask[b, 0, i].tolist() == [j <= i and ids[b, j].item() != PAD for j in range(seq_len)]


@on_each_device
@settled
@given(ids=padded_ids(), n_heads=st.integers(1, 3))
def test_pytorchs_attention_takes_every_mask_as_it_is(device, ids, n_heads):
    batch, seq_len = ids.shape
    x = torch.randn(batch, n_heads, seq_len, 4, generator=torch.Generator().manual_seed(0)).to(device)
    causal, padding = causal_mask(seq_len, device=device), padding_mask(ids.to(device), PAD)
    for mask in (causal, padding, causal & padding):
        whole = mask.expand(batch, n_heads, seq_len, seq_len)
        attended, expected = (F.scaled_dot_product_attention(x, x, x, attn_mask=one) for one in (mask, whole))
        torch.testing.assert_close(attended, expected)
        assert attended.isfinite().all()


def test_multi_head_attention_of_pytorch_means_the_opposite():
    attention = nn.MultiheadAttention(4, 2, batch_first=True).eval()
    x, ids = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([[5, 6, PAD], [7, 8, 9]])
    masks = {"attn_mask": ~causal_mask(3), "key_padding_mask": ~padding_mask(ids, PAD)[:, 0, 0]}
    _, weights = attention(x, x, x, **masks)
    assert torch.equal(weights > 0, (causal_mask(3) & padding_mask(ids, PAD))[:, 0])


@on_each_device
def test_a_mask_is_made_where_it_is_needed(device):
    assert causal_mask(3, device=device).device.type == device
    assert causal_mask(3, device=torch.device(device)).device.type == device
    assert padding_mask(torch.tensor([[1, 2]], device=device), PAD).device.type == device


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32], ids=str)
def test_ids_of_any_whole_type_will_do(dtype):
    assert padding_mask(torch.tensor([[5, PAD]], dtype=dtype), PAD).flatten().tolist() == [True, False]


@pytest.mark.parametrize(("seq_len", "offset"), [(0, 0), (-1, 0), (3, -1)])
def test_masks_for_nobody_are_refused(seq_len, offset):
    with pytest.raises(ValueError, match=f"1 query or more .* but got seq_len={seq_len}, offset={offset}; offset is"):
        causal_mask(seq_len, offset=offset)


@pytest.mark.parametrize(
    "ids", [torch.ones(2, 3), torch.ones(2, 3).bool(), torch.ones(3).long(), torch.ones(2, 3, 4).long()], ids=str
)
def test_what_are_no_ids_is_refused(ids, without_shape_checks):
    with pytest.raises(ValueError, match=r"of the shape \(batch, seq\), but got torch\..* of the shape \(.*\); pass"):
        padding_mask(ids, PAD)
