"""What the audit promises when clients, plug-ins, files and machines misbehave, tried at random."""
