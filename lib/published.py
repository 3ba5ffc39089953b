"""What did the famous ones look like? The models of three papers, put together from the parts of this library.

Names, in reading order: `transformer`, `transformer_base`, `transformer_big`; `Bert`, `bert`, `bert_base`, `load_bert`;
`gpt2`, `gpt2_small`, `load_gpt2`.

Weights come as a state dict of Hugging Face's `transformers`, which this module does not need itself:

    model = bert_base()
    load_bert(model, transformers.BertModel.from_pretrained("bert-base-uncased").state_dict())
    model.eval()

To count only, make a model under `torch.device("meta")`; `model.to_empty(device="cpu")` gives it memory later.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import torch
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


class Bert(nn.Module):
    """Read a text, or a pair of them, and sum it up in one vector.

    tokens = encoder(ids),    summary = tanh(pooler(tokens[:, 0]))

    The first token stands there for this, [CLS]. Padding is seen unless a mask hides it: `padding_mask(ids, pad_id)`.

    Shape: ids and segment_ids (batch, seq), mask as for `MultiHeadAttention` -> tokens (batch, seq, d_model) and
        summary (batch, d_model); tokens mix within a text.
    Raises: ValueError if the encoder refuses what it gets.
    Source: Devlin et al. 2019, section 3, whose C is the first token's vector; the linear layer and its tanh, called
        pooler, are in the released code only.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        d_model = encoder.embedding.weight.shape[1]
        self.encoder = encoder
        self.pooler = nn.Linear(d_model, d_model)

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
    standard deviation of 0.02, cut off at twice that, and biases at 0. The heads of pre-training are not part of it.

    Args: d_ff: None stands for 4 d_model.
    Raises: ValueError if a size is below 1, or n_heads does not divide d_model.
    Source: Devlin et al. 2019, section 3 and appendix A.2; google-research/bert, modeling.py, for the start of the
        weights, and eps=1e-12, which is TensorFlow's. GELU is exact, as in the first release and in Hugging Face's
        `bert`; Google's code took the tanh formula later. Hugging Face's gives the vector of [PAD] no gradient.
    """
    norm = partial(LayerNorm, eps=1e-12)
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
    _start(model, partial(nn.init.trunc_normal_, std=0.02, a=-0.04, b=0.04))
    return model


def bert_base() -> Bert:
    """Make the base model of the paper, with the vocabulary of bert-base-uncased.

    109,482,240 parameters, of which the pooler has 590,592

    The paper prints 110 million. `bert(28996, 768, 12, 12)` has the vocabulary of bert-base-cased.

    Source: Devlin et al. 2019, section 3: L=12, H=768, A=12.
    """
    return bert(30522, d_model=768, n_layers=12, n_heads=12)


def load_bert(model: Bert | Encoder, state_dict: Mapping[str, Tensor]) -> None:
    """Give a BERT the weights of another, which Hugging Face's `transformers` has written.

    all names are found, none is left over and all shapes agree, or the model stays as it is

    The state dict is that of a BertModel, or of a model with one in it, whose names begin with "bert.". Names that
    begin with "cls.", the heads of pre-training, are left out, as is the buffer position_ids; gamma and beta are old
    names of weight and bias. Without a pooler in the state dict, load into the encoder alone: `bert(...).encoder`.
    A state dict does not say n_heads: a wrong number loads, and computes something else. See config.json.

    Shape: as the weights of both are; numbers are rounded to the type that the model has.
    Raises: ValueError if a name is missing or left over, a shape differs, or the model is on torch.device("meta") or
        made of other parts than `bert` takes.
    Source: Hugging Face `transformers`, BertModel.
    """
    start = "bert." if any(name.startswith("bert.") for name in state_dict) else ""
    places = _places(_BERT, len(getattr(model, "encoder", model).blocks), start)
    parameters = dict(model.named_parameters())
    if isinstance(model, Bert):
        places |= _places(_POOLER, 0, start)
    else:
        parameters = {f"encoder.{name}": parameter for name, parameter in parameters.items()}
    tensors = {
        name.replace("Norm.gamma", "Norm.weight").replace("Norm.beta", "Norm.bias"): tensor
        for name, tensor in state_dict.items()
        if not _NOT_OF_BERT.fullmatch(name)
    }
    _load(parameters, places, tensors, "bert(...), or its encoder where there is no pooler")


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


def load_gpt2(model: LanguageModel, state_dict: Mapping[str, Tensor]) -> None:
    """Give a GPT-2 the weights of another, which Hugging Face's `transformers` has written.

    all names are found, none is left over and all shapes agree, or the model stays as it is

    The state dict is that of a GPT2Model, or of a model with one in it, whose names begin with "transformer.", such as
    GPT2LMHeadModel. Its matrices are the transposes of what `torch.nn.Linear` stores, and query, key and value are in
    one. The masks that old files hold, attn.bias and attn.masked_bias, are left out.
    A state dict does not say n_heads: a wrong number loads, and computes something else. See config.json.

    Shape: as the weights of both are; numbers are rounded to the type that the model has.
    Raises: ValueError if a name is missing or left over, a shape differs, lm_head.weight is not the table of the
        embedding, or the model is on torch.device("meta") or made of other parts than `gpt2` takes.
    Source: Hugging Face `transformers`, GPT2LMHeadModel.
    """
    start = "transformer." if any(name.startswith("transformer.") for name in state_dict) else ""
    places = _places(_GPT2, len(model.blocks), start) | _places(_GPT2_CONV1D, len(model.blocks), start, transposed=True)
    tensors = {name: tensor for name, tensor in state_dict.items() if not _NOT_OF_GPT2.fullmatch(name)}
    head, table = tensors.pop("lm_head.weight", None), tensors.get(f"{start}wte.weight")
    if head is not None and table is not None and not torch.equal(head, table):
        raise ValueError(
            f"GPT-2 makes its logits with the table of its embedding, but lm_head.weight, {tuple(head.shape)}, is not "
            f"equal to {start}wte.weight, {tuple(table.shape)}; this file is of a model with a head of its own"
        )
    _load(dict(model.named_parameters()), places, tensors, "gpt2(...)")


def _start(model: nn.Module, draw: Callable[[Tensor], object]) -> None:
    """Draw all matrices and tables anew, and set the biases of linear layers to 0."""
    for parameter in model.parameters():
        if parameter.ndim == 2:
            draw(parameter)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)


# ---- Where the other library keeps what ------------------------------------------------------------------------------

# Their names and ours; # is the number of a block, * is weight and bias. Where theirs is several of ours, these stand
# in it one after the other.
_BERT = {
    "embeddings.word_embeddings.weight": "encoder.embedding.weight",
    "embeddings.position_embeddings.weight": "encoder.embedding.positions.weight",
    "embeddings.token_type_embeddings.weight": "encoder.embedding.segments",
    "embeddings.LayerNorm.*": "encoder.embedding.norm.*",
    "encoder.layer.#.attention.self.query.*": "encoder.blocks.#.attention.w_q.*",
    "encoder.layer.#.attention.self.key.*": "encoder.blocks.#.attention.w_k.*",
    "encoder.layer.#.attention.self.value.*": "encoder.blocks.#.attention.w_v.*",
    "encoder.layer.#.attention.output.dense.*": "encoder.blocks.#.attention.w_o.*",
    "encoder.layer.#.attention.output.LayerNorm.*": "encoder.blocks.#.attention_residual.norm.*",
    "encoder.layer.#.intermediate.dense.*": "encoder.blocks.#.feed_forward.w_1.*",
    "encoder.layer.#.output.dense.*": "encoder.blocks.#.feed_forward.w_2.*",
    "encoder.layer.#.output.LayerNorm.*": "encoder.blocks.#.feed_forward_residual.norm.*",
}
_POOLER = {"pooler.dense.*": "pooler.*"}
_NOT_OF_BERT = re.compile(r"cls\..*|(bert\.)?embeddings\.position_ids")

_GPT2 = {
    "wte.weight": "embedding.weight",
    "wpe.weight": "embedding.positions.weight",
    "h.#.ln_1.*": "blocks.#.attention_residual.norm.*",
    "h.#.ln_2.*": "blocks.#.feed_forward_residual.norm.*",
    "ln_f.*": "norm.*",
}
_GPT2_CONV1D = {  # a linear layer that stores its matrix as the paper writes it, inputs by outputs
    "h.#.attn.c_attn.*": "blocks.#.attention.w_q.* blocks.#.attention.w_k.* blocks.#.attention.w_v.*",
    "h.#.attn.c_proj.*": "blocks.#.attention.w_o.*",
    "h.#.mlp.c_fc.*": "blocks.#.feed_forward.w_1.*",
    "h.#.mlp.c_proj.*": "blocks.#.feed_forward.w_2.*",
}
_NOT_OF_GPT2 = re.compile(r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias")

# Where each tensor of theirs belongs: to one parameter of ours or to several, and whether it comes transposed.
_Places = dict[str, tuple[list[str], bool]]


def _places(table: Mapping[str, str], n_blocks: int, start: str, transposed: bool = False) -> _Places:
    """Write a table out for every block, weight and bias, with a start before their names."""
    places = {}
    for theirs, ours in table.items():
        for block in range(n_blocks) if "#" in theirs else [0]:
            for kind in ["weight", "bias"] if "*" in theirs else [""]:
                name, names = (side.replace("#", str(block)).replace("*", kind) for side in (theirs, ours))
                places[start + name] = names.split(), transposed
    return places


def _load(parameters: Mapping[str, nn.Parameter], places: _Places, tensors: Mapping[str, Tensor], maker: str) -> None:
    """Copy every tensor to its place, once it is sure that all of them fit."""
    if wrong := _difference(parameters, [name for names, _ in places.values() for name in names]):
        raise ValueError(
            f"a state dict is for a model with the parts of {maker}, but of their weights this one has {wrong}; change "
            "the model after it was loaded"
        )
    if any(parameter.is_meta for parameter in parameters.values()):
        raise ValueError(
            "weights are numbers in memory, but this model is on torch.device('meta'), which has none; call "
            "model.to_empty(device='cpu') first"
        )
    if wrong := _difference(tensors, places):
        raise ValueError(
            f"each weight has one tensor and each tensor one weight, but of {len(places)} names the state dict has "
            f"{wrong}; make the model as {maker}, of the family and sizes of the state dict"
        )
    copies = []
    for name, (names, transposed) in places.items():
        parts = [parameters[one] for one in names]
        _check_tensor(name, tensors[name], parts, transposed)
        theirs = tensors[name].t() if transposed else tensors[name]
        copies += zip(parts, theirs.split([len(part) for part in parts]), strict=True)
    with torch.no_grad():
        for parameter, tensor in copies:
            parameter.copy_(tensor)


def _check_tensor(name: str, tensor: Tensor, parts: list[nn.Parameter], transposed: bool) -> None:
    shape = sum(len(part) for part in parts), *parts[0].shape[1:]
    shape = shape[::-1] if transposed else shape
    if tensor.shape != shape or tensor.is_meta or not tensor.is_floating_point():
        raise ValueError(
            f"{name} must be floating-point numbers of the shape {shape}, in memory, but got {tensor.dtype} of the "
            f"shape {tuple(tensor.shape)} on {tensor.device}; make the model with the sizes of the state dict"
        )


def _difference(names: Iterable[str], wanted: Iterable[str]) -> str:
    """Say which names are missing and which are left over, up to three of each; nothing if none is."""
    said = []
    for what, found in ("missing", set(wanted) - set(names)), ("left over", set(names) - set(wanted)):
        some = [*sorted(found)[:3], "..."] if len(found) > 3 else sorted(found)
        said += [f"{len(found)} {what} ({', '.join(some)})"] if found else []
    return " and ".join(said)
