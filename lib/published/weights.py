"""Where do weights come from? From a state dict of Hugging Face's `transformers`, name by name, and all or none."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from lib.transformer import Encoder, LanguageModel

from .models import Bert, MaskedLanguageModel


def load_bert(model: Bert | MaskedLanguageModel | Encoder, state_dict: Mapping[str, Tensor]) -> None:
    """Give a BERT the weights of another, which Hugging Face's `transformers` has written.

    all names are found, none is left over and all shapes agree, or the model stays as it is

    The state dict is that of a BertModel, or of a BertForPreTraining, BertForMaskedLM, BertLMHeadModel or
    BertForNextSentencePrediction, whose names begin with "bert.". Of models with another head, such as a classifier,
    pass `.bert.state_dict()`. gamma and beta are old names of weight and bias. What begins with "cls.", the heads of
    pre-training, is left out but for the one that a `MaskedLanguageModel` has; and that has no pooler, so a pooler is
    left out there. Without a pooler in the state dict, load into the encoder alone: `bert(...).encoder`.
    A state dict says neither n_heads nor the activation nor eps of the norms: with others the weights load too, and
    compute something else. See config.json: num_attention_heads, hidden_act ("gelu" here), layer_norm_eps (1e-12).

    Shape: as the weights of both are; numbers are rounded to the type that the model has.
    Raises: ValueError if a name is missing or left over, a shape differs, the logits are made with another table than
        that of the embedding, or the model is on torch.device("meta"), made of other parts than `bert` takes, or
        of another class.
    Source: Hugging Face `transformers`, BertModel and BertForMaskedLM.
    """
    _check_kinds(model, (Bert, MaskedLanguageModel, Encoder), state_dict)
    masked = isinstance(model, MaskedLanguageModel)
    left_out, copies = (_NOT_OF_MASKED, _COPIES_OF_MASKED) if masked else (_NOT_OF_BERT, {})
    start = "bert." if any(name.startswith("bert.") for name in state_dict) else ""
    places = _places(_BERT, len(getattr(model, "encoder", model).blocks), start)
    parameters = dict(model.named_parameters())
    maker = "bert(...), or its encoder where there is no pooler"
    if masked:
        places |= _places(_MASKED, 0, "")
        maker = "MaskedLanguageModel(bert(...).encoder)"
    elif isinstance(model, Bert):
        places |= _places(_POOLER, 0, start)
    else:
        parameters = {f"encoder.{name}": parameter for name, parameter in parameters.items()}
    tensors = {
        name.replace("Norm.gamma", "Norm.weight").replace("Norm.beta", "Norm.bias"): tensor
        for name, tensor in state_dict.items()
        if not left_out.fullmatch(name)
    }
    _load(parameters, places, _once(tensors, copies, start), maker)


def load_gpt2(model: LanguageModel, state_dict: Mapping[str, Tensor]) -> None:
    """Give a GPT-2 the weights of another, which Hugging Face's `transformers` has written.

    all names are found, none is left over and all shapes agree, or the model stays as it is

    The state dict is that of a GPT2Model, or of a GPT2LMHeadModel, whose names begin with "transformer.". Of models
    with another head, such as a classifier, pass `.transformer.state_dict()`. Its matrices are the transposes of what
    `torch.nn.Linear` stores, and query, key and value are in one. The masks that old files hold, attn.bias and
    attn.masked_bias, are left out.
    A state dict says neither n_heads nor the activation nor eps of the norms nor how scores are scaled: with others the
    weights load too, and compute something else. See config.json: n_head, activation_function ("gelu_new" here),
    layer_norm_epsilon (1e-5), scale_attn_weights (true), scale_attn_by_inverse_layer_idx (false).

    Shape: as the weights of both are; numbers are rounded to the type that the model has.
    Raises: ValueError if a name is missing or left over, a shape differs, lm_head.weight is not the table of the
        embedding, or the model is on torch.device("meta"), made of other parts than `gpt2` takes, or of another class.
    Source: Hugging Face `transformers`, GPT2LMHeadModel.
    """
    _check_kinds(model, (LanguageModel,), state_dict)
    start = "transformer." if any(name.startswith("transformer.") for name in state_dict) else ""
    places = _places(_GPT2, len(model.blocks), start) | _places(_GPT2_CONV1D, len(model.blocks), start, transposed=True)
    tensors = {name: tensor for name, tensor in state_dict.items() if not _NOT_OF_GPT2.fullmatch(name)}
    tensors = _once(tensors, _COPIES_OF_GPT2, start)
    _load(dict(model.named_parameters()), places, tensors, "gpt2(...)")


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
_MASKED = {
    "cls.predictions.transform.dense.*": "transform.*",
    "cls.predictions.transform.LayerNorm.*": "norm.*",
    "cls.predictions.bias": "bias",
}
_COPIES_OF_MASKED = {  # what is in the file twice, and where else; {} is "bert."
    "cls.predictions.decoder.weight": "{}embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
_NOT_OF_MASKED = re.compile(r"cls\.seq_relationship\..*|(bert\.)?(embeddings\.position_ids|pooler\..*)")

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
_COPIES_OF_GPT2 = {"lm_head.weight": "{}wte.weight"}
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


def _check_kinds(model: object, kinds: tuple[type[nn.Module], ...], state_dict: object) -> None:
    if not isinstance(model, kinds):
        *others, last = (kind.__name__ for kind in kinds)
        raise ValueError(
            f"these weights go into a {', '.join(others)}{' or ' if others else ''}{last}, but got "
            f"{type(model).__name__}; make the model with this package"
        )
    strange = (
        [f"one with {name!r}: {type(it).__name__}" for name, it in state_dict.items() if not isinstance(it, Tensor)]
        if isinstance(state_dict, Mapping)
        else [type(state_dict).__name__]
    )
    if strange:
        raise ValueError(
            f"a state dict is one of names and tensors, but got {strange[0]}; pass model.state_dict() of the "
            "model that has the weights"
        )


def _once(tensors: dict[str, Tensor], copies: Mapping[str, str], start: str) -> dict[str, Tensor]:
    """Leave out what is there twice, once it is sure that both are the same."""
    for copy, name in copies.items():
        again, original = tensors.pop(copy, None), tensors.get(name.format(start))
        in_memory = again is not None and original is not None and not (again.is_meta or original.is_meta)
        if in_memory and not torch.equal(again.to(original), original):
            raise ValueError(
                f"logits are made with weights that the model has elsewhere, but {copy}, {tuple(again.shape)}, is not "
                f"equal to {name.format(start)}, {tuple(original.shape)}; this is the file of a model with its own head"
            )
    return tensors


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
            f"{wrong}; make the model as {maker}, of the family and sizes of the state dict, and of one with another "
            "head pass .bert.state_dict() or .transformer.state_dict()"
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
