"""Losses: arrays in, a scalar out. One file each; a loss knows no model and no data."""
