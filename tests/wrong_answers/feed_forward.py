"""Right and wrong answers to the exercises of the chapter `feed_forward`."""

from __future__ import annotations

from . import Answers

NETWORK = "def feed_forward(x, w_1, b_1, w_2, b_2):"

NETWORK_RIGHT = [
    "return torch.relu(x @ w_1 + b_1) @ w_2 + b_2",
    """
    hidden = torch.einsum("btd,df->btf", x, w_1) + b_1
    hidden = torch.where(hidden > 0, hidden, 0)
    return torch.einsum("btf,fd->btd", hidden, w_2) + b_2
    """,
    "return F.linear(F.relu(F.linear(x, w_1.T, b_1)), w_2.mT, b_2)",
    """
    y = torch.zeros_like(x)
    for sample in range(x.shape[0]):
        for token in range(x.shape[1]):
            hidden = (x[sample, token] @ w_1 + b_1).clamp(min=0)
            y[sample, token] = hidden @ w_2 + b_2
    return y
    """,
    """
    batch, seq, d_model = x.shape
    tokens = x.reshape(-1, d_model)
    hidden = torch.addmm(b_1, tokens, w_1)
    hidden = hidden * (hidden > 0)
    return torch.addmm(b_2, hidden, w_2).reshape(batch, seq, d_model)
    """,
    """
    batch, seq, d_model = x.shape
    rows = []
    for b in range(batch):
        for t in range(seq):
            hidden = [max(torch.zeros(()), (x[b, t] * w_1[:, j]).sum() + b_1[j]) for j in range(len(b_1))]
            rows.append(torch.stack([sum(h * w for h, w in zip(hidden, w_2[:, i])) + b_2[i] for i in range(d_model)]))
    return torch.stack(rows).view(batch, seq, d_model)
    """,
    """
    first, second = nn.Linear(*w_1.shape), nn.Linear(*w_2.shape)
    weights = {"0.weight": w_1.T, "0.bias": b_1, "2.weight": w_2.T, "2.bias": b_2}
    return torch.func.functional_call(nn.Sequential(first, nn.ReLU(), second), weights, (x,))
    """,
    """
    # in single precision, and back
    x, w_1, b_1, w_2, b_2, kind = x.float(), w_1.float(), b_1.float(), w_2.float(), b_2.float(), x.dtype
    return (F.relu(x @ w_1 + b_1) @ w_2 + b_2).to(kind)
    """,
    "return torch.vmap(lambda tokens: torch.maximum(tokens @ w_1 + b_1, torch.tensor(0.0)) @ w_2 + b_2)(x)",
    """
    h = x.matmul(w_1).add(b_1)
    h.relu_()
    y = h.matmul(w_2)
    y += b_2
    return y
    """,
]

# What the exercise hands out: the hidden units are standardised over the tokens.
BUG = """
hidden = x @ w_1 + b_1
mean, spread = hidden.mean(dim=1, keepdim=True), hidden.std(dim=1, keepdim=True, correction=0)
hidden = (hidden - mean) / (spread + 1e-5)
return torch.relu(hidden) @ w_2 + b_2
"""

EXERCISES = {
    "feed_forward": Answers(
        NETWORK,
        NETWORK_RIGHT,
        {
            "second_relu": [
                "return torch.relu(torch.relu(x @ w_1 + b_1) @ w_2 + b_2)",
                """
                for w, b in ((w_1, b_1), (w_2, b_2)):
                    x = (x @ w + b).clamp(min=0)
                return x
                """,
            ],
            "relu_on_output_only": "return torch.relu((x @ w_1 + b_1) @ w_2 + b_2)",
            "no_activation": ["return (x @ w_1 + b_1) @ w_2 + b_2", "return x @ (w_1 @ w_2) + b_1 @ w_2 + b_2"],
            "no_b_1": "return torch.relu(x @ w_1) @ w_2 + b_2",
            "no_b_2": "return torch.relu(x @ w_1 + b_1) @ w_2",
            "no_biases": "return torch.relu(x @ w_1) @ w_2",
            "relu_before_b_1": "return (torch.relu(x @ w_1) + b_1) @ w_2 + b_2",
            "relu_on_input": "return (torch.relu(x) @ w_1 + b_1) @ w_2 + b_2",
            "residual_inside": "return x + torch.relu(x @ w_1 + b_1) @ w_2 + b_2",
            "norm_inside": "return F.layer_norm(x + torch.relu(x @ w_1 + b_1) @ w_2 + b_2, x.shape[-1:])",
            "normed_output": "return F.layer_norm(torch.relu(x @ w_1 + b_1) @ w_2 + b_2, x.shape[-1:])",
            "softmax_over_tokens": "return torch.softmax(x @ w_1 + b_1, dim=1) @ w_2 + b_2",
            "softmax_over_features": "return torch.softmax(x @ w_1 + b_1, dim=-1) @ w_2 + b_2",
            "wrong_side": "return torch.minimum(x @ w_1 + b_1, torch.tensor(0.0)) @ w_2 + b_2",
            "stopped_at_hidden": "return torch.relu(x @ w_1 + b_1)",
            "transposed_weights": [
                "return torch.relu(x @ w_1.T + b_1) @ w_2.T + b_2",
                "return F.linear(torch.relu(F.linear(x, w_1, b_1)), w_2, b_2)",
            ],
            "transposed_w_1": "return torch.relu(x @ w_1.T + b_1) @ w_2 + b_2",
            "transposed_w_2": "return torch.relu(x @ w_1 + b_1) @ w_2.T + b_2",
            "biases_swapped": "return torch.relu(x @ w_1 + b_2) @ w_2 + b_1",
            "weights_swapped": "return torch.relu(x @ w_2 + b_1) @ w_1 + b_2",
            "gelu": "return F.gelu(x @ w_1 + b_1) @ w_2 + b_2",
            "gelu_tanh": "return F.gelu(x @ w_1 + b_1, approximate='tanh') @ w_2 + b_2",
            "silu": "return F.silu(x @ w_1 + b_1) @ w_2 + b_2",
            "sigmoid": "return torch.sigmoid(x @ w_1 + b_1) @ w_2 + b_2",
            "tanh": "return torch.tanh(x @ w_1 + b_1) @ w_2 + b_2",
            "leaky_relu": "return F.leaky_relu(x @ w_1 + b_1) @ w_2 + b_2",
            "relu6": "return torch.clamp(x @ w_1 + b_1, 0, 6) @ w_2 + b_2",
            "abs": "return (x @ w_1 + b_1).abs() @ w_2 + b_2",
            "leaks_between_tokens": [
                "return torch.relu((x @ w_1 + b_1).cumsum(dim=1)) @ w_2 + b_2",
                "return torch.relu(x @ w_1 + b_1).flip(1) @ w_2 + b_2",
                "return (torch.relu(x @ w_1 + b_1) @ w_2 + b_2).roll(1, dims=1)",
            ],
            "leaks_between_samples": "return F.relu(x @ w_1 + b_1 - x.mean(0) @ w_1) @ w_2 + b_2",
            "affine": "return 2 * (x @ w_1 + b_1) @ w_2 + b_2",
            "never_negative": "return (torch.relu(x @ w_1 + b_1) @ w_2 + b_2).abs()",
            "random": "return F.dropout(torch.relu(x @ w_1 + b_1), 0.3) @ w_2 + b_2",
            "not_finite": [
                "return torch.relu(torch.sqrt(x) @ w_1 + b_1) @ w_2 + b_2",
                "return F.softplus(x @ w_1 + b_1, beta=100, threshold=1e9) @ w_2 + b_2",
            ],
            "softplus": "return torch.log(1 + torch.exp(x @ w_1 + b_1)) @ w_2 + b_2",
            "other_sizes": "return torch.relu(x.view(-1, 3) @ w_1 + b_1).view(1, 2, 4) @ w_2 + b_2",
            "other_numbers": "return torch.clamp(x @ w_1 + b_1, 0, 99) @ w_2 + b_2",
            "wrong_shape": [
                "return (torch.relu(x @ w_1 + b_1) @ w_2 + b_2).squeeze()",
                "return torch.stack([torch.relu(token @ w_1 + b_1) @ w_2 + b_2 for token in x.unbind(1)])",
            ],
            "no_gradient": "return torch.relu(x.detach() @ w_1 + b_1) @ w_2 + b_2",
            "other": [
                "return torch.relu(x @ w_1 - b_1) @ w_2 + b_2",
                "return torch.relu(x @ w_1 + torch.relu(b_1)) @ w_2 + b_2",
                "return torch.relu(x @ w_1 + b_1.abs()) @ w_2 + b_2",
                "return F.leaky_relu(x @ w_1 + b_1, 1e-5) @ w_2 + b_2",
            ],
        },
    ),
    "parameters": Answers(
        "def parameters(d_model, d_ff, seq_len):",
        [
            "return 2 * d_model * d_ff + d_ff + d_model",
            """
            w_1, b_1 = d_model * d_ff, d_ff
            w_2, b_2 = d_ff * d_model, d_model
            return w_1 + b_1 + w_2 + b_2
            """,
            "return (d_model + 1) * d_ff + (d_ff + 1) * d_model",
            """
            network = nn.Sequential(nn.Linear(d_model, d_ff), nn.ReLU(), nn.Linear(d_ff, d_model))
            return sum(p.numel() for p in network.parameters())
            """,
            "return torch.tensor([d_model * d_ff, d_ff, d_ff * d_model, d_model]).sum()",
        ],
        {
            "times_seq_len": "return seq_len * (2 * d_model * d_ff + d_ff + d_model)",
            "weights_times_seq_len": "return 2 * seq_len * d_model * d_ff + d_ff + d_model",
            "no_biases": "return 2 * d_model * d_ff",
            "one_matrix": "return d_model * d_ff",
            "first_layer_only": "return d_model * d_ff + d_ff",
            "second_layer_only": "return d_ff * d_model + d_model",
            "one_matrix_both_biases": "return d_model * d_ff + d_model + d_ff",
            "no_b_1": "return 2 * d_model * d_ff + d_model",
            "no_b_2": "return 2 * d_model * d_ff + d_ff",
            "two_wide_biases": "return 2 * (d_model * d_ff + d_ff)",
            "two_narrow_biases": "return 2 * (d_model * d_ff + d_model)",
            "three_matrices": "return 3 * d_model * d_ff",
            "activations_counted": "return 2 * d_model * d_ff + d_ff + d_model + seq_len * d_ff",
            "seq_len_added": "return 2 * d_model * d_ff + d_ff + d_model + seq_len",
            "square_matrices": "return 2 * (d_model ** 2 + d_model)",
            "biases_doubled": "return 2 * (d_model * d_ff + d_ff + d_model)",
            "biases_alone": "return d_ff + d_model",
            "doubled": "return 4 * d_model * d_ff + 2 * d_ff + 2 * d_model",
            "depends_on_length": "return 2 * d_model * d_ff + seq_len * (d_ff + d_model)",
            "other_sizes": "return 17 if d_model == 2 else 44",
            "other": "return 2 * d_model * d_ff - d_ff",
        },
    ),
    "flops": Answers(
        "def flops(seq_len, d_model, d_ff):",
        [
            "return 4 * seq_len * d_model * d_ff",
            """
            up = 2 * seq_len * d_model * d_ff
            down = 2 * seq_len * d_ff * d_model
            return up + down
            """,
            "return sum(2 * seq_len * a * b for a, b in [(d_model, d_ff), (d_ff, d_model)])",
            "return float(seq_len * d_model * d_ff) * 4.0",
        ],
        {
            "macs": "return 2 * seq_len * d_model * d_ff",
            "one_matmul_macs": "return seq_len * d_model * d_ff",
            "square": "return 8 * seq_len * d_model ** 2",
            "four_times_width": "return 16 * seq_len * d_model ** 2",
            "attention_mixing": "return 4 * seq_len ** 2 * d_model",
            "attention": "return 8 * seq_len * d_model ** 2 + 4 * seq_len ** 2 * d_model",
            "squared_length": "return 4 * seq_len ** 2 * d_model * d_ff",
            "biases_counted": "return 4 * seq_len * d_model * d_ff + seq_len * (d_ff + d_model)",
            "relu_counted": "return 4 * seq_len * d_model * d_ff + seq_len * d_ff",
            "everything_counted": "return seq_len * (4 * d_model * d_ff + 2 * d_ff + d_model)",
            "one_token": "return 4 * d_model * d_ff",
            "parameters_counted": "return 2 * d_model * d_ff + d_ff + d_model",
            "two_per_parameter": "return 2 * seq_len * (2 * d_model * d_ff + d_ff + d_model)",
            "one_sum_less": "return seq_len * d_ff * (2 * d_model - 1) + seq_len * d_model * (2 * d_ff - 1)",
            "training": "return 3 * 4 * seq_len * d_model * d_ff",
            "gated": "return 6 * seq_len * d_model * d_ff",
            "doubled": "return 8 * seq_len * d_model * d_ff",
            "not_proportional_to_seq_len": "return 4 * d_model * d_ff + 2 * seq_len",
            "not_proportional_to_d_model": "return 4 * seq_len * d_ff * d_ff",
            "not_proportional_to_d_ff": "return 4 * seq_len * d_model * (d_ff + 1)",
            "other": "return 5 * seq_len * d_model * d_ff",
        },
    ),
    "collapse": Answers(
        "def collapse(w_1, b_1, w_2, b_2):",
        [
            "return w_1 @ w_2, b_1 @ w_2 + b_2",
            """
            w = torch.einsum("df,fe->de", w_1, w_2)
            b = F.linear(b_1, w_2.T, b_2)
            return [w, b]
            """,
            """
            def both(x):
                return (x @ w_1 + b_1) @ w_2 + b_2
            b = both(torch.zeros(w_1.shape[0]))
            w = torch.stack([both(row) - b for row in torch.eye(w_1.shape[0])])
            return w, b
            """,
            "return torch.mm(w_1, w_2), torch.addmm(b_2, b_1[None], w_2)",
        ],
        {
            "biases_added": "return w_1 @ w_2, b_1 + b_2",
            "order_swapped": "return w_2 @ w_1, b_1 @ w_2 + b_2",
            "b_1_lost": "return w_1 @ w_2, b_2",
            "b_2_lost": "return w_1 @ w_2, b_1 @ w_2",
            "b_1_through_w_1": "return w_1 @ w_2, b_1 @ w_1 + b_2",
            "b_1_through_w_1_turned": "return w_1 @ w_2, w_1 @ b_1 + b_2",
            "b_2_through_w_2": "return w_1 @ w_2, (b_1 + b_2) @ w_2",
            "biases_exchanged": "return w_1 @ w_2, b_2 @ w_2 + b_1",
            "transposed": "return w_2.T @ w_1.T, b_1 @ w_2 + b_2",
            "number_by_number": "return w_1 * w_2.T, b_1 @ w_2 + b_2",
            "matrices_added": "return w_1 + w_2.T, b_1 @ w_2 + b_2",
            "relu_kept": "return torch.relu(w_1) @ w_2, torch.relu(b_1) @ w_2 + b_2",
            "not_a_pair": ["return w_1 @ w_2", "return w_1, b_1, w_2, b_2"],
            "swapped": "return b_1 @ w_2 + b_2, w_1 @ w_2",
            "not_finite": "return w_1 @ w_2, torch.sqrt(b_1) @ w_2 + b_2",
            "wrong_shape": "return w_1, b_1",
            "matmul_shapes": "return w_1 @ w_1, b_1 @ w_2 + b_2",
            "other": "return w_1 @ w_2, b_1 @ w_2 - b_2",
        },
    ),
    "crossover": Answers(
        "def crossover(d_model, d_ff):",
        [
            "return max(0, d_ff - 2 * d_model)",
            "return d_ff - 2 * d_model if d_ff > 2 * d_model else 0",
            """
            n = (4 * d_model * d_ff - 8 * d_model ** 2) / (4 * d_model)
            return n if n > 0 else 0
            """,
            """
            n = 1
            while 8 * n * d_model ** 2 + 4 * n ** 2 * d_model <= 4 * n * d_model * d_ff:
                n += 1
            return n - 1
            """,
            """
            n = 0
            while 2 * d_model + n < d_ff:
                n += 1
            return n
            """,
        ],
        {
            "mixing_alone": "return d_ff",
            "twice_d_model": "return 2 * d_model",
            "four_times_d_model": "return 4 * d_model",
            "negative": "return d_ff - 2 * d_model",
            "at_least_one": "return max(1, d_ff - 2 * d_model)",
            "always_none": [
                "return 0",
                """
                for n in range(10_000):
                    if 8 * n * d_model ** 2 + 4 * n ** 2 * d_model >= 4 * n * d_model * d_ff:
                        return n
                """,
            ],
            "more_than_as_much": """
                for n in range(1, 10_000):
                    if 8 * n * d_model ** 2 + 4 * n ** 2 * d_model > 4 * n * d_model * d_ff:
                        return n
            """,
            "one_is_none": [
                "return d_ff - 2 * d_model if d_ff > 2 * d_model + 1 else 0",
                """
                n = 1
                while 8 * n * d_model ** 2 + 4 * n ** 2 * d_model < 4 * n * d_model * d_ff:
                    n += 1
                return n if n > 1 else 0
                """,
            ],
            "no_length": [
                "return d_ff - 2 * d_model if d_ff > 2 * d_model else None",
                """
                if d_ff > 2 * d_model:
                    return d_ff - 2 * d_model
                """,
                "return d_ff - 2 * d_model if d_ff >= 2 * d_model else math.inf",
                "return d_ff - 2 * d_model if d_ff > 2 * d_model else math.nan",
                "return d_ff - 2 * d_model if d_ff > 2 * d_model else torch.tensor(torch.inf)",
            ],
            "not_a_number": ["d_ff - 2 * d_model", "return (d_ff - 2 * d_model) * math.inf"],
            "narrow_ones": "return -1 if d_ff < 2 * d_model else d_ff - 2 * d_model",
            "absolute": "return abs(d_ff - 2 * d_model)",
            "two_projections": "return max(0, d_ff - d_model)",
            "three_projections": "return max(0, (4 * d_ff - 6 * d_model) / 4)",
            "eight_kept": "return max(0, d_ff - 8 * d_model)",
            "four_instead_of_two": "return max(0, d_ff - 4 * d_model)",
            "scores_only": "return max(0, 2 * d_ff - 4 * d_model)",
            "macs_of_the_network": "return max(0, d_ff / 2 - 2 * d_model)",
            "twice_the_network": "return max(0, 2 * d_ff - 2 * d_model)",
            "sign": "return d_ff + 2 * d_model",
            "one_too_many": "return max(0, d_ff - 2 * d_model + 1)",
            "one_too_few": "return max(0, d_ff - 2 * d_model - 1)",
            "ratio": "return d_ff / d_model",
            "half": "return max(0, (d_ff - 2 * d_model) // 2)",
            "other": "return d_ff * d_model",
        },
    ),
    "swiglu": Answers(
        "def swiglu(x, w_gate, w_1, w_2):",
        [
            "return (F.silu(x @ w_gate) * (x @ w_1)) @ w_2",
            """
            gate = x @ w_gate
            return torch.einsum("btf,fd->btd", gate * torch.sigmoid(gate) * (x @ w_1), w_2)
            """,
            """
            gate, up = (x @ torch.cat([w_gate, w_1], dim=1)).chunk(2, dim=-1)
            return nn.SiLU()(gate).mul(up).matmul(w_2)
            """,
            """
            z = x @ w_gate
            return F.linear(z / (1 + torch.exp(-z)) * F.linear(x, w_1.T), w_2.T)
            """,
            "return torch.stack([(F.silu(row @ w_gate) * (row @ w_1)) @ w_2 for row in x.unbind(1)], dim=1)",
        ],
        {
            "glu": "return (torch.sigmoid(x @ w_gate) * (x @ w_1)) @ w_2",
            "reglu": "return (F.relu(x @ w_gate) * (x @ w_1)) @ w_2",
            "geglu": "return (F.gelu(x @ w_gate) * (x @ w_1)) @ w_2",
            "geglu_tanh": "return (F.gelu(x @ w_gate, approximate='tanh') * (x @ w_1)) @ w_2",
            "tanh_gate": "return (torch.tanh(x @ w_gate) * (x @ w_1)) @ w_2",
            "softmax_gate": "return (F.softmax(x @ w_gate, dim=-1) * (x @ w_1)) @ w_2",
            "bilinear": "return ((x @ w_gate) * (x @ w_1)) @ w_2",
            "sum_of_branches": "return (F.silu(x @ w_gate) + x @ w_1) @ w_2",
            "branches_swapped": "return (F.silu(x @ w_1) * (x @ w_gate)) @ w_2",
            "both_activated": "return (F.silu(x @ w_gate) * F.silu(x @ w_1)) @ w_2",
            "activated_after": "return F.silu((x @ w_gate) * (x @ w_1)) @ w_2",
            "no_gate": "return F.silu(x @ w_1) @ w_2",
            "no_w_1": "return F.silu(x @ w_gate) @ w_2",
            "stopped_at_hidden": "return F.silu(x @ w_gate) * (x @ w_1)",
            "gate_on_output": "return (F.silu(x @ w_gate) @ w_2) * (x @ w_1 @ w_2)",
            "residual_inside": "return x + (F.silu(x @ w_gate) * (x @ w_1)) @ w_2",
            "transposed_weights": "return F.linear(F.silu(F.linear(x, w_gate)) * F.linear(x, w_1), w_2)",
            "silu_on_input": "return ((F.silu(x) @ w_gate) * (x @ w_1)) @ w_2",
            "silu_on_output": "return F.silu((F.silu(x @ w_gate) * (x @ w_1)) @ w_2)",
            "not_finite": "return (F.silu(torch.log(x @ w_gate)) * (x @ w_1)) @ w_2",
            "stays_open": "return (F.silu(x @ w_gate) - x @ w_1) @ w_2",
            "leaks_between_tokens": "return (F.silu(x @ w_gate).mean(1, keepdim=True) * (x @ w_1)) @ w_2",
            "leaks_between_samples": "return (F.silu(x @ w_gate).mean(0, keepdim=True) * (x @ w_1)) @ w_2",
            "no_gradient": "return (F.silu(x @ w_gate).detach() * (x @ w_1)) @ w_2",
            "other": "return (F.silu(2 * x @ w_gate) * (x @ w_1)) @ w_2",
        },
    ),
    "matched_width": Answers(
        "def matched_width(d_model, d_ff):",
        [
            "return round(2 * d_ff / 3)",
            "return (4 * d_ff + 3) // 6",
            "return math.floor(2 * d_model * d_ff / (3 * d_model) + 0.5)",
            """
            plain = 2 * d_model * d_ff
            return min(range(1, d_ff + 1), key=lambda width: abs(3 * d_model * width - plain))
            """,
        ],
        {
            "unchanged": "return d_ff",
            "half": ["return d_ff // 2", "return round(2 * d_ff / 4)"],
            "three_quarters": "return 3 * d_ff // 4",
            "one_third": "return round(d_ff / 3)",
            "upside_down": "return round(3 * d_ff / 2)",
            "d_model_kept": "return round(2 * d_model * d_ff / 3)",
            "d_model_divided": "return round(2 * d_ff / 3 / d_model)",
            "total": "return 2 * d_model * d_ff",
            "of_d_model": "return round(2 * d_model / 3)",
            "for_four_times": "return round(8 * d_model / 3)",
            "widths_subtracted": "return d_ff - d_model",
            "biases_counted": "return round((2 * d_model * d_ff + d_model + d_ff) / (3 * d_model))",
            "rounded_up": ["return math.ceil(2 * d_ff / 3)", "return -(-2 * d_ff // 3)"],
            "rounded_down": ["return 2 * d_ff // 3", "return int(2 * d_ff / 3)"],
            "nearest_multiple_of_2": "return round(2 * d_ff / 3 / 2) * 2",
            "nearest_multiple_of_8": "return round(2 * d_ff / 3 / 8) * 8",
            "multiple_of_256": "return 256 * ((2 * d_ff // 3 + 255) // 256)",
            "multiple_of_8": "return 8 * math.ceil(2 * d_ff / 3 / 8)",
            "multiple_below_4": "return 4 * (2 * d_ff // 12)",
            "not_whole": ["return 2 * d_ff / 3", "return float(round(2 * d_ff / 3))"],
            "other": "return d_ff + d_model",
        },
    ),
    "find_the_bug": Answers(
        NETWORK,
        NETWORK_RIGHT,
        {
            "bug_still_there": BUG,
            "bug_scale_left": BUG.replace("(hidden - mean)", "hidden"),
            "bug_mean_left": BUG.replace(" / (spread + 1e-5)", ""),
            "bug_over_batch": BUG.replace("dim=1", "dim=0"),
            "bug_over_features": BUG.replace("dim=1", "dim=-1"),
            "bug_centres_features": BUG.replace("dim=1", "dim=-1").replace(" / (spread + 1e-5)", ""),
            "bug_on_output": """
                y = torch.relu(x @ w_1 + b_1) @ w_2 + b_2
                return (y - y.mean(dim=1, keepdim=True)) / (y.std(dim=1, keepdim=True, correction=0) + 1e-5)
            """,
            "bug_on_input": """
                x = (x - x.mean(dim=1, keepdim=True)) / (x.std(dim=1, keepdim=True, correction=0) + 1e-5)
                return torch.relu(x @ w_1 + b_1) @ w_2 + b_2
            """,
            "bug_after_relu": """
                hidden = torch.relu(x @ w_1 + b_1)
                mean, spread = hidden.mean(dim=1, keepdim=True), hidden.std(dim=1, keepdim=True, correction=0)
                return (hidden - mean) / (spread + 1e-5) @ w_2 + b_2
            """,
            "bug_without_relu": BUG.replace("torch.relu(hidden)", "hidden"),
            "no_activation": "return (x @ w_1 + b_1) @ w_2 + b_2",
            "leaks_between_tokens": [
                BUG.replace("correction=0", "correction=1"),
                "return torch.relu(F.instance_norm((x @ w_1 + b_1).mT).mT) @ w_2 + b_2",
            ],
            "no_gradient": "hidden = (x @ w_1 + b_1).detach()\nreturn torch.relu(hidden) @ w_2 + b_2",
            "no_b_1": "return torch.relu(x @ w_1) @ w_2 + b_2",
            "second_relu": "return torch.relu(torch.relu(x @ w_1 + b_1) @ w_2 + b_2)",
        },
    ),
}
