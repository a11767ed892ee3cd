"""What every package may use: files written whole, tables in Markdown, how a command ends, pictures of faces."""
