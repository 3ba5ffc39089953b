"""What is there to learn when nothing is to be known? Copy, reverse, sort: tasks whose right answer anybody can check.

Names, in reading order: `Numbers`; `copy`, `reverse`, `sort`; `task_batches`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

Task = Callable[[list[int]], Sequence[int]]


class Numbers:
    """The vocabulary of the tasks: the numbers 1 to n, each its own id, and an id each for padding, begin and end.

    pad_id = 0,   the numbers: 1 to n,   bos_id = n + 1,   eos_id = n + 2;   len(numbers) = n + 3

    The same attributes and methods as `pronunciation.Vocabulary` has, so that what works with one works with the other.

    Shape: decode takes the ids of one sequence, (seq).
    Raises: ValueError if n is below 1, a symbol to encode is not within 1 to n, or an id to decode is not within 0 to
        n + 2.
    """

    def __init__(self, n: int) -> None:
        if n < 1:
            raise ValueError(f"a sequence is made of 1 or more different numbers, but got n={n}; 9 makes digits")
        self.n = n
        self.pad_id, self.bos_id, self.eos_id = 0, n + 1, n + 2

    def __len__(self) -> int:
        return self.n + 3

    def encode(self, symbols: Sequence[int]) -> list[int]:
        """Return the ids of the symbols, and eos_id after them.

        Raises: ValueError if a symbol is not within 1 to n.
        """
        strange = [symbol for symbol in symbols if not 1 <= symbol <= self.n]
        if strange:
            raise ValueError(f"these symbols are the numbers 1 to {self.n}, but got {strange[0]}; make Numbers larger")
        return [*symbols, self.eos_id]

    def decode(self, ids: Sequence[int] | Int[Tensor, " seq"]) -> list[int]:
        """Return the symbols of these ids up to the first eos_id, without bos_id and pad_id.

        Shape: (seq) -> a list of at most seq symbols.
        Raises: ValueError if an id before the first eos_id is not within 0 to n + 2.
        """
        numbers = ids.tolist() if isinstance(ids, Tensor) else list(ids)
        said = numbers[: numbers.index(self.eos_id)] if self.eos_id in numbers else numbers
        strange = [number for number in said if not 0 <= number < len(self)]
        if strange:
            raise ValueError(
                f"the ids of these numbers are 0 to {len(self) - 1}, but got {strange[0]}; "
                "decode with the Numbers that the ids were made with"
            )
        return [number for number in said if 1 <= number <= self.n]


def copy(symbols: list[int]) -> list[int]:
    """Return the symbols as they are: position i of the answer needs position i of the question."""
    return list(symbols)


def reverse(symbols: list[int]) -> list[int]:
    """Return the symbols from the last to the first: every position of the answer depends on the length, too."""
    return symbols[::-1]


def sort(symbols: list[int]) -> list[int]:
    """Return the symbols from the smallest to the largest: every position of the answer needs the whole question."""
    return sorted(symbols)


def task_batches(
    task: Task,
    numbers: Numbers,
    *,
    max_length: int,
    batch_size: int,
    n_batches: int,
    generator: torch.Generator,
    min_length: int = 1,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[Int[Tensor, "batch src"], Int[Tensor, "batch tgt"]]]:
    """Draw questions, answer them, and yield both as batches (src_ids, tgt_ids), each filled up with pad_id.

    task(symbols) is the answer: `reverse`, or any function of yours from a list to a list. Each question has its own
    length, from min_length to max_length; both sides end with eos_id, and neither begins with bos_id, which
    `training.shift_right` puts before the answer. The generator decides everything: two of the same seed give the same
    batches, on every device.

    Shape: () -> (batch_size, longest question + 1), (batch_size, longest answer + 1).
    Raises: ValueError if a size is below 1, or max_length is below min_length, at once; or at the first batch, if an
        answer has other symbols than the numbers.
    Source: Graves et al. 2014, "Neural Turing Machines", section 4, for tasks whose data never end; copy is 4.1 there,
        with vectors of bits for symbols, and 4.5 sorts by a priority that comes with each.
    """
    if min(batch_size, n_batches) < 1:
        raise ValueError(
            f"there must be 1 or more batches of 1 or more questions, but got n_batches={n_batches} of "
            f"batch_size={batch_size}; pass 1 or more of each"
        )
    if not 1 <= min_length <= max_length:
        raise ValueError(
            f"a question has 1 or more symbols, and max_length allows no fewer than min_length, but got "
            f"min_length={min_length} and max_length={max_length}; lower min_length, down to 1, or raise max_length"
        )

    def draw() -> tuple[Tensor, Tensor]:
        lengths = torch.randint(min_length, max_length + 1, (batch_size,), generator=generator).tolist()
        drawn = torch.randint(1, numbers.n + 1, (batch_size, max_length), generator=generator).tolist()
        questions = [symbols[:length] for symbols, length in zip(drawn, lengths, strict=True)]
        answers = [task(list(question)) for question in questions]  # a copy: a task may sort in place
        return _filled(questions, numbers).to(device), _filled(answers, numbers).to(device)

    return (draw() for _ in range(n_batches))


def _filled(sequences: Sequence[Sequence[int]], numbers: Numbers) -> Tensor:
    """Return the ids of the sequences in rows of one length."""
    rows = [numbers.encode(sequence) for sequence in sequences]
    longest = max(map(len, rows))
    return torch.tensor([row + [numbers.pad_id] * (longest - len(row)) for row in rows])
