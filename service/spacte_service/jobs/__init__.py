"""Batch jobs: written down in the store, run by drivers on the cluster, brought together by a reconciler."""
