"""A run that stopped goes on as if it had not, a damaged file is refused, and two processes take the steps of one."""

import io
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lib.device import generator, seeded
from lib.training import checkpoints, cosine_schedule, train
from lib.training.checkpoints import read_checkpoint, write_checkpoint

ROOT = Path(__file__).resolve().parent.parent
DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
    ),
]


def network(device="cpu"):
    """A network with dropout, which draws random numbers, and batch norm, which has buffers."""
    with seeded(0):
        return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 1)).double().to(device)


def batches(n=12, device="cpu", seed=1):
    draw = generator(seed)
    for _ in range(n):
        x, y = (torch.randn(6, d, generator=draw, dtype=torch.float64).to(device) for d in (3, 1))
        yield x, y


def squared(model, x, y):
    return F.mse_loss(model(x), y)


def run(model, some_batches, path=None, optimizer=torch.optim.AdamW, every=5, seed=7, loss_fn=squared):
    """Train with everything that a checkpoint has to remember: moments, rates, dropout."""
    with seeded(seed):
        options = dict(lr=0.05, optimizer=optimizer, schedule=cosine_schedule(12, n_warmup=3), clip=1.0)
        losses = train(model, loss_fn, some_batches, checkpoint=path, checkpoint_every=every, progress=False, **options)
        return losses, torch.rand(4)  # the random numbers that come next


def same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runs" / "model.pt"


@pytest.fixture
def finished(path):
    """Keep a run of 7 steps, and return its file."""
    run(network(), batches(7), path)
    return path


# ---- Stopping and going on -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad, torch.optim.RMSprop])
@pytest.mark.parametrize("stop", [1, 5, 7, 11])
def test_a_run_that_stopped_and_went_on_is_the_run_that_never_stopped(path, stop, optimizer, device):
    whole, parts = network(device), network(device)
    expected, numbers_then = run(whole, batches(device=device), optimizer=optimizer)
    first, _ = run(parts, batches(stop, device), path, optimizer)
    assert first == expected[:stop]
    fresh = network(device)
    losses, numbers = run(fresh, batches(device=device), path, optimizer, seed=99)  # another seed: the file's counts
    assert losses == expected
    same(fresh.state_dict(), whole.state_dict())
    assert torch.equal(numbers, numbers_then)


class StopError(Exception):
    """What ends a run from outside."""


@pytest.mark.parametrize(("at", "kept"), [(4, None), (5, 5), (9, 5), (10, 10), (11, 10)])
def test_a_run_that_breaks_off_goes_on_after_the_last_step_that_was_kept(path, at, kept):
    whole = network()
    expected, _ = run(whole, batches())

    def breaking(model, x, y):
        breaking.calls += 1
        if breaking.calls > at:
            raise StopError
        return squared(model, x, y)

    breaking.calls = 0
    with pytest.raises(StopError):
        run(network(), batches(), path, loss_fn=breaking)
    assert path.exists() == (kept is not None)
    fresh, steps = network(), []

    def counting(model, x, y):
        steps.append(1)
        return squared(model, x, y)

    losses, _ = run(fresh, batches(), path, loss_fn=counting)
    assert losses == expected
    assert len(steps) == 12 - (kept or 0)
    same(fresh.state_dict(), whole.state_dict())


@pytest.mark.parametrize("device", DEVICES)
def test_stopping_after_every_single_step_changes_nothing(path, device):
    whole, fresh = network(device), None
    expected, _ = run(whole, batches(device=device))
    for n in range(1, 13):
        fresh = network(device)
        assert run(fresh, batches(n, device), path)[0] == expected[:n]
    same(fresh.state_dict(), whole.state_dict())


def test_a_run_that_is_complete_is_loaded_and_takes_no_step(path):
    expected, _ = run(network(), batches(), path)
    written, fresh = path.read_bytes(), network()

    def never(model, x, y):
        raise AssertionError("a step was taken")

    assert run(fresh, batches(), path, loss_fn=never)[0] == expected
    assert path.read_bytes() == written
    same(fresh.state_dict(), read_checkpoint(path)["model"])


@pytest.mark.parametrize("device", DEVICES)
def test_keeping_a_run_changes_nothing_in_it(path, device):
    one, other = network(device), network(device)
    assert run(one, batches(device=device), path)[0] == run(other, batches(device=device))[0]
    same(one.state_dict(), other.state_dict())


@pytest.mark.parametrize("number", [np.float64, torch.tensor, np.float32])
def test_rates_of_any_kind_of_number_can_be_kept(path, number, without_shape_checks):
    expected = train(network(), squared, batches(4), lr=0.5, schedule=lambda step: 0.25, progress=False)
    options = dict(lr=number(0.5), schedule=lambda step: number(0.25), progress=False)
    losses = train(network(), squared, batches(2), checkpoint=path, **options)
    losses = train(network(), squared, batches(4), checkpoint=path, **options)
    assert len(losses) == len(expected)
    assert {type(group["lr"]) for group in read_checkpoint(path)["optimizer"]["param_groups"]} == {float}


def test_the_file_is_one_of_torch_that_others_can_read(finished):
    state = torch.load(finished, weights_only=True)
    network().load_state_dict(state["model"])
    assert len(state["losses"]) == 7


def test_the_folder_is_made_before_the_first_step(path):
    def stop(model, x, y):
        raise StopError

    with pytest.raises(StopError):
        run(network(), batches(), path, loss_fn=stop)
    assert path.parent.is_dir()


# ---- What does not fit is refused, and nothing is touched ------------------------------------------------------------


def refused(path, message, model=None, some_batches=None, **options):
    """Expect a refusal that leaves the file as it is, the model as it is, and no other file."""
    content, model = path.read_bytes(), model or network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        run(model, batches() if some_batches is None else some_batches, path, **options)
    assert path.read_bytes() == content
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    return before, model.state_dict()


def test_a_file_that_was_cut_off_is_refused(finished):
    content = finished.read_bytes()
    for length in {0, 1, 10, 100, len(content) // 2, *range(len(content) - 60, len(content), 7), len(content) - 1}:
        finished.write_bytes(content[:length])
        same(*refused(finished, f"checksum of all its bytes, but the {length} bytes of .* do not.*; put back a copy"))


def test_a_file_with_any_one_changed_bit_is_refused(finished):
    content = finished.read_bytes()
    for place in (*range(0, len(content), 101), *range(len(content) - 100, len(content))):
        finished.write_bytes(content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :])
        with pytest.raises(ValueError, match="checksum of all its bytes"):
            read_checkpoint(finished)
    finished.write_bytes(content)
    assert len(read_checkpoint(finished)["losses"]) == 7


def test_a_changed_weight_is_refused_where_torch_load_would_take_it(finished):
    state, content = read_checkpoint(finished), finished.read_bytes()
    place = content.index(state["model"]["0.weight"].numpy().tobytes())
    finished.write_bytes(content[:place] + b"\0" + content[place + 1 :])
    assert not torch.equal(torch.load(finished, weights_only=True)["model"]["0.weight"], state["model"]["0.weight"])
    same(*refused(finished, "they are damaged, incomplete or something else"))


def test_another_file_of_torch_is_refused(finished):
    torch.save(network().state_dict(), finished)
    same(*refused(finished, "damaged, incomplete or something else"))


def test_a_checkpoint_of_another_version_is_refused(finished):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "FORMAT", "inside-the-transformer-block checkpoint 2")
        write_checkpoint(finished, {"model": {}})
    same(*refused(finished, "the format '.* checkpoint 2', but is read as '.* checkpoint 1'"))


def test_a_file_with_code_in_it_is_refused_and_runs_none(finished):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (finished.parent / "sprung",))

    archive = io.BytesIO()
    torch.save({"model": Trap()}, archive)
    content = archive.getvalue()[:-2]
    finished.write_bytes(content + checkpoints._seal(content))
    same(*refused(finished, "holds tensors and numbers only, but .* has something else"))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: nn.Linear(3, 1).double(), "it has 9 tensors and this model 2, and 11 differ"),
        (
            lambda: network().append(nn.Linear(1, 1).double()),
            r"such as '4.bias', missing there and \(1,\) of torch.float64 here",
        ),
        (
            lambda: network().float(),
            r"8 differ, such as '0.bias', \(8,\) of torch.float64 there and \(8,\) of torch.float32",
        ),
        (
            lambda: network()[:3],
            r"model 7, and 2 differ, such as '3.bias', \(1,\) of torch.float64 there and missing here",
        ),
    ],
)
def test_the_checkpoint_of_another_model_is_refused_before_any_of_it_is_loaded(finished, model, message):
    same(*refused(finished, message, model()))


def test_the_checkpoint_of_another_optimiser_is_refused(finished):
    message = r"by a run with AdamW on 6 parameters, but this one has {}; train as it did"
    same(*refused(finished, message.format("SGD on 6 parameters"), optimizer=torch.optim.SGD))

    def in_two_groups(parameters, lr):
        first, *others = parameters
        return torch.optim.AdamW([{"params": [first]}, {"params": others}], lr=lr)

    same(*refused(finished, message.format(r"AdamW on 1 \+ 5 parameters"), optimizer=in_two_groups))


def test_other_batches_are_refused(finished):
    refused(finished, "batch 7 is not the one with which .* ended after 7 steps", some_batches=batches(seed=2))
    used = batches()
    next(used)
    refused(finished, "with a new generator", some_batches=used)


def test_fewer_batches_than_steps_are_refused(finished):
    refused(finished, "comes after 7 steps, but there are only 6 batches; pass all", some_batches=batches(6))
    refused(finished, "comes after 7 steps, but there are only 0 batches", some_batches=[])


def test_no_steps_between_checkpoints_is_refused(path):
    with pytest.raises(ValueError, match="every 1 or more steps, but got checkpoint_every=0; pass 1"):
        run(network(), batches(), path, every=0)


# ---- The previous file survives --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("module", "function"), [(torch, "save"), (os, "fsync"), (os, "replace")])
def test_a_file_that_cannot_be_written_leaves_the_previous_one(finished, module, function, monkeypatch):
    content = finished.read_bytes()

    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(module, function, fail)
    with pytest.raises(OSError, match="no space left"):
        run(network(), batches(), finished)
    assert finished.read_bytes() == content
    assert [file.name for file in finished.parent.iterdir()] == [finished.name]


def test_what_cannot_be_read_again_does_not_replace_the_previous_file(finished):
    content = finished.read_bytes()
    with pytest.raises(ValueError, match="holds tensors and numbers only"):
        write_checkpoint(finished, {"model": {}, "optimizer": {"moment": StopError()}})
    assert finished.read_bytes() == content
    assert [file.name for file in finished.parent.iterdir()] == [finished.name]


def test_half_a_file_that_a_killed_process_left_beside_does_not_matter(finished):
    beside = finished.with_name(finished.name + ".partial")
    beside.write_bytes(finished.read_bytes()[:1000])
    whole, fresh = network(), network()
    assert run(fresh, batches(), finished)[0] == run(whole, batches())[0]
    same(fresh.state_dict(), whole.state_dict())
    assert not beside.exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork, which Windows does not have")
def test_a_process_that_is_killed_while_it_writes_leaves_a_whole_file(path):
    program = f"""
import os, signal, time
import torch
from lib.training.checkpoints import read_checkpoint, write_checkpoint
from pathlib import Path
path = Path({str(path)!r})
for wait in (0.0, 0.003, 0.011, 0.02):
    listen, tell = os.pipe()
    child = os.fork()
    if not child:
        step = 0
        while True:
            step += 1
            write_checkpoint(path, {{"losses": torch.full((200_000,), float(step))}})
            if step == 2:
                os.write(tell, b"writing")
    os.close(tell)
    os.read(listen, 7)
    time.sleep(wait)
    os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL  # and not by an error before
    losses = read_checkpoint(path)["losses"]
    print(len(losses), losses.min().item(), losses.max().item())
"""
    path.parent.mkdir()
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert ran.returncode == 0, ran.stderr
    found = [line.split() for line in ran.stdout.splitlines()]
    assert [int(length) for length, *_ in found] == [200_000] * 4
    assert all(float(lowest) == float(highest) >= 2 for _, lowest, highest in found)


# ---- Several processes -----------------------------------------------------------------------------------------------

SCRIPT = """
import json, os, sys
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from lib.blocks import DecoderBlock, EncoderBlock
from lib.device import generator, seeded
from lib.norms import LayerNorm
from lib.positions import Sinusoidal
from lib.residual import PreNorm
from lib.tasks import Numbers, copy, reverse, task_batches
from lib.training import cosine_schedule, sequence_loss, shift_right, train, warmup_schedule
from lib.transformer import Decoder, Embedding, Encoder, Transformer

folder, rank, size = sys.argv[1], int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
numbers = Numbers(9)
if size == 3:
    distributed.init_process_group("gloo")  # in two processes, train does this itself

def batches(n, batch_size, task=reverse):
    return task_batches(task, numbers, max_length=8, batch_size=batch_size, n_batches=n, generator=generator(1))

def weights_of(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).tolist()


def in_shares():
    with seeded(0):
        model = nn.Sequential(nn.Embedding(len(numbers), 16), nn.Linear(16, 32), nn.GELU(), nn.Linear(32, len(numbers)))
    seen = []

    def teach(model, src_ids, tgt_ids):
        seen.append(len(src_ids))
        logits = model(shift_right(tgt_ids, numbers.bos_id))
        return sequence_loss(logits, tgt_ids, numbers.pad_id, label_smoothing=0.1)

    def guess_length(model, src_ids, tgt_ids):  # a mean over rows
        lengths = (tgt_ids != numbers.pad_id).sum(dim=1).float()
        return nn.functional.mse_loss(model(src_ids).mean(dim=(1, 2)), lengths)

    options = dict(lr=0.02, schedule=cosine_schedule(10, n_warmup=2), clip=1.0)
    losses = train(model, teach, batches(10, 7), **options)                     # 7 rows: 4 and 3, or 3, 2 and 2
    rows = sum(seen)
    losses += train(model, guess_length, batches(4, 7), lr=0.01)
    losses += train(model, teach, batches(3, 2), lr=0.01)                       # 2 rows: of three, one has none
    odd = torch.arange(6)[:, None] % 2 == 1
    blank = ((src_ids, tgt_ids.masked_fill(odd, numbers.pad_id)) for src_ids, tgt_ids in batches(3, 6))
    losses += train(model, teach, blank, lr=0.01)                               # of two, one has nothing but padding
    kept = folder + "/shares.pt"
    losses += train(model, teach, batches(2, 5), lr=0.01, checkpoint=kept)
    losses += train(model, teach, batches(4, 5), lr=0.01, checkpoint=kept)[2:]  # goes on
    return {"losses": losses, "weights": weights_of(model), "rows": rows}


def with_padding():
    def make():
        def stack(room, block):
            embedding = Embedding(len(numbers), 16, Sinusoidal(16, 12))
            return room(embedding, [block(16, 2, 32, residual=PreNorm) for _ in range(2)], LayerNorm(16))
        with seeded(0):
            return Transformer(stack(Encoder, EncoderBlock), stack(Decoder, DecoderBlock), pad_id=numbers.pad_id)

    def teach(model, src_ids, tgt_ids):
        logits = model(src_ids, shift_right(tgt_ids, numbers.bos_id))
        return sequence_loss(logits, tgt_ids, numbers.pad_id, label_smoothing=0.1)

    options = dict(lr=0.002, schedule=warmup_schedule(3), clip=1.0)
    padding = [float((tgt_ids == numbers.pad_id).float().mean()) for _, tgt_ids in batches(10, 7)]
    kept, whole, resumed = folder + "/transformer.pt", make(), make()
    losses = train(whole, teach, batches(10, 7), **options)
    train(make(), teach, batches(4, 7), checkpoint=kept, **options)
    gone_on = train(resumed, teach, batches(10, 7), checkpoint=kept, **options)
    return {"losses": losses, "gone_on": gone_on, "weights": weights_of(whole), "padding": padding}


class Idle(nn.Module):  # as a pooler that the loss never asks for
    def __init__(self):
        super().__init__()
        self.body, self.pooler = nn.Linear(2, 1), nn.Linear(2, 1)
    def forward(self, x):
        return self.body(x)

def with_an_idle_part():
    with seeded(0):
        idle = Idle()
    before, refusals = idle.body.weight.detach().clone(), []
    try:
        train(idle, lambda model, x: model(x).square().mean(), [(torch.ones(4, 2),)] * 3, lr=1.0)
    except ValueError as error:
        refusals.append(str(error))
        assert torch.equal(idle.body.weight, before)
    idle.pooler.requires_grad_(False)
    train(idle, lambda model, x: model(x).square().mean(), [(torch.ones(4, 2),)] * 3, lr=1.0)
    return refusals


def undivided():
    def make(dropout):
        with seeded(0):
            layers = (nn.Embedding(len(numbers), 16), nn.Dropout(dropout), nn.Linear(16, len(numbers)))
            model = nn.Sequential(*layers)
        return DistributedDataParallel(model) if size > 1 else model

    def teach(model, src_ids, tgt_ids):
        return sequence_loss(model(shift_right(tgt_ids, numbers.bos_id)), tgt_ids, numbers.pad_id)

    def shares(n):
        return ((src_ids[rank::size], tgt_ids[rank::size]) for src_ids, tgt_ids in batches(n, 6, copy))

    def with_dropout(n, path=None):
        model = make(0.5)
        with seeded(10 + rank):
            return train(model, teach, shares(n), lr=0.02, checkpoint=path), torch.rand(1).item()

    losses = train(make(0.0), teach, shares(8), lr=0.02)
    kept, never_stopped = folder + "/undivided.pt", with_dropout(8)
    with_dropout(5, kept)
    return {"losses": losses, "never_stopped": never_stopped, "gone_on": with_dropout(8, kept)}


def rows_that_do_not_match():
    try:
        train(nn.Linear(2, 1), lambda model, x, y: model(x).sum(), [(torch.ones(4, 2), torch.ones(3))], lr=1.0)
    except ValueError as error:
        return [str(error)]
    return []


parts = (in_shares, with_padding, with_an_idle_part, undivided, rows_that_do_not_match)
with open(f"{folder}/rank{rank}.json", "w") as file:
    json.dump({part.__name__: part() for part in parts}, file)
if size > 1 and rank:
    distributed.destroy_process_group()  # the first one leaves this to train, or to the end of the process
"""
several = [2, 3]


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """Run the script in one process, in two and in three, and return by their number what each of them wrote.

    Starting is what takes its time, so it is done once for all claims: in this process, and in two torchruns at once.
    """
    folders = {n: tmp_path_factory.mktemp(f"processes{n}") for n in (1, *several)}
    script = folders[1] / "script.py"
    script.write_text(SCRIPT)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nnodes=1"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": "lo"}
    started = [
        subprocess.Popen(
            [*launcher, f"--nproc-per-node={n}", script, folders[n]],
            cwd=folders[n],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in several
    ]
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [str(script), str(folders[1])])
            runpy.run_path(str(script))
        said = [process.communicate(timeout=130)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], "\n".join(said)[-6000:]
    assert "Exception" not in "".join(said)  # nor while they end
    return {n: [json.loads((folders[n] / f"rank{rank}.json").read_text()) for rank in range(n)] for n in folders}


def of(ended, part):
    """Return what this part of the script gave in one process, and in each of several."""
    (alone,), together = ended[1], {n: [process[part] for process in ended[n]] for n in several}
    return alone[part], together


def furthest(some, others):
    return max(abs(a - b) for a, b in zip(some, others, strict=True))


def assert_the_same_run(losses, expected, processes):
    """Compare bit by bit where two numbers are added up, since a + b is b + a; three have several sums."""
    assert losses == expected if processes == 2 else furthest(losses, expected) < 1e-5


def under_torchrun(test):
    """Mark a test that starts several processes."""
    needed = pytest.mark.skipif(not torch.distributed.is_available(), reason="needs a PyTorch with torch.distributed")
    return pytest.mark.slow(pytest.mark.timeout(300)(needed(test)))


@under_torchrun
@pytest.mark.parametrize("processes", several)
def test_processes_under_torchrun_have_the_losses_of_one_with_the_same_batches(ended, processes):
    one, together = of(ended, "in_shares")
    first, *others = together[processes]
    for other in others:
        assert (other["losses"], other["weights"]) == (first["losses"], first["weights"])
    assert len(one["losses"]) == 10 + 4 + 3 + 3 + 4
    assert furthest(one["losses"], first["losses"]) < 1e-5
    assert furthest(one["weights"], first["weights"]) < 1e-4
    assert one["losses"][0] - one["losses"][9] > 0.1  # far above what is compared
    assert one["rows"] == sum(process["rows"] for process in (first, *others)) == 10 * 7  # no row was computed twice


@under_torchrun
@pytest.mark.parametrize("processes", several)
def test_a_transformer_on_padded_batches_learns_in_several_processes_what_it_learns_in_one(ended, processes):
    one, together = of(ended, "with_padding")
    first, *others = together[processes]
    for other in others:
        assert (other["losses"], other["weights"]) == (first["losses"], first["weights"])
    assert min(one["padding"]) > 0.1  # of every batch
    assert len(one["losses"]) == 10
    assert one["losses"][0] - one["losses"][-1] > 0.1  # far above what is compared
    assert furthest(one["losses"], first["losses"]) < 1e-5
    assert one["gone_on"] == one["losses"]
    for process in (first, *others):
        assert_the_same_run(process["gone_on"], process["losses"], processes)


@under_torchrun
@pytest.mark.parametrize("processes", several)
def test_a_part_that_the_loss_never_asks_for_is_refused_by_name_in_several_processes(ended, processes):
    one, together = of(ended, "with_an_idle_part")
    assert one == []
    for (refusal,) in together[processes]:
        assert refusal.startswith(
            f"{processes} processes share the gradient of every trainable parameter, but 2 of 4, such as "
            "'pooler.weight', had no part in the loss; call requires_grad_(False)"
        )


@under_torchrun
@pytest.mark.parametrize("processes", several)
def test_a_model_that_is_distributed_already_gets_the_batches_of_each_process_undivided(ended, processes):
    one, together = of(ended, "undivided")
    first, *others = together[processes]
    assert all(other["losses"] == first["losses"] for other in others)
    assert furthest(one["losses"], first["losses"]) < 1e-5
    assert one["gone_on"] == one["never_stopped"]
    for process in (first, *others):  # each with its dropout
        (losses, number), (expected, number_then) = process["gone_on"], process["never_stopped"]
        assert_the_same_run(losses, expected, processes)
        assert number == number_then
    assert len({process["never_stopped"][1] for process in (first, *others)}) == processes


@under_torchrun
@pytest.mark.parametrize("processes", several)
def test_a_batch_whose_tensors_have_different_rows_is_not_divided(ended, processes):
    one, together = of(ended, "rows_that_do_not_match")
    assert one == []
    for (refusal,) in together[processes]:
        assert refusal.startswith(f"{processes} processes divide a batch by the rows of its tensors, so all must have")
        assert "but got [3, 4]" in refusal
