"""mqcli: one command line for every message broker."""
