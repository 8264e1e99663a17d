"""Data: reading, checking, importing, making queries, finding duplicates, and batches of training pairs."""
