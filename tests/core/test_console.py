"""What is printed steers no terminal."""

from io import StringIO

from rich.table import Table

from fl_privacy_audit.core.console import CleanConsole, escape

EVIL = "a\x1b[31mb\x9b2Jc\u202ed\x07"


def test_text_has_no_escape_left_and_styles_stay() -> None:
    table = Table("head", title=escape(EVIL))
    table.add_row(escape(EVIL))
    file = StringIO()
    console = CleanConsole(file=file, force_terminal=True, color_system="standard", width=60)
    console.print(table)
    console.print(EVIL, style="red", markup=False, highlight=False)
    shown = file.getvalue()
    assert shown.count("a\ufffd[31mb\ufffd2Jc\ufffdd") == 3
    assert shown.count("\x1b[31m") == 1  # its own
    assert not {"\x9b", "\u202e", "\x07"} & {*shown}
