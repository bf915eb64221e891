"""Weights & Biases as a store: collections are artifact types, artifacts are W&B's, a project is the whole store.

`manager.WandbArtifactManager` is the way in. `worker` is the only module that imports wandb, and it runs in a process
of its own, held by `process`: the client replaces `sys.excepthook`, starts services, does not survive a fork and can
wait without end, none of which may happen to a drive. `commits` makes versions, `side_file` keeps what W&B does not,
`transfers` fetches bytes by signed URLs, `references` those that lie elsewhere, `versions` translates what W&B tells.
"""

from __future__ import annotations

from artifactfs.managers.wandb.manager import WandbArtifactManager

__all__ = ["WandbArtifactManager"]
