"""How does a run that stopped go on? A file from which training continues as if it had never stopped."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

FORMAT = "inside-the-transformer-block checkpoint 1"


def write_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Replace the file by one with this state, so that at every moment it is wholly the old one or wholly the new one.

    The state is written beside it, forced onto the disk, read again as a proof, and only then given the name.

    Raises: ValueError if what was written cannot be read again; the old file then stays.
    """
    archive = io.BytesIO()
    torch.save({"format": FORMAT, **state}, archive)
    content = archive.getvalue()[:-2]
    beside = path.with_name(path.name + ".partial")
    try:
        with open(beside, "wb") as file:
            file.writelines((content, _seal(content)))
            file.flush()
            os.fsync(file.fileno())
        read_checkpoint(beside)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the state that write_checkpoint wrote, its tensors on the CPU.

    Every byte is compared with the checksum at the end first: torch.load alone would take changed numbers as they are.
    It is then called with weights_only, which runs no code from the file.

    Raises: ValueError if the file is damaged, incomplete, or something else.
    """
    content, length = path.read_bytes(), len(_seal(b""))
    if content[-length:] != _seal(content[:-length]):
        raise ValueError(
            f"a checkpoint ends with the checksum of all its bytes, but the {len(content)} bytes of {path} do not: "
            "they are damaged, incomplete or something else; put back a copy, or delete it to train from the beginning"
        )
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"a checkpoint holds tensors and numbers only, but {path} has something else: {error}; "
            "train with a model and an optimiser whose state_dict holds these only"
        ) from error
    if state.get("format") != FORMAT:
        raise ValueError(
            f"{path} has the format {state.get('format')!r}, but is read as {FORMAT!r}; use the version of the library "
            "that wrote it, or delete it to train from the beginning"
        )
    return state


def _seal(content: bytes) -> bytes:
    """Return the end of a file: a comment's length in two bytes, and the comment, which is the checksum of the rest.

    torch.save writes a zip archive, whose last two bytes say that it has no comment. With one it is a zip archive
    still, and any torch.load reads it.
    """
    checksum = hashlib.sha256(content).digest()
    return len(checksum).to_bytes(2, "little") + checksum


def check_same_tensors(found: Mapping[str, Any], wanted: Mapping[str, Any], path: Path) -> None:
    """Refuse the state of another model before any of it is loaded.

    Raises: ValueError if names, shapes or types differ.
    """
    there, here = ({name: _form(value) for name, value in state.items()} for state in (found, wanted))
    different = sorted(name for name in there.keys() | here.keys() if there.get(name) != here.get(name))
    if different:
        name = different[0]
        raise ValueError(
            f"{path} is a checkpoint of another model: it has {len(there)} tensors and this model {len(here)}, and "
            f"{len(different)} differ, such as {name!r}, {there.get(name, 'missing')} there and "
            f"{here.get(name, 'missing')} here; make the model as it was, or use another file"
        )


def _form(value: Any) -> str:
    return f"{tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__


def fingerprint(batch: Sequence[object]) -> str:
    """Return 16 signs that say which tensors a batch is made of.

    They show whether a continued run gets the batches of the run before.
    """
    digest = hashlib.sha256()
    for item in batch:
        if isinstance(item, Tensor):
            digest.update(f"{item.dtype} {tuple(item.shape)} ".encode())
            digest.update(item.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def random_states(device: torch.device) -> dict[str, Tensor]:
    """Return where PyTorch's random numbers stand, on the CPU and on this device.

    Shape: a vector of bytes each.
    Source: `torch.get_rng_state`, `torch.cuda.get_rng_state`.
    """
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_random_states(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Let PyTorch's random numbers go on from where they stood; a device that was not there starts as it is.

    Shape: a vector of bytes each.
    Source: `torch.set_rng_state`, `torch.cuda.set_rng_state`.
    """
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the model's first parameter, or the CPU if it has none."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
