"""What others wrote is shown as text, whole."""

from rich.console import Console

from fabstir.cli.output import table


def test_a_cell_is_never_markup_and_never_cut() -> None:
    console = Console(width=30)
    text = "[red]" + "x" * 60

    with console.capture() as capture:
        console.print(table("a", "", rows=[("location", text)]))

    shown = "".join(line[10:].strip() for line in capture.get().splitlines()[1:])
    assert shown == text
