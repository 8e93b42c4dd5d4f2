"""Completion in shells: commands and options by click, names of what is registered by the functions here."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import click
from click.shell_completion import CompletionItem, get_completion_class

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]
SHELLS = ("bash", "zsh", "fish")
PROGRAM, VARIABLE = "elixir-plugin", "_ELIXIR_PLUGIN_COMPLETE"
FILES = CompletionItem("", type="file")  # leave it to the shell


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, *, shell: str) -> None:
    """Print what lets SHELL complete commands, options and names of defenses, poisons and adapters.

    For one session: eval "$(elixir-plugin completion bash)", the same with zsh, and for fish
    elixir-plugin completion fish | source. For good: put that line into the start-up file of the shell.
    """
    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(context.find_root().command, {}, PROGRAM, VARIABLE).source())
    if shell == "bash":
        click.echo("COMP_WORDBREAKS=${COMP_WORDBREAKS//:}  # ADAPTER:PATH is one word")


def names_of(*kinds: str, or_files: bool = False) -> Completer:
    """Return what completes names of *kinds* of registered things.

    :param or_files: where none fits, the shell completes files.
    """

    def complete(_: click.Context, __: click.Parameter, begun: str) -> list[CompletionItem]:
        from ..plugins import plugins

        offers = plugins().offers()
        entries = {name: offer.entry.summary for kind in kinds for name, offer in offers[kind].items()}
        return _fitting(entries.items(), begun) or [FILES] * or_files

    return complete


def sources(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Complete ``ADAPTER:PATH``: the adapter, then the poison of the testbed; paths of other adapters are typed."""
    from ..plugins import plugins

    adapter, colon, _ = begun.partition(":")
    offers = plugins().offers()
    if not colon:
        return _fitting(((f"{each}:", offer.entry.summary) for each, offer in offers["adapter"].items()), adapter)
    if adapter != "testbed":
        return []
    return _fitting(((f"testbed:{each}", offer.entry.summary) for each, offer in offers["poison"].items()), begun)


def _fitting(entries: Iterable[tuple[str, str]], begun: str) -> list[CompletionItem]:
    return [CompletionItem(name, help=text) for name, text in entries if name.startswith(begun)]
