"""`grant`, `grants`, `renew`, `revoke`: what the agent may use, and until when."""

import click

from gateway import durations
from gateway.cli.context import State, all_forms, pass_state, printable, shared
from gateway.cli.workspaces import DEFAULT_DURATION, canonical, grant_lines
from gateway.errors import UsageError


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option(
    "--access",
    type=click.Choice(["list", "read", "write"]),
    default="write",
    show_default=True,
    help="write is read plus staged writes.",
)
@click.option("--as", "name", metavar="NAME", help="Its name in the mount.")
@click.option(
    "--for",
    "duration",
    metavar="D",
    default=DEFAULT_DURATION,
    show_default=True,
    help="How long: 30s, 15m, 8h, 7d or until-revoked.",
)
@click.option("--subject", default="agent", show_default=True, metavar="S", help="Who it is for.")
@click.option(
    "--redact",
    "profile",
    default="secrets",
    show_default=True,
    metavar="PROFILE",
    help="secrets, secrets+pii, strict or none.",
)
@click.option("--reason", metavar="T", help="A note for yourself.")
@shared
@pass_state
def grant(
    state: State,
    paths: tuple[str, ...],
    access: str,
    name: str | None,
    duration: str,
    subject: str,
    profile: str,
    reason: str | None,
) -> None:
    """Grant PATHs to the agent; they are in the mount when this returns."""  # fmt: skip
    if name is not None and len(paths) > 1:
        raise UsageError("--as names one PATH: grant them one by one")
    seconds = durations.parse(duration)
    wanted = [
        {
            "path": canonical(path),
            "access": access,
            "mounted_as": name,
            "seconds": seconds,
            "subject": subject,
            "profile": profile,
            "reason": reason,
        }
        for path in paths
    ]
    made = state.ask("grant", grants=wanted)
    state.show(made, lambda: "\n".join(grant_lines(made)))


@click.command()
@click.option("--all", "everything", is_flag=True, help="Expired and revoked ones too.")
@shared
@pass_state
def grants(state: State, everything: bool) -> None:
    """List grants."""
    found = state.ask("grants", all=everything)
    state.show(found, lambda: "\n".join(grant_lines(found)) or "no live grants")


@click.command()
@click.argument("grant_id", metavar="GRANT")
@click.option(
    "--for",
    "duration",
    metavar="D",
    default=DEFAULT_DURATION,
    show_default=True,
    help="Its new length, from now on.",
)
@shared
@pass_state
def renew(state: State, grant_id: str, duration: str) -> None:
    """Give a live grant a later end."""  # fmt: skip
    renewed = state.ask("renew", grant=grant_id, seconds=durations.parse(duration))
    state.show(renewed, lambda: "\n".join(grant_lines([renewed])))


@click.command()
@click.argument("which", nargs=-1, metavar="[GRANT|PATH]...")
@click.option("--all", "everything", is_flag=True, help="Every live grant.")
@shared
@pass_state
def revoke(state: State, which: tuple[str, ...], everything: bool) -> None:
    """End grants: their files are gone and open handles dead when this returns."""
    if bool(which) == everything:
        raise UsageError("name the grants to revoke, or --all")
    ended = state.ask("revoke", grants=all_forms(which), all=everything)
    state.show(
        ended,
        lambda: "\n".join(f"revoked {printable(one['id'])}" for one in ended) or "no live grants",
    )
