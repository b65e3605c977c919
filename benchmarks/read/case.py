"""What is read and by whom, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field

PEERS = ("webdataset", "litdata")
ACCESSES = ("sequential", "shuffled", "clips")
CACHES = ("warm", "cold")
# The arrays that are read.
MAPS = ("image", "depth", "canonical", "confidence")


@dataclass(frozen=True)
class ReadCase:
    """What is read, by whom.

    Attributes
    ----------
    reader : ``canonface``, ``webdataset``, ``litdata``, ``zarr``, ``tensorstore`` or ``decompression``
    folder : str
        What that reader reads.
    access : ``sequential``, ``shuffled`` or ``clips``
    workers : int
    seconds : float
        How long to measure, at least, after half as long to get going.
    cold : bool
        Whether the system's cache of the files is emptied first.
    resume : bool
        Measure the time to the first batch from the middle of an epoch, and nothing else.
    clip, frames_per_batch : int
    """

    reader: str
    folder: str
    access: str
    workers: int
    seconds: float = 2.0
    cold: bool = False
    resume: bool = False
    clip: int = 4
    frames_per_batch: int = 8


@dataclass(frozen=True)
class ReadResult:
    """What came of a case; None where it does not apply.

    Attributes
    ----------
    samples_per_s, mb_per_s : float
        Of samples handed over, as decoded bytes.
    p99_ms : float
        99th percentile of the wait for a batch.
    first_batch_s : float
        From the call that opens the data to the first batch; imports are not counted.
    memory_mb : float
        Largest proportional memory of the process and its workers.
    samples : int
    cpu_ms : float
        Processor time a sample took, of the process and its workers; other work on the machine changes it little.
    exact : bool
        Whether what came after resuming is what an undisturbed run would have read.
    rates : dict
        Of ``decompression`` and ``blosc`` alone: samples a second, and under the name and ``_cpu_ms`` their time.
    """

    samples_per_s: float
    mb_per_s: float
    p99_ms: float
    first_batch_s: float
    memory_mb: float
    samples: int
    cpu_ms: float = 0.0
    exact: bool | None = None
    rates: dict[str, float] = field(default_factory=dict)
