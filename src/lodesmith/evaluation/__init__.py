"""Runs and judgements → measures, evaluations and comparisons. numpy alone: it works on a TREC file without torch."""
