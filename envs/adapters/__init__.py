"""Other libraries' environments as ours. Each module imports its library only when it makes one."""
