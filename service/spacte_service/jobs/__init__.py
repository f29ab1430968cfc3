"""Batch jobs: written to the store, run by drivers on the cluster, and followed by a reconciler."""
