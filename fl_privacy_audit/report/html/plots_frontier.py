"""The plot of the frontier: what leaks around one's own batch size and local steps."""

import matplotlib

from fl_privacy_audit.report.frontier import FIGURES, Frontier, answer, panels, places

from .svg import Data, Plot, canvas, finish, style


def plot_frontier(frontier: Frontier) -> Plot:
    """Three heatmaps, one below the other."""
    with matplotlib.rc_context(style()):
        figure = canvas(3 * (0.3 * len(frontier.rows) + 0.9))
        panels(frontier, figure.subplots(3, 1))
        return finish(
            figure,
            name="frontier",
            alt=f"Heatmaps of leakage by batch size. {answer(frontier)}",
            caption="Canaries, trained on as the settings say and attacked as a client's update is. Your own "
            "setting is framed.",
            data=Data(
                ("Batch", frontier.strength or "Local steps", *FIGURES), tuple(places(frontier))
            ),
        )
