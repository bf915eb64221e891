"""``artifactfs completion``: the shell code that completes commands, options and addresses."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click
from click.shell_completion import (
    BashComplete,
    ShellComplete,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)

if TYPE_CHECKING:
    from artifactfs.managers.base import ArtifactManager

PROGRAM = "artifactfs"
VARIABLE = "_ARTIFACTFS_COMPLETE"

# bash takes "@", ":" and "=" for the ends of words (COMP_WORDBREAKS), so that click's own script would see of
# models/bert@v1 only v1, and would put the whole address where v1 was. This one gives the line as it is, and takes off
# the front of an answer what readline keeps.
_BASH = r"""
%(complete_func)s() {
    local line=${COMP_LINE:0:COMP_POINT} response kind value
    local word=${line##*[[:space:]]}
    local kept=${word%%"${word##*["$COMP_WORDBREAKS"]}"}
    response=$(ARTIFACTFS_LINE=$line %(complete_var)s=bash_complete "$1")
    COMPREPLY=()
    while IFS=, read -r kind value; do
        case $kind in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain)
                COMPREPLY+=("${value#"$kept"}")
                case $value in */ | *@ | *:) compopt -o nospace ;; esac
                ;;
        esac
    done <<<"$response"
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class _Bash(BashComplete):
    source_template = _BASH

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the cursor and the one being typed."""
        line = os.environ.get("ARTIFACTFS_LINE", "")
        words = split_arg_string(line)[1:]
        if not words or line[-1:].isspace():
            return words, ""
        return words[:-1], words[-1]


add_completion_class(_Bash)


def complete_address(manager: ArtifactManager, incomplete: str) -> Iterator[str]:
    """Whole addresses that begin with `incomplete`, one part further than it. Raises as the manager's listings."""
    collection, slash, rest = incomplete.partition("/")
    if not slash:
        return (f"{found}/" for found in manager.list_collection_names() if found.startswith(collection))
    head, colon, path = rest.partition(":")
    artifact, at, version = head.partition("@")
    if colon:
        return _paths(manager, collection, artifact, version or None, incomplete, path)
    if at:
        known = [*manager.aliases(artifact, collection), "latest", *manager.list_version_names(artifact, collection)]
        return (f"{collection}/{artifact}@{found}" for found in known if found.startswith(version))
    return (f"{collection}/{found}" for found in manager.list_artifacts(collection) if found.startswith(artifact))


def _paths(
    manager: ArtifactManager, collection: str, artifact: str, version: str | None, incomplete: str, path: str
) -> Iterator[str]:
    directory, slash, begun = path.rpartition("/")
    manifest = manager.manifest(artifact, collection, version)
    before = incomplete[: len(incomplete) - len(begun)]
    for name, position in manifest.children(directory) if directory or not slash else ():
        if name.startswith(begun) and name.isprintable():
            is_directory = position is None or manifest.is_directory(f"{directory}{slash}{name}")
            yield before + name + ("/" if is_directory else "")


@click.command(short_help="Print the code that completes commands in a shell.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the code that makes SHELL complete commands, options and addresses.

    \b
    bash:  eval "$(artifactfs completion bash)"       in ~/.bashrc
    zsh:   eval "$(artifactfs completion zsh)"        in ~/.zshrc
    fish:  artifactfs completion fish | source        in ~/.config/fish/config.fish

    Addresses are completed from the store of --store or $ARTIFACTFS_STORE.
    """
    found: type[ShellComplete] | None = get_completion_class(shell)
    assert found is not None
    click.echo(found(context.find_root().command, {}, PROGRAM, VARIABLE).source())
