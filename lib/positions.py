"""Where in the sentence does a token stand? Three ways to tell attention, which cannot see it.

Names, in reading order: `sinusoids`, `Sinusoidal`; `Learned`; `rotate`, `Rotary`.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


def sinusoids(seq_len: int, d_model: int, *, base: float = 10000.0) -> Float[Tensor, "seq d_model"]:
    """Write each position as the hands of d_model / 2 clocks, from a fast one to a slow one.

    row p = sin(p f_0), cos(p f_0), sin(p f_1), cos(p f_1) and so on, with the frequencies f_i = base^(-2i / d_model)

    Position 0 is 0, 1, 0, 1 and so on. The product of two rows depends on the distance of their positions only.

    Shape: (seq_len, d_model), float64 on the CPU, to be rounded once, when it is used.
    Raises: ValueError if seq_len is negative, base is not above 0, or d_model is odd or below 2.
    Source: Vaswani et al. 2017, section 3.5. Sines and cosines take turns, as in the paper; tensor2tensor puts all
        sines first, which is the same up to the order of the features.
    """
    _check_even("d_model", d_model)
    if seq_len < 0 or base <= 0:
        raise ValueError(
            f"a table has 0 rows or more and a base above 0, but got seq_len={seq_len}, base={base}; give the length "
            "of the longest sentence, and 10000, which is usual"
        )
    angles = _angles(seq_len, d_model, base)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)


class Sinusoidal(nn.Module):
    """Add to each token a fixed vector that is its position, as the hands of d_model / 2 clocks.

    y = x + sinusoids(max_len, d_model)[offset : offset + seq]

    It has no parameters, and nothing of it is in the state dict.

    Shape: x (..., seq, d_model) -> the same; each token alone, knowing its place.
    Raises: ValueError if max_len is below 1, d_model is odd or below 2, x is not d_model wide or not of floating-point
        numbers, or positions lie outside 0 to max_len - 1.
    Source: Vaswani et al. 2017, section 3.5. PyTorch has no counterpart.
    """

    def __init__(self, d_model: int, max_len: int) -> None:
        super().__init__()
        _check_even("d_model", d_model)
        _check_room(max_len)
        self.d_model, self.max_len = d_model, max_len
        self._tables: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def forward(self, x: Float[Tensor, "*batch seq d_model"], offset: int = 0) -> Float[Tensor, "*batch seq d_model"]:
        """Return the tokens with their positions added; the first stands at offset."""
        end = _end(x, self.d_model, offset, self.max_len)
        return x + self._table(x)[offset:end]

    def extra_repr(self) -> str:
        """Return what `print` shows in the brackets.

        Source: `torch.nn.Module.extra_repr`.
        """
        return f"{self.d_model}, {self.max_len}"

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_tables": {}}  # copies and files do without: it is computed again where it is needed

    def _table(self, x: Tensor) -> Tensor:
        """Return the table where and as x is; no buffer, since `half()` and then `double()` would leave it rounded."""
        kept = self._tables.get((x.dtype, x.device)) if _is_real(x) else None
        if kept is None:
            kept = sinusoids(self.max_len, self.d_model).to(x.device, x.dtype)
            if _is_real(kept):
                self._tables[x.dtype, x.device] = kept
        return kept


class Learned(nn.Module):
    """Add to each token a vector that is learned for its position.

    y = x + weight[offset : offset + seq]

    Positions that never occurred in training have learned nothing, and beyond max_len there are none.

    Shape: x (..., seq, d_model) -> the same; each token alone, knowing its place.
    Raises: ValueError if a size is below 1, x is not d_model wide or not of floating-point numbers, or positions lie
        outside 0 to max_len - 1.
    Source: Gehring et al. 2017, "Convolutional Sequence to Sequence Learning", section 3.1; Devlin et al. 2019. The
        weight of a `torch.nn.Embedding(max_len, d_model)` under that name, which starts with a standard deviation of
        0.02, as in BERT and GPT-2, where PyTorch's starts with 1.
    """

    def __init__(self, d_model: int, max_len: int) -> None:
        super().__init__()
        _check_room(max_len)
        if d_model < 1:
            raise ValueError(
                f"d_model counts features and must be 1 or more, but got d_model={d_model}; give "
                "the width of the vectors that positions are added to"
            )
        self.weight = nn.Parameter(torch.empty(max_len, d_model).normal_(std=0.02))

    def forward(self, x: Float[Tensor, "*batch seq d_model"], offset: int = 0) -> Float[Tensor, "*batch seq d_model"]:
        """Return the tokens with their positions added; the first stands at offset."""
        weight = self.weight
        max_len, d_model = weight.shape
        end = _end(x, d_model, offset, max_len)
        return x + weight[offset:end]

    def extra_repr(self) -> str:
        """Return what `print` shows in the brackets.

        Source: `torch.nn.Module.extra_repr`.
        """
        max_len, d_model = self.weight.shape
        return f"{d_model}, {max_len}"


def rotate(
    x: Float[Tensor, "*batch seq d_head"], cos: Float[Tensor, "seq pair"], sin: Float[Tensor, "seq pair"]
) -> Float[Tensor, "*batch seq d_head"]:
    """Turn each pair of neighbouring features, 0 and 1, 2 and 3 and so on, by an angle of its own.

    (a, b) -> (a cos - b sin, a sin + b cos)

    Lengths stay as they are, and so does the product of two vectors that are turned alike.

    Shape: (..., seq, d_head), (seq, d_head / 2) twice -> (..., seq, d_head); the two features of a pair mix.
    Raises: ValueError if x does not have twice as many features as a token has angles, or cos and sin do not have a row
        for each token.
    Source: Su et al. 2021, "RoFormer", equation 34.
    """
    if x.shape[-1] != 2 * cos.shape[-1]:
        raise ValueError(
            f"each angle turns a pair of features, but got {cos.shape[-1]} angles for d_head={x.shape[-1]} features; "
            f"give {2 * cos.shape[-1]} features"
        )
    if not cos.shape == sin.shape == (*x.shape[-2:-1], cos.shape[-1]):
        raise ValueError(
            f"each token is turned by angles of its own, but got cos of the shape {tuple(cos.shape)} and sin of the "
            f"shape {tuple(sin.shape)} for x of the shape {tuple(x.shape)}; give both one row for each "
            "token of a sentence"
        )
    a, b = x.unflatten(-1, (-1, 2)).unbind(dim=-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2)


class Rotary(nn.Module):
    """Turn queries and keys by their position, so that their product knows how far apart they are.

    pair i of the features at position p turns by the angle p base^(-2i / d_head)

    Turning both adds nothing to the length and leaves of the two positions only their difference: give it to attention,
    `MultiHeadAttention(d_model, n_heads, rotary=Rotary(d_head))`, which turns queries and keys, never values. One
    Rotary serves all layers. It has no parameters, and nothing of it is in the state dict. A pair times a complex
    number is the pair turned; so it is computed, which takes a tenth of the time of the formula, `rotate`.

    Shape: x (..., seq, d_head) -> the same; the two features of a pair mix, each token alone, knowing its place.
    Raises: ValueError if d_head is odd or below 2, base is not above 0, x is not d_head wide or not of floating-point
        numbers, or offset is negative.
    Source: Su et al. 2021, "RoFormer", section 3.2.2 and equation 34: the pairs are neighbours, 0 and 1, 2 and 3, as
        there and in GPT-J. GPT-NeoX and the transformers library's Llama pair feature i with i + d_head / 2: the same
        up to the order of the rows of w_q and w_k, so their weights need those rows moved. PyTorch has no counterpart.
    """

    def __init__(self, d_head: int, *, base: float = 10000.0) -> None:
        super().__init__()
        _check_even("d_head", d_head)
        if base <= 0:
            raise ValueError(f"frequencies are powers of a base above 0, but got base={base}; 10000 is usual")
        self.d_head, self.base = d_head, base
        self._tables: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def forward(self, x: Float[Tensor, "*batch seq d_head"], offset: int = 0) -> Float[Tensor, "*batch seq d_head"]:
        """Return the turned queries or keys; the first stands at offset."""
        end = _end(x, self.d_head, offset, None)
        turns = self._table(x, end)[offset:end]
        if torch.compiler.is_compiling():  # which makes one loop of the formula, and none of complex numbers
            return rotate(x, turns[..., 0].to(x.dtype), turns[..., 1].to(x.dtype))
        exact = x if x.dtype == turns.dtype else x.to(turns.dtype)
        y = torch.view_as_real(_as_complex(exact) * torch.view_as_complex(turns)).flatten(-2)
        return y if exact is x else y.to(x.dtype)

    def extra_repr(self) -> str:
        """Return what `print` shows in the brackets.

        Source: `torch.nn.Module.extra_repr`.
        """
        return f"{self.d_head}, base={self.base}"

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_tables": {}}  # copies and files do without: it is computed again where it is needed

    def _table(self, x: Tensor, end: int) -> Tensor:
        """Return cosines and sines for `end` positions or more, where x is; computed in float64, kept, doubled.

        No buffer, which `half()` would round: at position 1000 a frequency in bfloat16 is off by whole turns.
        """
        kept = self._tables.get((x.dtype, x.device)) if _is_real(x) else None
        if kept is None or kept.shape[0] < end:
            room = end if kept is None else max(end, 2 * len(kept))
            dtype = torch.promote_types(x.dtype, torch.float32)  # there are no shorter complex numbers
            with torch.inference_mode(False):  # what is made in inference mode can never take part in training
                angles = _angles(room, self.d_head, self.base)
                kept = torch.stack([angles.cos(), angles.sin()], dim=-1).to(x.device, dtype)
            if _is_real(kept):
                self._tables[x.dtype, x.device] = kept
        return kept


def _as_complex(x: Tensor) -> Tensor:
    """Read each pair of neighbouring features as a complex number, without a copy where its place in memory allows."""
    pairs = x.unflatten(-1, (-1, 2))
    try:
        return torch.view_as_complex(pairs)
    except RuntimeError:
        # A clone, since what is contiguous already may begin at an odd place of its storage.
        return torch.view_as_complex(pairs.clone(memory_format=torch.contiguous_format))


def _is_real(x: Tensor) -> bool:
    """Tell numbers from the shapes without numbers that a FakeTensorMode passes through, and that must not stay."""
    return type(x) in (Tensor, nn.Parameter)


def _angles(seq_len: int, width: int, base: float) -> Tensor:
    """Multiply each position with the frequencies base^(-2i / width), in float64 and where there surely is float64."""
    exact = {"dtype": torch.float64, "device": "cpu"}
    return torch.arange(seq_len, **exact)[:, None] * base ** -(torch.arange(0, width, 2, **exact) / width)


def _check_even(name: str, width: int) -> None:
    if width < 2 or width % 2:
        raise ValueError(
            f"positions are written in pairs of features, a sine and a cosine, so {name} must be even and 2 or more, "
            f"but got {name}={width}; {max(2, width + width % 2)} would do"
        )


def _check_room(max_len: int) -> None:
    if max_len < 1:
        raise ValueError(
            f"a table of positions has 1 row or more, but got max_len={max_len}; give the length of the longest "
            "sentence"
        )


def _end(x: Tensor, width: int, offset: int, max_len: int | None) -> int:
    """Return the position after the last one, if x has the width and all its positions are in the table."""
    shape = x.shape
    if len(shape) < 2 or shape[-1] != width:
        raise ValueError(
            f"positions are for (..., seq, {width}), but x has the shape {tuple(x.shape)}; put the features last, "
            "the tokens before them, or make the module with the width that x has"
        )
    if not x.is_floating_point():
        raise ValueError(
            f"positions lie between whole numbers, so x must be floating-point numbers, but it is {x.dtype} of the "
            f"shape {tuple(x.shape)}; pass the vectors of an embedding, not ids, or x.float()"
        )
    end = offset + shape[-2]
    if offset < 0 or (max_len is not None and end > max_len):
        last = "on" if max_len is None else f"to {max_len - 1}"
        raise ValueError(
            f"positions go from 0 {last}, but x has {x.shape[-2]} tokens from offset={offset} on; "
            "shorten the sentence, or make the module with a larger max_len"
        )
    return end
