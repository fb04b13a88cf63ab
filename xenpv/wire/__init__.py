"""The bytes that cross a border: declared with construct, for people and tools; read and written with struct."""
