"""mqcli and its peers, side by side on one machine."""
