"""Vectors of words: trained on a corpus, read from and written to the formats of word2vec and GloVe."""

from lodesmith.encoders.word_vectors.coverage import coverage
from lodesmith.encoders.word_vectors.formats import read_word_vectors, write_word_vectors
from lodesmith.encoders.word_vectors.training import Epoch, Settings, Trainer, require_gensim, speed, train_word_vectors
from lodesmith.encoders.word_vectors.vectors import WordVectors

__all__ = [
    "Epoch",
    "Settings",
    "Trainer",
    "WordVectors",
    "coverage",
    "read_word_vectors",
    "require_gensim",
    "speed",
    "train_word_vectors",
    "write_word_vectors",
]
