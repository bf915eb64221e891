"""What a user of the plain client does: reads what artifactfs logged, and logs. Arguments: entity, project."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import wandb


def main() -> None:
    entity, project = sys.argv[1:]
    ours = wandb.Api().artifact(f"{entity}/{project}/model:latest")
    ours.download(root="downloaded")
    told = {"description": ours.description, "metadata": ours.metadata, "aliases": ours.aliases}
    program = [Path(sys.executable).with_name("wandb"), "artifact", "get", f"{entity}/{project}/model:v0"]
    subprocess.run([*program, "--root", "got"], check=True, stdout=subprocess.DEVNULL)

    run = wandb.init(entity=entity, project=project, settings=wandb.Settings(console="off", silent=True))
    for content, alias in ((b"first", "best"), (b"changed", "staging")):
        theirs = wandb.Artifact("theirs", "dataset", metadata={"by": "client"})
        with theirs.new_file("x/one", "wb") as file:
            file.write(content)
        Path("two").write_text("second")
        theirs.add_file("two")
        run.log_artifact(theirs, aliases=["latest", alias]).wait()
    draft = ours.new_draft()
    Path("added").write_text("added")
    draft.add_file("added")
    run.log_artifact(draft).wait()
    run.finish()
    print(json.dumps(told))


if __name__ == "__main__":
    main()
