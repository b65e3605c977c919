"""The dataset format: Zarr v3 shards with records. Reading needs numpy and zarr's codecs only."""

from datagen.shards.dataset import Dataset, Split, open_dataset
from datagen.shards.finish import finalise
from datagen.shards.growth import ShardUnit
from datagen.shards.index import IndexTables
from datagen.shards.ledger import ShardRecord, list_records, read_record, unit_is_complete
from datagen.shards.meshes import MaterialPoints, Performance
from datagen.shards.plan import DatasetPlan, plan_units
from datagen.shards.schema import ARRAYS, FORMAT, FORMAT_VERSION, SPLITS, Sample
from datagen.shards.stream.config import StreamConfig
from datagen.shards.stream.mix import StreamMix, check_same_space
from datagen.shards.stream.stream import ShardStream, StreamBatch
from datagen.shards.tools.statistics import sample_provenance, stats
from datagen.shards.tools.verify import Problem, VerifyReport, verify_dataset
from datagen.shards.tracks import Tracks
from datagen.shards.writer import write_unit

__all__ = [
    "ARRAYS",
    "FORMAT",
    "FORMAT_VERSION",
    "SPLITS",
    "Dataset",
    "DatasetPlan",
    "IndexTables",
    "MaterialPoints",
    "Performance",
    "Problem",
    "Sample",
    "ShardRecord",
    "ShardStream",
    "ShardUnit",
    "Split",
    "StreamBatch",
    "StreamConfig",
    "StreamMix",
    "Tracks",
    "VerifyReport",
    "check_same_space",
    "finalise",
    "list_records",
    "open_dataset",
    "plan_units",
    "read_record",
    "sample_provenance",
    "stats",
    "unit_is_complete",
    "verify_dataset",
    "write_unit",
]
