"""Pools: what runs the tasks of a shard, processes of this machine or a Dask cluster."""
