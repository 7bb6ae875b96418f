"""Many documents to Parquet or JSON lines: here, on a Ray cluster, or through running servers."""
