"""How two vectors are compared: arrays in, arrays out.

Each file gives one similarity twice: `NAME(queries, documents)`, a matrix of torch tensors that training can
differentiate, and `NAME_rows(queries, documents)`, the exact score of row pairs, which search takes as the truth.
"""
