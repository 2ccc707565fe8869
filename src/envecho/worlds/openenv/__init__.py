"""Worlds over OpenEnv's wire: the client of any server, and the server of ours."""
