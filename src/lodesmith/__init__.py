"""lodesmith: train, distil, compress, index, search and prove neural retrievers."""
