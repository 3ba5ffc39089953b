"""A run that stopped goes on as if it had not, a damaged file is refused, and two processes take the steps of one."""

import io
import json
import os
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


def test_a_process_that_is_killed_while_it_writes_leaves_a_whole_file(path):
    program = f"""
import torch
from lib.training.checkpoints import write_checkpoint
from pathlib import Path
step = 0
while True:
    step += 1
    write_checkpoint(Path({str(path)!r}), {{"losses": torch.full((200_000,), float(step))}})
    if step == 2:
        print("writing", flush=True)
"""
    path.parent.mkdir()
    for wait in (0.0, 0.003, 0.011, 0.02):
        process = subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent
        )
        process.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(wait)
        process.kill()
        process.communicate()
        losses = read_checkpoint(path)["losses"]
        assert len(losses) == 200_000
        assert losses.min() == losses.max() >= 2


# ---- Two processes ---------------------------------------------------------------------------------------------------

SCRIPT = """
import json, os, sys
import torch
from torch import nn
from lib.device import generator, seeded
from lib.tasks import Numbers, reverse, task_batches
from lib.training import cosine_schedule, sequence_loss, shift_right, train

numbers = Numbers(9)
with seeded(0):
    model = nn.Sequential(nn.Embedding(len(numbers), 16), nn.Linear(16, 32), nn.GELU(), nn.Linear(32, len(numbers)))

seen = []

def teach(model, src_ids, tgt_ids):
    seen.append(len(src_ids))
    return sequence_loss(model(shift_right(tgt_ids, numbers.bos_id)), tgt_ids, numbers.pad_id, label_smoothing=0.1)

def guess_length(model, src_ids, tgt_ids):  # a mean over rows
    lengths = (tgt_ids != numbers.pad_id).sum(dim=1).float()
    return nn.functional.mse_loss(model(src_ids).mean(dim=(1, 2)), lengths)

def batches(n, batch_size):
    return task_batches(reverse, numbers, max_length=8, batch_size=batch_size, n_batches=n, generator=generator(1))

options = dict(lr=0.02, schedule=cosine_schedule(20, n_warmup=4), clip=1.0)
losses = train(model, teach, batches(20, 7), **options)                      # 7 rows: 4 and 3, or 3, 2 and 2
rows = sum(seen)
losses += train(model, guess_length, batches(6, 7), lr=0.01)
losses += train(model, teach, batches(4, 2), lr=0.01)                        # 2 rows: of three processes, one has none
kept = sys.argv[1] + "/model.pt"
odd = torch.arange(6)[:, None] % 2 == 1
blank = ((src_ids, tgt_ids.masked_fill(odd, numbers.pad_id)) for src_ids, tgt_ids in batches(3, 6))
losses += train(model, teach, blank, lr=0.01)                                # one process has nothing but padding
losses += train(model, teach, batches(3, 5), lr=0.01, checkpoint=kept)
losses += train(model, teach, batches(6, 5), lr=0.01, checkpoint=kept)[3:]   # goes on
weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).tolist()
with open(f"{sys.argv[1]}/rank{os.environ.get('RANK', 0)}.json", "w") as file:
    json.dump({"losses": losses, "weights": weights, "rows": rows}, file)
"""


def torchrun(folder, script, processes):
    """Run a script in so many processes, and return what each of them wrote."""
    folder.mkdir()
    (folder / "script.py").write_text(script)
    launcher = ["torch.distributed.run", "--standalone", "--nnodes=1", f"--nproc-per-node={processes}"]
    command = [sys.executable, "-m", *launcher, str(folder / "script.py"), str(folder)]
    if processes == 1:
        command = [sys.executable, str(folder / "script.py"), str(folder)]
    root = str(Path(__file__).resolve().parent.parent)
    environment = os.environ | {"PYTHONPATH": root, "CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": "lo"}
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=130)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(processes)]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs a PyTorch that has torch.distributed")
@pytest.mark.parametrize("processes", [2, 3])
def test_processes_under_torchrun_have_the_losses_of_one_with_the_same_batches(tmp_path, processes):
    (one,) = torchrun(tmp_path / "one", SCRIPT, 1)
    first, *others = torchrun(tmp_path / "several", SCRIPT, processes)
    for other in others:
        assert (other["losses"], other["weights"]) == (first["losses"], first["weights"])
    assert len(one["losses"]) == 20 + 6 + 4 + 3 + 6
    assert max(abs(a - b) for a, b in zip(one["losses"], first["losses"], strict=True)) < 1e-5
    assert max(abs(a - b) for a, b in zip(one["weights"], first["weights"], strict=True)) < 1e-4
    assert one["losses"][0] > one["losses"][19]
    assert one["rows"] == sum(process["rows"] for process in (first, *others)) == 20 * 7  # no row was computed twice


TRANSFORMER = """
import json, os, sys
import torch
from torch import nn
from lib.blocks import DecoderBlock, EncoderBlock
from lib.device import generator, seeded
from lib.norms import LayerNorm
from lib.positions import Sinusoidal
from lib.residual import PreNorm
from lib.tasks import Numbers, reverse, task_batches
from lib.training import sequence_loss, shift_right, train, warmup_schedule
from lib.transformer import Decoder, Embedding, Encoder, Transformer

numbers = Numbers(9)

def make():
    def stack(room, block):
        embedding = Embedding(len(numbers), 16, Sinusoidal(16, 12))
        return room(embedding, [block(16, 2, 32, residual=PreNorm) for _ in range(2)], LayerNorm(16))
    with seeded(0):
        return Transformer(stack(Encoder, EncoderBlock), stack(Decoder, DecoderBlock), pad_id=numbers.pad_id)

def teach(model, src_ids, tgt_ids):
    logits = model(src_ids, shift_right(tgt_ids, numbers.bos_id))
    return sequence_loss(logits, tgt_ids, numbers.pad_id, label_smoothing=0.1)

def batches(n):
    return task_batches(reverse, numbers, max_length=8, batch_size=7, n_batches=n, generator=generator(1))

options = dict(lr=0.002, schedule=warmup_schedule(5), clip=1.0)
padding = [float((tgt_ids == numbers.pad_id).float().mean()) for _, tgt_ids in batches(20)]
kept, whole, resumed = sys.argv[1] + "/model.pt", make(), make()
losses = train(whole, teach, batches(20), **options)
train(make(), teach, batches(9), checkpoint=kept, **options)
same = train(resumed, teach, batches(20), checkpoint=kept, **options) == losses
weights = torch.cat([parameter.detach().flatten() for parameter in whole.parameters()]).tolist()

class Idle(nn.Module):  # as a pooler that the loss never asks for
    def __init__(self):
        super().__init__()
        self.body, self.pooler = nn.Linear(2, 1), nn.Linear(2, 1)
    def forward(self, x):
        return self.body(x)

refusals = []
with seeded(0):
    idle = Idle()
before = idle.body.weight.detach().clone()
try:
    train(idle, lambda model, x: model(x).square().mean(), [(torch.ones(4, 2),)] * 3, lr=1.0)
except ValueError as error:
    refusals.append(str(error))
    assert torch.equal(idle.body.weight, before)
idle.pooler.requires_grad_(False)
train(idle, lambda model, x: model(x).square().mean(), [(torch.ones(4, 2),)] * 3, lr=1.0)
ended = {"losses": losses, "same": same, "weights": weights, "padding": padding, "refusals": refusals}
with open(f"{sys.argv[1]}/rank{os.environ.get('RANK', 0)}.json", "w") as file:
    json.dump(ended, file)
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs a PyTorch that has torch.distributed")
def test_a_transformer_on_padded_batches_learns_in_two_processes_what_it_learns_in_one(tmp_path):
    (one,) = torchrun(tmp_path / "one", TRANSFORMER, 1)
    first, second = torchrun(tmp_path / "two", TRANSFORMER, 2)
    assert (first["losses"], first["weights"]) == (second["losses"], second["weights"])
    assert min(one["padding"]) > 0.1  # of every batch
    assert len(one["losses"]) == 20
    assert one["losses"][0] - one["losses"][-1] > 0.1  # far above what is compared
    assert max(abs(a - b) for a, b in zip(one["losses"], first["losses"], strict=True)) < 1e-5
    assert [ended["same"] for ended in (one, first, second)] == [True] * 3  # stopped and gone on
    assert one["refusals"] == []
    for ended in (first, second):
        assert ended["refusals"][0].startswith(
            "2 processes share the gradient of every trainable parameter, but 2 of 4"
        )
        assert "such as 'pooler.weight', had no part in the loss; call requires_grad_(False)" in ended["refusals"][0]


OWN_SHARES = """
import json, os, sys
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from lib.device import generator, seeded
from lib.tasks import Numbers, copy, task_batches
from lib.training import sequence_loss, shift_right, train

numbers, size, rank = Numbers(9), int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
if size > 1:
    distributed.init_process_group("gloo")

def make(dropout):
    with seeded(0):
        layers = (nn.Embedding(len(numbers), 16), nn.Dropout(dropout), nn.Linear(16, len(numbers)))
        model = nn.Sequential(*layers)
    return DistributedDataParallel(model) if size > 1 else model

def teach(model, src_ids, tgt_ids):
    return sequence_loss(model(shift_right(tgt_ids, numbers.bos_id)), tgt_ids, numbers.pad_id)

def batches(n):
    whole = task_batches(copy, numbers, max_length=8, batch_size=6, n_batches=n, generator=generator(1))
    return ((src_ids[rank::size], tgt_ids[rank::size]) for src_ids, tgt_ids in whole)

losses = train(make(0.0), teach, batches(8), lr=0.02)

def with_dropout(n, path=None):
    model = make(0.5)
    with seeded(10 + rank):
        return train(model, teach, batches(n), lr=0.02, checkpoint=path), torch.rand(1).item()

kept = sys.argv[1] + "/model.pt"
never_stopped = with_dropout(8)
with_dropout(5, kept)
refusals = []
try:
    train(nn.Linear(2, 1), lambda model, x, y: model(x).sum(), [(torch.ones(4, 2), torch.ones(3))], lr=1.0)
except ValueError as error:
    refusals.append(str(error))
with open(f"{sys.argv[1]}/rank{rank}.json", "w") as file:
    json.dump({"losses": losses, "same": never_stopped == with_dropout(8, kept), "refusals": refusals}, file)
if size > 1:
    distributed.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs a PyTorch that has torch.distributed")
def test_a_model_that_is_distributed_already_gets_the_batches_of_each_process_undivided(tmp_path):
    (one,) = torchrun(tmp_path / "one", OWN_SHARES, 1)
    first, second = torchrun(tmp_path / "two", OWN_SHARES, 2)
    assert first["losses"] == second["losses"]
    assert max(abs(a - b) for a, b in zip(one["losses"], first["losses"], strict=True)) < 1e-5
    assert [ended["same"] for ended in (one, first, second)] == [True] * 3  # stopped, gone on, each with its dropout
    assert one["refusals"] == []
    assert first["refusals"][0].startswith("2 processes divide a batch by the rows of its tensors, so all must have")
    assert "but got [3, 4]" in first["refusals"][0]
