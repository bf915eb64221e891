"""``artifactfs verify``: check stored bytes against their digests."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from artifactfs.commands import show
from artifactfs.commands.options import ADDRESS, StoreChoice, answering, json_option, refuse_path, store_options

if TYPE_CHECKING:
    from artifactfs.address import Address
    from artifactfs.findings import Finding, VerifyReport

DAMAGED = 1


@click.command(short_help="Check everything that is stored against its digests.")
@click.argument("address", type=ADDRESS, required=False)
@json_option
@store_options
def verify(store: StoreChoice, address: Address | None, as_json: bool) -> None:
    """Read everything that is stored and check it against its digests: the whole store, or what ADDRESS names.

    ADDRESS is collection[/artifact[@version]]. Damage is printed as it is found; what merely takes room is counted, and
    freed by 'artifactfs gc'. The exit status is 0 when all is well, 1 for damage, 2 when it could not be found out.

    \b
    --json prints one object: ok, versions, objects, files, size_bytes, findings (an array of kind, damage
    (true or false), where, detail, size_bytes, versions, paths).
    """
    with answering():
        if address is not None:
            refuse_path(address, "verify")
        manager = store.connect()
        with show.progress(f"verifying {address or 'the store'}", lambda: None) as progress:
            report = manager.verify(
                address.artifact if address else None,
                address.collection if address else None,
                address.version if address else None,
                on_finding=None if as_json else _print_damage,
                progress=progress,
            )
    if as_json:
        show.json_object(_as_json(report))
    else:
        show.lines([_as_text(report)])
    if not report.ok:
        raise click.exceptions.Exit(DAMAGED)


def _print_damage(finding: Finding) -> None:
    if finding.kind.is_damage:
        concerned = f" ({', '.join(finding.versions)})" if finding.versions else ""
        show.lines([show.styled(show.one_line(str(finding)), fg="red") + show.one_line(concerned)])


def _as_text(report: VerifyReport) -> str:
    looked_at = f"{show.count(report.versions, 'version')}, {show.count(report.files, 'file')}"
    text = f"{looked_at}, {show.size(report.size_bytes)} read: {len(report.damage) or 'nothing'} damaged"
    harmless = Counter(finding.kind for finding in report.findings if not finding.kind.is_damage)
    for kind, number in sorted(harmless.items()):
        text += f", {show.count(number, kind.value.replace('-', ' '))}"
    return text


def _as_json(report: VerifyReport) -> dict[str, Any]:
    return {
        "ok": report.ok,
        "versions": report.versions,
        "objects": report.objects,
        "files": report.files,
        "size_bytes": report.size_bytes,
        "findings": [
            {
                "kind": finding.kind.value,
                "damage": finding.kind.is_damage,
                "where": finding.where,
                "detail": finding.detail,
                "size_bytes": finding.size_bytes,
                "versions": list(finding.versions),
                "paths": list(finding.paths),
            }
            for finding in report.findings
        ],
    }
