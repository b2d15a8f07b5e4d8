"""THE SHELL: sockets, threads, clocks and the turn. The only server-side room with asyncio."""
