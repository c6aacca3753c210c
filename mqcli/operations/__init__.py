"""What each verb does, without a terminal: no printing, no exit codes taken, no typer."""
