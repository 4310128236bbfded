"""Clients of the plane: for asyncio and Trio (`client`), and for synchronous code (`blocking`)."""
