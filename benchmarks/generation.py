"""How long does a language model take to write? 384 symbols after 128, greedily, with and without a cache.

    python -m benchmarks.generation [--rounds 5] [--device cuda] [--dtype bfloat16]

Ours with caches through `lib.decoding.greedy`; the same without caches; PyTorch's encoder layers, which have none; and
x-transformers and transformers, each by its own `generate` with its cache. The floor is the barest loop with caches.
Eight sentences at once are written with caches only: without them a round takes minutes, and caches win by even more.
Exits with 1 unless ours is at least 4 times faster than without caches, and faster than each of the others.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks import floors, peers
from benchmarks.compare import Case, Peer, Settings, report, settings
from benchmarks.peers import Model, Size
from lib.decoding import greedy
from lib.transformer import LanguageModel

PROMPT, LENGTH = 128, 512
SIZES = (Size(1, LENGTH, 256, 8, 4), Size(8, LENGTH, 256, 8, 4))
END = 0  # no model here ever writes it
COLUMNS = ("without caches", "nn, without caches", "x-transformers", "transformers")


def ours_with_caches(model: LanguageModel, prompts: Tensor) -> Tensor:
    """Write with the library's caches."""
    caches = model.new_caches()
    return greedy(partial(model, caches=caches), prompts, eos_id=END, max_len=LENGTH, caches=caches)


def ours_without(model: LanguageModel, prompts: Tensor) -> Tensor:
    """Write by computing everything anew for every symbol."""
    return greedy(model, prompts, eos_id=END, max_len=LENGTH)


@torch.no_grad()
def by_loop(logits: Callable[[Tensor], Tensor], prompts: Tensor) -> Tensor:
    """Write with a model that knows neither caches nor how to write."""
    ids = prompts
    while ids.shape[1] < LENGTH:
        ids = torch.cat([ids, logits(ids)[:, -1:].argmax(dim=-1)], dim=1)
    return ids


def generated_by(model: Model, name: str) -> Callable[[Tensor], Tensor]:
    """Return how a package writes greedily with its cache; None as the end makes it go on to the last symbol."""
    if name == "transformers":
        options = dict(max_new_tokens=LENGTH - PROMPT, do_sample=False, use_cache=True, pad_token_id=END)
        return lambda ids: model.module.generate(ids, attention_mask=torch.ones_like(ids), **options)
    from x_transformers import AutoregressiveWrapper

    writer = AutoregressiveWrapper(model.module)
    return lambda ids: writer.generate(ids, LENGTH - PROMPT, temperature=0.0, eos_token=None, cache_kv=True)


def cases(asked: Settings) -> Iterator[Case]:
    """Return each size on one thread and on two."""
    for size in SIZES:
        with asked.defaults():
            models = peers.language_models(size)
            prompts = peers.random_ids(size)[:, :PROMPT]
        for model in models.values():
            model.module.eval()
        models = peers.running(models, prompts)
        ours = models.pop("lib").module
        with torch.no_grad():
            ours.embedding.weight[END] = 0.0  # some other logit is always above 0
        without = {"without caches": Peer(partial(ours_without, ours, prompts), times=4.0)}
        without["nn, without caches"] = Peer(partial(by_loop, models.pop("nn").logits, prompts))
        runs = {name: Peer(partial(generated_by(model, name), prompts)) for name, model in models.items()}
        if size.batch == 1:
            runs = without | runs
        floor, cached = floors.writer(ours, prompts, LENGTH), partial(ours_with_caches, ours, prompts)
        if asked.dtype == torch.float32:
            torch.testing.assert_close(cached(), floor())
        for threads in asked.threads:
            yield Case((str(size.batch),), cached, floor, None, threads, runs)


def about() -> list[str]:
    """Say how large the models are."""
    with torch.device("meta"):
        return [
            f"The model: d_model 256, {peers.about_parameters(SIZES[0], peers.language_models(SIZES[0]))} parameters."
        ]


def main() -> int:
    """Measure, print and write the report."""
    asked = settings("generation", __doc__, rounds=5)
    paragraphs = [*peers.about_packages(), *about()]
    print(*paragraphs, sep="\n")
    good = report("Generation", asked, ["batch"], cases(asked), peers=COLUMNS, about=paragraphs)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
