"""The file tier: a directory that the processes of one host share, and that survives a restart."""
