"""What carries the tasks of a stage: a plain loop, or Prefect on threads or Dask."""
