"""One run on several processes, started by torchrun: who is who, and what they must agree on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import distributed, nn

from datagen.common.errors import CheckpointError, InputError


@dataclass(frozen=True)
class Team:
    """The processes of a run.

    Attributes
    ----------
    rank, ranks : int
        Number of this process, and how many there are.
    """

    rank: int
    ranks: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run's files."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether any process says so; all get the same answer."""
        if self.ranks == 1:
            return flag
        said = torch.tensor([float(flag)], device=self.device)
        distributed.all_reduce(said, distributed.ReduceOp.MAX)
        return bool(said.item())

    def mean(self, values: dict[str, torch.Tensor]) -> dict[str, float]:
        """Return the mean over processes of scalars."""
        stacked = torch.stack([value.detach().float() for value in values.values()])
        if self.ranks > 1:
            distributed.all_reduce(stacked)
            stacked /= self.ranks
        return dict(zip(values, stacked.tolist(), strict=True))

    def wait(self) -> None:
        """Wait until all processes have come this far."""
        if self.ranks > 1:
            distributed.barrier()


@contextmanager
def team(device: torch.device) -> Iterator[Team]:
    """Join the other processes of the run, if torchrun started several; leave them at the end.

    Parameters
    ----------
    device : torch.device
        With CUDA each process takes the device of its local rank.
    """
    ranks = _from_environment("WORLD_SIZE", 1)
    if ranks == 1:
        yield Team(0, 1, device)
        return
    rank, local = _from_environment("RANK", None), _from_environment("LOCAL_RANK", None)
    if device.type == "cuda":
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Team(rank, ranks, device)
    finally:
        distributed.destroy_process_group()


def _from_environment(name: str, default: int | None) -> int:
    text = os.environ.get(name)
    if text is None and default is not None:
        return default
    try:
        return int(text or "")
    except ValueError:
        raise InputError(
            f"the environment variable {name} is {text!r}", "a number, as torchrun sets it", "Start with torchrun"
        ) from None


def parallelise(model: nn.Module, group: Team, sharding: Literal["none", "full"], *, compiled: bool) -> nn.Module:
    """Return what to call instead of the model so that gradients are shared by all processes.

    ``none`` wraps it for data parallelism; ``full`` shards its parameters in place (FSDP2), block by block.

    Parameters
    ----------
    model : nn.Module
        On the team's device, with the same weights everywhere.
    compiled : bool
        Whether it goes through ``torch.compile``.
    """
    if group.ranks > 1 and sharding == "full":
        from torch.distributed.fsdp import fully_shard

        for block in model.get_submodule("backbone.blocks").children():
            fully_shard(block)
        fully_shard(model)
    wrapped: nn.Module = torch.compile(model) if compiled else model  # type: ignore[assignment]
    if group.ranks > 1 and sharding == "none":
        devices = [group.device.index] if group.device.type == "cuda" else None
        wrapped = nn.parallel.DistributedDataParallel(wrapped, device_ids=devices)
    return wrapped


def full_state(
    model: nn.Module, optimiser: torch.optim.Optimizer | None
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return the states of model and optimiser as one process would have them; all processes must call it.

    Parameters are named, not numbered, so that any number of processes can resume from it.
    """
    from torch.distributed.checkpoint import state_dict as states

    options = states.StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights = states.get_model_state_dict(model, options=options)
    if optimiser is None:
        return weights, None
    return weights, dict(states.get_optimizer_state_dict(model, optimiser, options=options))


def restore_state(model: nn.Module, optimiser: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Load what :func:`full_state` returned, kept as ``model`` and ``optimiser``; by any number of processes."""
    from torch.distributed.checkpoint import state_dict as states

    options = states.StateDictOptions(full_state_dict=True)
    try:
        states.set_model_state_dict(model, saved["model"], options=options)
        # A run that was stopped before its first step has no moments yet.
        if saved["optimiser"] is not None:
            states.set_optimizer_state_dict(model, optimiser, saved["optimiser"], options=options)
    except (KeyError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"the checkpoint does not fit the run: {str(error).splitlines()[0][:200]}",
            "the last.pt this run wrote",
            "Use the version of canonface that began the run, or another --out",
        ) from None
