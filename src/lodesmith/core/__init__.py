"""Values, protocols and small machinery that every room stands on: numpy and the standard library only."""
