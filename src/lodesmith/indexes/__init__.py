"""Indexes: document vectors in, the nearest of them out. `flat` is exact; `folder` keeps any index on disk."""
