"""What does a token work out alone? The feed-forward network and its two relatives.

Names, in reading order: `feed_forward`, `FeedForward`; `gated_feed_forward`, `GatedFeedForward`, `matched_width`;
`MixtureOfExperts`, `load_balancing_loss`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

Activation = Callable[[Tensor], Tensor]
_WHOLE_NUMBERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)  # what `torch.bincount` counts


def feed_forward(
    x: Float[Tensor, "*batch d_model"],
    w_1: Float[Tensor, "d_model d_ff"],
    b_1: Float[Tensor, " d_ff"],
    w_2: Float[Tensor, "d_ff d_model"],
    b_2: Float[Tensor, " d_model"],
    activation: Activation = F.relu,
) -> Float[Tensor, "*batch d_model"]:
    """Widen each token's vector, bend it, and narrow it again.

    y = activation(x w_1 + b_1) w_2 + b_2

    Without the bend the two matrices are one, w_1 w_2. After w_2 there is none, so the output can be negative.

    Shape: (..., d_model) -> (..., d_model); features mix, tokens never do.
    Raises: ValueError if the widths do not fit.
    Source: Vaswani et al. 2017, section 3.3, equation 2. Rows are tokens here, so both matrices are the transposes of
        what `torch.nn.Linear` stores.
    """
    d_model, d_ff = x.shape[-1:], w_1.shape[-1:]
    _check_shapes(x, w_1=(w_1, d_model + d_ff), b_1=(b_1, d_ff), w_2=(w_2, d_ff + d_model), b_2=(b_2, d_model))
    return activation(x @ w_1 + b_1) @ w_2 + b_2


class FeedForward(nn.Module):
    """Let every token work out something alone: widen, bend, narrow.

    y = activation(x w_1 + b_1) w_2 + b_2, with dropout on the hidden units

    The output of the submodule `hidden` is the hidden units as w_2 receives them, so `record(model, "hidden")` sees
    them.

    Args: activation: a function of a tensor, or a module such as `torch.nn.GELU()`; `torch.nn.Identity()` takes the
        bend away.
    Shape: (..., d_model) -> (..., d_model); features mix, tokens never do.
    Raises: ValueError if a width is below 1, the activation cannot be called, or x is not d_model wide.
    Source: Vaswani et al. 2017, section 3.3, equation 2. The same network as `linear1`, `activation`, `dropout`,
        `linear2` of `torch.nn.TransformerEncoderLayer`; the paper has no dropout inside, PyTorch has.
    """

    def __init__(
        self, d_model: int, d_ff: int, *, activation: Activation = F.relu, dropout: float = 0.0, bias: bool = True
    ) -> None:
        super().__init__()
        _check_parts(d_model, d_ff, activation)
        self.d_model = d_model
        self.w_1 = nn.Linear(d_model, d_ff, bias=bias)
        self.activation = activation
        self.hidden = nn.Dropout(dropout) if dropout else nn.Identity()  # which has a name, and takes half the time
        self.w_2 = nn.Linear(d_ff, d_model, bias=bias)

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Return what each token works out."""
        _check_width(x, self.d_model)
        return self.w_2(self.hidden(self.activation(self.w_1(x))))


def gated_feed_forward(
    x: Float[Tensor, "*batch d_model"],
    w_gate: Float[Tensor, "d_model d_ff"],
    w_1: Float[Tensor, "d_model d_ff"],
    w_2: Float[Tensor, "d_ff d_model"],
    activation: Activation = F.silu,
) -> Float[Tensor, "*batch d_model"]:
    """Let one branch of each token's hidden units decide how much of the other passes.

    y = (activation(x w_gate) * x w_1) w_2

    The activation stands on the gate, not on the product: with SiLU this is SwiGLU, with GELU GEGLU, with the sigmoid
    the first gated linear unit, and with the identity the bilinear layer, which bends without any activation.

    Shape: (..., d_model) -> (..., d_model); features mix, tokens never do.
    Raises: ValueError if the widths do not fit.
    Source: Shazeer 2020, "GLU Variants Improve Transformer", equation 6, whose W, V and W_2 are w_gate, w_1 and w_2.
    """
    d_model, d_ff = x.shape[-1:], w_1.shape[-1:]
    _check_shapes(x, w_gate=(w_gate, d_model + d_ff), w_1=(w_1, d_model + d_ff), w_2=(w_2, d_ff + d_model))
    return (activation(x @ w_gate) * (x @ w_1)) @ w_2


class GatedFeedForward(nn.Module):
    """Let every token work out something alone, with one branch deciding how much of the other passes.

    y = (activation(x w_gate) * x w_1) w_2, with dropout on the hidden units

    It has three matrices where FeedForward has two: compare them at `d_ff=matched_width(d_ff)`, or the gate gets half
    as many parameters again.

    Args: activation: a function of a tensor, or a module such as `torch.nn.GELU()`; it stands on the gate only.
    Shape: (..., d_model) -> (..., d_model); features mix, tokens never do.
    Raises: ValueError if a width is below 1, the activation cannot be called, or x is not d_model wide.
    Source: Shazeer 2020, "GLU Variants Improve Transformer", equation 6, without biases as there. Llama calls the three
        matrices gate_proj (w_gate), up_proj (w_1) and down_proj (w_2). PyTorch has no counterpart.
    """

    def __init__(
        self, d_model: int, d_ff: int, *, activation: Activation = F.silu, dropout: float = 0.0, bias: bool = False
    ) -> None:
        super().__init__()
        _check_parts(d_model, d_ff, activation)
        self.d_model = d_model
        self.w_gate = nn.Linear(d_model, d_ff, bias=bias)
        self.activation = activation
        self.w_1 = nn.Linear(d_model, d_ff, bias=bias)
        self.hidden = nn.Dropout(dropout) if dropout else nn.Identity()  # which has a name, and takes half the time
        self.w_2 = nn.Linear(d_ff, d_model, bias=bias)

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Return what each token works out."""
        _check_width(x, self.d_model)
        return self.w_2(self.hidden(self.activation(self.w_gate(x)) * self.w_1(x)))


def matched_width(d_ff: int) -> int:
    """Return the gated width that has as many parameters as a plain feed-forward network of width d_ff.

    3 d_model d' = 2 d_model d_ff, so d' = 2/3 d_ff, rounded, and at least 1

    Biases are not counted; rounding costs at most one part in 2 d_ff.

    Raises: ValueError if d_ff is below 1.
    Source: Shazeer 2020, end of section 2: "reduce the number of hidden units [...] by a factor of 2/3".
    """
    if d_ff < 1:
        raise ValueError(f"d_ff counts hidden units and must be 1 or more, but got d_ff={d_ff}; 4 d_model is usual")
    return max(1, round(2 * d_ff / 3))


class MixtureOfExperts(nn.Module):
    """Send each token through the top_k of n_experts feed-forward networks that a router picks for it.

    p = softmax(x router),    y = sum of p_i expert_i(x) over the top_k largest p_i

    Parameters grow with n_experts, work per token with top_k only: each expert runs on its own tokens and on no others.
    The experts stand side by side, so the depth is that of one. Because y contains p itself, the router learns, even
    with top_k=1, where weights rescaled to sum to one would always be 1 and would teach it nothing. Nothing is kept
    after a pass: train with `load_balancing_loss` on the softmax of what `record(model, "router")` sees.

    Args: feed_forward: makes an expert, called as feed_forward(d_model, d_ff, dropout=dropout).
    Shape: (..., d_model) -> (..., d_model); features mix, tokens never do.
    Raises: ValueError if a width or n_experts is below 1, top_k is not within 1 to n_experts, or x is not d_model wide.
    Source: Fedus et al. 2022, "Switch Transformers", section 2.1, equations 1 and 2, which is top_k=1; larger top_k
        keeps its probabilities unscaled, as Dai et al. 2024, "DeepSeekMoE". Shazeer et al. 2017 and Jiang et al. 2024,
        "Mixtral", take the softmax over the chosen top_k only. Without their routing noise, and without the capacity
        limit of Fedus et al., by which tokens compete for an expert: here no token is ever dropped.
    """

    def __init__(
        self,
        d_model: int,
        d_ff: int,
        *,
        n_experts: int,
        top_k: int = 1,
        dropout: float = 0.0,
        feed_forward: Callable[..., nn.Module] = FeedForward,
    ) -> None:
        super().__init__()
        if n_experts < 1:
            raise ValueError(f"a mixture needs 1 or more experts, but got n_experts={n_experts}; 8 is usual")
        if not 1 <= top_k <= n_experts:
            raise ValueError(
                f"each token goes to between 1 and all of the experts, but got top_k={top_k} of n_experts={n_experts}; "
                f"choose top_k from 1 to {n_experts}, or more experts"
            )
        self.d_model, self.top_k = d_model, top_k
        self.experts = nn.ModuleList(feed_forward(d_model, d_ff, dropout=dropout) for _ in range(n_experts))
        self.router = nn.Linear(d_model, n_experts, bias=False)

    def route(
        self, x: Float[Tensor, "*batch d_model"]
    ) -> tuple[Float[Tensor, "*batch top_k"], Int[Tensor, "*batch top_k"]]:
        """Choose the experts of each token and weigh them by the router's probabilities, largest first.

        Shape: (..., d_model) -> (..., top_k) twice, weights and expert ids; each token is routed alone.
        Raises: ValueError if x is not d_model wide.
        Source: Fedus et al. 2022, equations 1 and 2.
        """
        _check_width(x, self.d_model)
        weights, expert_ids = self.router(x).softmax(dim=-1).topk(self.top_k, dim=-1)
        return weights, expert_ids

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Return the weighted sum of what each token's own experts say."""
        weights, expert_ids = self.route(x)
        tokens = x.reshape(-1, x.shape[-1])  # one axis of tokens, whatever axes there were
        weights, expert_ids = weights.reshape(-1, self.top_k), expert_ids.reshape(-1, self.top_k)
        y = torch.zeros_like(tokens)
        for expert_id, expert in enumerate(self.experts):
            token_ids, rank = (expert_ids == expert_id).nonzero(as_tuple=True)
            said = weights[token_ids, rank, None] * expert(tokens[token_ids])
            y.index_add_(0, token_ids, said.to(y.dtype))  # no token twice, so the sum has one order on every device
        return y.view_as(x)


def load_balancing_loss(
    router_probabilities: Float[Tensor, "*batch expert"], expert_ids: Int[Tensor, "*batch top_k"], n_experts: int
) -> Float[Tensor, ""]:
    """Measure how unevenly the tokens are spread over the experts, so that training can even it out.

    loss = n_experts * sum over experts of f_i P_i        f_i: the share of choices that fell on expert i,
                                                          P_i: the mean probability that the router gave it
    It is 1 when all experts are used alike and n_experts when one gets everything. Only P has a gradient, which lowers
    the probability of whatever is chosen often. For a router that is sure of itself, f = P and 1 is the smallest value;
    for one that is not, frequent choices by a hair's breadth can give less than 1.

    Shape: (..., n_experts), (..., top_k) -> (); one number over all tokens.
    Raises: ValueError if the probabilities are not n_experts wide or no probabilities, the expert ids are no whole
        numbers or not within 0 to n_experts - 1, there are no tokens, or not as many in both.
    Source: Fedus et al. 2022, equations 4 to 6, without the factor alpha (0.01 there). For top_k above 1, f counts
        choices rather than tokens, so that it still sums to one.
    """
    if router_probabilities.shape[-1] != n_experts:
        raise ValueError(
            f"the router gives one probability for each expert, but got {router_probabilities.shape[-1]} for "
            f"n_experts={n_experts}; pass the softmax of the router's output, before the top_k are taken"
        )
    if expert_ids.numel() == 0:
        raise ValueError("shares need at least 1 token, but got 0; leave this batch out")
    _check_routes(router_probabilities, expert_ids)
    chosen = expert_ids.flatten().bincount(minlength=n_experts).to(router_probabilities.dtype) / expert_ids.numel()
    return n_experts * (chosen * router_probabilities.reshape(-1, n_experts).mean(dim=0)).sum()


def _check_routes(probabilities: Tensor, expert_ids: Tensor) -> None:
    if probabilities.shape[:-1] != expert_ids.shape[:-1]:
        raise ValueError(
            f"each token has probabilities and chosen experts, but got tokens {tuple(probabilities.shape[:-1])} and "
            f"{tuple(expert_ids.shape[:-1])}; take both from one pass"
        )
    n_experts, whole = probabilities.shape[-1], expert_ids.dtype in _WHOLE_NUMBERS
    if not whole or not 0 <= expert_ids.min() <= expert_ids.max() < n_experts:
        found = f" from {expert_ids.min()} to {expert_ids.max()}" if whole else ""
        raise ValueError(
            f"expert ids are whole numbers from 0 to {n_experts - 1}, one for each choice, but got {expert_ids.dtype}"
            f"{found}; pass those that MixtureOfExperts.route returns"
        )
    sums = probabilities.detach().sum(dim=-1, dtype=torch.float32)
    rounding = probabilities.shape[-1] * torch.finfo(probabilities.dtype).eps  # if every probability were rounded
    if not (probabilities.detach().min() >= 0 and (sums - 1).abs().max() <= rounding + 1e-5):  # so that NaN is none
        raise ValueError(
            f"probabilities are 0 or more and sum to 1 for each token, but the smallest is {probabilities.min():.3g} "
            f"and the sums reach from {sums.min():.3g} to {sums.max():.3g}; pass the softmax of the router's output"
        )


def _check_shapes(x: Tensor, **weights: tuple[Tensor, Sequence[int]]) -> None:
    for name, (weight, wanted) in weights.items():
        if weight.shape != tuple(wanted) or not x.ndim:
            raise ValueError(
                f"widths fit where x (..., d_model) meets w_1 (d_model, d_ff) and w_2 (d_ff, d_model), but with x "
                f"{tuple(x.shape)}, {name} is {tuple(weight.shape)} where {tuple(wanted)} fits; the weight of a "
                "torch.nn.Linear comes transposed, as weight.T"
            )


def _check_parts(d_model: int, d_ff: int, activation: Activation) -> None:
    if min(d_model, d_ff) < 1:
        raise ValueError(
            f"d_model and d_ff count features and must be 1 or more, but got d_model={d_model}, d_ff={d_ff}; "
            "d_ff = 4 d_model is usual"
        )
    if not callable(activation) or isinstance(activation, type):
        raise ValueError(
            f"the activation is a function from tensor to tensor, but got {activation!r}; pass for example "
            "torch.nn.functional.gelu, or a module that is made already: torch.nn.GELU()"
        )


def _check_width(x: Tensor, d_model: int) -> None:
    if x.shape[-1:] != (d_model,):
        raise ValueError(
            f"the last axis of x must be d_model={d_model} wide, but x has the shape {tuple(x.shape)}; "
            "put the features last, or make the module with the width that x has"
        )
