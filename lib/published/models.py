"""What did the famous ones look like? The models of three papers, put together from the parts of this library."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lib.attention import MultiHeadAttention
from lib.blocks import DecoderBlock, EncoderBlock
from lib.feed_forward import FeedForward
from lib.norms import LayerNorm
from lib.positions import Learned, Sinusoidal
from lib.residual import PreNorm
from lib.transformer import Decoder, Embedding, Encoder, LanguageModel, Transformer


def transformer(
    vocab_size: int,
    d_model: int,
    n_layers: int,
    n_heads: int,
    d_ff: int,
    *,
    dropout: float = 0.1,
    max_len: int = 1024,
    pad_id: int = 0,
) -> Transformer:
    """Make the Transformer of 2017, which reads a sentence and writes another.

    norms after the sums, ReLU, sinusoids, one table of vectors for source, target and logits

    Dropout acts on the embeddings and on what each sublayer adds, not on attention weights or hidden units. The paper
    does not say how weights start, nor eps in the norms: both are those of the parts. It has no max_len either; the
    table of sinusoids here has an end.

    Raises: ValueError if a size is below 1, or n_heads does not divide d_model.
    Source: Vaswani et al. 2017, figure 1, sections 3 and 5.4.
    """
    embedding = Embedding(vocab_size, d_model, Sinusoidal(d_model, max_len), dropout=dropout)
    readers = [EncoderBlock(d_model, n_heads, d_ff, dropout=dropout) for _ in range(n_layers)]
    writers = [DecoderBlock(d_model, n_heads, d_ff, dropout=dropout) for _ in range(n_layers)]
    return Transformer(Encoder(embedding, readers), Decoder(embedding, writers), pad_id=pad_id)


def transformer_base(vocab_size: int = 37000) -> Transformer:
    """Make the base model of the paper.

    63,082,496 parameters, of which the table of 37,000 vectors has 18,944,000

    The paper prints 65 million, 1.9 million more. The one size that it leaves open is the vocabulary, "about 37000": 65
    million take some 40,700 rows, the 213 million of `transformer_big` some 35,800, and no one number gives both.

    Raises: ValueError if vocab_size is below 1.
    Source: Vaswani et al. 2017, table 3, row "base"; section 5.1 for the vocabulary, English and German.
    """
    return transformer(vocab_size, d_model=512, n_layers=6, n_heads=8, d_ff=2048)


def transformer_big(vocab_size: int = 37000) -> Transformer:
    """Make the big model of the paper.

    214,245,376 parameters, of which the table of 37,000 vectors has 37,888,000

    The paper prints 213 million, 1.2 million fewer; see `transformer_base`. For English to French it drops 0.1 in place
    of 0.3.

    Raises: ValueError if vocab_size is below 1.
    Source: Vaswani et al. 2017, table 3, row "big"; section 6.1 for the dropout.
    """
    return transformer(vocab_size, d_model=1024, n_layers=6, n_heads=16, d_ff=4096, dropout=0.3)


_BERT_EPS = 1e-12
_draw_for_bert = partial(nn.init.trunc_normal_, std=0.02, a=-0.04, b=0.04)


class Bert(nn.Module):
    """Read a text, or a pair of them, and sum it up in one vector.

    tokens = encoder(ids),    summary = tanh(pooler(tokens[:, 0]))

    The first token stands there for this, [CLS]. Padding is seen unless a mask hides it: `padding_mask(ids, pad_id)`.

    Args: encoder: what reads; the pooler has the dtype and device of its embedding.
    Shape: ids and segment_ids (batch, seq), mask as for `MultiHeadAttention` -> tokens (batch, seq, d_model) and
        summary (batch, d_model); tokens mix within a text.
    Raises: ValueError if the encoder refuses what it gets.
    Source: Devlin et al. 2019, section 3, whose C is the first token's vector; the linear layer and its tanh, called
        pooler, are in the released code only.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        weight = encoder.embedding.weight
        d_model = weight.shape[1]
        self.encoder = encoder
        self.pooler = nn.Linear(d_model, d_model, dtype=weight.dtype, device=weight.device)

    def forward(
        self,
        ids: Int[Tensor, "batch seq"],
        *,
        mask: Bool[Tensor, "*#scores"] | None = None,
        segment_ids: Int[Tensor, "batch seq"] | None = None,
    ) -> tuple[Float[Tensor, "batch seq d_model"], Float[Tensor, "batch d_model"]]:
        """Return the tokens after the last block, and the summary."""
        tokens = self.encoder(ids, mask=mask, segment_ids=segment_ids)
        return tokens, self.pooler(tokens[:, 0]).tanh()


def bert(
    vocab_size: int,
    d_model: int,
    n_layers: int,
    n_heads: int,
    *,
    d_ff: int | None = None,
    max_len: int = 512,
    n_segments: int = 2,
    dropout: float = 0.1,
) -> Bert:
    """Make a BERT of any size: an encoder that sees both ways, and its pooler.

    norms after the sums and after the embedding, GELU, learned positions, segments

    Dropout acts on the embeddings, on attention weights and on what each sublayer adds. Weights start normal with a
    standard deviation of 0.02, cut off at twice that, and biases at 0. The heads of pre-training are not part of it:
    `MaskedLanguageModel` has the one for masked tokens, and the one for pairs of texts is left out.

    Args: d_ff: None stands for 4 d_model.
    Raises: ValueError if a size is below 1, or n_heads does not divide d_model.
    Source: Devlin et al. 2019, section 3 and appendix A.2; google-research/bert, modeling.py, for the start of the
        weights, and eps=1e-12, which is TensorFlow's. GELU is exact, as in the first release and in Hugging Face's
        `bert`; Google's code took the tanh formula later. Hugging Face's gives the vector of [PAD] no gradient.
    """
    norm = partial(LayerNorm, eps=_BERT_EPS)
    positions = Learned(d_model, max_len)
    embedding = Embedding(
        vocab_size, d_model, positions, scale=1.0, norm=norm(d_model), dropout=dropout, n_segments=n_segments
    )
    make_block = partial(
        EncoderBlock,
        dropout=dropout,
        norm=norm,
        feed_forward=lambda d_model, d_ff: FeedForward(d_model, d_ff, activation=nn.GELU()),
        attention=partial(MultiHeadAttention, dropout=dropout),
    )
    d_ff = 4 * d_model if d_ff is None else d_ff
    model = Bert(Encoder(embedding, [make_block(d_model, n_heads, d_ff) for _ in range(n_layers)]))
    _start(model, _draw_for_bert)
    return model


def bert_base() -> Bert:
    """Make the base model of the paper, with the vocabulary of bert-base-uncased.

    109,482,240 parameters, of which the pooler has 590,592

    The paper prints 110 million. `bert(28996, 768, 12, 12)` has the vocabulary of bert-base-cased.

    Source: Devlin et al. 2019, section 3: L=12, H=768, A=12.
    """
    return bert(30522, d_model=768, n_layers=12, n_heads=12)


class MaskedLanguageModel(nn.Module):
    """Say of every token what stands in its place, or stood there before it was masked, from both sides.

    x = encoder(ids),    logits = norm(gelu(transform(x))) · embeddingᵀ + bias

    Put the id of [MASK] where a token is to be found out. The loss of pre-training asks at 15 % of the positions only,
    where most tokens are masked, some changed into others and some left as they are; everywhere else the answer stands
    there already. The table of the embedding makes the logits too: one table for both.

    Args: encoder: that of a BERT, `bert_base().encoder`, which goes on being the same object; the head has the dtype
        and device of its embedding.
    Shape: ids and segment_ids (batch, seq), mask as for `MultiHeadAttention` -> (batch, seq, vocab); tokens mix within
        a text.
    Raises: ValueError if encoder is no `Encoder`, and what it refuses itself.
    Source: Devlin et al. 2019, section 3.1, task 1, and appendix A.1 for the shares; the layer before the logits, its
        norm and the bias are in the released code only, google-research/bert, run_pretraining.py. `BertForMaskedLM` of
        Hugging Face's `transformers`. PyTorch has no counterpart.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        if not isinstance(encoder, Encoder):
            raise ValueError(
                f"the head for masked tokens stands on top of an Encoder, but got {type(encoder).__name__}; pass "
                "bert(...).encoder"
            )
        weight = encoder.embedding.weight
        vocab_size, d_model = weight.shape
        self.encoder = encoder
        with weight.device:
            self.transform = nn.Linear(d_model, d_model, dtype=weight.dtype)
            self.norm = LayerNorm(d_model, eps=_BERT_EPS).to(weight.dtype)
            self.bias = nn.Parameter(torch.zeros(vocab_size, dtype=weight.dtype))
        _start(self.transform, _draw_for_bert)

    def forward(
        self,
        ids: Int[Tensor, "batch seq"],
        *,
        mask: Bool[Tensor, "*#scores"] | None = None,
        segment_ids: Int[Tensor, "batch seq"] | None = None,
    ) -> Float[Tensor, "batch seq vocab"]:
        """Return the logits of every position."""
        x = self.encoder(ids, mask=mask, segment_ids=segment_ids)
        return self.encoder.embedding.logits(self.norm(F.gelu(self.transform(x)))) + self.bias


def gpt2(
    vocab_size: int,
    d_model: int,
    n_layers: int,
    n_heads: int,
    *,
    d_ff: int | None = None,
    max_len: int = 1024,
    dropout: float = 0.1,
) -> LanguageModel:
    """Make a GPT-2 of any size: a language model that writes from left to right.

    norms before the sublayers and one at the end, GELU by its tanh formula, learned positions, tied logits

    Dropout acts on the embeddings, on attention weights and on what each sublayer adds. Weights start normal with a
    standard deviation of 0.02, positions with 0.01, and the last matrix of each sublayer with 0.02 / sqrt(2 n_layers),
    since so many sublayers are added up; biases start at 0.

    Args: d_ff: None stands for 4 d_model.
    Raises: ValueError if a size is below 1, or n_heads does not divide d_model.
    Source: Radford et al. 2019, section 2.3, and the released code, openai/gpt-2, src/model.py, which does not have the
        scaling by depth; Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training", section
        4.1, for the dropout, of which the later paper says nothing.
    """
    embedding = Embedding(vocab_size, d_model, Learned(d_model, max_len), scale=1.0, dropout=dropout)
    make_block = partial(
        EncoderBlock,
        dropout=dropout,
        residual=PreNorm,
        feed_forward=lambda d_model, d_ff: FeedForward(d_model, d_ff, activation=nn.GELU(approximate="tanh")),
        attention=partial(MultiHeadAttention, dropout=dropout),
    )
    d_ff = 4 * d_model if d_ff is None else d_ff
    blocks = [make_block(d_model, n_heads, d_ff) for _ in range(n_layers)]
    model = LanguageModel(embedding, blocks, LayerNorm(d_model))
    _start(model, partial(nn.init.normal_, std=0.02))
    nn.init.normal_(embedding.positions.weight, std=0.01)
    for block in blocks:
        for matrix in (block.attention.w_o.weight, block.feed_forward.w_2.weight):
            nn.init.normal_(matrix, std=0.02 / (2 * n_layers) ** 0.5)
    return model


def gpt2_small() -> LanguageModel:
    """Make the smallest of the four models of the paper.

    124,439,808 parameters

    The paper prints 117 million. OpenAI has called that an error, beside the released weights, which are 124 million.

    Source: Radford et al. 2019, table 2, first row; the README of openai/gpt-2 for the correction.
    """
    return gpt2(50257, d_model=768, n_layers=12, n_heads=12)


def _start(model: nn.Module, draw: Callable[[Tensor], object]) -> None:
    """Draw all matrices and tables anew, and set the biases of linear layers to 0."""
    for parameter in model.parameters():
        if parameter.ndim == 2:
            draw(parameter)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
