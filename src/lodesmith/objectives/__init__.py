"""Objectives: batch → named, weighted terms. The only place where an encoder meets a loss. One file each."""
