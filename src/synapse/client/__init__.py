"""THE HAND: clients of the hub. Imports protocol and errors only; nothing here has a back door."""
