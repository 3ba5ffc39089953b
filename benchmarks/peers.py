"""What do others build of the same parts? Language models and encoder-decoders of equal size, with random weights.

Ours; PyTorch's layers between our embedding and logits; x-transformers; transformers. All have dropout 0, tied
embeddings, learned positions and PyTorch's fused attention. Where one is not quite equal (x-transformers has no biases
in attention and norms), the numbers of parameters, printed beside each other, say by how much.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import metadata
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.blocks import DecoderBlock, EncoderBlock
from lib.costs import count_parameters
from lib.feed_forward import FeedForward
from lib.masks import causal_mask
from lib.norms import LayerNorm
from lib.positions import Learned
from lib.residual import PreNorm
from lib.transformer import Decoder, Embedding, Encoder, LanguageModel, Transformer

PAD_ID = 0
PACKAGES = ("x-transformers", "transformers")


class Size(NamedTuple):
    """How large a model and its batches are; d_ff is four times d_model."""

    batch: int
    seq_len: int  # the longest sentence
    d_model: int
    n_heads: int
    n_layers: int
    vocab_size: int = 1000

    def __str__(self) -> str:
        return f"{self.batch} × {self.seq_len} × {self.d_model}"

    @property
    def block(self) -> tuple[int, int, int]:
        """The sizes of a block: d_model, n_heads, d_ff."""
        return self.d_model, self.n_heads, 4 * self.d_model

    def embedding(self, scale: float | None = None) -> Embedding:
        """Return a table of ids, with learned positions."""
        return Embedding(self.vocab_size, self.d_model, Learned(self.d_model, self.seq_len), scale=scale)


class Model(NamedTuple):
    """A module, and how it makes logits of ids."""

    module: nn.Module
    logits: Callable[..., Tensor]


def missing() -> list[str]:
    """Name the packages of peers that are not installed."""
    found = {name for name in PACKAGES if any(metadata.distributions(name=name))}
    return [name for name in PACKAGES if name not in found]


def about_packages() -> list[str]:
    """Say which versions the peers have, and loudly whose columns are empty and how to fill them."""
    absent = missing()
    found = [f"{name} {metadata.version(name)}" for name in PACKAGES if name not in absent]
    lines = [f"Peers: {', '.join(found)}."] if found else []
    return lines + [
        f"**{name} is not installed, so its columns are empty.** `pip install --editable '.[peers]'` gets it."
        for name in absent
    ]


def about_parameters(size: Size, models: dict[str, Model]) -> str:
    """Say how many parameters each model has."""
    counts = ", ".join(f"{name} {count_parameters(model.module):,}" for name, model in models.items())
    return f"{size.n_layers} layers, {size.n_heads} heads, {size.vocab_size} ids: {counts}"


def language_models(size: Size) -> dict[str, Model]:
    """Return the language models by name, ours first: norms before the parts, GELU, no scale, as GPT-2."""
    blocks = [
        EncoderBlock(*size.block, residual=PreNorm, feed_forward=partial(FeedForward, activation=F.gelu))
        for _ in range(size.n_layers)
    ]
    ours = LanguageModel(size.embedding(scale=1.0), blocks, LayerNorm(size.d_model))
    models = {"lib": Model(ours, ours), "nn": _torch_language_model(size)}
    if "x-transformers" not in missing():
        models["x-transformers"] = _x_language_model(size)
    if "transformers" not in missing():
        models["transformers"] = _gpt2(size)
    return models


def encoder_decoders(size: Size) -> dict[str, Model]:
    """Return the encoder-decoders by name, ours first: norms after the parts and at the end, ReLU, one embedding."""
    embedding = size.embedding()
    encoder = Encoder(embedding, [EncoderBlock(*size.block) for _ in range(size.n_layers)], LayerNorm(size.d_model))
    decoder = Decoder(embedding, [DecoderBlock(*size.block) for _ in range(size.n_layers)], LayerNorm(size.d_model))
    ours = Transformer(encoder, decoder, pad_id=PAD_ID)
    models = {"lib": Model(ours, ours), "nn": _torch_transformer(size)}
    if "x-transformers" not in missing():
        models["x-transformers"] = _x_encoder_decoder(size)
    if "transformers" not in missing():
        models["transformers"] = _bart(size)
    return models


def _torch_language_model(size: Size) -> Model:
    embedding = size.embedding(scale=1.0)
    layer = nn.TransformerEncoderLayer(*size.block, 0.0, activation="gelu", batch_first=True, norm_first=True)
    last = nn.LayerNorm(size.d_model)
    stack = nn.TransformerEncoder(layer, size.n_layers, last, enable_nested_tensor=False)
    closed = ~causal_mask(size.seq_len)

    def logits(ids: Tensor) -> Tensor:
        length = ids.shape[1]
        return embedding.logits(stack(embedding(ids), closed[:length, :length], is_causal=True))

    return Model(nn.ModuleList([embedding, stack]), logits)


def _torch_transformer(size: Size) -> Model:
    embedding, (d_model, n_heads, d_ff) = size.embedding(), size.block
    layers = size.n_layers, size.n_layers
    transformer = nn.Transformer(d_model, n_heads, *layers, d_ff, dropout=0.0, batch_first=True)
    closed = ~causal_mask(size.seq_len)

    def logits(src_ids: Tensor, tgt_ids: Tensor) -> Tensor:
        padded = src_ids == PAD_ID
        x = transformer(
            embedding(src_ids),
            embedding(tgt_ids),
            tgt_mask=closed,
            src_key_padding_mask=padded,
            memory_key_padding_mask=padded,
            tgt_is_causal=True,
        )
        return embedding.logits(x)

    return Model(nn.ModuleList([embedding, transformer]), logits)


def _x_layers(kind: Callable[..., nn.Module], size: Size, **options: bool) -> nn.Module:
    head = size.d_model // size.n_heads
    return kind(
        dim=size.d_model,
        depth=size.n_layers,
        heads=size.n_heads,
        attn_dim_head=head,
        attn_flash=True,
        verbose=False,
        **options,
    )


def _x_language_model(size: Size) -> Model:
    from x_transformers import Decoder, TransformerWrapper

    layers = _x_layers(Decoder, size)
    model = TransformerWrapper(
        num_tokens=size.vocab_size, max_seq_len=size.seq_len, attn_layers=layers, tie_embedding=True
    )
    return Model(model, model)


def _x_encoder_decoder(size: Size) -> Model:
    from x_transformers import Decoder, Encoder, TransformerWrapper

    common = dict(num_tokens=size.vocab_size, max_seq_len=size.seq_len)
    encoder = TransformerWrapper(**common, attn_layers=_x_layers(Encoder, size), return_only_embed=True)
    layers = _x_layers(Decoder, size, cross_attend=True)
    decoder = TransformerWrapper(**common, attn_layers=layers, tie_embedding=True, token_emb=encoder.token_emb)

    def logits(src_ids: Tensor, tgt_ids: Tensor) -> Tensor:
        real = src_ids != PAD_ID
        return decoder(tgt_ids, context=encoder(src_ids, mask=real), context_mask=real)

    return Model(nn.ModuleList([encoder, decoder]), logits)


def _gpt2(size: Size) -> Model:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=size.vocab_size,
        n_positions=size.seq_len,
        n_embd=size.d_model,
        n_layer=size.n_layers,
        n_head=size.n_heads,
        activation_function="gelu",  # its default, an approximation, is written in Python and slower
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
        **dict.fromkeys(("bos_token_id", "eos_token_id")),
        attn_implementation="sdpa",
    )
    model = GPT2LMHeadModel(config)
    return Model(model, lambda ids: model(ids, use_cache=False).logits)


def _bart(size: Size) -> Model:
    from transformers import BartConfig, BartForConditionalGeneration

    d_model, n_heads, d_ff = size.block
    config = BartConfig(
        vocab_size=size.vocab_size,
        max_position_embeddings=size.seq_len,
        d_model=d_model,
        **dict.fromkeys(("encoder_layers", "decoder_layers"), size.n_layers),
        **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), n_heads),
        **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), d_ff),
        **dict.fromkeys(("dropout", "attention_dropout", "activation_dropout"), 0.0),
        activation_function="relu",
        scale_embedding=True,
        pad_token_id=PAD_ID,
        attn_implementation="sdpa",
    )
    model = BartForConditionalGeneration(config)

    def logits(src_ids: Tensor, tgt_ids: Tensor) -> Tensor:
        return model(src_ids, attention_mask=src_ids != PAD_ID, decoder_input_ids=tgt_ids, use_cache=False).logits

    return Model(model, logits)


def running(models: dict[str, Model], *inputs: Tensor) -> dict[str, Model]:
    """Return the models that can compute with these inputs; who cannot, in this type of numbers, is left out aloud."""
    found = {}
    for name, model in models.items():
        try:
            model.logits(*inputs)
        except RuntimeError as error:
            print(f"{name} is left out, since it fails with {error}")
        else:
            found[name] = model
    return found


def random_ids(size: Size, *, padded: bool = False) -> Tensor:
    """Return a batch of sentences; padded means that every second one ends after three quarters."""
    ids = torch.randint(1, size.vocab_size, (size.batch, size.seq_len))
    if padded:
        ids[::2, 3 * size.seq_len // 4 :] = PAD_ID
    return ids
