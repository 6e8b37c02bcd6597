"""What the client's guard finds, and how often it is wrong: the table of ``docs/guard.md``.

python -m benchmarks.guard            networks and seeds that its limits were not chosen on
python -m benchmarks.guard --tuning   those that they were
"""

from collections import Counter

import click
import torch

from tests.support.guarded import (
    CHEATS,
    NETWORKS,
    TUNED_ON,
    cheating_round,
    honest_federations,
    honest_rounds,
)


@click.command
@click.option("--tuning", is_flag=True, help="On what the limits were chosen on.")
@click.option("--rounds", default=7, help="Of each honest federation.")
@click.option("--attacks", default=100, help="Rounds of each way of cheating.")
def main(tuning: bool, rounds: int, attacks: int) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    networks, first = (TUNED_ON, 0) if tuning else (NETWORKS, 100)
    done, alarms = 0, Counter[str]()
    for name, strategy, wrapper, seed in honest_federations(networks, first):
        for errors in honest_rounds(name, networks, strategy, wrapper, seed, rounds):
            done += 1
            if errors:
                alarms[f"{name}, {strategy}, {wrapper}"] += 1
                click.echo(f"  {name}, {strategy}, {wrapper}: {errors[0]}", err=True)
    click.echo(f"| honest | {done} rounds | {sum(alarms.values())} alarms |")
    for cheat in CHEATS:
        found = [cheating_round(cheat, networks, first + number) for number in range(attacks)]
        for number, reason in enumerate(found):
            if not reason:
                click.echo(f"  {cheat}: missed seed {first + number}", err=True)
        click.echo(f"| `{cheat}` | {attacks} rounds | found in {sum(map(bool, found))} |")


if __name__ == "__main__":
    main()
