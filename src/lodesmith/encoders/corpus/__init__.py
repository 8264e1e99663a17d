"""Whole corpora: encoded piece by piece into a folder, or into the cache that every command shares."""

from lodesmith.encoders.corpus.cache import VectorCache, default_cache
from lodesmith.encoders.corpus.stream import encode_to

__all__ = ["VectorCache", "default_cache", "encode_to"]
