"""What client and worker share: a session that outlives its connections, submitting and waiting."""
