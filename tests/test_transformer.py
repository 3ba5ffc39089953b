"""The machine is PyTorch's, learns all places at once what it would learn one by one, and writes alike with caches."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from lib.attention import KVCache, MultiHeadAttention
from lib.blocks import DecoderBlock, EncoderBlock, ParallelBlock, Stack
from lib.decoding import beam, greedy
from lib.device import generator, seeded
from lib.feed_forward import GatedFeedForward
from lib.masks import padding_mask
from lib.norms import LayerNorm, RMSNorm
from lib.positions import Learned, Rotary, Sinusoidal
from lib.record import record
from lib.residual import PostNorm, PreNorm
from lib.tasks import Numbers, reverse, task_batches
from lib.training import sequence_loss, shift_right, train
from lib.transformer import Decoder, Embedding, Encoder, LanguageModel, Transformer

no_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: torch.cuda.is_available() is False")
on_each_device = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, no_cuda])])
settled = settings(deadline=None, max_examples=25, derandomize=True)

VOCAB, WIDTH, HEADS, HIDDEN, PAD, BOS, EOS = 11, 8, 2, 12, 0, 9, 10


def exactly(actual, expected):
    """Compare as float64 allows: rounding of a few sums near one, and nothing more."""
    assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def some_ids(*shape, seed=1, low=1, device="cpu"):
    return torch.randint(low, VOCAB, shape, generator=generator(seed)).to(device)


def padded(ids, lengths):
    """Fill up with padding what is longer than the lengths say."""
    return ids.where(torch.arange(ids.shape[1], device=ids.device) < torch.tensor(lengths)[:, None].to(ids.device), PAD)


def blocks(kind, n=2, **parts):
    return [kind(WIDTH, HEADS, HIDDEN, **parts) for _ in range(n)]


def a_transformer(residual=PreNorm, *, positions=Sinusoidal, dropout=0.0, seed=0):
    with seeded(seed):
        end = LayerNorm if residual is PreNorm else (lambda width: None)
        encoder, decoder = (
            room(Embedding(VOCAB, WIDTH, positions(WIDTH, 32)), blocks(block, residual=residual, dropout=dropout), last)
            for room, block, last in ((Encoder, EncoderBlock, end(WIDTH)), (Decoder, DecoderBlock, end(WIDTH)))
        )
        return Transformer(encoder, decoder, pad_id=PAD).double()


def rotary_block():
    return EncoderBlock(WIDTH, HEADS, HIDDEN, attention=partial(MultiHeadAttention, rotary=Rotary(WIDTH // HEADS)))


LANGUAGE_MODELS = {
    "learned positions": lambda: (Learned(WIDTH, 32), blocks(EncoderBlock)),
    "sinusoids, pre-norm": lambda: (Sinusoidal(WIDTH, 32), blocks(EncoderBlock, residual=PreNorm)),
    "rotary": lambda: (None, [rotary_block(), rotary_block()]),
    "parallel": lambda: (Learned(WIDTH, 32), blocks(ParallelBlock, feed_forward=GatedFeedForward, norm=RMSNorm)),
    "a stack as a block": lambda: (None, [Stack("AAF", WIDTH, HEADS, HIDDEN), *blocks(EncoderBlock, 1)]),
    "no attention": lambda: (Learned(WIDTH, 32), [Stack("FF", WIDTH, HEADS, HIDDEN)]),
}
each_language_model = pytest.mark.parametrize("kind", list(LANGUAGE_MODELS))


def a_language_model(kind="learned positions", seed=0):
    with seeded(seed):
        positions, parts = LANGUAGE_MODELS[kind]()
        return LanguageModel(Embedding(VOCAB, WIDTH, positions), parts, LayerNorm(WIDTH)).double()


# ---- From ids to vectors and back ------------------------------------------------------------------------------------


def test_an_embedding_is_its_rows_scaled_with_positions_and_segments_added_and_normalised():
    embedding = Embedding(VOCAB, WIDTH, Learned(WIDTH, 9), scale=3.0, norm=LayerNorm(WIDTH), n_segments=2).double()
    ids, segment_ids = some_ids(2, 5), torch.tensor([[0, 0, 1, 1, 1], [1, 0, 1, 0, 1]])
    want = 3 * embedding.weight[ids] + embedding.positions.weight[2:7] + embedding.segments[segment_ids]
    exactly(embedding(ids, 2, segment_ids=segment_ids), embedding.norm(want))
    exactly(embedding(ids), embedding(ids, segment_ids=torch.zeros_like(ids)))


def test_the_scale_reaches_the_gradient_and_leaves_the_table_as_it_was():
    embedding, ids = Embedding(VOCAB, WIDTH, scale=3.0).double(), torch.tensor([[2, 4, 2]])
    before = embedding.weight.detach().clone()
    exactly(embedding(ids), 3 * before[ids])
    embedding(ids).sum().backward()
    assert torch.equal(embedding.weight, before)
    exactly(embedding.weight.grad.sum(dim=-1)[[2, 4]], 3.0 * WIDTH * torch.tensor([2.0, 1.0]).double())


def test_an_embedding_of_scale_one_without_positions_is_pytorchs():
    ours, theirs = Embedding(VOCAB, WIDTH, scale=1), nn.Embedding(VOCAB, WIDTH)
    ours.load_state_dict(theirs.state_dict())
    assert torch.equal(ours(some_ids(2, 5)), theirs(some_ids(2, 5)))


def test_vectors_and_logits_both_start_with_variance_one():
    with seeded(0):
        embedding = Embedding(1000, 256)
    x = torch.randn(50, 256, generator=generator(1))
    # Estimated from 12,800 and 50,000 numbers: the standard deviation is off by about one part in a hundred.
    assert_close(embedding(torch.arange(50)[None]).std().item(), 1.0, rtol=0.05, atol=0)
    assert_close(embedding.logits(x).std().item(), 1.0, rtol=0.05, atol=0)


def test_one_table_is_counted_once_and_learns_from_both_of_its_uses():
    model = a_language_model()
    names = [name for name, _ in model.named_parameters() if "embedding.weight" in name or "head" in name]
    assert names == ["embedding.weight"]
    ids = torch.full((1, 3), 4)
    model(ids)[..., 5].sum().backward()
    touched = model.embedding.weight.grad.abs().sum(dim=1) > 0
    assert touched.nonzero().flatten().tolist() == [4, 5]  # 4 was read, 5 was asked for


def test_a_head_of_its_own_takes_the_place_of_the_tied_table():
    head = nn.Linear(WIDTH, 3).double()
    model = LanguageModel(Embedding(VOCAB, WIDTH), blocks(EncoderBlock), head=head).double()
    with record(model, "norm") as seen:
        logits = model(some_ids(2, 4))
    exactly(logits, head(seen["norm"]))
    machine = Transformer(a_transformer().encoder, a_transformer().decoder, pad_id=PAD, head=head)
    assert machine(some_ids(2, 4), some_ids(2, 5)).shape == (2, 5, 3)


def test_one_embedding_serves_both_sides_if_both_get_it():
    shared = Embedding(VOCAB, WIDTH)
    machine = Transformer(Encoder(shared, blocks(EncoderBlock)), Decoder(shared, blocks(DecoderBlock)), pad_id=PAD)
    assert sum(parameter is shared.weight for parameter in machine.parameters()) == 1


# ---- Equal to PyTorch ------------------------------------------------------------------------------------------------


def attention_pairs(theirs, ours):
    """PyTorch's parameters beside ours, for one attention; theirs come in one matrix of three parts."""
    for part, linear in enumerate((ours.w_q, ours.w_k, ours.w_v)):
        rows = slice(part * WIDTH, (part + 1) * WIDTH)
        yield theirs.in_proj_weight, rows, linear.weight
        yield theirs.in_proj_bias, rows, linear.bias
    yield theirs.out_proj.weight, slice(None), ours.w_o.weight
    yield theirs.out_proj.bias, slice(None), ours.w_o.bias


def pairs(theirs, ours):
    """Yield (PyTorch's parameter, which of its rows, our parameter) for a whole nn.Transformer."""
    for their_stack, our_stack in ((theirs.encoder, ours.encoder), (theirs.decoder, ours.decoder)):
        modules = [(their_stack.norm, our_stack.norm)]
        for layer, block in zip(their_stack.layers, our_stack.blocks, strict=True):
            yield from attention_pairs(layer.self_attn, block.attention)
            norms = [block.attention_residual.norm, block.feed_forward_residual.norm]
            if isinstance(block, DecoderBlock):
                yield from attention_pairs(layer.multihead_attn, block.cross_attention)
                norms.insert(1, block.cross_attention_residual.norm)
            modules += [(getattr(layer, f"norm{i}"), norm) for i, norm in enumerate(norms, start=1)]
            modules += [(layer.linear1, block.feed_forward.w_1), (layer.linear2, block.feed_forward.w_2)]
        for one, other in modules:
            yield one.weight, slice(None), other.weight
            yield one.bias, slice(None), other.bias


def pytorchs_transformer(pre):
    options = dict(dropout=0.0, batch_first=True, norm_first=pre)
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN, **options)
    # Made here, since nn.Transformer would ask for nested tensors and warn that it does not use them.
    encoder = nn.TransformerEncoder(layer, 2, nn.LayerNorm(WIDTH), enable_nested_tensor=False)
    return nn.Transformer(WIDTH, HEADS, 2, 2, HIDDEN, custom_encoder=encoder, **options).double()


@on_each_device
@settled
@given(
    batch=st.integers(1, 3),
    src=st.integers(1, 6),
    tgt=st.integers(1, 6),
    residual=st.sampled_from([PreNorm, PostNorm]),
    seed=st.integers(0, 99),
)
def test_a_transformer_is_pytorchs_with_embeddings_and_logits_around_it(batch, src, tgt, residual, seed, device):
    ours = a_transformer(residual, seed=seed)
    ours.encoder.norm, ours.decoder.norm = LayerNorm(WIDTH).double(), LayerNorm(WIDTH).double()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator(seed), dtype=torch.float64)
    ours, theirs = ours.to(device), pytorchs_transformer(pre=residual is PreNorm).to(device)
    with torch.no_grad():
        for their_weight, rows, our_weight in pairs(theirs, ours):
            their_weight[rows] = our_weight
    src_ids = padded(some_ids(batch, src, seed=seed, device=device), [max(1, src - i) for i in range(batch)])
    tgt_ids, blocked = some_ids(batch, tgt, seed=seed + 1, device=device), src_ids == PAD
    y = theirs(
        ours.encoder.embedding(src_ids),
        ours.decoder.embedding(tgt_ids),
        src_key_padding_mask=blocked,
        memory_key_padding_mask=blocked,
        tgt_mask=nn.Transformer.generate_square_subsequent_mask(tgt, device=device, dtype=torch.float64),
    )
    want, got = ours.decoder.embedding.logits(y), ours(src_ids, tgt_ids)
    exactly(got, want)
    towards = torch.randn(got.shape, generator=generator(seed), dtype=torch.float64).to(device)
    mine = dict(zip(ours.parameters(), torch.autograd.grad(got, list(ours.parameters()), towards), strict=True))
    wanted = dict(zip(theirs.parameters(), torch.autograd.grad(want, list(theirs.parameters()), towards), strict=True))
    checked = 0
    for their_weight, rows, our_weight in pairs(theirs, ours):
        exactly(mine[our_weight], wanted[their_weight][rows])
        checked += 1
    assert checked == len(mine) - 2  # all but the two embeddings


# ---- All at once is one by one ---------------------------------------------------------------------------------------


def gradients(loss, model):
    return torch.autograd.grad(loss, list(model.parameters()))


@on_each_device
@pytest.mark.parametrize("residual", [PreNorm, PostNorm])
def test_teacher_forcing_all_places_at_once_has_the_loss_and_gradient_of_one_place_after_the_other(residual, device):
    model = a_transformer(residual).to(device)
    src_ids = padded(some_ids(3, 5, device=device), [5, 2, 4])
    tgt_ids = padded(some_ids(3, 6, seed=2, device=device), [6, 6, 3])
    read = shift_right(tgt_ids, BOS)
    at_once = sequence_loss(model(src_ids, read), tgt_ids, PAD)
    steps = [model(src_ids, read[:, : t + 1])[:, -1:] for t in range(6)]
    one_by_one = sequence_loss(torch.cat(steps, dim=1), tgt_ids, PAD)
    exactly(at_once, one_by_one)
    for got, want in zip(gradients(at_once, model), gradients(one_by_one, model), strict=True):
        exactly(got, want)


@on_each_device
@each_language_model
def test_a_language_model_learns_all_places_at_once_what_it_learns_one_by_one(kind, device):
    model, ids = a_language_model(kind).to(device), some_ids(3, 6, device=device)
    at_once = sequence_loss(model(ids[:, :-1]), ids[:, 1:], PAD)
    steps = [model(ids[:, : t + 1])[:, -1:] for t in range(5)]
    one_by_one = sequence_loss(torch.cat(steps, dim=1), ids[:, 1:], PAD)
    exactly(at_once, one_by_one)
    for got, want in zip(gradients(at_once, model), gradients(one_by_one, model), strict=True):
        exactly(got, want)


# ---- Who sees whom ---------------------------------------------------------------------------------------------------


@on_each_device
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=["64", "32", "b16"])
@each_language_model
def test_no_later_token_moves_an_earlier_logit_by_one_bit(kind, dtype, device):
    model, ids = a_language_model(kind).to(device, dtype), some_ids(2, 7, device=device)
    before = model(ids)
    for place in (1, 4, 6):
        changed = torch.cat([ids[:, :place], some_ids(2, 7 - place, seed=5, device=device)], dim=1)
        assert torch.equal(model(changed)[:, :place], before[:, :place])


@on_each_device
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=["64", "32", "b16"])
@pytest.mark.parametrize("residual", [PreNorm, PostNorm], ids=["pre", "post"])
def test_no_later_token_of_the_target_moves_an_earlier_logit_by_one_bit(residual, dtype, device):
    model = a_transformer(residual).to(device, dtype)
    src_ids, tgt_ids = some_ids(2, 4, device=device), some_ids(2, 30, seed=2, device=device)
    before = model(src_ids, tgt_ids)
    for place in (1, 3, 17, 29):
        changed = tgt_ids.clone()
        changed[:, place:] = changed[:, place:] % (VOCAB - 1) + 1  # each later token is another one
        after = model(src_ids, changed)
        assert torch.equal(after[:, :place], before[:, :place])
        assert not torch.equal(after[:, place], before[:, place])


@on_each_device
@settled
@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=3), more=st.integers(1, 4))
def test_how_much_padding_a_source_has_changes_nothing(lengths, more, device):
    model, n = a_transformer().to(device), len(lengths)
    src_ids, tgt_ids = padded(some_ids(n, 5, device=device), lengths), some_ids(n, 4, seed=2, device=device)
    longer = torch.cat([src_ids, torch.full((n, more), PAD, device=device)], dim=1)
    exactly(model(longer, tgt_ids), model(src_ids, tgt_ids))


@on_each_device
def test_what_stands_for_padding_changes_nothing(device):
    model = a_transformer().to(device)
    src_ids, tgt_ids = padded(some_ids(2, 5, device=device), [5, 2]), some_ids(2, 4, seed=2, device=device)
    before = model(src_ids, tgt_ids)[..., 1:]
    with torch.no_grad():
        model.encoder.embedding.weight[PAD] = 100
    assert torch.equal(model(src_ids, tgt_ids)[..., 1:], before)


@on_each_device
def test_a_source_of_padding_only_gives_finite_logits_and_gradients(device):
    model = a_transformer().to(device)
    logits = model(torch.full((1, 3), PAD, device=device), some_ids(1, 4, device=device))
    assert logits.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients(logits.sum(), model))


def test_without_positions_permuted_tokens_give_permuted_outputs_and_with_them_not():
    order, ids = torch.tensor([3, 0, 2, 1]), torch.tensor([[1, 2, 3, 4]])
    for positions, moves_along in ((None, True), (Sinusoidal(WIDTH, 9), False)):
        encoder = Encoder(Embedding(VOCAB, WIDTH, positions), blocks(EncoderBlock)).double()
        moved, expected = encoder(ids[:, order]), encoder(ids)[:, order]
        assert torch.allclose(moved, expected, rtol=0, atol=1e-12) == moves_along


def test_an_encoder_s_mask_keeps_real_tokens_from_padding():
    encoder = Encoder(Embedding(VOCAB, WIDTH, Learned(WIDTH, 9)), blocks(EncoderBlock)).double()
    ids = padded(some_ids(2, 6), [4, 6])
    alone = encoder(ids[:1, :4])
    exactly(encoder(ids, mask=padding_mask(ids, PAD))[:1, :4], alone)
    assert not torch.allclose(encoder(ids)[:1, :4], alone)


# ---- Writing with caches ---------------------------------------------------------------------------------------------


@st.composite
def cuts(draw, length):
    """Cut a sequence into pieces of 1 token or more."""
    pieces = []
    while sum(pieces) < length:
        pieces.append(draw(st.integers(1, length - sum(pieces))))
    return pieces


@on_each_device
@settled
@given(kind=st.sampled_from([kind for kind in LANGUAGE_MODELS if kind != "no attention"]), pieces=cuts(7))
@torch.no_grad()
def test_a_language_model_with_caches_computes_what_it_does_without(kind, pieces, device):
    model, ids = a_language_model(kind).to(device), some_ids(2, 7, device=device)
    caches = model.new_caches()
    steps = [model(piece, caches=caches) for piece in ids.split(pieces, dim=1)]
    exactly(torch.cat(steps, dim=1), model(ids))


@on_each_device
@settled
@given(pieces=cuts(6), residual=st.sampled_from([PreNorm, PostNorm]))
@torch.no_grad()
def test_a_decoder_with_caches_computes_what_it_does_without(pieces, residual, device):
    model, src_ids = a_transformer(residual).to(device), padded(some_ids(2, 5, device=device), [5, 3])
    tgt_ids = some_ids(2, 6, seed=2, device=device)
    context, caches = model.encode(src_ids), model.new_caches()
    steps = [model.decode(piece, *context, caches=caches) for piece in tgt_ids.split(pieces, dim=1)]
    exactly(torch.cat(steps, dim=1), model(src_ids, tgt_ids))


@pytest.mark.parametrize("swapped", [0, 1, 2])
@torch.no_grad()
def test_a_language_model_refuses_caches_that_were_told_different_ids_and_changes_none(swapped):
    model, ids = a_language_model("a stack as a block"), some_ids(2, 4)
    caches = model.new_caches()
    model(ids[:, :3], caches=caches)
    mixed = [KVCache() if place == swapped else cache for place, cache in enumerate(caches)]
    before = [cache.length for cache in mixed]
    with pytest.raises(ValueError, match=r"got lengths from 0 to 3; begin again, with model\.new_caches\(\)"):
        model(ids[:, 3:], caches=mixed)
    assert [cache.length for cache in mixed] == before
    exactly(model(ids[:, 3:], caches=caches), model(ids)[:, 3:])


@torch.no_grad()
def test_a_decoder_refuses_unequal_caches_of_its_own_but_reads_the_memory_again_where_it_must():
    model, src_ids, tgt_ids = a_transformer(), some_ids(2, 5), some_ids(2, 4, seed=2)
    context, caches = model.encode(src_ids), model.new_caches()
    model.decode(tgt_ids[:, :3], *context, caches=caches)
    own, of_memory = ([KVCache() if place == new else cache for place, cache in enumerate(caches)] for new in (2, 3))
    with pytest.raises(ValueError, match="caches of self-attention are equally long, but got lengths from 0 to 3"):
        model.decode(tgt_ids[:, 3:], *context, caches=own)
    exactly(model.decode(tgt_ids[:, 3:], *context, caches=of_memory), model(src_ids, tgt_ids)[:, 3:])


@pytest.mark.parametrize("write", [greedy, partial(beam, width=3)], ids=["greedy", "beam"])
@pytest.mark.parametrize("seed", range(3))
def test_a_transformer_writes_the_same_with_caches_and_without_and_alone_and_in_a_batch(write, seed):
    model = a_transformer(seed=seed).eval()
    src_ids, start = padded(some_ids(4, 5, seed=seed), [5, 2, 4, 1]), torch.full((4, 1), BOS)
    how = dict(eos_id=EOS, max_len=9, pad_id=PAD)
    plain = write(model.decode, start, context=model.encode(src_ids), **how)
    caches = model.new_caches()
    decode = partial(model.decode, caches=caches)
    assert_same_writing(write(decode, start, context=model.encode(src_ids), caches=caches, **how), plain)
    for row in range(4):
        alone = write(model.decode, start[:1], context=model.encode(src_ids[row : row + 1]), **how)
        assert_same_writing(alone, plain[row : row + 1] if isinstance(plain, torch.Tensor) else plain, row)


def assert_same_writing(got, want, row=None):
    """Compare ids up to the padding at their end; beams by their best."""
    got, want = (one if isinstance(one, torch.Tensor) else one.ids[:, 0] for one in (got, want))
    want = want if row is None or len(want) == 1 else want[row : row + 1]
    width = max(got.shape[1], want.shape[1])
    got, want = (nn.functional.pad(one, (0, width - one.shape[1]), value=PAD) for one in (got, want))
    assert torch.equal(got, want)


@each_language_model
def test_a_language_model_continues_prompts_of_different_length_with_caches_as_without(kind):
    model, prompts = a_language_model(kind).eval(), padded(some_ids(3, 4), [4, 1, 2])
    how = dict(eos_id=EOS, max_len=12, pad_id=PAD)
    caches = model.new_caches()
    cached = greedy(partial(model, caches=caches) if caches else model, prompts, caches=caches, **how)
    assert torch.equal(cached, greedy(model, prompts, **how))


# ---- Learning --------------------------------------------------------------------------------------------------------


def test_a_new_model_knows_nothing():
    with seeded(0):
        model = LanguageModel(Embedding(1000, 64, Learned(64, 32)), [EncoderBlock(64, 4, 128)], LayerNorm(64))
    ids = torch.randint(0, 1000, (8, 32), generator=generator(1))
    loss = sequence_loss(model(ids[:, :-1]), ids[:, 1:], pad_id=-1).item()
    # Logits of variance 1 cost half a nat more than equal ones, and tied ones, which favour the token just read, a
    # little more. With rows of variance 1, as torch.nn.Embedding's, it would be dozens.
    assert math.log(1000) < loss < math.log(1000) + 1.5


def test_a_transformer_learns_to_reverse():
    numbers = Numbers(6)
    with seeded(0):
        encoder, decoder = (
            room(Embedding(len(numbers), 32, Sinusoidal(32, 8)), [block(32, 4, 64, residual=PreNorm)], LayerNorm(32))
            for room, block in ((Encoder, EncoderBlock), (Decoder, DecoderBlock))
        )
        model = Transformer(encoder, decoder, pad_id=numbers.pad_id)

    def loss(model, src_ids, tgt_ids):
        return sequence_loss(model(src_ids, shift_right(tgt_ids, numbers.bos_id)), tgt_ids, numbers.pad_id)

    how = dict(max_length=5, batch_size=64)
    train(model, loss, task_batches(reverse, numbers, n_batches=300, generator=generator(1), **how), lr=0.005)
    [(src_ids, tgt_ids)] = task_batches(reverse, numbers, n_batches=1, generator=generator(2), **how)
    start = torch.full((64, 1), numbers.bos_id)
    ids = greedy(
        model.eval().decode,
        start,
        context=model.encode(src_ids),
        eos_id=numbers.eos_id,
        pad_id=numbers.pad_id,
        max_len=8,
    )
    right = [numbers.decode(ours) == numbers.decode(want) for ours, want in zip(ids, tgt_ids, strict=True)]
    assert sum(right) >= 0.8 * 64  # guessing the five numbers would be right once in some thousand times


# ---- Compiled, elsewhere, shorter ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("without_shape_checks")
def test_a_compiled_transformer_computes_the_same():
    model, src_ids, tgt_ids = a_transformer(), padded(some_ids(2, 5), [5, 3]), some_ids(2, 4, seed=2)
    compiled = torch.compile(model, backend="aot_eager")
    got, want = compiled(src_ids, tgt_ids), model(src_ids, tgt_ids)
    exactly(got, want)
    for one, other in zip(gradients(got.sin().sum(), model), gradients(want.sin().sum(), model), strict=True):
        exactly(one, other)


@on_each_device
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.1)], ids=["32", "b16"])
def test_shorter_numbers_give_the_same_logits_up_to_their_precision(dtype, tolerance, device):
    model, src_ids, tgt_ids = a_transformer().to(device), some_ids(2, 5, device=device), some_ids(2, 4, device=device)
    want = model(src_ids, tgt_ids)
    got = model.to(dtype)(src_ids, tgt_ids)
    assert got.dtype == dtype
    # Eps is 1.2e-7 and 7.8e-3; some ten layers add up their roundings, of numbers near one.
    assert_close(got.double(), want, rtol=tolerance, atol=tolerance)


def test_a_model_can_be_sized_without_memory():
    with torch.device("meta"):
        model = LanguageModel(Embedding(10**6, 1024, Learned(1024, 4096)), [EncoderBlock(1024, 16, 4096)])
        logits = model(torch.zeros(2, 5, dtype=torch.int64))
    assert logits.shape == (2, 5, 10**6)
    assert all(parameter.is_meta for parameter in model.parameters())


def test_weights_go_through_a_file_and_back(tmp_path):
    model, other = a_transformer(seed=0), a_transformer(seed=1)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    other.load_state_dict(torch.load(tmp_path / "weights.pt"))
    ids = some_ids(2, 4)
    assert torch.equal(model(ids, ids), other(ids, ids))


# ---- Refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Embedding(0, 8), "1 id or more, 1 feature or more .* vocab_size=0, d_model=8, .*; give len"),
        (lambda: Embedding(8, 8, n_segments=-1), "n_segments=-1"),
        (lambda: Encoder(Embedding(8, 8), []), "1 block or more, but got 0"),
        (lambda: a_language_model()(torch.zeros(2, 3)), r"whole numbers .* got torch.float32 of the shape \(2, 3\)"),
        (lambda: a_language_model()(torch.zeros(2, 3, dtype=torch.bool)), "got torch.bool"),
        (lambda: a_language_model()(torch.tensor([1, 2])), r"shape \(2,\); write ids\[None\] for a single sentence"),
        (lambda: a_language_model()(torch.zeros(0, 3, dtype=torch.int64)), r"1 or more of them, .* \(0, 3\)"),
        (lambda: a_language_model()(torch.zeros(2, 0, dtype=torch.int64)), r"1 or more of them, .* \(2, 0\)"),
        (
            lambda: a_language_model()(torch.tensor([[1, VOCAB]])),
            "0 to 10, but got ids from 1 to 11; make the embedding",
        ),
        (lambda: a_language_model()(torch.tensor([[-1, 2]])), "got ids from -1 to 2"),
        (lambda: a_language_model()(some_ids(1, 33)), "positions go from 0 to 31, but x has 33 tokens"),
        (lambda: a_language_model()(some_ids(1, 3), caches=[]), "here 2 in 2 blocks, but got 0, 0 of them"),
        (
            lambda: a_language_model()(some_ids(1, 3), caches=[KVCache()] * 2),
            r"here 2 in 2 blocks, but got 2, 1 of them different; make them with model\.new_caches\(\)",
        ),
        (
            lambda: a_transformer().decode(
                some_ids(2, 3), torch.zeros(2, 4, WIDTH).double(), caches=[KVCache(), KVCache()] * 2
            ),
            "here 4 in 2 blocks, but got 4, 2 of them different",
        ),
        *(
            (partial(make, norm=norm), rf"a module that is made already, but got {arrived}; pass LayerNorm\(d_model\)")
            for make in (
                partial(Embedding, 8, 8),
                *(partial(kind, Embedding(8, 8), [nn.Identity()]) for kind in (Encoder, Decoder, LanguageModel)),
            )
            for norm, arrived in ((LayerNorm, "<class .*LayerNorm'>"), (WIDTH, str(WIDTH)))
        ),
        (
            lambda: a_language_model().embedding(some_ids(1, 3), segment_ids=some_ids(1, 3)),
            r"segment ids need a table, but got ids of the shape \(1, 3\) and n_segments=0",
        ),
        (
            lambda: Embedding(8, 8, n_segments=2)(torch.zeros(1, 3).long(), segment_ids=torch.full((1, 3), 2)),
            "0 to 1, but got segment_ids from 2 to 2",
        ),
        (
            lambda: Embedding(8, 8, n_segments=2)(torch.zeros(2, 3).long(), segment_ids=torch.zeros(1, 3).long()),
            r"one segment for each id, .* \(2, 3\) .* \(1, 3\)",
        ),
        (
            lambda: a_language_model()(some_ids(1, 3), caches=KVCache()),
            "are a sequence, one for each attention, but got a KVCache of length=0 alone; make them with model",
        ),
        (
            lambda: a_transformer().decode(some_ids(2, 3), torch.zeros(2, 4, WIDTH).double(), caches=KVCache()),
            "but got a KVCache of length=0 alone",
        ),
        (
            lambda: Embedding(8, 8).logits(torch.zeros(2, 7)),
            r"rows of their own width, d_model=8, but got the shape \(2, 7\); give the model a head",
        ),
        (
            lambda: LanguageModel(Embedding(8, 8), blocks(EncoderBlock), head=nn.Linear(7, 5)),
            r"d_model=8 wide, but got one for 7 features; make it as torch.nn.Linear\(8, 5\)",
        ),
        (
            lambda: Transformer(a_transformer().encoder, a_transformer().decoder, pad_id=PAD, head=nn.Linear(7, 5)),
            "d_model=8 wide, but got one for 7 features",
        ),
        (lambda: a_transformer().decode(some_ids(2, 3), torch.zeros(3, 4, WIDTH).double()), "as many of queries"),
    ],
)
def test_what_cannot_work_is_refused_with_the_rule_and_the_remedy(call, message):
    with pytest.raises(ValueError, match=message):
        call()
