"""What stands between a page and the network: files, guards, prepared answers, sessions, pictures."""
