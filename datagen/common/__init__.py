"""The ground that every package stands on: errors, files, progress, threads."""
