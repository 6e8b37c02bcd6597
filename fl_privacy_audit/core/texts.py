"""Text from outside: of clients, of errors, of ledgers that somebody else wrote."""

import unicodedata

MOST = 1000
"""Characters that are kept of a text from outside."""


def clean(text: str, most: int | None = None) -> str:
    r"""Text without characters that steer a terminal, a reading direction or a parser.

    >>> clean("a\x1b[31mb", most=4)
    'a\ufffd[3 ...'

    Args:
        text: From anywhere.
        most: How many characters are kept; None for all.
    """
    if most is not None and len(text) > most:
        return clean(text[:most]) + " ..."
    if text.isprintable():
        return text
    return "".join(
        c if c in "\n\t" or unicodedata.category(c)[0] != "C" else "\ufffd" for c in text
    )
