"""Losses: arrays in, a scalar out. One file each; a loss knows no model and no data. `straight_through` is none: it
leads the gradient of one back through a choice."""
