"""How does a gradient survive sixty layers? Four ways to put a part into a block.

Names, in reading order: `PreNorm`, `PostNorm`, `ReZero`, `NoResidual`. Each is made around a norm and called with x and
a sublayer, any function of a tensor: `PreNorm(LayerNorm(d_model))(x, feed_forward)`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

Sublayer = Callable[[Tensor], Tensor]


class PreNorm(nn.Module):
    """Add to x what the sublayer makes of the normalised x.

    y = x + dropout(sublayer(norm(x)))

    Nothing stands on the way of x itself, so its gradient passes through any number of these unchanged. The sum grows
    with depth: a stack ends with one more norm.

    Args: norm: a module, for example `LayerNorm(d_model)`; `torch.nn.Identity()` takes it away.
    Shape: x of any shape, which sublayer must keep -> the same; what mixes is up to norm and sublayer.
    Raises: ValueError if norm is no module, or sublayer does not return a tensor of the shape of x.
    Source: Xiong et al. 2020, "On Layer Normalization in the Transformer Architecture", figure 1b; `norm_first=True` of
        `torch.nn.TransformerEncoderLayer`.
    """

    def __init__(self, norm: nn.Module, *, dropout: float = 0.0) -> None:
        super().__init__()
        _check_norm(norm)
        self.norm = norm
        self.dropout = nn.Dropout(dropout) if dropout else _unchanged

    def forward(self, x: Float[Tensor, "*shape"], sublayer: Sublayer) -> Float[Tensor, "*shape"]:
        """Return the sum."""
        y = sublayer(self.norm(x))
        _check_shape(x, y)
        return x + self.dropout(y)


class PostNorm(nn.Module):
    """Add to x what the sublayer makes of it, and normalise the sum.

    y = norm(x + dropout(sublayer(x)))

    The original order. Every layer's output has the same scale, but the norm stands on the way of x, and the gradient
    passes through all of them: deep stacks need a learning rate that is warmed up.

    Args: norm: a module, for example `LayerNorm(d_model)`; `torch.nn.Identity()` takes it away.
    Shape: x of any shape, which sublayer must keep -> the same; what mixes is up to norm and sublayer.
    Raises: ValueError if norm is no module, or sublayer does not return a tensor of the shape of x.
    Source: Vaswani et al. 2017, sections 3.1 and 5.4: LayerNorm(x + Sublayer(x)), dropout before the sum; `norm_first=
        False` of `torch.nn.TransformerEncoderLayer`.
    """

    def __init__(self, norm: nn.Module, *, dropout: float = 0.0) -> None:
        super().__init__()
        _check_norm(norm)
        self.norm = norm
        self.dropout = nn.Dropout(dropout) if dropout else _unchanged

    def forward(self, x: Float[Tensor, "*shape"], sublayer: Sublayer) -> Float[Tensor, "*shape"]:
        """Return the normalised sum."""
        y = sublayer(x)
        _check_shape(x, y)
        y = x + self.dropout(y)  # under the same name: the norm then finds the memory of the answer free
        return self.norm(y)


class ReZero(nn.Module):
    """Add to x what the sublayer makes of it times one learned number, which starts at zero.

    y = x + alpha * dropout(sublayer(x)), with alpha = 0 at the start

    So at the start every layer is the identity and passes its gradient on unchanged, at any depth. Of its parameters
    only alpha learns in the first step, since it multiplies the gradients of all others.

    Args: norm: is not used and not kept, so that the four classes of this module can stand in for one another.
    Shape: x of any shape, which sublayer must keep -> the same; what mixes is up to sublayer.
    Raises: ValueError if norm is no module, or sublayer does not return a tensor of the shape of x.
    Source: Bachlechner et al. 2021, "ReZero is All You Need", equation 2, without a norm as there. PyTorch has no
        counterpart.
    """

    def __init__(self, norm: nn.Module, *, dropout: float = 0.0) -> None:
        super().__init__()
        _check_norm(norm)
        self.alpha = nn.Parameter(torch.zeros(()))
        self.dropout = nn.Dropout(dropout) if dropout else _unchanged

    def forward(self, x: Float[Tensor, "*shape"], sublayer: Sublayer) -> Float[Tensor, "*shape"]:
        """Return the sum."""
        y = sublayer(x)
        _check_shape(x, y)
        return x + self.alpha * self.dropout(y)


class NoResidual(nn.Module):
    """Let the sublayer's output stand alone, normalised: PostNorm without the sum.

    y = norm(dropout(sublayer(x)))

    What every layer must carry on its own here is what a residual connection carries for nothing: deep stacks of this
    do not train, which is what it is for.

    Args: norm: a module, for example `LayerNorm(d_model)`; `torch.nn.Identity()` takes it away.
    Shape: x of any shape, which sublayer must keep -> the same; what mixes is up to norm and sublayer.
    Raises: ValueError if norm is no module, or sublayer does not return a tensor of the shape of x.
    Source: the plain networks of He et al. 2016, "Deep Residual Learning", section 3.3, to compare with. PyTorch has no
        counterpart.
    """

    def __init__(self, norm: nn.Module, *, dropout: float = 0.0) -> None:
        super().__init__()
        _check_norm(norm)
        self.norm = norm
        self.dropout = nn.Dropout(dropout) if dropout else _unchanged

    def forward(self, x: Float[Tensor, "*shape"], sublayer: Sublayer) -> Float[Tensor, "*shape"]:
        """Return the normalised output."""
        y = sublayer(x)
        _check_shape(x, y)
        return self.norm(self.dropout(y))


def _unchanged(y: Tensor) -> Tensor:
    """Stand in for a dropout of nothing; a function, since a module would take longer to call than a small norm may."""
    return y


def _check_norm(norm: nn.Module) -> None:
    if not isinstance(norm, nn.Module):
        raise ValueError(
            f"the norm is a module that is made already, but got {norm!r}; pass for example LayerNorm(d_model), or "
            "torch.nn.Identity() for none"
        )


def _check_shape(x: Tensor, y: object) -> None:
    """Refuse what adding would silently stretch, and the tuple that nn.MultiheadAttention returns."""
    if not isinstance(y, Tensor) or y.shape != x.shape:
        arrived = f"a tensor of the shape {tuple(y.shape)}" if isinstance(y, Tensor) else f"a {type(y).__name__}"
        raise ValueError(
            f"the sublayer must return a tensor of the shape of x, {tuple(x.shape)}, but it returned {arrived}; "
            "give it an output of the width of its input, and only one"
        )
