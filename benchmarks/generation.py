"""How long does a model take to write? 384 symbols after 128, or a target of 128 for a source of 128, greedily.

    python -m benchmarks.generation [--rounds 7] [--device cuda] [--dtype bfloat16]

A language model and an encoder-decoder, each with caches through `lib.decoding.greedy`; the same without caches;
PyTorch's layers, which have none; x-transformers and transformers, each by its own `generate` with its cache. The floor
of the language model is the barest loop with caches, that of the encoder-decoder a bare loop around our own decoder.
What has no caches is measured in three rounds, and not for eight sentences at once: there it takes minutes.

Exits with 1 unless ours is at least 4 times faster than without caches in the language model, and faster than each of
the others.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks import floors, peers
from benchmarks.compare import Case, Peer, Run, Settings, report, settings
from benchmarks.peers import PAD_ID, Model, Size
from lib.decoding import greedy
from lib.masks import causal_mask
from lib.transformer import LanguageModel, Transformer

PROMPT, LENGTH = 128, 512
SIZES = (Size(1, LENGTH, 256, 8, 4), Size(8, LENGTH, 256, 8, 4))
TRANSLATION = Size(1, 128, 256, 8, 4)  # as long a source as a target
END, BEGIN = 0, 1  # no model here ever writes the end
KINDS = ("language model", "encoder-decoder")
COLUMNS = ("without caches", "nn, without caches", "x-transformers", "transformers")
SELDOM = 3  # rounds


@torch.no_grad()
def by_loop(logits: Callable[[Tensor], Tensor], ids: Tensor, length: int) -> Tensor:
    """Write with a model that is told everything anew for every symbol."""
    while ids.shape[1] < length:
        ids = torch.cat([ids, logits(ids)[:, -1:].argmax(dim=-1)], dim=1)
    return ids


def split(labels: tuple[str, ...], ours: Run, floor: Run, threads: int, runs: dict[str, Run]) -> Iterator[Case]:
    """Return a case of what has caches, in many rounds, and one of what has none, in few."""
    times = {COLUMNS[0]: 4.0} if labels[0] == KINDS[0] else {}
    slow = {name: Peer(run, times=times.get(name, 1.0)) for name, run in runs.items() if "without" in name}
    quick = {name: Peer(run) for name, run in runs.items() if name not in slow}
    yield Case(labels, ours, floor, None, threads, quick)
    if slow:
        yield Case(labels, ours, floor, None, threads, slow, rounds=SELDOM)


# ---- A language model ------------------------------------------------------------------------------------------------


def ours_with_caches(model: LanguageModel, prompts: Tensor) -> Tensor:
    """Write with the library's caches."""
    caches = model.new_caches()
    return greedy(partial(model, caches=caches), prompts, eos_id=END, max_len=LENGTH, caches=caches)


def generated_by(model: Model, name: str, prompts: Tensor) -> Run:
    """Return how a package writes greedily with its cache; None as the end makes it go on to the last symbol."""
    if name == "transformers":
        options = dict(max_new_tokens=LENGTH - PROMPT, do_sample=False, use_cache=True, pad_token_id=END)
        return lambda: model.module.generate(prompts, attention_mask=torch.ones_like(prompts), **options)
    from x_transformers import AutoregressiveWrapper

    writer = AutoregressiveWrapper(model.module)
    return lambda: writer.generate(prompts, LENGTH - PROMPT, temperature=0.0, eos_token=None, cache_kv=True)


def language_models(asked: Settings) -> Iterator[Case]:
    """Return each size on one thread and on two."""
    for size in SIZES:
        with asked.defaults():
            models = peers.language_models(size)
            prompts = peers.random_ids(size)[:, :PROMPT]
        models = peers.running(evaluated(models), prompts)
        ours, torch_layers = models.pop("lib").module, models.pop("nn")
        never_ending(ours)
        runs = {name: generated_by(model, name, prompts) for name, model in models.items()}
        if size.batch == 1:
            runs[COLUMNS[0]] = partial(greedy, ours, prompts, eos_id=END, max_len=LENGTH)
            runs[COLUMNS[1]] = partial(by_loop, torch_layers.logits, prompts, LENGTH)
        floor, cached = floors.writer(ours, prompts, LENGTH), partial(ours_with_caches, ours, prompts)
        if asked.dtype == torch.float32:
            torch.testing.assert_close(cached(), floor())
        for threads in asked.threads:
            yield from split((KINDS[0], str(size.batch)), cached, floor, threads, runs)


# ---- An encoder-decoder ----------------------------------------------------------------------------------------------


def translated(model: Transformer, src_ids: Tensor, begin: Tensor, *, remembers: bool = True) -> Tensor:
    """Read the source once and write with the library, with caches or without."""
    caches = model.new_caches() if remembers else ()
    predict = partial(model.decode, caches=caches) if remembers else model.decode
    with torch.no_grad():
        memory = model.encode(src_ids)
    return greedy(predict, begin, eos_id=END, max_len=TRANSLATION.seq_len, context=memory, caches=caches)


@torch.no_grad()
def bare_loop(model: Transformer, src_ids: Tensor, begin: Tensor) -> Tensor:
    """Write the same without what `greedy` checks and keeps."""
    memory, caches, page = model.encode(src_ids), model.new_caches(), [begin]
    while len(page) < TRANSLATION.seq_len:
        page.append(model.decode(page[-1], *memory, caches=caches)[:, -1:].argmax(dim=-1))
    return torch.cat(page, dim=1)


def translated_by(model: Model, name: str, src_ids: Tensor, begin: Tensor) -> Run:
    """Return how a package translates greedily with its cache."""
    new = TRANSLATION.seq_len - 1
    if name == "transformers":
        options = dict(max_new_tokens=new, do_sample=False, num_beams=1, use_cache=True, decoder_start_token_id=BEGIN)
        options |= dict(eos_token_id=None, forced_eos_token_id=None, forced_bos_token_id=None)
        mask = torch.ones_like(src_ids)
        return lambda: model.module.generate(src_ids, attention_mask=mask, **options)
    from x_transformers import AutoregressiveWrapper

    encoder, decoder = model.module
    writer, real = AutoregressiveWrapper(decoder), src_ids != PAD_ID
    options = dict(temperature=0.0, eos_token=None, cache_kv=True, context_mask=real)

    @torch.no_grad()
    def write() -> Tensor:
        return writer.generate(begin, new, context=encoder(src_ids, mask=real), **options)

    return write


def translated_by_torch(model: Model, src_ids: Tensor, begin: Tensor) -> Run:
    """Return how PyTorch's own Transformer translates: the source is read once, the target anew for every symbol."""
    embedding, transformer = model.module
    closed = ~causal_mask(TRANSLATION.seq_len).to(src_ids.device)

    @torch.no_grad()
    def write() -> Tensor:
        memory = transformer.encoder(embedding(src_ids))

        def logits(ids: Tensor) -> Tensor:
            n = ids.shape[1]
            x = transformer.decoder(embedding(ids), memory, tgt_mask=closed[:n, :n], tgt_is_causal=True)
            return embedding.logits(x[:, -1:])

        return by_loop(logits, begin, TRANSLATION.seq_len)

    return write


def encoder_decoders(asked: Settings) -> Iterator[Case]:
    """Return one sentence on one thread and on two."""
    with asked.defaults():
        models = peers.encoder_decoders(TRANSLATION)
        src_ids = peers.random_ids(TRANSLATION)
        begin = torch.full((1, 1), BEGIN)
    models = peers.running(evaluated(models), src_ids, src_ids)
    ours, torch_layers = models.pop("lib").module, models.pop("nn")
    never_ending(ours.decoder)
    runs = {name: translated_by(model, name, src_ids, begin) for name, model in models.items()}
    runs[COLUMNS[0]] = partial(translated, ours, src_ids, begin, remembers=False)
    runs[COLUMNS[1]] = translated_by_torch(torch_layers, src_ids, begin)
    cached, floor = partial(translated, ours, src_ids, begin), partial(bare_loop, ours, src_ids, begin)
    torch.testing.assert_close(cached(), floor())
    for name, run in runs.items():
        assert run().shape[1] >= TRANSLATION.seq_len - 1, f"{name} stopped early"
    for threads in asked.threads:
        yield from split((KINDS[1], "1"), cached, floor, threads, runs)


# ---- Both ------------------------------------------------------------------------------------------------------------


def evaluated(models: dict[str, Model]) -> dict[str, Model]:
    """Put the models in evaluation mode."""
    for model in models.values():
        model.module.eval()
    return models


@torch.no_grad()
def never_ending(module: nn.Module) -> None:
    """Make the logit of the end 0 everywhere: some other one is always above it."""
    module.embedding.weight[END] = 0.0


def about() -> list[str]:
    """Say how large the models are."""
    with torch.device("meta"):
        one = peers.about_parameters(SIZES[0], peers.language_models(SIZES[0]))
        other = peers.about_parameters(TRANSLATION, peers.encoder_decoders(TRANSLATION))
    return [f"The language model: d_model 256, {one} parameters.", f"The encoder-decoder: {other} parameters."]


def main() -> int:
    """Measure, print and write the report."""
    asked = settings("generation", __doc__, rounds=7)
    paragraphs = [*peers.about_packages(), *about()]
    print(*paragraphs, sep="\n")
    cases = (case for kind in (language_models, encoder_decoders) for case in kind(asked))
    good = report("Generation", asked, ["model", "batch"], cases, peers=COLUMNS, about=paragraphs)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
