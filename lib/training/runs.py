"""How does a run that stopped go on? By its checkpoint file, from the step after the last one that was kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from .checkpoints import (
    check_same_tensors,
    fingerprint,
    random_states,
    read_checkpoint,
    restore_random_states,
    write_checkpoint,
)
from .processes import Team


class KeptRun:
    """A run whose state goes into a file after every so many steps and at its end, and comes from there at its begin.

    Raises: ValueError if `every` is below 1, or the file is damaged or of another model or optimiser; the model is then
        untouched, and so is the file.
    """

    def __init__(
        self,
        path: Path,
        every: int,
        team: Team,
        optimizer: torch.optim.Optimizer,
        losses: list[float],
        device: torch.device,
    ) -> None:
        if every < 1:
            raise ValueError(
                f"a checkpoint is written every 1 or more steps, but got checkpoint_every={every}; "
                "pass 1 to keep every step, or no checkpoint to keep none"
            )
        self.path, self.every, self.team, self.optimizer, self.losses = path, every, team, optimizer, losses
        self.device = device
        self.found: dict[str, Any] | None = None
        path.parent.mkdir(parents=True, exist_ok=True)  # now, not after an hour of steps
        if path.exists():
            self.found = read_checkpoint(path)
            self._load(self.found)

    def remaining(self, batches: Iterable[tuple]) -> Iterator[tuple]:
        """Yield the batches that the run has not seen yet, and keep its state after the steps that are taken on them.

        Raises: ValueError if there are fewer batches than steps, or they are not those of the run.
        """
        done = kept = len(self.losses)
        seen, batch = 0, ()
        for batch in batches:
            seen += 1
            if seen <= done:
                self._catch_up(seen, batch)
                continue
            yield batch  # and here the step is taken
            if len(self.losses) % self.every == 0:
                self._write(batch)
                kept = len(self.losses)
        if seen < done:
            raise ValueError(
                f"{self.path} comes after {done} steps, but there are only {seen} batches; pass all batches of the "
                "run, those of its first steps too, or delete the file to begin another run"
            )
        if kept < len(self.losses):
            self._write(batch)
        self.team.wait()  # whoever reads the file next finds it there

    def _load(self, state: dict[str, Any]) -> None:
        check_same_tensors(state["model"], self.team.plain.state_dict(), self.path)
        wrote, reads = state["optimizer_kind"], _kind(self.optimizer)
        if wrote != reads:
            raise ValueError(
                f"{self.path} was written by a run with {wrote}, but this one has {reads}; train as it did, or delete "
                "the file to begin another run"
            )
        self.team.plain.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.losses.extend(state["losses"].tolist())

    def _catch_up(self, seen: int, batch: tuple) -> None:
        """Skip a batch that was trained on already; after the last of them, take up the random numbers again."""
        if seen < len(self.losses) or self.found is None:
            return
        if self.team.rank == 0 and fingerprint(batch) != self.found["batch"]:
            raise ValueError(
                f"batch {seen} is not the one with which {self.path} ended after {len(self.losses)} steps; make the "
                "batches from the same seed and settings, with a new generator, or delete the file to begin another run"
            )
        states = self.found["random_states"]
        if len(states) == self.team.size:
            restore_random_states(states[self.team.rank], self.device)

    def _write(self, batch: tuple) -> None:
        states = self.team.gather(random_states(self.device))
        if self.team.rank == 0:
            state = {
                "model": self.team.plain.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "optimizer_kind": _kind(self.optimizer),
                "losses": torch.tensor(self.losses, dtype=torch.float64),
                "batch": fingerprint(batch),
                "random_states": states,
            }
            write_checkpoint(self.path, state)


def _kind(optimizer: torch.optim.Optimizer) -> str:
    counts = [len(group["params"]) for group in optimizer.param_groups]
    return f"{type(optimizer).__name__} on {' + '.join(map(str, counts))} parameters"
