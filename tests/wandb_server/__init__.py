"""A stand-in for the server of Weights & Biases on loopback, for the real client.

What the client sends is parsed, validated and executed against `schema.graphql`, whatever the operation is called, so a
query that no W&B server would take fails here too. Bytes come and go by signed URLs that expire. `handle.Server` runs
it as a process of its own, which can be killed and started again on the same port, keeps its state on disk, counts
requests, and fails on demand. What is assumed of W&B's servers is listed in mount/SEMANTICS.md.
"""
