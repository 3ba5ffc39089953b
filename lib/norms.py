"""What is averaged over what? Three ways to give numbers a common scale.

Names, in reading order: `layer_norm`, `LayerNorm`; `rms_norm`, `RMSNorm`; `batch_norm`, `BatchNorm`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn


def layer_norm(
    x: Float[Tensor, "*batch d_model"],
    weight: Float[Tensor, " d_model"],
    bias: Float[Tensor, " d_model"],
    eps: float = 1e-5,
) -> Float[Tensor, "*batch d_model"]:
    """Give the features of each token mean 0 and variance 1, then scale and shift every feature.

    y = (x - mean) / sqrt(variance + eps) * weight + bias, with the mean and variance of one token over its features

    The variance divides by d_model, not by d_model - 1, and eps stands inside the root: at eps=1e-5 neither mistake
    shows, at eps=1 the second does.

    Shape: (..., d_model) -> (..., d_model); the features of a token mix, tokens never do. No token gives none.
    Raises: ValueError if weight or bias is not as wide as x.
    Source: Ba et al. 2016, "Layer Normalization", section 3; `torch.nn.functional.layer_norm`.
    """
    _check_weights(x, weight, bias)
    mean = x.mean(dim=-1, keepdim=True)
    variance = (x - mean).square().mean(dim=-1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + eps) * weight + bias


class LayerNorm(nn.Module):
    """Give the features of each token mean 0 and variance 1, then scale and shift every feature.

    y = (x - mean) / sqrt(variance + eps) * weight + bias, with the mean and variance of one token over its features

    It computes the same in training and in evaluation, alone and in any batch.

    Shape: (..., d_model) -> (..., d_model); the features of a token mix, tokens never do. No token gives none.
    Raises: ValueError if d_model is below 1, eps is negative, or x is not d_model wide.
    Source: Ba et al. 2016, section 3. `torch.nn.LayerNorm(d_model)`, with the same state dict; PyTorch's also takes
        several axes, which in a Transformer would mix the tokens.
    """

    def __init__(self, d_model: int, *, eps: float = 1e-5, bias: bool = True) -> None:
        super().__init__()
        _check_sizes(d_model, eps)
        self.eps = eps
        self.normalized_shape = (d_model,)
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model)) if bias else None

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Return the normalised tokens."""
        try:
            return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        except (RuntimeError, ValueError):  # only then: asking each time would cost a small norm 2 % of its time
            _check_width(x, self.normalized_shape)
            raise

    def extra_repr(self) -> str:
        """Return what `print` shows in the brackets.

        Source: `torch.nn.Module.extra_repr`.
        """
        return f"{len(self.weight)}, eps={self.eps}, bias={self.bias is not None}"


def rms_norm(
    x: Float[Tensor, "*batch d_model"], weight: Float[Tensor, " d_model"], eps: float | None = None
) -> Float[Tensor, "*batch d_model"]:
    """Give the features of each token mean square 1, then scale every feature.

    y = x / sqrt(mean of x² + eps) * weight, with the mean over the features of one token

    Nothing is subtracted, so the mean of a token stays what it is, relative to its size: on tokens of mean 0 this is
    `layer_norm`, on others it is not.

    Args: eps: None stands for the machine epsilon of the numbers that PyTorch computes with: of x, or of float32 if x
        is shorter.
    Shape: (..., d_model) -> (..., d_model); the features of a token mix, tokens never do. No token gives none.
    Raises: ValueError if weight is not as wide as x.
    Source: Zhang and Sennrich 2019, "Root Mean Square Layer Normalization", equation 4, which has no eps;
        `torch.nn.functional.rms_norm`.
    """
    _check_weights(x, weight)
    if eps is None:
        eps = torch.finfo(torch.promote_types(x.dtype, torch.float32)).eps
    return x / torch.sqrt(x.square().mean(dim=-1, keepdim=True) + eps) * weight


class RMSNorm(nn.Module):
    """Give the features of each token mean square 1, then scale every feature.

    y = x / sqrt(mean of x² + eps) * weight, with the mean over the features of one token

    It has half the parameters of LayerNorm, and unlike it keeps the direction of a token before the weights.

    Args: eps: None stands for the machine epsilon of the numbers that PyTorch computes with.
    Shape: (..., d_model) -> (..., d_model); the features of a token mix, tokens never do. No token gives none.
    Raises: ValueError if d_model is below 1, eps is negative, or x is not d_model wide.
    Source: Zhang and Sennrich 2019, equation 4. `torch.nn.RMSNorm(d_model)`, with the same state dict.
    """

    def __init__(self, d_model: int, *, eps: float | None = None) -> None:
        super().__init__()
        _check_sizes(d_model, eps or 0.0)
        self.eps = eps
        self.normalized_shape = (d_model,)
        self.weight = nn.Parameter(torch.ones(d_model))

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Return the normalised tokens."""
        try:
            return F.rms_norm(x, self.normalized_shape, self.weight, self.eps)
        except (RuntimeError, ValueError):
            _check_width(x, self.normalized_shape)
            raise

    def extra_repr(self) -> str:
        """Return what `print` shows in the brackets.

        Source: `torch.nn.Module.extra_repr`.
        """
        return f"{len(self.weight)}, eps={self.eps}"


def batch_norm(
    x: Float[Tensor, "*batch d_model"],
    weight: Float[Tensor, " d_model"],
    bias: Float[Tensor, " d_model"],
    eps: float = 1e-5,
    mask: Bool[Tensor, "*batch"] | None = None,
) -> Float[Tensor, "*batch d_model"]:
    """Give each feature mean 0 and variance 1 over all tokens, then scale and shift it.

    y = (x - mean) / sqrt(variance + eps) * weight + bias, with the mean and variance of one feature over the tokens

    The other way round than `layer_norm`: what is the same for all tokens is lost, and each token's output depends on
    every other token, on those of other sentences and on later ones too.

    Args: mask: True for real tokens. Only they are averaged, so that padding changes nothing; padded places give 0.
    Shape: (..., d_model) -> (..., d_model); tokens mix, all of them, features never do.
    Raises: ValueError if there are fewer than 2 real tokens, weight or bias is not as wide as x, or the mask is not
        boolean or not of the shape of x without its last axis.
    Source: Ioffe and Szegedy 2015, "Batch Normalization", algorithm 1; `torch.nn.functional.batch_norm` in training.
    """
    _check_weights(x, weight, bias)
    tokens = _real_tokens(x, mask)
    _check_number(tokens)
    mean = tokens.mean(dim=0)
    variance = (tokens - mean).square().mean(dim=0)
    return _back_in_place((tokens - mean) / torch.sqrt(variance + eps) * weight + bias, x, mask)


class BatchNorm(nn.Module):
    """Give each feature mean 0 and variance 1 over all tokens, then scale and shift it.

    y = (x - mean) / sqrt(variance + eps) * weight + bias, with the mean and variance of one feature over the tokens

    In training these are the batch's own, and running averages of them are kept; in evaluation the running averages
    stand in for them, and a token no longer depends on its neighbours. A residual connection calls norm(x), without a
    mask: inside a block padding enters the averages in training.

    Args: momentum: the share of the newest batch in the running averages.
    Shape: x (..., d_model) and mask (...), True for real tokens -> (..., d_model), 0 in padded places; in training
        all real tokens mix, in evaluation none, and there may be no token at all.
    Raises: ValueError if d_model is below 1, eps is not above 0, momentum is not within 0 to 1, x is not d_model wide,
        fewer than 2 real tokens arrive in training (a RuntimeError once it is compiled), or the mask is not boolean or
        not of the shape of x without its last axis.
    Source: Ioffe and Szegedy 2015, algorithms 1 and 2. `torch.nn.BatchNorm1d(d_model)`, with the same state dict;
        PyTorch's wants the features second, (batch, d_model, seq), and knows no mask; its momentum=None, the mean of
        all batches alike, has no counterpart. As there, the running variance divides by one less than the number of
        tokens.
    """

    def __init__(self, d_model: int, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        _check_sizes(d_model, eps)
        if eps == 0:
            raise ValueError(f"PyTorch's kernel for training wants eps above 0, but got eps={eps}; 1e-30 is as good")
        if momentum is None or not 0 <= momentum <= 1:
            raise ValueError(
                f"momentum is a share, between 0 and 1, but got momentum={momentum}; 0.1 lets a tenth of the running "
                "averages come from the newest batch"
            )
        self.eps, self.momentum = eps, momentum
        self.normalized_shape = (d_model,)
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model))
        self.register_buffer("running_mean", torch.zeros(d_model))
        self.register_buffer("running_var", torch.ones(d_model))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(
        self, x: Float[Tensor, "*batch d_model"], mask: Bool[Tensor, "*batch"] | None = None
    ) -> Float[Tensor, "*batch d_model"]:
        """Return the normalised tokens."""
        _check_width(x, self.normalized_shape)
        if not self.training:
            return self._by_running_averages(x, mask)
        tokens = _real_tokens(x, mask)
        _check_number(tokens)
        self.num_batches_tracked.add_(1)
        statistics = self.running_mean, self.running_var  # F.batch_norm brings them up to date itself
        y = F.batch_norm(tokens, *statistics, self.weight, self.bias, True, self.momentum, self.eps)
        return _back_in_place(y, x, mask)

    def extra_repr(self) -> str:
        """Return what `print` shows in the brackets.

        Source: `torch.nn.Module.extra_repr`.
        """
        return f"{len(self.weight)}, eps={self.eps}, momentum={self.momentum}"

    def _by_running_averages(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Normalise every token in its place, which torch.compile likes: none depends on another."""
        if mask is not None:
            _check_mask(x, mask)
            x = x.masked_fill(~mask[..., None], 0.0)  # so that no NaN of the padding gets into a gradient
        tokens, statistics = x.reshape(-1, x.shape[-1]), (self.running_mean, self.running_var)
        y = F.batch_norm(tokens, *statistics, self.weight, self.bias, False, self.momentum, self.eps).view_as(x)
        return y if mask is None else y.masked_fill(~mask[..., None], 0.0)


def _real_tokens(x: Tensor, mask: Tensor | None) -> Tensor:
    """Return the tokens to average over, on one axis: all of them, or those that the mask calls real."""
    if mask is None:
        return x.reshape(-1, x.shape[-1])
    _check_mask(x, mask)
    return x[mask]


def _check_mask(x: Tensor, mask: Tensor) -> None:
    is_tensor = isinstance(mask, Tensor)
    if not is_tensor or mask.dtype != torch.bool or mask.shape != x.shape[:-1]:
        got = f"{mask.dtype} of the shape {tuple(mask.shape)}" if is_tensor else f"a {type(mask).__name__}"
        raise ValueError(
            f"the mask says True or False for each token, so it must be torch.bool of the shape {tuple(x.shape[:-1])}, "
            f"but it is {got}; ids != pad_id makes one, and torch.tensor(mask) makes one of a list"
        )


def _back_in_place(y: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
    """Put the tokens back where `_real_tokens` took them from."""
    if mask is None:
        return y.view_as(x)
    padded = y.new_zeros(x.shape)
    padded[mask] = y
    return padded


def _check_number(tokens: Tensor) -> None:
    if torch.compiler.is_compiling():  # how many tokens a mask leaves is not known yet; this looks when it runs
        torch._check(len(tokens) >= 2, lambda: "a variance over tokens takes 2 of them or more; see norm.eval()")
    elif tokens.shape[0] < 2:
        raise ValueError(
            f"a variance over tokens takes 2 of them or more, but got {len(tokens)}; give more tokens, or call "
            "norm.eval() to use the running averages"
        )


def _check_sizes(d_model: int, eps: float) -> None:
    if d_model < 1:
        raise ValueError(
            f"d_model counts features and must be 1 or more, but got d_model={d_model}; give the width of the tokens"
        )
    if eps < 0:
        raise ValueError(
            f"eps keeps the root away from 0 and must be 0 or more, but got eps={eps}; leave it out, or give 1e-5"
        )


def _check_width(x: Tensor, normalized_shape: tuple[int, ...]) -> None:
    if x.shape[-1:] != normalized_shape:
        raise ValueError(
            f"the last axis of x must be d_model={normalized_shape[0]} wide, but x has the shape {tuple(x.shape)}; "
            "put the features last, or make the norm with the width that x has"
        )


def _check_weights(x: Tensor, *weights: Tensor) -> None:
    for weight in weights:
        if weight.shape != x.shape[-1:]:
            raise ValueError(
                f"each feature has one weight and one bias, but x has the shape {tuple(x.shape)} and got one of the "
                f"shape {tuple(weight.shape)}; give both the width of x, torch.ones and torch.zeros to change nothing"
            )
