"""The dataset format: Zarr v3 shards with records. Reading needs numpy and zarr only (floor 1)."""

from datagen.shards.atomic import atomic_write_bytes
from datagen.shards.finalise import finalise
from datagen.shards.index import IndexTables
from datagen.shards.ledger import ShardRecord, list_records, read_record, unit_is_complete
from datagen.shards.plan import DatasetPlan, ShardUnit, plan_units
from datagen.shards.reader import Dataset, Split, open_dataset
from datagen.shards.schema import ARRAYS, FORMAT, FORMAT_VERSION, SPLITS, Sample
from datagen.shards.writer import write_unit

__all__ = [
    "ARRAYS",
    "FORMAT",
    "FORMAT_VERSION",
    "SPLITS",
    "Dataset",
    "DatasetPlan",
    "IndexTables",
    "Sample",
    "ShardRecord",
    "ShardUnit",
    "Split",
    "atomic_write_bytes",
    "finalise",
    "list_records",
    "open_dataset",
    "plan_units",
    "read_record",
    "unit_is_complete",
    "write_unit",
]
