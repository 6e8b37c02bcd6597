"""What every room speaks: types, errors, settings, and what an attacker holds."""
