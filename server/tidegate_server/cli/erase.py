"""`tidegate erase`: a user asked to be forgotten."""

from tidegate_server.cli import options, output
from tidegate_server.cli.confirm import confirm


def erase(
    instance: options.Instance,
    conversation: options.Conversation,
    *,
    yes: options.Yes = False,
    server: options.Server = options.DEFAULT_SERVER,
    token: options.Token = None,
    as_json: options.Json = False,
) -> None:
    """Forget all that is stored of a conversation.

    Waiting messages, batches, dead letters: nothing of it can be had back.
    """
    with options.connect(server, token) as gate:
        name = output.printable(f"{conversation} of {instance}")
        confirm(f"Erase all that is stored of {name}?", yes=yes)
        count = gate.erase(instance, conversation)
    if as_json:
        output.print_json({"erased": count})
        return
    output.console().print(f"✓ {output.count(count, 'message')} erased")
