"""Where figures become words and pictures: terminal, Markdown, JSON and one HTML page."""
