"""Mutants of right answers that are right themselves: the changed line, and why it changes nothing."""

# Two exercises ask for the same network, `find_the_bug` by mending another one.
NETWORK = {
    "hidden = torch.where(hidden >= 0, hidden, 0)": "at 0 both give 0",
    "hidden = hidden * (hidden >= 0)": "at 0 both give 0",
    "y = torch.ones_like(x)": "every entry is written afterwards",
    "for h, w in zip(w_2[:, i], hidden)": "the two are multiplied, in either order",
    "for w, h in zip(hidden, w_2[:, i])": "the two are multiplied, in either order",
    "[max((x[b, t] * w_1[:, j]).sum() + b_1[j], torch.zeros(()))": "max takes its arguments in either order",
    "for j in range(len(w_2))]": "w_2 has d_ff rows as well",
    "(x[b, t] @ w_1[:, j]).sum()": "the product of two vectors is the sum already",
    "second, first = (": "the weights of these layers are replaced, so their own shapes do not matter",
    "first, second = (": "the weights of these layers are replaced, so their own shapes do not matter",
    "w_2.float(), b_2, x.dtype)": "what comes before b_2 is in single precision, and a sum takes the wider kind",
    "b_2.float(), w_1.dtype)": "all inputs have the same dtype",
    "b_2.float(), b_1.dtype)": "all inputs have the same dtype",
    "b_2.float(), w_2.dtype)": "all inputs have the same dtype",
    "b_2.float(), b_2.dtype)": "all inputs have the same dtype",
    "return (lambda tokens: torch.maximum(": "matrix products broadcast over the batch without vmap",
    "torch.maximum(torch.tensor(0.0), tokens @ w_1 + b_1)": "maximum takes its arguments in either order",
}

FEED_FORWARD = {
    "feed_forward": NETWORK,
    "find_the_bug": NETWORK,
    "parameters": {
        "b_1, w_1 = (": "the four are summed, whatever they are called",
        "w_1, b_1 = (d_ff, d_model * d_ff)": "the four are summed, whatever they are called",
        "b_2, w_2 = (": "the four are summed, whatever they are called",
        "w_2, b_2 = (d_model, d_ff * d_model)": "the four are summed, whatever they are called",
        "nn.Sequential(nn.ReLU(), nn.Linear": "ReLU has no parameters, wherever it stands",
        "nn.Linear(d_ff, d_model), nn.ReLU())": "ReLU has no parameters, wherever it stands",
    },
    "flops": {
        "for b, a in [(d_model, d_ff), (d_ff, d_model)]": "a and b are multiplied, in either order",
        "[(d_ff, d_model), (d_model, d_ff)]": "the two are summed, in either order",
        "[(d_ff, d_model), (d_ff, d_model)]": "both have the same product",
        "[(d_model, d_ff), (d_model, d_ff)]": "both have the same product",
        "return seq_len * d_model * d_ff * 4.0": "4.0 makes it a float already",
    },
    "collapse": {
        "b = both(torch.zeros(b_2.shape[0]))": "b_2 is d_model wide as well",
        "torch.eye(b_2.shape[0])": "b_2 is d_model wide as well",
    },
    "crossover": {
        "return max(d_ff - 2 * d_model, 0)": "max takes its arguments in either order",
        "if d_ff >= 2 * d_model else 0": "where they are equal, both ways give 0",
        "n = (4 * d_model * d_ff - 8 * d_model ** 2) // (4 * d_model)": "the division leaves no remainder",
        "return n if n >= 0 else 0": "where n is 0, both ways give 0",
        "return n if n > -1 else 0": "n is whole, and where it is 0 both ways give 0",
        "n = 0": "a length of 0 costs nothing, twice, and the search goes on to 1",
    },
    "matched_width": {
        "return (4 * d_ff + 2) // 6": "2 more of 6 lift two thirds of a unit over the whole number as well",
        "min(range(2, d_ff + 1)": "no width of 1 is wanted",
        "min(range(0, d_ff + 1)": "no width of 0 is wanted",
        "min(range(1, d_ff)": "the width is well below d_ff",
        "min(range(1, d_ff - 1)": "the width is well below d_ff",
        "min(range(1, d_ff * 1)": "the width is well below d_ff",
        "min(range(1, d_ff + 2)": "the width is well below d_ff",
        "min(range(1, d_ff + 0)": "the width is well below d_ff",
        "abs(plain - 3 * d_model * width)": "a distance is the same in both directions",
    },
}
