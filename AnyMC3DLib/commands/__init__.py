"""What each `anymc3d` command does, one file a command."""
