"""Vectors of words: trained on a corpus, read from and written to the formats of word2vec and GloVe."""

from lodesmith.encoders.word_vectors.formats import WordVectors, read_word_vectors, write_word_vectors
from lodesmith.encoders.word_vectors.training import train_word_vectors

__all__ = ["WordVectors", "read_word_vectors", "train_word_vectors", "write_word_vectors"]
