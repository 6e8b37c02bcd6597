"""The sweep: one federation under many defences, run in pairs, resumed, compared."""
