"""Benchmarks: each file but `common` measures one thing against its rivals. Run all with `python -m benchmarks`."""
