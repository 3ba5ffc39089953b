"""The models are the published ones: as many parameters, and the same numbers as Hugging Face's from the same weights.

Nothing is downloaded: `transformers` builds models with random weights here, small ones and one of each real width.
"""

import re
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from conftest import missing
from torch import nn

from lib.blocks import EncoderBlock
from lib.costs import count_parameters
from lib.decoding import greedy
from lib.device import generator, seeded
from lib.masks import padding_mask
from lib.norms import LayerNorm
from lib.positions import Learned, Sinusoidal
from lib.published import (
    Bert,
    MaskedLanguageModel,
    bert,
    bert_base,
    gpt2,
    gpt2_small,
    load_bert,
    load_gpt2,
    transformer,
    transformer_base,
    transformer_big,
)
from lib.record import record
from lib.residual import PostNorm, PreNorm
from lib.transformer import LanguageModel

VOCAB, D_MODEL, N_LAYERS, N_HEADS, D_FF, MAX_LEN = 50, 8, 3, 2, 12, 24
PAD = 0
BASE = dict(vocab_size=30522, hidden_size=768, num_attention_heads=12, intermediate_size=3072)

in_both_precisions = pytest.mark.parametrize(
    ("dtype", "within"), [(torch.float32, 1e-5), (torch.float64, 1e-12)], ids=["float32", "float64"]
)
no_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: torch.cuda.is_available() is False")
on_each_device = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, no_cuda])])


@pytest.fixture(scope="module")
def hugging_face():
    """Return the package `transformers`, which takes seconds to import, told to stay offline."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("TRANSFORMERS_OFFLINE", "1")
        try:
            import transformers
        except ImportError:
            missing("no package `transformers`: run make again, which installs requirements.txt")
        yield transformers


def filled(model, std=0.3):
    """Return the model, ready to compute, with every weight random: no bias of 0 and no scale of 1 hides a mistake."""
    with torch.no_grad(), seeded(1):
        for name, parameter in model.named_parameters():
            is_scale = parameter.ndim == 1 and name.endswith("weight")
            parameter.normal_(mean=float(is_scale), std=std)
    return model.eval()


def their_bert(hugging_face, kind="BertModel", **settings):
    sizes = dict(vocab_size=VOCAB, hidden_size=D_MODEL, num_attention_heads=N_HEADS, intermediate_size=D_FF)
    sizes |= dict(num_hidden_layers=N_LAYERS, max_position_embeddings=MAX_LEN)
    return filled(getattr(hugging_face, kind)(hugging_face.BertConfig(**sizes | settings)))


def our_bert():
    return bert(VOCAB, D_MODEL, N_LAYERS, N_HEADS, d_ff=D_FF, max_len=MAX_LEN).eval()


def our_masked_bert():
    return MaskedLanguageModel(our_bert().encoder).eval()


def their_gpt2(hugging_face, kind="GPT2LMHeadModel", **settings):
    sizes = dict(vocab_size=VOCAB, n_embd=D_MODEL, n_layer=N_LAYERS, n_head=N_HEADS, n_inner=D_FF, n_positions=MAX_LEN)
    sizes |= dict(bos_token_id=None, eos_token_id=None)
    return filled(getattr(hugging_face, kind)(hugging_face.GPT2Config(**sizes | settings)))


def our_gpt2():
    return gpt2(VOCAB, D_MODEL, N_LAYERS, N_HEADS, d_ff=D_FF, max_len=MAX_LEN).eval()


def two_texts(vocab=VOCAB):
    """Return ids whose second text ends in padding, and the segment of each."""
    ids = torch.randint(1, vocab, (2, 9), generator=generator(2))
    ids[1, 5:] = PAD
    return ids, torch.randint(2, (2, 9), generator=generator(3))


def numbers_of(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


# ---- How many parameters ---------------------------------------------------------------------------------------------

COUNTS = {transformer_base: 63_082_496, transformer_big: 214_245_376, bert_base: 109_482_240, gpt2_small: 124_439_808}


@pytest.mark.parametrize("maker", COUNTS, ids=lambda maker: maker.__name__)
def test_a_model_has_exactly_the_number_of_parameters_that_it_states(maker):
    with torch.device("meta"):
        model = maker()
    assert count_parameters(model) == COUNTS[maker]
    assert f"    {COUNTS[maker]:,} parameters" in maker.__doc__


@pytest.mark.parametrize(("maker", "printed"), [(transformer_base, 65), (transformer_big, 213)])
def test_the_docstring_says_how_far_the_paper_s_figure_is_from_the_count(maker, printed):
    away = printed - COUNTS[maker] / 1e6
    said = f"The paper prints {printed} million, {abs(away):.1f} million {'more' if away > 0 else 'fewer'}"
    assert said in maker.__doc__


def test_the_parts_that_docstrings_count_have_these_numbers():
    with torch.device("meta"):
        base, big, with_pooler = transformer_base(), transformer_big(), bert_base()
    assert f"{base.encoder.embedding.weight.numel():,}" == "18,944,000"
    assert "37,000 vectors has 18,944,000" in transformer_base.__doc__
    assert f"{big.encoder.embedding.weight.numel():,}" == "37,888,000"
    assert "37,000 vectors has 37,888,000" in transformer_big.__doc__
    assert f"{count_parameters(with_pooler.pooler):,}" == "590,592"
    assert "the pooler has 590,592" in bert_base.__doc__


def test_the_released_models_of_hugging_face_have_these_numbers_too(hugging_face):
    with torch.device("meta"):
        theirs = hugging_face.BertModel(hugging_face.BertConfig()), hugging_face.GPT2Model(hugging_face.GPT2Config())
    assert [count_parameters(model) for model in theirs] == [COUNTS[bert_base], COUNTS[gpt2_small]]


def test_with_the_head_for_masked_tokens_it_is_hugging_faces_number_too(hugging_face):
    with torch.device("meta"):
        ours, theirs = MaskedLanguageModel(bert_base().encoder), hugging_face.BertForMaskedLM(hugging_face.BertConfig())
    assert count_parameters(ours) == count_parameters(theirs) == 109_514_298  # as for bert-base-uncased


def test_no_size_of_the_vocabulary_gives_both_numbers_of_the_papers_table_3():
    rows = {}
    for maker, printed in ((transformer_base, 65), (transformer_big, 213)):
        with torch.device("meta"):
            model = maker()
        d_model = model.encoder.embedding.weight.shape[1]
        rest = COUNTS[maker] - 37000 * d_model
        rows[maker] = round((printed * 1e6 - rest) / d_model, -2)
        low, high = ((printed * 1e6 + side * 0.5e6 - rest) / d_model for side in (-1, 1))
        rows[maker, "rounded"] = range(int(low), int(high))
        with torch.device("meta"):
            assert round(count_parameters(maker(int(rows[maker]))) / 1e6) == printed
    assert f"{rows[transformer_base]:,.0f} rows" in " ".join(transformer_base.__doc__.split())
    assert f"some {rows[transformer_big]:,.0f}" in transformer_base.__doc__
    assert set(rows[transformer_base, "rounded"]).isdisjoint(rows[transformer_big, "rounded"])


# ---- What they are made of -------------------------------------------------------------------------------------------


def where_it_drops(model):
    """Return the modules that drop something, each name once for all blocks."""
    dropping = [(name, module.p) for name, module in model.named_modules() if isinstance(module, nn.Dropout)]
    return {re.sub(r"\d+", "#", name): p for name, p in dropping if p}


def residuals_of(model):
    return {type(module) for module in model.modules() if isinstance(module, PostNorm | PreNorm)}


def norms_of(model):
    return [(module.eps, name) for name, module in model.named_modules() if isinstance(module, LayerNorm)]


def activations_of(model):
    return {repr(module.activation) for module in model.modules() if hasattr(module, "activation")}


def test_the_transformer_of_2017_has_its_parts():
    model = transformer(VOCAB, 8, 2, 2, 16, dropout=0.3, max_len=MAX_LEN, pad_id=7)
    assert model.encoder.embedding is model.decoder.embedding
    assert model.head is None
    assert model.pad_id == 7
    assert isinstance(model.encoder.embedding.positions, Sinusoidal)
    assert model.encoder.embedding.positions.max_len == MAX_LEN
    assert model.encoder.embedding.scale == 8**0.5
    assert residuals_of(model) == {PostNorm}
    assert len(norms_of(model)) == 2 * 2 + 2 * 3
    assert activations_of(model) == {repr(F.relu)}
    sublayers = {f"encoder.blocks.#.{part}_residual.dropout": 0.3 for part in ("attention", "feed_forward")}
    sublayers |= {
        f"decoder.blocks.#.{part}_residual.dropout": 0.3 for part in ("attention", "cross_attention", "feed_forward")
    }
    assert where_it_drops(model) == {"encoder.embedding.dropout": 0.3, **sublayers}


@pytest.mark.parametrize(
    ("maker", "d_model", "heads", "p"), [(transformer_base, 512, 8, 0.1), (transformer_big, 1024, 16, 0.3)]
)
def test_base_and_big_are_the_rows_of_table_3(maker, d_model, heads, p):
    with torch.device("meta"):
        model = maker()
    for stack in (model.encoder, model.decoder):
        assert [block.attention.n_heads for block in stack.blocks] == [heads] * 6
        assert stack.blocks[0].feed_forward.w_1.weight.shape == (4 * d_model, d_model)
    assert set(where_it_drops(model).values()) == {p}


def test_bert_has_its_parts():
    model = bert(VOCAB, 8, 2, 2, dropout=0.2)
    embedding = model.encoder.embedding
    assert isinstance(embedding.positions, Learned)
    assert embedding.scale == 1
    assert embedding.segments.shape == (2, 8)
    assert residuals_of(model) == {PostNorm}
    assert {eps for eps, _ in norms_of(model)} == {1e-12}
    assert len(norms_of(model)) == 1 + 2 * 2
    assert activations_of(model) == {"GELU(approximate='none')"}
    block = "encoder.blocks.#."
    inside = ["attention.weights_dropout", "attention_residual.dropout", "feed_forward_residual.dropout"]
    assert where_it_drops(model) == {"encoder.embedding.dropout": 0.2, **{block + name: 0.2 for name in inside}}


def test_the_head_for_masked_tokens_shares_the_encoder_and_starts_as_published():
    with seeded(0):
        encoder = bert(200, 64, 1, 2).encoder
        model = MaskedLanguageModel(encoder)
    assert model.encoder is encoder
    assert model.norm.eps == 1e-12
    assert 0.03 < model.transform.weight.abs().max() <= 0.04
    assert model.transform.weight.std().item() == pytest.approx(0.0176, rel=0.15)  # 0.02 without its tails
    assert not model.transform.bias.any()
    assert not model.bias.any()
    assert model.bias.shape == (200,)


def test_gpt2_has_its_parts():
    model = gpt2(VOCAB, 8, 2, 2, dropout=0.2)
    assert isinstance(model.embedding.positions, Learned)
    assert model.embedding.scale == 1
    assert model.embedding.segments is None
    assert model.head is None
    assert residuals_of(model) == {PreNorm}
    assert {eps for eps, _ in norms_of(model)} == {1e-5}
    assert norms_of(model)[-1] == (1e-5, "norm")
    assert activations_of(model) == {"GELU(approximate='tanh')"}
    inside = ["attention.weights_dropout", "attention_residual.dropout", "feed_forward_residual.dropout"]
    assert where_it_drops(model) == {"embedding.dropout": 0.2, **{f"blocks.#.{name}": 0.2 for name in inside}}


@pytest.mark.parametrize(("maker", "heads", "max_len"), [(bert_base, 12, 512), (gpt2_small, 12, 1024)])
def test_the_named_ones_have_the_published_heads_lengths_and_dropout(maker, heads, max_len):
    with torch.device("meta"):
        model = maker()
    stack = getattr(model, "encoder", model)
    assert [block.attention.n_heads for block in stack.blocks] == [heads] * 12
    assert stack.embedding.positions.weight.shape == (max_len, 768)
    assert set(where_it_drops(model).values()) == {0.1}


@pytest.mark.parametrize("make", [bert, gpt2], ids=["bert", "gpt2"])
def test_weights_start_as_published(make):
    with seeded(0):
        model = make(200, 64, 8, 2)
    about = partial(pytest.approx, rel=0.05)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif parameter.ndim == 1:
            assert (parameter == 1).all(), name
        elif make is bert:
            assert parameter.abs().max() <= 0.04
            assert parameter.std().item() == pytest.approx(0.0176, rel=0.15), name  # 0.02 without its tails
        elif name.endswith(("w_o.weight", "w_2.weight")):
            assert parameter.std().item() == about(0.02 / 16**0.5), name
        else:
            assert parameter.std().item() == about(0.01 if "positions" in name else 0.02), name


@pytest.mark.parametrize("make", [bert, gpt2], ids=["bert", "gpt2"])
def test_sizes_that_make_no_model_are_refused(make):
    with pytest.raises(ValueError, match="1 block or more"):
        make(VOCAB, 8, 0, 2)
    with pytest.raises(ValueError, match="no multiple of n_heads=3"):
        make(VOCAB, 8, 1, 3)


# ---- The same weights, the same numbers ------------------------------------------------------------------------------


@in_both_precisions
def test_bert_computes_what_hugging_faces_does_in_every_layer(hugging_face, dtype, within):
    close = partial(torch.testing.assert_close, rtol=0, atol=within)
    theirs, ours = their_bert(hugging_face).to(dtype), our_bert().to(dtype)
    load_bert(ours, theirs.state_dict())
    ids, segments = two_texts()
    real = (ids != PAD).long()
    with torch.no_grad(), record(ours, "encoder.embedding", "encoder.blocks.?") as seen:
        want = theirs(ids, attention_mask=real, token_type_ids=segments, output_hidden_states=True)
        tokens, summary = ours(ids, mask=padding_mask(ids, PAD), segment_ids=segments)
    for got, wanted in zip(seen.values(), want.hidden_states, strict=True):
        close(got, wanted)
    close(tokens, want.last_hidden_state)
    close(summary, want.pooler_output)
    assert len(seen) == 1 + N_LAYERS
    assert tokens.std() > 0.1


@on_each_device
@in_both_precisions
def test_berts_logits_for_masked_tokens_are_hugging_faces(hugging_face, dtype, within, device):
    theirs = their_bert(hugging_face, kind="BertForMaskedLM").to(device, dtype)
    ours = our_masked_bert().to(device, dtype)
    load_bert(ours, theirs.state_dict())
    ids, segments = (one.to(device) for one in two_texts())
    with torch.no_grad():
        want = theirs(ids, attention_mask=(ids != PAD).long(), token_type_ids=segments).logits
        logits = ours(ids, mask=padding_mask(ids, PAD), segment_ids=segments)
    torch.testing.assert_close(logits, want, rtol=0, atol=within)
    assert logits.std() > 0.1


def test_a_masked_token_is_told_from_both_sides():
    ours = filled(our_masked_bert().double())
    ids, _ = two_texts()
    before = ours(ids)[0, 4]
    for place in (0, 8):
        changed = ids.clone()
        changed[0, place] = ids[0, place] % (VOCAB - 1) + 1
        assert not torch.allclose(ours(changed)[0, 4], before, atol=1e-3)


@in_both_precisions
def test_gpt2_computes_what_hugging_faces_does_in_every_layer(hugging_face, dtype, within):
    close = partial(torch.testing.assert_close, rtol=0, atol=within)
    theirs, ours = their_gpt2(hugging_face).to(dtype), our_gpt2().to(dtype)
    load_gpt2(ours, theirs.state_dict())
    ids, _ = two_texts()
    with torch.no_grad(), record(ours, "embedding", "blocks.?", "norm") as seen:
        want = theirs(ids, attention_mask=(ids != PAD).long(), output_hidden_states=True)
        logits = ours(ids, mask=padding_mask(ids, PAD))
    before_the_last_norm = seen.pop(f"blocks.{N_LAYERS - 1}")  # theirs shows the last layer after it only
    for got, wanted in zip(seen.values(), want.hidden_states, strict=True):
        close(got, wanted)
    close(ours.norm(before_the_last_norm), want.hidden_states[-1])
    close(logits, want.logits)
    assert logits.std() > 0.1


@torch.no_grad()
def test_attention_weights_are_hugging_faces_too(hugging_face):
    ids, _ = two_texts()
    shown = dict(attn_implementation="eager")
    for theirs, ours, load in (
        (their_bert(hugging_face, **shown).double(), our_bert().double(), load_bert),
        (their_gpt2(hugging_face, **shown).double(), our_gpt2().double(), load_gpt2),
    ):
        load(ours, theirs.state_dict())
        want = theirs(ids, attention_mask=(ids != PAD).long(), output_attentions=True).attentions
        with record(ours, "*weights_dropout") as seen:
            ours(ids, mask=padding_mask(ids, PAD))
        for got, wanted in zip(seen.values(), want, strict=True):
            torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)
        assert len(seen) == N_LAYERS


def assert_gradients_agree(load, theirs, ours, gradients):
    """Compare the gradients that backward has left in both; `gradients` is a model like ours to hold theirs."""
    load(gradients, {name: parameter.grad for name, parameter in theirs.named_parameters()})
    for (name, got), wanted in zip(ours.named_parameters(), gradients.parameters(), strict=True):
        torch.testing.assert_close(got.grad, wanted.detach(), rtol=1e-10, atol=1e-10, msg=f"{name} differs")


@on_each_device
@torch.no_grad()
def test_bert_and_gpt2_compute_what_hugging_faces_do_on_each_device(hugging_face, device):
    close = partial(torch.testing.assert_close, rtol=0, atol=1e-12)
    ids, segments = (one.to(device) for one in two_texts())
    real, mask = (ids != PAD).long(), padding_mask(ids, PAD)
    theirs, ours = their_bert(hugging_face).double().to(device), our_bert().double().to(device)
    load_bert(ours, theirs.state_dict())
    want = theirs(ids, attention_mask=real, token_type_ids=segments)
    close(ours(ids, mask=mask, segment_ids=segments), (want.last_hidden_state, want.pooler_output))
    theirs, ours = their_gpt2(hugging_face).double().to(device), our_gpt2().double().to(device)
    load_gpt2(ours, theirs.state_dict())
    close(ours(ids, mask=mask), theirs(ids, attention_mask=real).logits)


def test_berts_gradients_are_hugging_faces_too(hugging_face):
    theirs, ours = their_bert(hugging_face).double(), our_bert().double()
    load_bert(ours, theirs.state_dict())
    ids, segments = two_texts()
    ids = ids.clamp_min(PAD + 1)  # theirs gives the vector of [PAD] no gradient
    for outputs in (theirs(ids, token_type_ids=segments)[:2], ours(ids, segment_ids=segments)):
        sum(output.sin().sum() for output in outputs).backward()
    assert_gradients_agree(load_bert, theirs, ours, our_bert().double())


def test_the_gradients_of_the_head_for_masked_tokens_are_hugging_faces_too(hugging_face):
    theirs, ours = their_bert(hugging_face, kind="BertForMaskedLM").double(), our_masked_bert().double()
    load_bert(ours, theirs.state_dict())
    ids, _ = two_texts()
    ids = ids.clamp_min(PAD + 1)  # theirs gives the vector of [PAD] no gradient
    for logits in (theirs(ids).logits, ours(ids)):
        F.cross_entropy(logits[:, ::3].flatten(0, 1), ids[:, ::3].flatten()).backward()
    assert_gradients_agree(load_bert, theirs, ours, our_masked_bert().double())


def test_gpt2s_gradients_are_hugging_faces_too(hugging_face):
    theirs, ours = their_gpt2(hugging_face).double(), our_gpt2().double()
    load_gpt2(ours, theirs.state_dict())
    ids, _ = two_texts()
    for logits in (theirs(ids).logits, ours(ids)):
        F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    assert_gradients_agree(load_gpt2, theirs, ours, our_gpt2().double())


@torch.no_grad()
def test_one_layer_of_each_real_width_computes_the_same(hugging_face):
    ids, segments = two_texts(vocab=30000)
    with torch.device("meta"):
        our_b, our_g = bert(30522, 768, 1, 12), gpt2(50257, 768, 1, 12)
    theirs = filled(hugging_face.BertModel(hugging_face.BertConfig(num_hidden_layers=1)), std=0.02)
    load_bert(our_b.to_empty(device="cpu").eval(), theirs.state_dict())
    want = theirs(ids, token_type_ids=segments)
    for got, wanted in zip(our_b(ids, segment_ids=segments), want[:2], strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)
    theirs = filled(hugging_face.GPT2LMHeadModel(hugging_face.GPT2Config(n_layer=1)), std=0.02)
    load_gpt2(our_g.to_empty(device="cpu").eval(), theirs.state_dict())
    torch.testing.assert_close(our_g(ids), theirs(ids).logits, rtol=0, atol=1e-5)


def test_greedy_decoding_with_caches_writes_what_hugging_face_generates(hugging_face):
    theirs = their_gpt2(hugging_face, n_embd=32).double()
    nn.init.zeros_(theirs.transformer.ln_f.bias)  # or one symbol would be the likeliest everywhere
    ours = gpt2(VOCAB, 32, N_LAYERS, N_HEADS, d_ff=D_FF, max_len=MAX_LEN).double().eval()
    load_gpt2(ours, theirs.state_dict())
    prompts = torch.randint(VOCAB, (4, 3), generator=generator(5))
    everywhere = torch.ones_like(prompts)
    generate = partial(theirs.generate, prompts, attention_mask=everywhere, do_sample=False, max_length=MAX_LEN)
    eos = int(generate()[0, 6])  # so that one text ends early
    want = generate(eos_token_id=eos, pad_token_id=eos)
    caches = ours.new_caches()
    assert torch.equal(greedy(partial(ours, caches=caches), prompts, eos_id=eos, max_len=MAX_LEN, caches=caches), want)
    assert torch.equal(greedy(ours, prompts, eos_id=eos, max_len=MAX_LEN), want)
    assert (want[0, 6:] == eos).all()
    assert (want[2:, 6:] != eos).any(dim=1).all()
    assert len(want[:, 3:].unique()) > 8


# ---- Loading ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def bert_state(hugging_face):
    return dict(their_bert(hugging_face).state_dict())


@pytest.fixture
def gpt2_state(hugging_face):
    return dict(their_gpt2(hugging_face, kind="GPT2Model").state_dict())


def test_every_number_of_theirs_is_in_ours_once(hugging_face):
    for theirs, ours, load in (
        (their_bert(hugging_face), our_bert(), load_bert),
        (their_bert(hugging_face, kind="BertForMaskedLM"), our_masked_bert(), load_bert),
        (their_gpt2(hugging_face), our_gpt2(), load_gpt2),
    ):
        load(ours, theirs.state_dict())
        assert torch.equal(numbers_of(ours).sort().values, numbers_of(theirs).sort().values)


@pytest.mark.parametrize(
    ("kind", "model"),
    [
        ("BertForPreTraining", our_bert),
        ("BertForPreTraining", our_masked_bert),
        ("BertForNextSentencePrediction", our_bert),
        ("BertForMaskedLM", our_masked_bert),
        ("BertLMHeadModel", our_masked_bert),
    ],
    ids=lambda one: one if isinstance(one, str) else one.__name__,
)
def test_a_bert_with_a_head_of_pre_training_loads_as_the_docstring_says(hugging_face, kind, model):
    theirs, ours = their_bert(hugging_face, kind=kind, is_decoder=kind == "BertLMHeadModel"), model()
    load_bert(ours, theirs.state_dict())
    assert torch.equal(ours.encoder.embedding.weight, theirs.bert.embeddings.word_embeddings.weight)
    assert kind in load_bert.__doc__


@pytest.mark.parametrize(
    ("make", "kind", "part", "load", "model"),
    [
        (their_bert, "BertForSequenceClassification", "bert", load_bert, our_bert),
        (their_bert, "BertForTokenClassification", "bert", load_bert, lambda: our_bert().encoder),
        (their_gpt2, "GPT2ForTokenClassification", "transformer", load_gpt2, our_gpt2),
    ],
    ids=["a text's kind", "each token's kind", "GPT-2"],
)
def test_of_a_model_with_another_head_the_part_without_it_loads(hugging_face, make, kind, part, load, model):
    theirs, ours = make(hugging_face, kind=kind), model()
    left_over = r"2 left over \(classifier\.bias, classifier\.weight\)"
    assert_refused(load, ours, theirs.state_dict(), rf"{left_over}.* with another head pass .*\.{part}\.state_dict\(\)")
    load(ours, getattr(theirs, part).state_dict())
    assert f"`.{part}.state_dict()`" in load.__doc__


@pytest.mark.parametrize("kind", ["BertForMaskedLM", "BertForTokenClassification"])
def test_a_bert_without_pooler_loads_into_the_encoder(hugging_face, kind):
    theirs, ours = their_bert(hugging_face, kind=kind), our_bert().encoder
    load_bert(ours, theirs.bert.state_dict())
    ids, segments = two_texts()
    with torch.no_grad():
        want = theirs.bert(ids, token_type_ids=segments).last_hidden_state
        torch.testing.assert_close(ours(ids, segment_ids=segments), want, rtol=0, atol=1e-5)


def test_the_first_published_files_of_bert_load_too(hugging_face):
    theirs, ours, again = their_bert(hugging_face, kind="BertForPreTraining"), our_bert(), our_bert()
    old = dict(theirs.state_dict())
    for name in [name for name in old if "LayerNorm" in name]:
        old[name.replace("weight", "gamma").replace("bias", "beta")] = old.pop(name)
    assert "bert.encoder.layer.2.output.LayerNorm.gamma" in old
    load_bert(ours, old | {"bert.embeddings.position_ids": torch.arange(MAX_LEN)[None]})
    load_bert(again, theirs.bert.state_dict())
    assert torch.equal(numbers_of(ours), numbers_of(again))
    masked, again = our_masked_bert(), our_masked_bert()
    load_bert(masked, {name: tensor for name, tensor in old.items() if name != "cls.predictions.decoder.bias"})
    load_bert(again, theirs.state_dict())
    assert torch.equal(numbers_of(masked), numbers_of(again))


def test_gpt2_loads_with_and_without_prefix_head_and_old_masks(hugging_face):
    theirs, ours = their_gpt2(hugging_face), our_gpt2()
    with_head = dict(theirs.state_dict())
    assert "lm_head.weight" in with_head
    without = {name: tensor for name, tensor in with_head.items() if name != "lm_head.weight"}
    masks = {f"h.{i}.attn.bias": torch.ones(1, 1, MAX_LEN, MAX_LEN).tril().bool() for i in range(N_LAYERS)}
    masks |= {f"h.{i}.attn.masked_bias": torch.tensor(-1e4) for i in range(N_LAYERS)}
    bare = dict(theirs.transformer.state_dict())
    prefixed_masks = {f"transformer.{name}": tensor for name, tensor in masks.items()}
    load_gpt2(ours, with_head)
    want = numbers_of(ours)
    for state in (without, bare, bare | masks, with_head | prefixed_masks):
        ours = our_gpt2()
        assert not torch.equal(numbers_of(ours), want)
        load_gpt2(ours, state)
        assert torch.equal(numbers_of(ours), want)


@on_each_device
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_weights_are_rounded_to_the_type_and_brought_to_the_device_of_the_model(bert_state, dtype, device):
    ours = our_bert().to(device, dtype)
    load_bert(ours, bert_state)
    table = ours.encoder.embedding.weight
    assert (table.dtype, table.device.type, table.requires_grad) == (dtype, device, True)
    assert torch.equal(table.cpu(), bert_state["embeddings.word_embeddings.weight"].to(dtype))


def test_a_wrong_number_of_heads_loads_and_computes_something_else(bert_state):
    ids, _ = two_texts()
    ours, wrong = our_bert(), bert(VOCAB, D_MODEL, N_LAYERS, 2 * N_HEADS, d_ff=D_FF, max_len=MAX_LEN).eval()
    load_bert(ours, bert_state)
    load_bert(wrong, bert_state)
    assert not torch.allclose(ours(ids)[0], wrong(ids)[0], atol=0.01)


def test_what_a_state_dict_does_not_say_of_a_gpt2_loads_and_computes_something_else(hugging_face):
    ids, _ = two_texts()
    usual = their_gpt2(hugging_face)
    for option in ({"scale_attn_by_inverse_layer_idx": True}, {"scale_attn_weights": False}):
        theirs, ours = their_gpt2(hugging_face, **option), our_gpt2()
        load_gpt2(ours, theirs.state_dict())
        with torch.no_grad():
            torch.testing.assert_close(ours(ids), usual(ids).logits, rtol=0, atol=1e-4)
            assert not torch.allclose(ours(ids), theirs(ids).logits, atol=0.01)
        assert all(name in load_gpt2.__doc__ for name in option)


# What is wrong with the state, and how the refusal goes on.
BERT_FAULTS = {
    "missing": (
        lambda state: {name: tensor for name, tensor in state.items() if name != "pooler.dense.bias"},
        r"of 55 names the state dict has 1 missing \(pooler\.dense\.bias\); make the model as bert\(\.\.\.\)",
    ),
    "left over": (lambda state: state | {"extra": torch.ones(1)}, r"has 1 left over \(extra\)"),
    "a layer more": (
        lambda state: state | {name.replace("layer.0", "layer.3"): tensor for name, tensor in state.items()},
        r"16 left over \(encoder\.layer\.3\.attention\.output\.LayerNorm\.bias, .*, \.\.\.\)",
    ),
    "with and without prefix": (
        lambda state: state | {"bert.pooler.dense.bias": state["pooler.dense.bias"]},
        r"54 missing \(bert\.embeddings.* and 55 left over \(embeddings",
    ),
    "transposed": (
        lambda state: state | {"encoder.layer.1.output.dense.weight": torch.ones(D_FF, D_MODEL)},
        r"layer\.1\.output\.dense\.weight must be .* of the shape \(8, 12\), .* of the shape \(12, 8\) on cpu; make",
    ),
    "other vocabulary": (
        lambda state: state | {"embeddings.word_embeddings.weight": torch.ones(VOCAB + 1, D_MODEL)},
        r"of the shape \(50, 8\), in memory, but got torch\.float32 of the shape \(51, 8\)",
    ),
    "whole numbers": (
        lambda state: state | {"embeddings.LayerNorm.bias": torch.ones(D_MODEL, dtype=torch.int8)},
        r"floating-point numbers of the shape \(8,\), in memory, but got torch\.int8",
    ),
    "no memory": (
        lambda state: state | {"embeddings.LayerNorm.bias": torch.ones(D_MODEL, device="meta")},
        r"in memory, but got torch\.float32 of the shape \(8,\) on meta",
    ),
    "nothing": (lambda state: {}, "has 55 missing"),
}
MASKED_FAULTS = {
    "missing": (
        lambda state: {name: tensor for name, tensor in state.items() if "transform" not in name},
        r"4 missing \(cls\.predictions\.transform.*\); make the model as MaskedLanguageModel\(bert\(\.\.\.\)\.enc",
    ),
    "no head": (
        lambda state: {name: tensor for name, tensor in state.items() if not name.startswith("cls.")},
        r"5 missing \(cls\.predictions\.bias, ",
    ),
    "left over": (lambda state: state | {"cls.extra": torch.ones(1)}, r"1 left over \(cls\.extra\)"),
    "a table of its own": (
        lambda state: state | {"cls.predictions.decoder.weight": torch.ones(VOCAB, D_MODEL)},
        r"decoder\.weight, \(50, 8\), is not equal to bert\.embeddings\.word_embeddings\.weight, \(50, 8\)",
    ),
    "another vocabulary": (
        lambda state: state | {"cls.predictions.decoder.bias": torch.ones(VOCAB + 1)},
        r"decoder\.bias, \(51,\), is not equal to cls\.predictions\.bias, \(50,\); this is the file of a model",
    ),
}
GPT2_FAULTS = {
    "missing": (
        lambda state: {name: tensor for name, tensor in state.items() if name != "ln_f.bias"},
        r"1 missing \(ln_f\.bias\); make the model as gpt2",
    ),
    "left over": (lambda state: state | {"h.0.attn.extra": torch.ones(1)}, r"1 left over \(h\.0\.attn\.extra\)"),
    "not transposed": (
        lambda state: state | {"h.0.attn.c_attn.weight": torch.ones(3 * D_MODEL, D_MODEL)},
        r"h\.0\.attn\.c_attn\.weight must be .* of the shape \(8, 24\), .* of the shape \(24, 8\)",
    ),
    "query only": (
        lambda state: state | {"h.2.attn.c_attn.bias": torch.ones(D_MODEL)},
        r"h\.2\.attn\.c_attn\.bias must be .* of the shape \(24,\), .* of the shape \(8,\)",
    ),
    "other length": (
        lambda state: state | {"wpe.weight": torch.ones(MAX_LEN - 1, D_MODEL)},
        r"wpe\.weight must be .* of the shape \(24, 8\), .* of the shape \(23, 8\)",
    ),
    "a head of its own": (
        lambda state: state | {"lm_head.weight": state["wte.weight"] + 1e-3},
        r"lm_head\.weight, \(50, 8\), is not equal to wte\.weight, \(50, 8\)",
    ),
    "the head only": (lambda state: {"lm_head.weight": state["wte.weight"]}, "has 40 missing"),
}


def assert_refused(load, model, state, message):
    """Want a ValueError, and every weight as it was."""
    before = numbers_of(model)
    with pytest.raises(ValueError, match=message):
        load(model, state)
    assert torch.equal(numbers_of(model), before)


@pytest.mark.parametrize(("spoil", "message"), BERT_FAULTS.values(), ids=BERT_FAULTS)
def test_what_is_not_the_state_of_this_bert_is_refused_and_changes_nothing(bert_state, spoil, message):
    assert_refused(load_bert, our_bert(), spoil(bert_state), message)


@pytest.mark.parametrize(("spoil", "message"), MASKED_FAULTS.values(), ids=MASKED_FAULTS)
def test_what_is_not_the_state_of_this_masked_bert_is_refused_and_changes_nothing(hugging_face, spoil, message):
    state = dict(their_bert(hugging_face, kind="BertForMaskedLM").state_dict())
    assert_refused(load_bert, our_masked_bert(), spoil(state), message)


@pytest.mark.parametrize(("spoil", "message"), GPT2_FAULTS.values(), ids=GPT2_FAULTS)
def test_what_is_not_the_state_of_this_gpt2_is_refused_and_changes_nothing(gpt2_state, spoil, message):
    assert_refused(load_gpt2, our_gpt2(), spoil(gpt2_state), message)


def test_the_state_of_the_other_family_is_refused_and_changes_nothing(bert_state, gpt2_state):
    assert_refused(load_bert, our_bert(), gpt2_state, r"55 missing \(embeddings\..*\) and 40 left over \(h\.0\.")
    assert_refused(load_gpt2, our_gpt2(), bert_state, r"40 missing \(h\.0\..*\) and 55 left over \(embeddings\.")


def test_a_pooler_is_neither_made_up_nor_dropped(hugging_face, bert_state):
    assert_refused(
        load_bert, our_bert().encoder, bert_state, r"2 left over \(pooler\.dense\.bias, pooler\.dense\.weight\)"
    )
    without = their_bert(hugging_face, kind="BertForMaskedLM").state_dict()
    assert_refused(load_bert, our_bert(), without, r"2 missing \(bert\.pooler.*or its encoder where there is no pooler")


def test_a_model_of_other_parts_is_refused_and_stays_as_it_is(gpt2_state):
    embedding = our_gpt2().embedding
    blocks = [EncoderBlock(D_MODEL, N_HEADS, D_FF, residual=PreNorm) for _ in range(N_LAYERS)]
    endless = LanguageModel(embedding, blocks)
    assert_refused(
        load_gpt2, endless, gpt2_state, r"parts of gpt2\(\.\.\.\), .* 2 missing \(norm\.bias, norm\.weight\)"
    )
    headed = LanguageModel(embedding, blocks, LayerNorm(D_MODEL), head=nn.Linear(D_MODEL, VOCAB, bias=False))
    assert_refused(load_gpt2, headed, gpt2_state, r"1 left over \(head\.weight\)")
    built_by_hand = LanguageModel(embedding, blocks, LayerNorm(D_MODEL))
    load_gpt2(built_by_hand, gpt2_state)


@pytest.mark.parametrize(
    ("load", "model", "state", "message"),
    [
        (
            load_bert,
            our_bert,
            None,
            "a state dict is one of names and tensors, but got NoneType; pass",
        ),
        (load_bert, our_bert, our_bert(), r"but got Bert; pass model\.state_dict\(\)"),
        (load_gpt2, our_gpt2, {"wte.weight": 3}, "but got one with 'wte.weight': int; pass model"),
        (load_bert, our_gpt2, {}, "go into a Bert, MaskedLanguageModel or Encoder, but got LanguageModel; make"),
        (load_gpt2, our_bert, {}, "go into a LanguageModel, but got Bert; make"),
    ],
    ids=["nothing", "the model itself", "a number", "into a GPT-2", "into a BERT"],
)
def test_what_is_no_state_dict_or_no_such_model_is_refused(load, model, state, message, without_shape_checks):
    with pytest.raises(ValueError, match=message):
        load(model(), state)


@on_each_device
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_what_is_put_on_top_of_an_encoder_has_its_dtype_and_device(dtype, device):
    encoder = our_bert().to(device, dtype).encoder
    ids = two_texts()[0].to(device)
    for model in (Bert(encoder), MaskedLanguageModel(encoder)):
        assert {(one.dtype, one.device.type) for one in model.parameters()} == {(dtype, device)}
        output = model(ids)
        assert {one.dtype for one in (output if isinstance(output, tuple) else [output])} == {dtype}
    with torch.device("meta"):
        models = Bert(encoder), MaskedLanguageModel(encoder)
    assert not any(one.is_meta for model in models for one in model.parameters())


@pytest.mark.parametrize("other", [our_bert, our_gpt2, lambda: None], ids=["Bert", "LanguageModel", "NoneType"])
def test_a_head_for_masked_tokens_on_something_else_than_an_encoder_is_refused(other, without_shape_checks):
    arrived = type(other()).__name__
    with pytest.raises(ValueError, match=rf"on top of an Encoder, but got {arrived}; pass bert\(\.\.\.\)\.encoder"):
        MaskedLanguageModel(other())


def test_a_model_without_memory_is_refused(bert_state, gpt2_state):
    with torch.device("meta"):
        models = bert(VOCAB, D_MODEL, N_LAYERS, N_HEADS), gpt2(VOCAB, D_MODEL, N_LAYERS, N_HEADS)
    for load, model, state in zip((load_bert, load_gpt2), models, (bert_state, gpt2_state), strict=True):
        with pytest.raises(ValueError, match=r"is on torch\.device\('meta'\), .* call model\.to_empty"):
            load(model, state)
