"""Two-way streams of frames: over WebSocket or in memory."""
