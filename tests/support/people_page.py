"""What a page of the annotators says, read without a browser."""

import re


def hidden(page: str, name: str) -> int:
    (value,) = re.findall(rf'name="{name}" value="(\d+)"', page)
    return int(value)


def count(page: str) -> str:
    (text,) = re.findall(r'<span class="count">(.*?)</span>', page, flags=re.DOTALL)
    return " ".join(text.split())
