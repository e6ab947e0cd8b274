"""The one decoder-only transformer: its configuration, positions, attention, experts."""
